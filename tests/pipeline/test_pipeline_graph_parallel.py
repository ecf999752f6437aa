"""Parallel branches that the versions fuse in turn: each stands for itself, and one fault is the only first divergence."""

import numpy as np
import pytest
from onnx import ModelProto
from test_pipeline_graph_fused import (
    KINDS,
    K,
    Net,
    compared,
    drawn,
    firsts,
    renamed,
)

LAYERS = {
    (K,): ("product and sum", "two products", "a factor in weights and bias"),
    (K, 4, 4): ("batch norm in a convolution",),
}
ROUNDING = 1e-5
"""What a product of nearly cancelling terms may make of it."""


class Drawn:
    """A net of like branches, drawn from a seed; versions of it differ by what they fuse."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shape = list(LAYERS)[int(rng.random() < 0.25)]
        kinds = [str(rng.choice(LAYERS[self.shape])) for _ in range(rng.integers(1, 3))]
        self.layers = {
            f"b{i}.{j}": kind for i in range(rng.integers(2, 5)) for j, kind in enumerate(kinds)
        }
        self.joined = str(rng.choice(["Sum", "Concat"]))
        self.numbers = int(rng.integers(2**32))

    def model(
        self, fused: dict[str, bool], order: np.random.Generator, fault: str = ""
    ) -> ModelProto:
        """A version: which branches it fuses, in which order its operators stand, and which layer is wrong."""
        net, numbers = Net(), np.random.default_rng(self.numbers)
        ends: dict[str, str] = {}
        for name, kind in self.layers.items():
            branch = name.partition(".")[0]
            wrong = 0.2 if name == fault else 0.0
            source = ends.get(branch, "x")
            ends[branch] = KINDS[kind][0](net, numbers, source, name, fused[branch], wrong)
        more = {"axis": 1} if self.joined == "Concat" else {}
        at = net.add(self.joined, list(ends.values()), "joined", **more)
        if len(self.shape) > 1:
            at = net.add("ReduceMean", [at, np.array([2, 3])], "pooled", keepdims=0)
        width = K * len(ends) if self.joined == "Concat" else K
        net.add("Sigmoid", [net.add("MatMul", [at, drawn(numbers, width, 3)], "logits")], "y")
        net.nodes = reordered(net.nodes, order)
        return net.model([None, *self.shape])


def reordered(nodes: list, rng: np.random.Generator) -> list:
    """Any order in which each is behind what it reads."""
    left, found = list(nodes), []
    while left:
        waiting = {o for node in left for o in node.output}
        ready = [node for node in left if not waiting & set(node.input)]
        found.append(ready[rng.integers(len(ready))])
        left.remove(found[-1])
    return found


def check(seed: int) -> None:
    """A sound rewrite parts nowhere; one altered layer is told alone, and feeding it mends all."""
    drawn_net, rng = Drawn(seed), np.random.default_rng(seed + 1)
    fault = str(rng.choice(list(drawn_net.layers))) if rng.random() < 0.7 else ""
    branches = dict.fromkeys(name.partition(".")[0] for name in drawn_net.layers)
    fused = [{branch: bool(rng.random() < 0.5) for branch in branches} for _ in range(2)]
    if fault:  # in a layer that both versions write alike it would be inside, before the end
        fused[1][fault[:2]] = not fused[0][fault[:2]]
    old = drawn_net.model(fused[0], rng)
    new, names = renamed(drawn_net.model(fused[1], rng, fault))
    values = rng.normal(size=(24, *drawn_net.shape)).astype(np.float32)
    report = compared(old, new, values)
    far = {state.baseline for state in report.states if state.relative > ROUNDING}
    found = [pair for pair in firsts(report) if pair[0] in far]
    assert found == ([(fault, names[fault])] if fault else []), seed
    assert all(proof.restored for proof in report.proofs), seed
    pairs = {s.baseline: s.candidate for s in report.states if s.candidate}
    ends = [name for layer in drawn_net.layers for name in (layer, f"{layer}.after")]
    assert {n: pairs[n] for n in ends} == {n: names[n] for n in ends}, seed


def test_branches_that_are_fused_in_turn_are_not_paired_crosswise():
    for seed in range(20):
        check(seed)


@pytest.mark.long
def test_branches_that_are_fused_in_turn_are_not_paired_crosswise_in_hundreds_of_nets():
    for seed in range(20, 500):
        check(seed)

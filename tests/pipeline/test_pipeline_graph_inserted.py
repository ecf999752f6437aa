"""An operator put in or taken out between steps that are written otherwise is new, or gone, and stands for no other."""

import numpy as np
import pytest
from onnx import ModelProto
from test_pipeline_graph_fused import K, Net, compared, drawn, firsts, renamed

VALUES = np.random.default_rng(0).normal(size=(64, K)).astype(np.float32)


def layers(*, fused: bool, bounded: bool) -> ModelProto:
    """Gemm or MatMul and Add before and after an activation; with bounds before it or without."""
    net, rng = Net(), np.random.default_rng(4)
    before, after = ([drawn(rng, K, K), drawn(rng, K)] for _ in range(2))
    at = step(net, "x", *before, "a", fused=fused)
    if bounded:
        at = net.add("Clip", [at, np.float32(-0.3), np.float32(0.4)], "c")
    net.add("Softplus", [at], "s")
    step(net, "s", *after, "g", fused=not fused)
    net.add("Identity", ["g"], "y")
    return net.model([None, K])


def step(
    net: Net, source: str, weights: np.ndarray, bias: np.ndarray, name: str, *, fused: bool
) -> str:
    if fused:
        return net.add("Gemm", [source, weights, bias], name)
    return net.add("Add", [net.add("MatMul", [source, weights], f"{name}.product"), bias], name)


@pytest.mark.parametrize("way", ["put in", "taken out"])
@pytest.mark.parametrize("names", ["kept", "other"])
def test_bounds_before_an_activation_are_told_where_linear_steps_are_written_otherwise(way, names):
    old = layers(fused=False, bounded=way == "taken out")
    new = layers(fused=True, bounded=way == "put in")
    known = {name: name for name in "asgy"}
    if names == "other":
        new, known = renamed(new)
    report = compared(old, new, VALUES)
    pairs = {s.baseline: s.candidate for s in report.states if s.candidate}
    assert pairs["s"] == known["s"]
    assert firsts(report) == [("s", known["s"])]
    assert [proof.restored for proof in report.proofs] == [True]
    changes = [change for first in report.divergences for change in first.divergence.changes]
    assert any("Clip" in (c.baseline + c.candidate + c.node + c.name) for c in changes)

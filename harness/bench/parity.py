"""What looking into graphs costs, and whether the first divergence is found on every operator."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.bench.figures import Figure, Figures
from harness.bench.operator_cases import operator_cases
from harness.bench.operator_pairs import whole
from harness.bench.operators import OperatorCounts, check_operators
from harness.bench.probed import probed_replays
from harness.core.graphs import Constant, Graph, Node
from harness.core.policies import SandboxPolicy
from harness.diff.matching import match_graphs
from harness.diff.signature import SignatureMatch
from harness.pipeline.graph_opening import Version
from harness.pipeline.graph_trace import GraphPass, trace_graphs

if TYPE_CHECKING:
    import onnx

MATCHING_LIMIT_S = 5.0
EVERY = 20
"""Of the single-operator cases every so many, unless all are asked for."""
_NODES = 5000
_LAYERS, _WIDTH, _PLACES, _ROWS = 100, 192, 64, 24
_MB = 1 << 20
_DEADLINE_S = 60.0


def bench_parity(*, every: int, seed: int) -> tuple[Figures, OperatorCounts]:
    """Measures the costs, and counts on single-operator cases.

    Args:
      every: of the single-operator cases every so many; 1 = all.
      seed: of the alterations.
    """
    counts = check_operators(list(operator_cases())[::every], seed=seed, guarded=True)
    costs = (*_matching(), *probed_replays(), *_large_net())
    return Figures(title="Looking into graphs", figures=(*costs, *_operators(counts))), counts


def _operators(counts: OperatorCounts) -> tuple[Figure, ...]:
    refused = "; ".join(f"{n} {why}" for why, n in sorted(counts.refused.items()))
    kinds = ", ".join(f"{n} by {kind}" for kind, n in sorted(counts.located.items()))
    return (
        Figure(
            name="single-operator cases", value=counts.cases, unit="cases",
            note=f"{counts.ran} run; the rest by reason: {refused or 'none'}",
        ),
        Figure(name="equal to themselves, all compared", value=counts.equal, unit="cases"),
        Figure(
            name="altered copies located", value=counts.located.total(), unit="cases", note=kinds
        ),
        Figure(name="wrong", value=len(counts.wrong), unit="cases", limit=0.0),
    )  # fmt: skip


def _matching() -> Iterator[Figure]:
    """Two graphs in which every tensor has another name: deep ones, and ones whose operators share one input."""
    fans = [_fan("a", ("Mul",)), _fan("b", ("Mul", "Add"))]
    # What the last operator joins has equal values, each its own.
    joined = [{name: i for i, name in enumerate(graph.nodes[-1].inputs)} for graph in fans]
    shapes = (
        ("", [_chain(prefix, changed) for prefix, changed in (("a", "Relu"), ("b", "Neg"))], None),
        (" that one joins", fans, None),
        (" that one joins, with values", fans, (joined[0], joined[1])),
    )
    for shape, graphs, values in shapes:
        ends = {graphs[0].outputs[0]: graphs[1].outputs[0]}
        began = time.process_time()
        match_graphs(graphs[0], graphs[1], inputs={"x": "x"}, outputs=ends, values=values)
        took = time.process_time() - began
        yield Figure(
            name=f"matching two graphs of {_NODES:,} nodes{shape}, CPU", value=took, unit="s",
            limit=MATCHING_LIMIT_S,
        )  # fmt: skip


def _fan(prefix: str, steps: tuple[str, ...]) -> Graph:
    """Branches of these operators, each by a constant of its own, that a Concat joins."""
    nodes: list[Node] = []
    constants, ends = [], []
    for place in range(_NODES // 2):
        made = "x"
        for op in steps:
            held = f"{prefix}{op}{place}"
            constants.append(Constant(name=held, text="", exact=f"{op}{place}", loose="one number"))
            nodes.append(Node(op=op, inputs=(made, held), outputs=(f"{held}y",)))
            made = f"{held}y"
        ends.append(made)
    nodes.append(Node(op="Concat", inputs=tuple(ends), outputs=(f"{prefix}y",)))
    return Graph(
        inputs=("x",), outputs=(f"{prefix}y",), nodes=tuple(nodes), constants=tuple(constants)
    )


def _chain(prefix: str, changed: str) -> Graph:
    nodes = []
    before = ["x", "x"]
    for place in range(_NODES):
        op = changed if place == _NODES // 2 else ("Mul", "Add", "Relu", "Sub")[place % 4]
        inputs = before[-1:] if op in ("Relu", "Neg") else before[-2:]
        before.append(f"{prefix}{place}")
        nodes.append(Node(op=op, inputs=tuple(inputs), outputs=(before[-1],)))
    return Graph(inputs=("x",), outputs=(before[-1],), nodes=tuple(nodes))


def _large_net() -> tuple[Figure, ...]:
    """A net of 300 nodes against itself with one bias altered, through the sandbox."""
    x = np.random.default_rng(1).normal(size=(_ROWS, _PLACES, _WIDTH)).astype(np.float32)
    batch = replace(
        whole({"x": x}), seq=np.arange(_ROWS), rows=np.ones(_ROWS, np.int64),
        request_id=np.array([f"r{i}" for i in range(_ROWS)], dtype=object),
        ts_ns=np.zeros(_ROWS, np.int64), answered=np.zeros(_ROWS, np.bool_),
    )  # fmt: skip
    limits = SandboxPolicy(batch_deadline_s=_DEADLINE_S)
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        folder = Path(scratch)
        versions = []
        for role, shift in (("baseline", 0.0), ("candidate", 0.5)):
            path = folder / f"{role}.onnx"
            path.write_bytes(_net(shift).SerializeToString())
            versions.append(
                Version(
                    role=role, model=path, external=(), limits=limits, input_names=(("x", "x"),)
                )
            )  # fmt: skip
        wanted = GraphPass(
            baseline=versions[0], candidate=versions[1],
            match=SignatureMatch(inputs=(("x", "x"),), outputs=(("y", "y"),)),
        )  # fmt: skip
        began = time.perf_counter()
        report = trace_graphs(wanted, [batch], folder / "scratch", lambda *_: None)
        took = time.perf_counter() - began
    parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    found = [d.divergence.baseline for d in report.divergences] == [f"a{_LAYERS // 2}"]
    size = _LAYERS * 3 * _PLACES * _WIDTH * 4 / _MB
    return (
        Figure(
            name="net of 300 nodes, one pass", value=took, unit="s",
            note=f"{size:.0f} MB a row, {_ROWS} rows, {'sketched' if report.sketched else 'whole'}",
        ),
        Figure(
            name="its altered bias is the first divergence", value=float(found), unit="yes",
            limit=1.0, at_most=False,
        ),
        Figure(
            name="peak of this process, all it did before included", value=parent / 1024, unit="MB"
        ),
        Figure(
            name="largest process of the sandbox", value=child / 1024, unit="MB",
            limit=SandboxPolicy().memory_bytes / _MB,
        ),
    )  # fmt: skip


def _net(shift: float) -> onnx.ModelProto:
    import onnx

    helper, rng = onnx.helper, np.random.default_rng(2)
    nodes, constants, last = [], [], "x"
    for place in range(_LAYERS):
        weights = (rng.normal(size=(_WIDTH, _WIDTH)) / np.sqrt(_WIDTH)).astype(np.float32)
        bias = np.full(_WIDTH, shift if place == _LAYERS // 2 else 0.1, np.float32)
        constants += [
            onnx.numpy_helper.from_array(weights, f"w{place}"),
            onnx.numpy_helper.from_array(bias, f"b{place}"),
        ]
        end = "y" if place == _LAYERS - 1 else f"t{place}"
        nodes += [
            helper.make_node("MatMul", [last, f"w{place}"], [f"m{place}"]),
            helper.make_node("Add", [f"m{place}", f"b{place}"], [f"a{place}"]),
            helper.make_node("Tanh", [f"a{place}"], [end]),
        ]
        last = end
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", kind, ["N", _PLACES, _WIDTH])],
        [helper.make_tensor_value_info("y", kind, None)], constants,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    made.ir_version = 8
    return made

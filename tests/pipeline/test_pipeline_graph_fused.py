"""Steps that one version fuses: equal where they end, and one altered layer is the first divergence."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness.bench.in_process import InProcess
from harness.bench.operator_pairs import whole
from harness.core.policies import SandboxPolicy
from harness.diff.graph_findings import findings_from_graph
from harness.diff.graph_report import GraphReport
from harness.diff.signature import SignatureMatch
from harness.pipeline.graph_opening import Version
from harness.pipeline.graph_trace import GraphPass, trace_graphs
from harness.replay.composition import rows_of

K, LAYERS = 8, 3
FLOAT = TensorProto.FLOAT


class Net:
    """Nodes and constants as they come."""

    def __init__(self) -> None:
        self.nodes = []
        self.held = {}

    def add(self, op: str, inputs: list, output: str, **attributes: object) -> str:
        """Adds a node; what is no name becomes a constant of its own."""
        names = []
        for slot, value in enumerate(inputs):
            names.append(value if isinstance(value, str) else f"{output}.{slot}")
            if not isinstance(value, str):
                self.held[names[-1]] = np.asarray(value)
        self.nodes.append(helper.make_node(op, names, [output], **attributes))
        return output

    def model(self, shape: list) -> ModelProto:
        """Float x of this shape → y."""
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info("x", FLOAT, shape)],
            [helper.make_tensor_value_info("y", FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.held.items()],
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        made.ir_version = 8
        return made


def drawn(rng: np.random.Generator, *shape: int, low: float = -0.5, high: float = 0.5):
    return rng.uniform(low, high, shape).astype(np.float32)


def folded(weights, norm, tail=()):
    """Weights and bias of a layer and the batch norm after it, in one."""
    scale, shift, mean, variance = norm
    factor = scale / np.sqrt(variance + np.float32(1e-5))
    return (weights * factor.reshape(-1, *tail)), (shift - mean * factor)


def norm(rng, fault: float):
    scale = drawn(rng, K, low=0.5, high=1.5)
    scale[2] *= 1 + fault
    return scale, drawn(rng, K), drawn(rng, K), drawn(rng, K, low=0.5, high=2.0)


def convolution(net: Net, rng, source: str, layer: str, fused: bool, fault: float) -> str:
    weights, numbers = drawn(rng, K, K, 3, 3) / np.float32(6), norm(rng, fault)
    if fused:
        net.add("Conv", [source, *folded(weights, numbers, (1, 1, 1))], layer, pads=[1] * 4)
    else:
        before = net.add("Conv", [source, weights], f"{layer}.conv", pads=[1] * 4)
        net.add("BatchNormalization", [before, *numbers], layer)
    return net.add("Relu", [layer], f"{layer}.after")


def dense(net: Net, rng, source: str, layer: str, fused: bool, fault: float) -> str:
    weights, bias = drawn(rng, K, K), drawn(rng, K)
    weights[2, 3] += np.float32(fault)
    if fused:
        net.add("Gemm", [source, weights, bias], layer)
    else:
        net.add("Add", [net.add("MatMul", [source, weights], f"{layer}.product"), bias], layer)
    return net.add("Tanh", [layer], f"{layer}.after")


def reshaped(net: Net, rng, source: str, layer: str, fused: bool, fault: float) -> str:
    weights, bias = drawn(rng, K, K), drawn(rng, K)
    weights[2, 3] += np.float32(fault)
    if fused:
        flat = net.add("Reshape", [source, np.array([-1, K])], f"{layer}.flat")
        made = net.add("Gemm", [flat, weights, bias], f"{layer}.made")
        net.add("Reshape", [made, np.array([-1, 2, K])], layer)
    else:
        net.add("Add", [net.add("MatMul", [source, weights], f"{layer}.product"), bias], layer)
    return net.add("Tanh", [layer], f"{layer}.after")


def chained(net: Net, rng, source: str, layer: str, fused: bool, fault: float) -> str:
    first, second, bias, last = drawn(rng, K, K), drawn(rng, K, K), drawn(rng, K), drawn(rng, K)
    first[:, 2] *= np.float32(1 + fault)
    if fused:
        net.add("Gemm", [source, first @ second, bias @ second + last], layer)
    else:
        before = net.add("Gemm", [source, first, bias], f"{layer}.first")
        net.add("Gemm", [before, second, last], layer)
    return net.add("Tanh", [layer], f"{layer}.after")


def factored(net: Net, rng, source: str, layer: str, fused: bool, fault: float) -> str:
    weights, bias, factor = drawn(rng, K, K), drawn(rng, K), drawn(rng, K, low=0.5, high=1.5)
    factor[2] *= np.float32(1 + fault)
    # Both versions have a product and a sum, and neither equals the other's.
    inside = factor if fused else np.float32(1)
    product = net.add("MatMul", [source, weights * inside], f"{layer}.product")
    added = net.add("Add", [product, bias * inside], layer if fused else f"{layer}.sum")
    if not fused:
        net.add("Mul", [added, factor], layer)
    return net.add("Tanh", [layer], f"{layer}.after")


def normed(net: Net, rng, source: str, layer: str, fused: bool, fault: float) -> str:
    weights, scale, shift = drawn(rng, K, K), drawn(rng, K, low=0.5, high=1.5), drawn(rng, K)
    scale[2] *= np.float32(1 + fault)
    start = net.add(
        "Add", [net.add("MatMul", [source, weights], f"{layer}.p"), source], f"{layer}.q"
    )
    if fused:
        return net.add("LayerNormalization", [start, scale, shift], layer)
    mean = net.add("ReduceMean", [start, np.array([-1])], f"{layer}.m")
    centred = net.add("Sub", [start, mean], f"{layer}.c")
    square = net.add("Pow", [centred, np.float32(2)], f"{layer}.s")
    spread = net.add("ReduceMean", [square, np.array([-1])], f"{layer}.v")
    root = net.add("Sqrt", [net.add("Add", [spread, np.float32(1e-5)], f"{layer}.e")], f"{layer}.r")
    unit = net.add("Mul", [net.add("Div", [centred, root], f"{layer}.d"), scale], f"{layer}.u")
    return net.add("Add", [unit, shift], layer)


KINDS = {
    "batch norm in a convolution": (convolution, (K, 4, 4)),
    "product and sum": (dense, (K,)),
    "product of three axes": (reshaped, (2, K)),
    "two products": (chained, (K,)),
    "a factor in weights and bias": (factored, (K,)),
    "layer norm": (normed, (2, K)),
}


def model(kind: str, *, fused: bool, fault: int | None = None, size: float = 0.05) -> ModelProto:
    """Three layers and an end; one layer holds another number."""
    layer, shape = KINDS[kind]
    net, rng = Net(), np.random.default_rng(4)
    source = "x"
    for place in range(LAYERS):
        wrong = size if fault == place else 0.0
        source = layer(net, rng, source, f"layer{place}", fused, wrong)
    places = {1: [], 2: [1], 3: [2, 3]}[len(shape)]
    if places:
        source = net.add("ReduceMean", [source, np.array(places)], "pooled", keepdims=0)
    net.add("Sigmoid", [net.add("MatMul", [source, drawn(rng, K, 3)], "logits")], "y")
    return net.model([None, *shape])


def renamed(old: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """Other names for all that is made; returns the names, too."""
    new = ModelProto()
    new.CopyFrom(old)
    made = [o for node in new.graph.node for o in node.output if o != "y"]
    order = np.random.default_rng(1).permutation(len(made))
    to = {name: f"n{place}" for name, place in zip(made, order, strict=True)}
    for node in new.graph.node:
        for names in (node.input, node.output):
            names[:] = [to.get(name, name) for name in names]
    return new, to


def compared(
    old: ModelProto,
    new: ModelProto,
    values: np.ndarray,
    *,
    size: int | None = None,
    opener: InProcess | None = None,
    **limits: int,
) -> GraphReport:
    """Each row a request; all in one batch unless it has a size."""
    batch = replace(
        whole({"x": values}), seq=np.arange(len(values)), rows=np.ones(len(values), np.int64),
        request_id=np.array([f"r{i}" for i in range(len(values))], dtype=object),
        ts_ns=np.zeros(len(values), np.int64), answered=np.zeros(len(values), np.bool_),
    )  # fmt: skip
    size = size or len(values)
    batches = [rows_of(batch, i, i + size) for i in range(0, len(values), size)]
    with tempfile.TemporaryDirectory() as scratch:
        sides = []
        for role, model in (("baseline", old), ("candidate", new)):
            path = Path(scratch) / f"{role}.onnx"
            path.write_bytes(model.SerializeToString())
            sides.append(
                Version(
                    role=role, model=path, external=(), limits=SandboxPolicy(),
                    input_names=(("x", "x"),), opener=opener or InProcess(),
                )
            )  # fmt: skip
        wanted = GraphPass(
            baseline=sides[0], candidate=sides[1],
            match=SignatureMatch(inputs=(("x", "x"),), outputs=(("y", "y"),)), **limits,
        )  # fmt: skip
        return trace_graphs(wanted, batches, Path(scratch) / "scratch", lambda *_: None)


def asked(kind: str) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(24, *KINDS[kind][1])).astype(np.float32)


def firsts(report: GraphReport) -> list[tuple[str, str]]:
    return [(d.divergence.baseline, d.divergence.candidate) for d in report.divergences]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_step_is_equal_where_it_ends_whatever_it_is_called(kind):
    whole, parts = model(kind, fused=True), model(kind, fused=False)
    for old, new in ((whole, parts), (parts, whole)):
        other, to = renamed(new)
        for candidate, names in ((new, {}), (other, to)):
            report = compared(old, candidate, asked(kind))
            assert firsts(report) == []
            ends = {s.baseline: s.candidate for s in report.states}
            for name in ("layer0", "layer1", "layer2"):
                assert ends[name] == names.get(name, name)


@pytest.mark.parametrize("place", range(LAYERS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_number_in_a_fused_layer_is_located_and_feeding_mends_all(kind, place):
    differing = 0
    for fused in (True, False):
        old, new = model(kind, fused=not fused), model(kind, fused=fused, fault=place)
        other, to = renamed(new)
        for candidate, names in ((new, {}), (other, to)):
            report = compared(old, candidate, asked(kind))
            name = f"layer{place}"
            assert firsts(report) == [(name, names.get(name, name))]
            assert [p.restored for p in report.proofs] == [True] * report.outputs_differ
            differing += report.outputs_differ
    assert differing >= 2 * (kind != "batch norm in a convolution")  # a channel may never fire


def nearly_emptied(rounded: float, fault: float, split: bool) -> ModelProto:
    """Relu leaves of a column of large negative values only a tiny one; a layer after it may be wrong."""
    net = Net()
    shift, half = np.array([[-4.0 + rounded, 0.5], [-2.0, 0.25]], np.float32)
    if split:
        net.add("Add", [net.add("Add", ["x", half], "b"), shift - half], "a")
    else:
        net.add("Add", ["x", shift], "a")
    net.add("Relu", ["a"], "r")
    weights = np.array([[1.0, 0.5], [0.3, 2.0 + fault]], np.float32)
    net.add("Sigmoid", [net.add("MatMul", ["r", weights], "m")], "y")
    return net.model([None, 2])


def emptied(rounded: float, fault: float, *, split: bool = True) -> GraphReport:
    values = np.random.default_rng(5).uniform(-4, 3.9, size=(64, 2)).astype(np.float32)
    values[0, 0] = 4.001
    return compared(
        nearly_emptied(0.0, 0.0, split=False), nearly_emptied(rounded, fault, split), values
    )


def test_rounding_that_relu_lays_bare_is_no_first_divergence():
    report = emptied(1e-6, 0.0)
    rest = next(s for s in report.states if s.baseline == "r")
    assert rest.relative > 1e-4  # of what is left of the column
    assert firsts(report) == []
    assert firsts(emptied(1e-6, 0.1)) == [("m", "m")]


def test_a_changed_constant_that_relu_lays_bare_is_a_divergence():
    assert firsts(emptied(1e-6, 0.0, split=False)) == [("r", "r")]


def test_answers_that_agree_part_nowhere():
    mixed = [nearly_emptied(0.0, 0.0, split=False) for _ in range(2)]
    mixed[1].graph.node[1].op_type = "Elu"
    values = np.random.default_rng(5).uniform(4.1, 5, size=(64, 2)).astype(np.float32)
    values[0, 0] = 3.0
    report = compared(*mixed, values)
    (finding,) = findings_from_graph(report, answers_differ=True)
    assert "the graphs part at r" in finding.what
    agree, finding = findings_from_graph(report, answers_differ=False)
    assert agree.kind == "outputs_agree"
    assert "part" not in finding.what
    assert "at r: 1 of 64 rows differ" in finding.what


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_first_difference_steps_that_are_merely_fused_are_no_other_one(kind):
    old, new = model(kind, fused=False), model(kind, fused=True, fault=0, size=0.2)
    assert compared(old, new, asked(kind)).later == ()
    ends = [n for n in new.graph.node if n.output[0] == "y"]
    ends[0].op_type = "Tanh"
    report = compared(old, new, asked(kind))
    assert [(c.node, c.candidate) for c in report.later] == [("Sigmoid → y", "Tanh")]


def test_what_differs_in_effect_inside_of_a_fused_step_behind_the_first_difference_is_told():
    old = model("product and sum", fused=False)
    new = model("product and sum", fused=True, fault=0, size=0.2)
    (weights,) = (t for t in new.graph.initializer if t.name == "layer2.1")
    other = numpy_helper.to_array(weights).copy()
    other[2, 3] *= 1.01
    weights.CopyFrom(numpy_helper.from_array(other, weights.name))
    report = compared(old, new, asked("product and sum"))
    assert [(c.node, c.candidate) for c in report.later] == [
        ("MatMul → layer2.product, Add → layer2", "Gemm → layer2")
    ]


def summed(kind: np.dtype, *, split: bool, by: float = 0.0) -> ModelProto:
    """x + 3, in one step or in two; then something of another size."""
    net = Net()
    last = net.add("Add", ["x", np.array(1 if split else 3 + by, kind)], "a")
    if split:
        last = net.add("Add", [last, np.array(2 + by, kind)], "b")
    net.add("Min", [last, np.array(1, kind)], "y")
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        net.nodes, "g",
        [helper.make_tensor_value_info("x", number, [None, 1])],
        [helper.make_tensor_value_info("y", number, None)],
        [numpy_helper.from_array(value, name) for name, value in net.held.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 8
    return made


@pytest.mark.parametrize(("kind", "by"), [(np.int64, 1), (np.float64, 1e-2), (np.float32, 64)])
def test_a_rewritten_step_is_told_where_its_type_rounds_less_than_it_differs(kind, by):
    values = np.arange(1_000_000, 1_000_024).reshape(-1, 1).astype(kind)
    old = summed(kind, split=False)
    assert firsts(compared(old, summed(kind, split=True), values)) == []
    assert firsts(compared(old, summed(kind, split=True, by=by), values)) == [("a", "b")]


def residual(*, fused: bool, fault: float = 0.0) -> ModelProto:
    """x + f(x), which nearly cancels, beside what is as large as x."""
    net, rng = Net(), np.random.default_rng(4)
    weights, bias = drawn(rng, K, K) * np.float32(1e-2) - np.eye(K, dtype=np.float32), drawn(rng, K)
    weights[2, 3] *= np.float32(1 + fault)
    if fused:
        net.add("Gemm", ["x", weights, bias], "f")
    else:
        factor = drawn(rng, K, low=0.5, high=1.5)
        parts = net.add("Gemm", ["x", weights / factor, bias / factor], "f.parts")
        net.add("Mul", [parts, factor], "f")
    bent = net.add("HardSwish", [net.add("Add", ["x", "f"], "sum")], "bent")
    net.add("Add", ["x", bent], "y")
    return net.model([None, K])


def test_rounding_that_a_residual_sum_lays_bare_is_no_first_divergence():
    values = np.random.default_rng(5).normal(size=(64, K)).astype(np.float32) * np.float32(30)
    report = compared(residual(fused=False), residual(fused=True), values)
    assert next(s.relative for s in report.states if s.baseline == "bent") > 1e-6
    assert firsts(report) == []
    wrong = compared(residual(fused=False), residual(fused=True, fault=0.01), values)
    assert firsts(wrong) == [("f", "f")]

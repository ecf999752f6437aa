"""Generated models that onnxruntime runs: rewriting moves nothing, one altered node is located."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from regrouped_models import regrouped
from simulated import simulated

from harness.bench.in_process import InProcess
from harness.bench.operator_pairs import Pairs
from harness.bench.operators import clearly_apart
from harness.diff.graph_report import TensorVerdict

FLOAT = TensorProto.FLOAT
K = 4
FEEDS = {"x": np.random.default_rng(0).normal(size=(6, K)).astype(np.float32)}
UNARY, BINARY = (
    ("Tanh", "Sigmoid", "Neg", "Abs", "Identity"),
    ("Add", "Mul", "Sub", "Max", "MatMul"),
)
SEEDS = st.integers(0, 2**32 - 1)
OTHERS = {"Add": "Sub", "Sub": "Add", "Mul": "Add", "Max": "Min", "MatMul": "Mul"}


def drawn(seed: int, size: int = 9) -> ModelProto:
    """A net over (rows, K) matrices in which every tensor reaches the only output."""
    rng = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    constants, loose = [], ["x"]
    for place in range(size):
        source = loose.pop(int(rng.integers(len(loose)))) if loose else f"t{place - 1}"
        if rng.random() < 0.3:
            nodes.append(helper.make_node(str(rng.choice(UNARY)), [source], [f"t{place}"]))
        else:
            op = str(rng.choice(BINARY))
            known = [f"t{i}" for i in range(place)]
            if op != "MatMul" and known and rng.random() < 0.4:
                other = str(rng.choice(known))
            else:
                other = f"c{place}"
                values = rng.normal(size=(K, K) if op == "MatMul" else (K,)).astype(np.float32)
                constants.append(numpy_helper.from_array(values, other))
            nodes.append(helper.make_node(op, [source, other], [f"t{place}"]))
        loose.append(f"t{place}")
    nodes.append(helper.make_node("Sum", loose, ["y"]))
    return made(nodes, constants)


def made(nodes: list[NodeProto], constants: list[TensorProto]) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", K])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        constants,
    )
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    found.ir_version = 8
    return found


def rewritten(model: ModelProto, seed: int) -> ModelProto:
    """Other names, swapped inputs, copies, Constant nodes for initialisers, another order."""
    rng = np.random.default_rng(seed)
    names = {o for n in model.graph.node for o in n.output} - {"y"}
    names |= {t.name for t in model.graph.initializer}
    order = rng.permutation(len(names))
    to = {name: f"n{place}" for name, place in zip(sorted(names), order, strict=True)}
    waiting: list[NodeProto] = []
    constants = []
    for tensor in model.graph.initializer:
        copy = numpy_helper.from_array(numpy_helper.to_array(tensor), to[tensor.name])
        if rng.random() < 0.5:
            waiting.append(helper.make_node("Constant", [], [copy.name], value=copy))
        else:
            constants.append(copy)
    for place, node in enumerate(model.graph.node):
        inputs = [to.get(i, i) for i in node.input]
        if node.op_type in ("Add", "Mul", "Max", "Sum") and rng.random() < 0.5:
            inputs.reverse()
        if rng.random() < 0.3:
            waiting.append(helper.make_node("Identity", inputs[:1], [f"copy{place}"]))
            inputs[0] = f"copy{place}"
        waiting.append(helper.make_node(node.op_type, inputs, [to.get(o, o) for o in node.output]))
        waiting[-1].attribute.extend(node.attribute)
    ready = {"x", *(t.name for t in constants)}
    nodes = []
    while waiting:
        free = [n for n in waiting if set(n.input) <= ready]
        nodes.append(waiting.pop(waiting.index(free[int(rng.integers(len(free)))])))
        ready |= set(nodes[-1].output)
    return made(nodes, constants)


def split(model: ModelProto, seed: int) -> ModelProto:
    """Constants as the sum of two halves that the graph adds up, or as copies with one reader each."""
    rng = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for place, node in enumerate(model.graph.node):
        inputs = list(node.input)
        for slot, name in enumerate(inputs):
            if name not in constants or rng.random() < 0.4:
                continue
            inputs[slot] = f"{name}.{place}.{slot}"
            if rng.random() < 0.5:
                constants[inputs[slot]] = constants[name]
                continue
            half = f"{inputs[slot]}.half"
            constants[half] = constants[name] / 2
            nodes.append(helper.make_node("Add", [half, half], [inputs[slot]]))
        nodes.append(helper.make_node(node.op_type, inputs, list(node.output)))
    return made(nodes, [numpy_helper.from_array(v, name) for name, v in constants.items()])


def permuted(model: ModelProto, seed: int) -> ModelProto:
    """Each product takes its columns in another order, and the rows of its weights alike."""
    rng = np.random.default_rng(seed)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes: list[NodeProto] = []
    for place, node in enumerate(model.graph.node):
        inputs = list(node.input)
        if node.op_type == "MatMul":
            order = rng.permutation(K)
            constants[f"order{place}"] = order
            constants[inputs[1]] = constants[inputs[1]][order]
            picked = f"picked{place}"
            nodes.append(helper.make_node("Gather", [inputs[0], f"order{place}"], [picked], axis=1))
            inputs[0] = picked
        nodes.append(helper.make_node(node.op_type, inputs, list(node.output)))
    return made(nodes, [numpy_helper.from_array(v, name) for name, v in constants.items()])


def report(old: ModelProto, new: ModelProto, opener: InProcess | None = None):
    with tempfile.TemporaryDirectory() as scratch:
        return Pairs(Path(scratch), opener).compared(old, new, FEEDS)


def test_rewriting_never_makes_a_divergence():
    @settings(max_examples=12, deadline=None)
    @given(SEEDS, SEEDS)
    def holds(seed, other):
        model = drawn(seed)
        found = report(model, rewritten(model, other))
        assert found.divergences == ()
        assert found.equal == len(found.states)

    holds()


def test_permuting_inputs_together_with_weights_never_makes_a_divergence():
    @settings(max_examples=12, deadline=None)
    @given(SEEDS, SEEDS, st.booleans())
    def holds(seed, other, renamed):
        plain = drawn(seed)
        other_way = permuted(plain, other)
        other_way = rewritten(other_way, other) if renamed else other_way
        for old, new in ((plain, other_way), (other_way, plain)):
            found = report(old, new)
            assert found.divergences == ()
            assert not found.outputs_differ

    holds()


def test_splitting_or_fusing_constants_never_makes_a_divergence():
    @settings(max_examples=12, deadline=None)
    @given(SEEDS, SEEDS)
    def holds(seed, other):
        whole = drawn(seed)
        parts = rewritten(split(whole, other), other)
        for old, new in ((whole, parts), (parts, whole)):
            found = report(old, new)
            assert found.divergences == ()
            assert not found.outputs_differ

    holds()


def test_scaling_constants_and_scaling_back_never_makes_a_divergence():
    @settings(max_examples=12, deadline=None)
    @given(SEEDS, SEEDS, st.booleans())
    def holds(seed, other, renamed):
        whole = drawn(seed)
        parts = regrouped(whole, other)
        parts = rewritten(parts, other) if renamed else parts
        for old, new in ((whole, parts), (parts, whole)):
            found = report(old, new, InProcess())
            assert found.divergences == ()
            assert not found.outputs_differ

    holds()


def altered(old, place):
    """A model with another operator or weight at a place, and whether its values, and y's, differ by it."""
    new = ModelProto()
    new.CopyFrom(old)
    node = new.graph.node[place]
    if node.op_type == "MatMul":
        old_weights = next(t for t in new.graph.initializer if t.name == node.input[1])
        values = numpy_helper.to_array(old_weights) + np.float32(1)
        old_weights.CopyFrom(numpy_helper.from_array(values, old_weights.name))
    elif node.op_type != "Identity":  # a copy is no tensor of its own
        node.op_type = OTHERS.get(node.op_type, "Cos")
    with tempfile.TemporaryDirectory() as scratch:
        values = [Pairs(Path(scratch)).values(m, FEEDS).tensors for m in (old, new)]
    names = (old.graph.node[place].output[0], "y")
    return new, *(clearly_apart(values[0][name], values[1][name]) for name in names)


def located(found, made_here):
    """Whether there is a first divergence, and a node stands in the region of each."""
    return len(found.divergences) >= 1 and all(
        made_here in {n for side in d.divergence.operators for o in side for n in made_names(o)}
        for d in found.divergences
    )


def made_names(operator):
    return operator.partition(" → ")[2].split(", ")


def test_a_node_that_is_altered_so_that_values_differ_is_located():
    @settings(max_examples=12, deadline=None)
    @given(SEEDS, st.integers(0, 8))
    def holds(seed, place):
        old = drawn(seed)
        new, differs, _ = altered(old, place)
        assume(differs)
        assert located(report(old, rewritten(new, seed)), old.graph.node[place].output[0])

    holds()


@simulated(60, 2)
def test_an_altered_node_among_constants_that_are_split_is_nearly_always_located(runs):
    """Two of some hundred such nets have a second first divergence, at a constant that was split."""
    hits = []
    for seed in range(runs):
        old, place = drawn(seed), seed % 9
        new, *differ = altered(old, place)
        if all(differ):  # hidden by what follows, it may have no partner left among so many others
            found = report(old, rewritten(regrouped(new, seed), seed), InProcess())
            hits.append(located(found, old.graph.node[place].output[0]))
    assert 3 * len(hits) > 2 * runs
    assert sum(hits) >= 0.97 * len(hits)


def test_an_operator_that_is_replaced_and_renamed_and_cancelled_later_is_located():
    def net(op: str, name: str) -> ModelProto:
        steps = [
            helper.make_node("Tanh", ["x"], ["a"]),
            helper.make_node(op, ["a"], [name]),
            helper.make_node("Sub", [name, name], ["zero"]),
            helper.make_node("Add", ["a", "zero"], ["y"]),
        ]
        return made(steps, [])

    found = report(net("Abs", "t"), net("Exp", "u"))
    assert not found.outputs_differ
    assert [(d.divergence.baseline, d.divergence.candidate) for d in found.divergences] == [
        ("t", "u")
    ]
    assert found.coverage == "4 of 4 tensors of the baseline matched, 4 of 4 of the candidate"


def test_the_version_converter_and_the_runtime_s_optimiser_make_no_divergence(tmp_path):
    import onnxruntime

    model = drawn(5)
    found = report(model, version_converter.convert_version(model, 21))
    assert found.divergences == ()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = report(model, onnx.load(str(tmp_path / "optimised.onnx")))
    assert found.divergences == ()
    assert not found.outputs_differ


def sums(*steps: tuple[str, str, str], **constants: float) -> ModelProto:
    nodes = [helper.make_node("Add", [a, b], [o]) for a, b, o in steps]
    held = [numpy_helper.from_array(np.full(K, v, np.float32), k) for k, v in constants.items()]
    return made(nodes, held)


def test_constants_that_are_added_up_beforehand_make_no_divergence():
    split = sums(("x", "a", "t"), ("t", "b", "y"), a=0.25, b=1.5)
    fused = sums(("x", "c", "y"), c=1.75)
    for old, new in ((split, fused), (fused, split)):
        found = report(old, new)
        assert not found.outputs_differ
        assert found.divergences == ()


def steps(*nodes: tuple[str, str, str, str], **constants: object) -> ModelProto:
    """A chain of (operator, what it reads, constant, what it makes), and its Tanh."""
    made_nodes = [helper.make_node(op, [a, b], [o]) for op, a, b, o in nodes]
    made_nodes.append(helper.make_node("Tanh", [nodes[-1][-1]], ["y"]))
    held = [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()]
    return made(made_nodes, held)


WEIGHTS = np.random.default_rng(3).normal(size=(K, K))
WAYS = {
    "a factor": (
        steps(("Mul", "x", "two", "s"), two=[2]),
        steps(("Mul", "x", "four", "s1"), ("Mul", "s1", "half", "s"), four=[4], half=[0.5]),
    ),
    "a factor, three ways, renamed": (
        steps(("Mul", "x", "a", "s"), ("Mul", "s", "b", "t"), a=[2], b=[3]),
        steps(
            ("Mul", "x", "a", "u"), ("Mul", "u", "b", "v"), ("Mul", "v", "c", "w"), ("Mul", "w", "b", "z"),
            a=[4], b=[0.5], c=[6],
        ),
    ),
    "a sum": (
        steps(("Add", "x", "three", "s"), three=[3]),
        steps(("Add", "x", "one", "s1"), ("Add", "s1", "two", "s"), one=[1], two=[2]),
    ),
    "weights": (
        steps(("MatMul", "x", "w", "m"), ("Mul", "m", "two", "s"), w=WEIGHTS, two=[2]),
        steps(("MatMul", "x", "w", "m"), w=2 * WEIGHTS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_constant_split_or_fused_is_no_divergence_and_the_equal_tensor_is_the_partner(way):
    for old, new in (WAYS[way], WAYS[way][::-1]):
        found = report(old, new, InProcess())
        assert found.divergences == ()
        assert not any(s.verdict is TensorVerdict.DIFFERS for s in found.states)
        assert any(
            s.tier in ("values", "fused or split") and s.verdict is TensorVerdict.EQUAL
            for s in found.states
        )


def test_a_factor_that_is_not_made_good_by_the_next_is_told():
    old = steps(("Mul", "x", "two", "s"), two=[2])
    new = steps(("Mul", "x", "four", "s1"), ("Mul", "s1", "half", "s"), four=[4], half=[0.75])
    found = report(old, new, InProcess())
    assert found.outputs_differ
    assert [d.divergence.baseline for d in found.divergences] == ["s"]


def test_another_reader_of_the_step_before_is_still_compared():
    def net(*more: NodeProto, factor: float, kept: str) -> ModelProto:
        nodes = [
            helper.make_node("Mul", ["x", "c"], ["a"]),
            *more,
            helper.make_node("Tanh", [kept], ["t"]),
            helper.make_node("Abs", ["a"], ["u"]),
            helper.make_node("Add", ["t", "u"], ["y"]),
        ]
        held = {"c": factor, "h": 0.5}
        return made(nodes, [numpy_helper.from_array(np.float32([v]), k) for k, v in held.items()])

    old = net(factor=2.0, kept="a")
    new = net(helper.make_node("Mul", ["a", "h"], ["b"]), factor=4.0, kept="b")
    found = report(old, new, InProcess())
    assert found.outputs_differ
    assert [d.divergence.baseline for d in found.divergences] == ["u"]


def test_a_pass_makes_few_copies_and_starts_few_processes():
    opener = InProcess()
    model = drawn(1)
    report(model, model, opener)
    assert (opener.edits, opener.starts) == (2, 3)
    opener = InProcess()
    report(
        sums(("x", "a", "t"), ("t", "x", "y"), a=1.0),
        sums(("x", "a", "t"), ("t", "x", "y"), a=2.0),
        opener,
    )
    assert (opener.edits, opener.starts) == (3, 4)

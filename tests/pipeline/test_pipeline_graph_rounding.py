"""Rounding behind fused steps: what carries it on is no first divergence, and what is more than rounding is one."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from test_pipeline_graph_fused import FLOAT, K, Net, compared, firsts


def scaled(
    *,
    split: bool,
    swapped: bool = False,
    copied: bool = False,
    rounded: float = 0.0,
    fault: float = 0.0,
) -> ModelProto:
    """Relu leaves of a scaled column of large negative values only a tiny one; a layer after it may be wrong."""
    net = Net()
    shift, half = np.array([[-4.0 + rounded, 0.5], [-2.0, 0.25]], np.float32)
    first = net.add("Add", ["x", half], "b") if split else "x"
    net.add("Add", [first, shift - half if split else shift], "a")
    factor = np.array([1.5, 0.75], np.float32)
    net.add("Mul", [factor, "a"] if swapped else ["a", factor], "s")
    read = net.add("Relu", ["s"], "r")
    if copied:
        read = net.add("Identity", [net.add("Identity", ["r"], "copy")], "copied")
    weights = np.array([[1.0, 0.5], [0.3, 2.0 + fault]], np.float32)
    net.add("Sigmoid", [net.add("MatMul", [read, weights], "m")], "y")
    return net.model([None, 2])


def chosen(model: ModelProto) -> ModelProto:
    """The same with all before its last layer in the branch of an If that is always taken."""
    taken, *rest = model.graph.node[:-2], *model.graph.node[-2:]
    ends = [helper.make_tensor_value_info(name, FLOAT, None) for name in ("inner", "other")]
    taken[-1].output[0] = "inner"
    branches = {
        "then_branch": helper.make_graph(taken, "then", [], ends[:1]),
        "else_branch": helper.make_graph(
            [helper.make_node("Neg", ["x"], ["other"])], "else", [], ends[1:]
        ),
    }
    always = helper.make_node("Constant", [], ["always"], value_int=1)
    cast = helper.make_node("Cast", ["always"], ["taken"], to=TensorProto.BOOL)
    made = [always, cast, helper.make_node("If", ["taken"], ["r"], **branches), *rest]
    del model.graph.node[:]
    model.graph.node.extend(made)
    return model


def test_rounding_is_followed_through_products_with_swapped_operands():
    values = np.random.default_rng(5).uniform(-4, 3.9, size=(64, 2)).astype(np.float32)
    values[0, 0] = 4.001
    old = scaled(split=False, swapped=False)
    for swapped in (False, True):
        new = scaled(split=True, swapped=swapped, rounded=1e-6)
        report = compared(old, new, values)
        assert next(s for s in report.states if s.baseline == "r").relative > 1e-4
        assert firsts(report) == []
        new = scaled(split=True, swapped=swapped, rounded=1e-6, fault=0.1)
        assert firsts(compared(old, new, values)) == [("m", "m")]


@pytest.mark.parametrize("way", ["copies", "branch"])
def test_a_copy_of_what_carries_rounding_on_is_no_first_divergence_either(way):
    values = np.random.default_rng(5).uniform(-4, 3.9, size=(64, 2)).astype(np.float32)
    values[0, 0] = 4.001
    old = scaled(split=False, copied=way == "copies")
    for fault, told in ((0.0, []), (0.1, [("m", "m")])):
        new = scaled(split=True, rounded=1e-6, fault=fault)
        pairs = [(old, new)]
        if way == "branch":
            pairs = [(chosen(scaled(split=False)), new)]
            pairs += [
                (chosen(scaled(split=False)), chosen(scaled(split=True, rounded=1e-6, fault=fault)))
            ]
        for both in pairs:
            report = compared(*both, values)
            assert next(s for s in report.states if s.baseline == "r").relative > 1e-4
            assert firsts(report) == told
            assert [proof.restored for proof in report.proofs] == [True] * bool(told)
            assert report.equal == report.compared - 2 * bool(told)


def large(*, fused: bool, fault: float = 0.0, last: float = 1.0) -> ModelProto:
    """Values near 1000, of which a batch norm or a layer that it is folded into makes the last digits; 1000 goes off."""
    net, rng = Net(), np.random.default_rng(4)
    weights, second = (rng.normal(size=(K, K)).astype(np.float32) / 3 for _ in range(2))
    bias, mean = rng.normal(size=(2, K)).astype(np.float32)
    scale, variance = rng.uniform(0.5, 2, size=(2, K)).astype(np.float32)
    shift = (rng.normal(size=K) + 1000).astype(np.float32)
    if fused:
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + 1e-5)
        folded = ((bias.astype(np.float64) - mean) * factor + shift).astype(np.float32)
        folded[2] += np.float32(fault)
        net.add("Gemm", ["x", (weights * factor).astype(np.float32), folded], "u")
    else:
        before = net.add("Gemm", ["x", weights, bias], "g")
        net.add("BatchNormalization", [before, scale, shift, mean, variance], "u")
    near = net.add("Tanh", [net.add("Sub", ["u", np.full(K, 1000, np.float32)], "v")], "t")
    second[1, 1] *= np.float32(last)
    net.add("Sigmoid", [net.add("Gemm", [near, second, bias], "o")], "y")
    return net.model([None, K])


def test_a_wrong_number_that_is_small_beside_its_column_is_told_where_it_stands():
    values = np.random.default_rng(5).normal(size=(64, K)).astype(np.float32)
    sound, wrong = large(fused=False), large(fused=True, fault=8e-3)
    for old, new in ((sound, wrong), (wrong, sound)):
        report = compared(old, new, values)
        assert next(s for s in report.states if s.baseline == "u").relative < 1e-5
        assert firsts(report) == [("u", "u")]
        assert [proof.restored for proof in report.proofs] == [True]
    # Another constant further on is the only first difference again.
    report = compared(large(fused=False), large(fused=True, last=1.5), values)
    assert firsts(report) == [("o", "o")]


def scanned(*, fused: bool, fault: float = 1.0) -> ModelProto:
    """A layer and its batch norm, and behind them a Scan over rows whose body reads weights from outside."""
    net, rng = Net(), np.random.default_rng(3)
    weights = rng.normal(size=(K, K)).astype(np.float32)
    mean = (rng.normal(size=K) + 8).astype(np.float32)
    scale, variance = rng.uniform(0.5, 2, size=(2, K)).astype(np.float32)
    bias = rng.normal(size=K).astype(np.float32) - np.float32(2)
    if fused:
        factor = scale / np.sqrt(variance.astype(np.float64) + 1e-5)
        net.add("Gemm", ["x", (weights * factor).astype(np.float32), bias], "u")
    else:
        before = net.add("Gemm", ["x", weights, mean], "g")
        net.add("BatchNormalization", [before, scale, bias, mean, variance], "u")
    net.add("Relu", ["u"], "v")
    net.held["w"] = rng.normal(size=(K, 3)).astype(np.float32)
    net.held["w"][1, 1] *= fault
    row, out = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [k])
        for n, k in (("row", K), ("out", 3))
    )
    steps = [
        helper.make_node("MatMul", ["row", "w"], ["m"]),
        helper.make_node("Tanh", ["m"], ["out"]),
    ]
    body = helper.make_graph(steps, "body", [row], [out])
    net.nodes.append(helper.make_node("Scan", ["v"], ["s"], body=body, num_scan_inputs=1))
    net.add("Sigmoid", ["s"], "y")
    return net.model([None, K])


def test_other_weights_that_a_body_reads_from_outside_are_a_difference():
    values = np.random.default_rng(5).normal(size=(64, K)).astype(np.float32)
    old = scanned(fused=False)
    sound = compared(old, scanned(fused=True), values)
    assert {s.baseline: s.relative for s in sound.states}["v"] > 1e-6
    assert firsts(sound) == []
    (first,) = compared(old, scanned(fused=True, fault=1.5), values).divergences
    assert first.divergence.baseline == "s"
    assert [change.name for change in first.divergence.changes] == ["w"]

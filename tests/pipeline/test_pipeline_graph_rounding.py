"""Rounding behind fused steps: what carries it on is no first divergence, and what is more than rounding is one."""

import numpy as np
from onnx import ModelProto, helper, numpy_helper
from test_pipeline_graph_fused import FLOAT, Net, compared, firsts


def finished(net: Net, columns: int) -> ModelProto:
    """A model of x with so many columns, and y."""
    graph = helper.make_graph(
        net.nodes, "g",
        [helper.make_tensor_value_info("x", FLOAT, [None, columns])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in net.held.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 8
    return made


def scaled(*, split: bool, swapped: bool, rounded: float = 0.0, fault: float = 0.0) -> ModelProto:
    """Relu leaves of a scaled column of large negative values only a tiny one; a layer after it may be wrong."""
    net = Net()
    shift, half = np.array([[-4.0 + rounded, 0.5], [-2.0, 0.25]], np.float32)
    first = net.add("Add", ["x", half], "b") if split else "x"
    net.add("Add", [first, shift - half if split else shift], "a")
    factor = np.array([1.5, 0.75], np.float32)
    net.add("Mul", [factor, "a"] if swapped else ["a", factor], "s")
    net.add("Relu", ["s"], "r")
    weights = np.array([[1.0, 0.5], [0.3, 2.0 + fault]], np.float32)
    net.add("Sigmoid", [net.add("MatMul", ["r", weights], "m")], "y")
    return finished(net, 2)


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

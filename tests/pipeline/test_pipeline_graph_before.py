"""What stands before the last equal tensors is a cause only where these differ in a bit, a type or a shape."""

import numpy as np
from onnx import ModelProto, TensorProto
from test_pipeline_graph_fused import Net, compared, firsts

VALUES = np.random.default_rng(1).normal(size=(32, 12)).astype(np.float32)


def normed(opset: int, length: int) -> ModelProto:
    """Softmax, which goes over all axes from its own in opset 12 and over that one in 13."""
    net = Net()
    net.add("Reshape", ["x", np.array([length, 3, 4])], "r")
    net.add("Neg", [net.add("Softmax", ["r"], "s", axis=1)], "y")
    model = net.model([None, 12])
    model.opset_import[0].version = opset
    return model


def test_what_makes_the_same_bits_is_not_blamed_for_a_difference_behind_it():
    report = compared(normed(12, 0), normed(13, -1), VALUES)
    assert firsts(report) == [("s", "s")]
    (divergence,) = (first.divergence for first in report.divergences)
    assert divergence.last_equal == ("r",)
    assert not divergence.farther
    assert {change.node for change in divergence.changes} == {"Softmax → s"}
    assert report.later == ()


def squared(kind: int) -> ModelProto:
    """Whole numbers of a type, whose squares need not fit into it."""
    net = Net()
    whole = net.add("Cast", ["x"], "whole", to=kind)
    net.add("Cast", [net.add("Mul", [whole, whole], "square")], "y", to=TensorProto.FLOAT)
    return net.model([None, 12])


def test_equal_numbers_of_another_type_are_a_cause():
    values = np.round(VALUES * np.float32(1e6))
    report = compared(squared(TensorProto.INT32), squared(TensorProto.INT64), values)
    assert firsts(report) == [("square", "square")]
    (divergence,) = (first.divergence for first in report.divergences)
    assert divergence.farther
    assert [change.node for change in divergence.changes] == ["Cast → whole"]

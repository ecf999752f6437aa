"""Exports to another opset: an operator that means the same is equal, and one that means something else is told."""

import numpy as np
import pytest
from onnx import ModelProto
from test_pipeline_graph_fused import Net, compared, firsts

VALUES = np.random.default_rng(5).normal(size=(40, 12)).astype(np.float32)


def net(op: str, opset: int, shape: list[int], **attributes: int) -> ModelProto:
    net = Net()
    net.add("Reshape", ["x", np.array(shape)], "r")
    net.add("Neg", [net.add(op, ["r"], "s", **attributes)], "n")
    net.add("Reshape", ["n", np.array([0, -1])], "y")
    model = net.model([None, 12])
    model.opset_import[0].version = opset
    return model


@pytest.mark.parametrize(
    ("op", "opsets", "shape", "attributes", "told"),
    [
        ("Softmax", (12, 13), [0, 3, 4], {"axis": 1}, "meaning of axis"),
        ("LogSoftmax", (12, 13), [0, 3, 4], {"axis": 1}, "meaning of axis"),
        ("DFT", (17, 20), [0, 3, 4, 1], {}, "axis"),
    ],
)
def test_an_operator_that_means_something_else_in_another_opset_is_told(
    op, opsets, shape, attributes, told
):
    old, new = (net(op, opset, shape, **attributes) for opset in opsets)
    (first,) = compared(old, new, VALUES).divergences
    assert first.divergence.baseline == "s"
    assert [change.name for change in first.divergence.changes] == [told]


@pytest.mark.parametrize(
    ("shape", "axis"), [([0, 12], 1), ([0, 12], -1), ([0, 3, 4], 2), ([0, 3, 4], -1)]
)
def test_an_operator_that_means_the_same_in_another_opset_is_equal(shape, axis):
    report = compared(*(net("Softmax", opset, shape, axis=axis) for opset in (12, 13)), VALUES)
    assert firsts(report) == []
    assert (report.equal, report.compared) == (4, 4)
    assert not report.outputs_differ


@pytest.mark.parametrize("limits", [{}, {"memory_bytes": 1}], ids=["whole", "sketches"])
def test_another_opset_of_what_means_the_same_is_not_told_behind_a_difference(limits):
    def refitted(opset: int, factor: float) -> ModelProto:
        made = Net()
        made.add("Mul", ["x", np.float32(factor)], "first")
        made.add("Neg", [made.add("Softmax", ["first"], "s", axis=1)], "y")
        model = made.model([None, 12])
        model.opset_import[0].version = opset
        return model

    report = compared(refitted(12, 1.0), refitted(13, 1.5), VALUES, **limits)
    assert report.sketched is bool(limits)
    assert firsts(report) == [("first", "first")]
    assert report.later == ()

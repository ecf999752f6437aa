"""Behind a first difference: steps that make the same of the same are no other one, however they are written."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from test_pipeline_graph_fused import Net, compared, firsts

from harness.bench.in_process import InProcess
from harness.core.tensors import Array, Nested
from harness.pipeline.graph_opening import Runner, Version
from harness.sandbox.hello import LoadFailure
from harness.sandbox.tracing import Edited, Traced

WIDTH = 6
VALUES = np.random.default_rng(1).normal(size=(32, WIDTH)).astype(np.float32)
WEIGHTS = np.random.default_rng(2).normal(size=(WIDTH, WIDTH)).astype(np.float32)
BIAS = np.random.default_rng(3).normal(size=WIDTH).astype(np.float32)

WAYS = {
    "weights transposed": (
        ("Gemm", [WEIGHTS, BIAS], {}),
        ("Gemm", [np.ascontiguousarray(WEIGHTS.T), BIAS], {"transB": 1}),
    ),
    "an axis from the end": (("Softmax", [], {"axis": -1}), ("Softmax", [], {"axis": 1})),
    "a length left out": (
        ("Reshape", [np.array([0, WIDTH])], {}),
        ("Reshape", [np.array([-1, WIDTH])], {}),
    ),
    "a number for a vector": (
        ("Add", [np.full(WIDTH, 0.5, np.float32)], {}),
        ("Add", [np.float32(0.5)], {}),
    ),
    "axes from the end": (
        ("ReduceMean", [np.array([1])], {}),
        ("ReduceMean", [np.array([-1])], {}),
    ),
    "another operator": (("LeakyRelu", [], {"alpha": 0.2}), ("PRelu", [np.float32([0.2])], {})),
}
ALTERED = {
    "other weights, transposed": (
        *WAYS["weights transposed"][:1],
        ("Gemm", [np.ascontiguousarray(WEIGHTS.T) * np.float32(1.0002), BIAS], {"transB": 1}),
    ),
    "another axis": (("Softmax", [], {"axis": -1}), ("Softmax", [], {"axis": 0})),
    "another slope": (
        ("LeakyRelu", [], {"alpha": 0.2}),
        ("PRelu", [np.float32([0.2001])], {}),
    ),
    # Nothing comes near either; another request may.
    "a bound that none reaches": (
        ("Clip", [np.int32(-500), np.int32(600)], {}),
        ("Clip", [np.int32(-500), np.int32(700)], {}),
    ),
}


def net(step: tuple, *, factor: float = 1.0) -> ModelProto:
    """A factor, then one step of a kind, on whole numbers if its constants are."""
    op, constants, attributes = step
    made = Net()
    at = made.add("Tanh", [made.add("Mul", ["x", np.float32(factor)], "first")], "t")
    if any(constant.dtype == np.int32 for constant in constants):
        hundreds = made.add("Mul", [at, np.float32(100)], "hundreds")
        at = made.add("Cast", [hundreds], "whole", to=TensorProto.INT32)
    made.add(op, [at, *constants], "s", **attributes)
    made.add("Sigmoid", [made.add("Cast", ["s"], "float", to=TensorProto.FLOAT)], "y")
    return made.model([None, WIDTH])


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_written_otherwise_and_makes_the_same_is_not_told(way):
    for old, new in (WAYS[way], WAYS[way][::-1]):
        report = compared(net(old), net(new, factor=1.5), VALUES)
        assert firsts(report) == [("first", "first")]
        assert report.later == ()


@pytest.mark.parametrize("way", ALTERED)
def test_a_step_that_makes_something_else_is_told(way):
    for old, new in (ALTERED[way], ALTERED[way][::-1]):
        report = compared(net(old), net(new, factor=1.5), VALUES)
        assert firsts(report) == [("first", "first")]
        assert {change.node.rpartition(" ")[2] for change in report.later} == {"s"}


def parted(*, fused: bool, factor: float = 1.0) -> ModelProto:
    """A layer in one step or in two, which round otherwise, then a factor."""
    made = Net()
    if fused:
        layer = made.add("Gemm", ["x", WEIGHTS, BIAS], "layer")
    else:
        third = made.add("Gemm", ["x", WEIGHTS / np.float32(3), BIAS / np.float32(3)], "third")
        layer = made.add("Mul", [third, np.float32(3)], "layer")
    first = made.add("Mul", [made.add("Tanh", [layer], "t"), np.float32(factor)], "first")
    made.add("Sigmoid", [made.add("Neg", [first], "n")], "y")
    return made.model([None, WIDTH])


@pytest.mark.parametrize("limits", [{}, {"memory_bytes": 1}], ids=["whole", "sketches"])
def test_what_is_written_otherwise_before_the_first_difference_is_not_told_behind_it(limits):
    old, new = parted(fused=False), parted(fused=True, factor=1.5)
    report = compared(old, new, VALUES, **limits)
    assert report.sketched is bool(limits)
    assert firsts(report) == [("first", "first")]
    assert report.later == ()


def rewritten(*, otherwise: bool) -> ModelProto:
    """A number, then many wide layers that are written in either of two ways."""
    made, shift = Net(), np.linspace(-1, 1, 200).astype(np.float32)
    at = made.add("Mul", ["x", np.float32(1.5 if otherwise else 1.0)], "first")
    at = made.add("Expand", [at, np.array([1, 200])], "wide")
    for i in range(6):
        if otherwise:
            made.add("Sub", [made.add("Mul", [at, np.float32(0.9)], f"p{i}"), -shift], f"q{i}")
        else:
            made.add("Add", [made.add("Div", [at, np.float32(1 / 0.9)], f"p{i}"), shift], f"q{i}")
        at = made.add("Tanh", [f"q{i}"], f"s{i}")
    made.add("ReduceMean", [at, np.array([1])], "y")
    return made.model([None, 1])


@dataclass
class Weighing(InProcess):
    """Counts the bytes of returned values that somebody still holds."""

    held: int = 0
    most: int = 0

    def started(self, version: Version, copy: Edited) -> Runner | LoadFailure:
        return Weighed(super().started(version, copy), self)

    def add(self, count: int) -> None:
        self.held += count
        self.most = max(self.most, self.held)


class Weighed:
    """A copy whose answers are counted."""

    def __init__(self, runner: Runner, scale: Weighing) -> None:
        self._runner, self._scale = runner, scale
        self.tensors = runner.tensors

    def run(self, feeds: Mapping[str, Array | Nested], wanted: Sequence[str]) -> Traced:
        found = self._runner.run(feeds, wanted)
        for values in found.tensors.values():
            self._scale.add(values.nbytes)
            weakref.finalize(values, self._scale.add, -values.nbytes)
        return found

    def close(self) -> None:
        self._runner.close()

    def __enter__(self) -> "Weighed":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def test_the_look_at_steps_behind_holds_a_batch_and_not_all_requests():
    rows, batch_bytes = 8, 8 * 200 * 4 * 20
    scale = Weighing()
    values = np.random.default_rng(0).normal(size=(rows * 32, 1)).astype(np.float32)
    report = compared(
        rewritten(otherwise=False), rewritten(otherwise=True), values,
        size=rows, opener=scale, memory_bytes=batch_bytes,
    )  # fmt: skip
    assert firsts(report) == [("first", "first")]
    assert not report.sketched
    assert report.later == ()
    assert scale.most < 6 * batch_bytes

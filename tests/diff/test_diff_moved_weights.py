"""Weights of small nets that moved are a difference, in float32, float16 and float64."""

import numpy as np
import onnxruntime
import pytest
from diff_streams import output_pairs
from onnx import TensorProto, helper, numpy_helper

from harness.diff.floor_builder import FloorBuilder
from harness.diff.outputs import OutputDiff
from harness.diff.signature import SignatureMatch
from harness.diff.tensor_trace import TensorTrace
from harness.sandbox.graph_rounding import exact_tensors

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
}
MATCH = SignatureMatch(inputs=(), outputs=(("y", "y"),))
WIDTHS = (
    (4, 8, 65),
    (4, 64, 300),
    (30, 8, 63),
    (30, 300, 1),
    (200, 64, 63),
    (1000, 8, 65),
    (200, 300, 3),
)
ENDS = ("Relu", "Softmax", "Sigmoid", "Identity")
NETS = 56


class Net:
    """Two layers, drawn by a seed."""

    def __init__(self, seed, kind):
        rng = np.random.default_rng(seed)
        width, hidden, out = WIDTHS[seed % len(WIDTHS)]
        self.answer = TensorProto.DOUBLE if kind == "float64" else TensorProto.FLOAT
        self.kind, self.end = kind, ENDS[seed // len(WIDTHS) % len(ENDS)]
        self.inner = ("Relu", "Tanh", "Sigmoid")[seed % 3]
        self.weights = {
            "W1": rng.normal(size=(width, hidden)) / np.sqrt(width),
            "b1": rng.normal(size=hidden),
            "W2": rng.normal(size=(hidden, out)) * 2 / np.sqrt(hidden),
            "b2": rng.normal(size=out),
        }
        self.order = np.arange(width)
        self.x = rng.normal(size=((20, 200, 500)[seed % 3], width)).astype(np.float32)

    def model(self):
        nodes = [
            ("Cast", ["x"], "c", {"to": TYPES[self.kind]}), ("Gather", ["c", "P"], "p", {"axis": 1}),
            ("MatMul", ["p", "W1"], "m1", {}), ("Add", ["m1", "b1"], "a1", {}),
            (self.inner, ["a1"], "h", {}), ("MatMul", ["h", "W2"], "m2", {}),
            ("Add", ["m2", "b2"], "a2", {}), (self.end, ["a2"], "e", {}),
            ("Cast", ["e"], "y", {"to": self.answer}),
        ]  # fmt: skip
        values = {name: w.astype(self.kind) for name, w in self.weights.items()}
        values |= {"P": self.order, "W1": values["W1"][self.order]}
        graph = helper.make_graph(
            [helper.make_node(op, reads, [made], **how) for op, reads, made, how in nodes],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(self.order)])],
            [helper.make_tensor_value_info("y", self.answer, ["n", None])],
            [numpy_helper.from_array(v, name) for name, v in values.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=9)

    def answers(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.model().SerializeToString(), options)
        return session.run(None, {"x": self.x})[0]


def compared(before, after, exact):
    """(the diff, rows of it that differ, rows that differ in the graphs)."""
    builder = FloorBuilder(exact=exact)
    for pair in output_pairs({"y": before}, {"y": before}):
        builder.update(pair)
    diff = OutputDiff(MATCH, builder.finish())
    pairs = output_pairs({"y": before}, {"y": after}, (130,))
    differing = sum(int(diff.update(pair).mismatch.sum()) for pair in pairs)
    trace = TensorTrace(fine=True, exact="y" in exact)
    trace.update(before, after, rows=len(before))
    return diff, differing, trace.differing


@pytest.mark.parametrize("kind", TYPES)
def test_weights_that_moved_by_more_than_rounding_are_found(kind):
    moved = {"float32": 1e-4, "float16": 5e-2, "float64": 1e-9}[kind]
    missed = []
    for seed in range(0, NETS, 2):
        net = Net(seed, kind)
        before, exact = net.answers(), exact_tensors(net.model())
        rng = np.random.default_rng(seed)
        net.weights["W1"] *= 1 + moved * rng.normal(size=net.weights["W1"].shape)
        _, differing, in_graph = compared(before, net.answers(), exact)
        if not (differing and in_graph):
            missed.append(seed)
    assert len(missed) <= NETS // 14

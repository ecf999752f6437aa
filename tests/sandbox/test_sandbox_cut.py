"""The copy that computes features and nothing behind them."""

import numpy as np
import onnx
import onnxruntime
import pytest
import sandbox_models as models
from onnx import TensorProto, helper

from harness.core.policies import SandboxPolicy
from harness.sandbox.graph_cut import cut
from harness.sandbox.graphs import Look, Looked, look, probe
from harness.sandbox.process import Sandbox

LIMITS = SandboxPolicy(require="S0")
FLOAT = TensorProto.FLOAT
X = models.tensor("x", FLOAT)
Y = models.tensor("y", FLOAT)


def line(path, by=2.0, *, feature="t"):
    """t = x · by, y = t + 1."""
    return models.saved(
        path,
        [models.node("Mul", ["x", "by"], ["t"]), models.node("Add", ["t", "one"], ["y"])],
        [X], [Y],
        constants={"by": np.float32([by]), "one": np.float32([1])},
        metadata={"harness.features": f'["{feature}"]'},
    )  # fmt: skip


def started(model, **copies):
    sandbox = Sandbox.start(model, name="c", limits=LIMITS, trace_tensors=("t",), **copies)
    assert isinstance(sandbox, Sandbox), sandbox
    return sandbox


def asked(sandbox, *questions):
    """Answers to (x, cut)."""
    for x, part in questions:
        sandbox.submit({"x": np.float32(x)}, len(x), trace=True, cut=part)
    return [sandbox.collect() for _ in questions]


def test_features_come_of_the_cut_copy_and_no_outputs_with_them(tmp_path):
    model = line(tmp_path / "m.onnx")
    seen = look([Look(model=model, copy=tmp_path / "p.onnx")], LIMITS)[0]
    assert isinstance(seen, Looked)
    # Another factor shows which copy has answered.
    other = probe(line(tmp_path / "o.onnx", 5.0), ("t",), tmp_path / "o.p.onnx", LIMITS)
    with started(model, trace_model=seen.probe.path, cut_model=other.cut) as sandbox:
        whole, part, again = asked(sandbox, ([1, 2], False), ([1, 2], True), ([3, 4], True))
    assert whole.features["t"].tolist() == [2, 4]
    assert whole.trace_outputs["y"].tolist() == [3, 5]
    for answer, x in ((part, [1, 2]), (again, [3, 4])):
        assert answer.outputs["y"].tolist() == [2 * v + 1 for v in x]
        assert answer.features["t"].tolist() == [5 * v for v in x]
        assert answer.trace_outputs == {}
        assert not answer.alone


def test_without_a_cut_copy_the_whole_one_answers(tmp_path):
    model = line(tmp_path / "m.onnx")
    probed = probe(model, ("t",), tmp_path / "p.onnx", LIMITS)
    with started(model, trace_model=probed.path) as sandbox:
        (answer,) = asked(sandbox, ([1, 2], True))
    assert answer.features["t"].tolist() == [2, 4]
    assert answer.trace_outputs["y"].tolist() == [3, 5]


def test_a_cut_copy_that_does_not_load_takes_nothing_away(tmp_path):
    model = line(tmp_path / "m.onnx")
    probed = probe(model, ("t",), tmp_path / "p.onnx", LIMITS)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with started(model, trace_model=probed.path, cut_model=broken) as sandbox:
        assert sandbox.trace_error == ""
        (answer,) = asked(sandbox, ([1, 2], True))
    assert answer.features["t"].tolist() == [2, 4]


def test_there_is_no_cut_copy_where_a_feature_needs_the_whole_model(tmp_path):
    model = models.saved(
        tmp_path / "m.onnx",
        [models.node("Neg", ["x"], ["y"]), models.node("Exp", ["y"], ["t"])], [X], [Y],
    )  # fmt: skip
    assert probe(model, ("t",), tmp_path / "p.onnx", LIMITS).cut is None


@pytest.mark.parametrize("taken", [True, False])
def test_what_a_body_reads_is_kept(taken):
    branch = {
        side: helper.make_graph(
            [models.node(op, ["doubled", "two"] if op == "Mul" else ["doubled"], [side])], side, [],
            [models.tensor(side, FLOAT)],
        )
        for side, op in (("then_branch", "Mul"), ("else_branch", "Neg"))
    }  # fmt: skip
    nodes = [
        models.node("Add", ["x", "x"], ["doubled"]),
        helper.make_node("If", ["cond"], ["t"], **branch),
        models.node("Add", ["t", "three"], ["u"]),
        models.node("Exp", ["u"], ["y"]),
    ]
    constants = {"cond": np.array(taken), "two": np.float32([2]), "three": np.float32([3])}
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", [X], [Y, models.tensor("t", FLOAT)],
            [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 15)], ir_version=8,
    )  # fmt: skip
    x = {"x": np.float32([1, -2, 0.1])}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(["t"], x)[0]
    assert cut(model, ["t"])
    assert [n.op_type for n in model.graph.node] == ["Add", "If"]
    assert [t.name for t in model.graph.initializer] == ["cond", "two"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [o.name for o in session.get_outputs()] == ["t"]
    assert session.run(None, x)[0].tobytes() == expected.tobytes()

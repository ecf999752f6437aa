"""Models whose nodes stand in another order than they run in, which onnxruntime takes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import sandbox_models as models
from onnx import TensorProto, helper

from harness.core.policies import SandboxPolicy
from harness.sandbox.graph_child import parsed
from harness.sandbox.graphs import ProbeResult, probe
from harness.sandbox.tracing import Edit, Edited, edit

LIMITS = SandboxPolicy()


def saved(path, *nodes):
    """x → y by these steps, which stand in the opposite order."""
    return models.saved(
        path,
        [models.node(op, read, made) for op, read, made in reversed(nodes)],
        [models.tensor("x", TensorProto.FLOAT, 2)],
        [models.tensor("y", TensorProto.FLOAT, 2)],
    )


def test_what_is_told_of_a_graph_does_not_depend_on_the_order_of_its_nodes(tmp_path):
    noise = ("RandomNormalLike", ["x"], ["noise"])
    path = saved(
        tmp_path / "m.onnx",
        ("Neg", ["x"], ["a"]),
        ("Abs", ["a"], ["b"]),
        noise,
        ("Add", ["b", "noise"], ["y"]),
    )
    edited = edit(path, Edit(), tmp_path / "copy.onnx", LIMITS)
    assert isinstance(edited, Edited), edited
    assert dict(edited.graph.random) == dict.fromkeys(["noise", "y"], "RandomNormalLike → noise")
    assert edited.graph.exact >= {"a", "b"}
    assert edited.graph.handed_on >= {"a", "b"}


def test_a_copy_that_returns_features_alone_keeps_what_they_need(tmp_path):
    path = saved(
        tmp_path / "m.onnx", ("Neg", ["x"], ["a"]), ("Abs", ["a"], ["b"]), ("Exp", ["b"], ["y"])
    )
    result = probe(path, ["b"], tmp_path / "probes", LIMITS)
    assert isinstance(result, ProbeResult), result
    assert result.exposed == ("b",)
    assert result.cut is not None
    session = onnxruntime.InferenceSession(result.cut)
    (found,) = session.run(["b"], {"x": np.array([[1, -2]], np.float32)})
    assert found.tolist() == [[1, 2]]


@pytest.mark.parametrize("late", [False, True])
def test_bodies_are_put_in_order_before_what_they_read_is_told(late):
    x, y, u = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xyu")
    steps = [helper.make_node("Neg", ["a"], ["t"]), helper.make_node("Exp", ["t"], ["u"])]
    body = helper.make_graph(steps[::-1] if late else steps, "body", [], [u])
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
    ]
    graph = helper.make_graph(nodes[::-1] if late else nodes, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = parsed(model.SerializeToString())
    assert [node.op_type for node in model.graph.node][-1] == "If"
    assert [node.op_type for node in model.graph.node[-1].attribute[0].g.node] == ["Neg", "Exp"]
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": np.array([1, -2], np.float32)})
    np.testing.assert_allclose(found, np.exp([-1, -2]), rtol=1e-6)

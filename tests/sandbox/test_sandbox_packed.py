"""Features with one number a row come as one tensor from the runtime, and by themselves to the parent."""

import json

import numpy as np
import onnx
import pytest
import sandbox_models as models
from onnx import TensorProto, helper

from harness.core.policies import SandboxPolicy
from harness.sandbox.child import sessions
from harness.sandbox.graphs import probe
from harness.sandbox.process import Sandbox

LIMITS = SandboxPolicy(require="S0")
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
OPERATORS = {"a": "Neg", "b": "Exp", "c": "Abs", "d": "Floor"}


@pytest.fixture
def model(tmp_path):
    """Four floats, two whole numbers, a text and a matrix of each row; an output that is a feature, too."""
    nodes = [models.node(op, ["x"], [name]) for name, op in OPERATORS.items()]
    nodes += [
        models.node("Cast", ["x"], ["i"], to=INT),
        models.node("Neg", ["i"], ["j"]),
        models.node("Cast", ["x"], ["text"], to=TensorProto.STRING),
        models.node("Unsqueeze", ["x", "one"], ["column"]),
        models.node("ReduceSum", ["x"], ["sum"], keepdims=0),
        models.node("Add", ["a", "b"], ["y"]),
    ]
    outputs = [models.tensor("y", FLOAT)]
    constants = {"one": np.int64([1])}
    return models.saved(
        tmp_path / "m.onnx", nodes, [models.tensor("x", FLOAT)], outputs, constants=constants
    )


TENSORS = ("a", "b", "c", "d", "i", "j", "text", "column", "sum")


def started(model, probed, tensors, **more):
    sandbox = Sandbox.start(
        model, name="c", limits=LIMITS, trace_model=probed, trace_tensors=tensors, **more
    )
    assert isinstance(sandbox, Sandbox), sandbox
    return sandbox


def test_the_copies_return_columns_of_one_type_in_one_tensor(model, tmp_path):
    found = probe(model, TENSORS, tmp_path / "p.onnx", LIMITS)
    assert set(found.exposed) == set(TENSORS)
    for path, outputs in ((found.path, {"y"}), (found.cut, set())):
        copy = onnx.load(path)
        (about,) = (json.loads(p.value) for p in copy.metadata_props if p.key == sessions.PACKED)
        assert sorted(about.values()) == [["a", "b", "c", "d"], ["i", "j"]]
        assert {o.name for o in copy.graph.output} == {*outputs, *about, "text", "column", "sum"}


@pytest.mark.parametrize("way", [{}, {"alone": True}, {"cut": True}])
@pytest.mark.parametrize("rows", [1024, 100, 3, 1, 0])
def test_every_tensor_arrives_as_it_is_computed_each_time(way, rows, model, tmp_path):
    found = probe(model, [t for t in TENSORS if t != "text"], tmp_path / "p.onnx", LIMITS)
    rng = np.random.default_rng(rows)
    with started(model, found.path, found.exposed, cut_model=found.cut) as sandbox:
        for _ in range(3):
            x = np.float32(rng.normal(size=rows))
            sandbox.submit({"x": x}, rows, trace=True, **way)
            answer = sandbox.collect()
            seen = answer.features
            assert seen["a"].tobytes() == (-x).tobytes()
            assert seen["c"].tobytes() == np.abs(x).tobytes()
            assert seen["d"].tobytes() == np.floor(x).tobytes()
            np.testing.assert_allclose(seen["b"], np.exp(x), rtol=1e-5)
            assert seen["j"].tolist() == (-seen["i"]).tolist() == (-x.astype(np.int64)).tolist()
            assert seen["column"].tobytes() == x.tobytes()
            assert seen["column"].shape == (rows, 1)
            assert answer.left_out == ("sum",)
            np.testing.assert_allclose(answer.outputs["y"], seen["a"] + seen["b"], rtol=1e-5)


def test_text_comes_along_with_packed_numbers(model, tmp_path):
    found = probe(model, TENSORS, tmp_path / "p.onnx", LIMITS)
    with started(model, found.path, found.exposed) as sandbox:
        sandbox.submit({"x": np.float32([1, 2])}, 2, trace=True)
        answer = sandbox.collect()
    assert answer.features["text"].tolist() == ["1", "2"]
    assert answer.features["d"].tolist() == [1, 2]


def test_lengths_that_do_not_fit_are_no_features(tmp_path, model):
    """The first half of the rows, declared as long as the rows."""
    copy = onnx.load(model)
    nodes = [
        models.node("Shape", ["x"], ["n"]),
        models.node("Sub", ["n", "one"], ["less"]),
        models.node("Slice", ["x", "zero", "less"], ["short"]),
        models.node("Concat", ["x", "short"], ["packed"], axis=0),
    ]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([0]), "zero"))
    copy.graph.output.append(onnx.ValueInfoProto(name="packed"))
    helper.set_model_props(copy, {sessions.PACKED: json.dumps({"packed": ["x", "short"]})})
    onnx.save(copy, tmp_path / "odd.onnx")
    with started(model, tmp_path / "odd.onnx", ("x", "short")) as sandbox:
        sandbox.submit({"x": np.float32([1, 2])}, 2, trace=True)
        answer = sandbox.collect()
    assert "not 2 tensors of one length" in answer.trace_error
    assert answer.features == {}
    assert answer.outputs["y"].shape == (2,)

"""Models with their weights in files beside them, as `mlflow.onnx.log_model` writes them."""

import json

import numpy as np
import onnx
import pytest
from gates import REFACTOR, tiny_traffic
from onnx import TensorProto, helper, numpy_helper

from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate
from harness.resolve.pin import pin

AS_OF = "2020-10-01T00:00:00Z"
WIDTH = 512
"""Weights of 2 KiB: MLflow writes what has 1 KiB or more to a file of its own."""


def wide_model(scale=1.0):
    """p = sigmoid(x · Σ w) with the feature hidden = x · w, shape (N, 512)."""
    weights = np.full((1, WIDTH), scale / WIDTH, np.float32)
    axes = np.array([1], np.int64)
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["x", "axes"], ["column"]),
            helper.make_node("MatMul", ["column", "weights"], ["hidden"]),
            helper.make_node("ReduceSum", ["hidden", "axes"], ["raised"], keepdims=0),
            helper.make_node("Sigmoid", ["raised"], ["probability"]),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(axes, "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    helper.set_model_props(model, {"harness.features": '["hidden"]'})
    return model


@pytest.fixture
def logged(registry, tmp_path, monkeypatch):
    """Registers models as a training script does, and returns the registry's address."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(registry.uri)
    experiment = mlflow.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))

    def log(*models):
        for model in models:
            with mlflow.start_run(experiment_id=experiment):
                mlflow.onnx.log_model(
                    model,
                    name="wide",
                    registered_model_name="wide",
                    pip_requirements=["onnxruntime"],
                )
        return registry.uri

    yield log
    mlflow.set_tracking_uri(None)


def gated(tmp_path, uri, policy, candidate):
    return run_gate(
        "models:/wide/1", candidate, traffic=[tiny_traffic(tmp_path / "traffic", name="x")],
        policy=policy, registry_uri=uri, as_of=AS_OF, out=tmp_path / "run", cache_dir=tmp_path / "cache",
    )  # fmt: skip


def parity_policy(write_policy):
    decision = {"output": "probability", "rule": "threshold", "value": 0.5}
    return write_policy(REFACTOR, decision=decision)


def test_a_logged_model_gated_against_itself_is_promoted(tmp_path, logged, write_policy):
    uri = logged(wide_model())
    pinned = pin("models:/wide/1", tmp_path / "pinned", registry_uri=uri)
    result = gated(tmp_path, uri, parity_policy(write_policy), "models:/wide/1")
    shown = json.loads((tmp_path / "run" / "intermediates.json").read_text())
    assert len(pinned.external) == 1
    assert result.decision == "PROMOTE"
    assert [(f["name"], f["verdict"]) for f in shown["features"]] == [("hidden", "equal")]


def test_other_weights_outside_the_model_are_seen(tmp_path, logged, write_policy):
    uri = logged(wide_model(), wide_model(scale=1.5))
    result = gated(tmp_path, uri, parity_policy(write_policy), "models:/wide/2")
    assert result.decision == "ROLLBACK"


def test_weights_that_are_gone_are_named(tmp_path, write_policy):
    path = tmp_path / "m.onnx"
    onnx.save_model(
        wide_model(),
        str(path),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=1024,
    )
    whole = tmp_path / "whole.onnx"
    onnx.save_model(wide_model(), str(whole))
    path.with_name("weights.bin").unlink()
    result = run_gate(
        str(whole), str(path), traffic=[tiny_traffic(tmp_path / "traffic")],
        policy=parity_policy(write_policy), as_of=AS_OF, out=tmp_path / "run", cache_dir=tmp_path / "cache",
    )  # fmt: skip
    assert result.decision == "ROLLBACK"
    assert "'weights.bin' is no file beside the model" in result.record.explanation


def test_the_same_model_with_its_weights_inside_and_outside_is_equal(tmp_path):
    inside, outside = tmp_path / "inside.onnx", tmp_path / "outside.onnx"
    onnx.save_model(wide_model(), str(inside))
    onnx.save_model(
        wide_model(),
        str(outside),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=1024,
    )
    result = compare_models(
        str(inside), str(outside), inputs=[tiny_traffic(tmp_path / "traffic")],
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    assert result.exit_code == 0
    assert [row["verdict"] for row in result.intermediates["features"]] == ["equal"]

import json

import numpy as np
import pytest
import sandbox_models as models
from onnx import TensorProto

from harness.core.clock import iso
from harness.core.models import ModelGraph
from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.graphs import Look, Looked, ProbeResult, look, probe
from harness.sandbox.hello import LoadFailure
from harness.sandbox.isolation import is_weaker
from harness.sandbox.process import Sandbox

LIMITS = SandboxPolicy()


def graph_of(path) -> ModelGraph:
    looked = looked_at(path, LIMITS)
    assert isinstance(looked, Looked), looked
    return looked.graph


def looked_at(path, limits) -> Looked | LoadFailure:
    (answer,) = look([Look(model=path)], limits)
    return answer


def probed(path, tensors, out) -> ProbeResult:
    result = probe(path, tensors, out, LIMITS)
    assert isinstance(result, ProbeResult), result
    return result


def traced(path, result, x) -> BatchAnswer:
    sandbox = Sandbox.start(
        path, name="c", limits=LIMITS, trace_model=result.path, trace_tensors=result.exposed
    )
    assert isinstance(sandbox, Sandbox), sandbox
    with sandbox:
        sandbox.submit({"x": x}, len(x), trace=True)
        answer = sandbox.collect()
    assert isinstance(answer, BatchAnswer), answer
    return answer


def test_a_graph_shows_its_signature_tensors_and_metadata(tmp_path):
    graph = graph_of(models.two_steps(tmp_path / "m.onnx"))
    assert [s.shown() for s in graph.signature.inputs] == ["x FP32[?, 2]"]
    assert [s.shown() for s in graph.signature.outputs] == ["z FP32[?, 2]"]
    assert graph.tensors == ("doubled", "shifted")
    assert (graph.features, graph.fitted) == (("doubled",), ("shifted",))
    assert graph.vocabularies == (("carrier", ("AA", "UA")),)
    assert graph.training_cutoff_ns is not None
    assert iso(graph.training_cutoff_ns) == "2013-08-31T00:00:00Z"
    assert graph.random_operators == ()
    assert graph.runtime


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (models.zipmap, ["p seq(map(string,tensor(float)))", "n FP32[?, 2]"]),
        (lambda p: models.identity(p, TensorProto.STRING), ["y BYTES[?, 2]"]),
        (lambda p: models.identity(p, TensorProto.FLOAT16), ["y FP16[?, 2]"]),
        (models.division, ["y INT32[?]"]),
    ],
)
def test_datatypes_have_their_open_inference_names(tmp_path, make, shown):
    graph = graph_of(make(tmp_path / "m.onnx"))
    assert [s.shown() for s in graph.signature.outputs] == shown


def test_random_operators_are_named_wherever_they_stand(tmp_path):
    kind = TensorProto.FLOAT
    path = models.saved(
        tmp_path / "m.onnx",
        [
            models.node("RandomNormalLike", ["x"], ["r"]),
            models.node("Dropout", ["r", "", "training"], ["d"]),
            models.node("Dropout", ["d", "", "serving"], ["y"]),
        ],
        [models.tensor("x", kind, 2)],
        [models.tensor("y", kind, 2)],
        constants={"training": np.array(True), "serving": np.array(False)},
    )
    assert graph_of(path).random_operators == ("Dropout", "RandomNormalLike")


def test_dropout_that_serves_is_not_random(tmp_path):
    kind = TensorProto.FLOAT
    path = models.saved(
        tmp_path / "m.onnx",
        [models.node("Dropout", ["x", "", "serving"], ["y"])],
        [models.tensor("x", kind, 2)],
        [models.tensor("y", kind, 2)],
        constants={"serving": np.array(False)},
    )
    assert graph_of(path).random_operators == ()


def test_a_probe_returns_what_the_graph_computes_on_the_way(tmp_path):
    path = models.two_steps(tmp_path / "m.onnx")
    result = probed(path, graph_of(path).tensors, tmp_path / "probed.onnx")
    answer = traced(path, result, np.float32([[1, -3]]))
    assert {n: a.tolist() for n, a in answer.features.items()} == {
        "doubled": [[2, -6]],
        "shifted": [[3, -5]],
    }
    assert answer.outputs["z"].tolist() == answer.trace_outputs["z"].tolist() == [[3, 0]]


def test_a_probe_says_what_it_cannot_return(tmp_path):
    path = models.two_steps(tmp_path / "m.onnx")
    result = probed(path, ["shifted", "missing", "x"], tmp_path / "probed.onnx")
    assert result.exposed == ("shifted",)
    assert [name for name, _ in result.skipped] == ["missing", "x"]


def test_a_map_is_no_feature_because_its_classes_are_not_told(tmp_path):
    path = models.saved(
        tmp_path / "m.onnx",
        [
            models.node(
                "ZipMap", ["x"], ["m"], domain="ai.onnx.ml", classlabels_strings=["a", "b"]
            ),
            models.node("Neg", ["x"], ["n"]),
            models.node("Exp", ["n"], ["y"]),
        ],
        [models.tensor("x", TensorProto.FLOAT, 2)],
        [models.tensor("y", TensorProto.FLOAT, 2)],
    )
    result = probed(path, ["m", "n"], tmp_path / "probed.onnx")
    assert result.exposed == ("n",)
    assert [name for name, _ in result.skipped] == ["m"]
    assert "another order" in result.skipped[0][1]


def test_bfloat16_is_returned_as_float32(tmp_path):
    kind = TensorProto.FLOAT
    path = models.saved(
        tmp_path / "m.onnx",
        [
            models.node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
            models.node("Cast", ["b"], ["y"], to=kind),
        ],
        [models.tensor("x", kind, 2)],
        [models.tensor("y", kind, 2)],
    )
    result = probed(path, ["b"], tmp_path / "probed.onnx")
    answer = traced(path, result, np.float32([[1.00390625, 3.0]]))
    assert result.cast == ("b",)
    assert answer.features["b"].dtype == np.float32
    assert answer.features["b"].tolist() == answer.outputs["y"].tolist() == [[1.0, 3.0]]


def test_tensors_without_a_row_per_input_row_are_left_out(tmp_path):
    kind = TensorProto.FLOAT
    path = models.saved(
        tmp_path / "m.onnx",
        [
            models.node("Shape", ["x"], ["shape"]),
            models.node("ReduceMean", ["x"], ["mean"], keepdims=0),
            models.node("Sub", ["x", "mean"], ["centred"]),
            models.node("Reshape", ["centred", "shape"], ["y"]),
        ],
        [models.tensor("x", kind, 2)],
        [models.tensor("y", kind, 2)],
    )
    result = probed(path, ["shape", "mean", "centred"], tmp_path / "probed.onnx")
    answer = traced(path, result, np.float32([[1, 2], [3, 4], [5, 6]]))
    assert set(answer.features) == {"centred"}
    assert set(answer.left_out) == {"shape", "mean"}


def test_a_trace_that_raises_takes_nothing_from_the_answer(tmp_path):
    path = models.identity(tmp_path / "m.onnx", TensorProto.INT32)
    kind = TensorProto.INT32
    broken = models.saved(
        tmp_path / "probed.onnx",
        [
            models.node("Sub", ["x", "x"], ["zero"]),
            models.node("Div", ["x", "zero"], ["d"]),
            models.node("Identity", ["x"], ["y"]),
        ],
        [models.tensor("x", kind, 2)],
        [models.tensor("y", kind, 2), models.tensor("d", kind, 2)],
    )
    result = ProbeResult(path=broken, exposed=("d",), cast=(), skipped=())
    answer = traced(path, result, np.int32([[1, 2]]))
    assert answer.outputs["y"].tolist() == [[1, 2]]
    assert answer.features == {}
    assert "division by zero" in answer.trace_error


def test_a_trace_model_that_does_not_load_is_not_the_versions_fault(tmp_path):
    path = models.two_steps(tmp_path / "m.onnx")
    broken = tmp_path / "probed.onnx"
    broken.write_bytes(b"no model")
    sandbox = Sandbox.start(path, name="c", limits=LIMITS, trace_model=broken)
    assert isinstance(sandbox, Sandbox), sandbox
    with sandbox:
        sandbox.submit({"x": np.float32([[1, 2]])}, 1, trace=True)
        answer = sandbox.collect()
        error = sandbox.trace_error
    assert isinstance(answer, BatchAnswer)
    assert (answer.outputs["z"].tolist(), answer.features) == ([[3, 5]], {})
    assert answer.trace_error
    assert error


def test_tensors_that_the_trace_model_lacks_are_listed(tmp_path):
    path = models.two_steps(tmp_path / "m.onnx")
    sandbox = Sandbox.start(
        path, name="c", limits=LIMITS, trace_model=path, trace_tensors=("doubled",)
    )
    assert isinstance(sandbox, Sandbox)
    with sandbox:
        assert sandbox.trace_missing == ("doubled",)


@pytest.mark.parametrize("ask", [looked_at, lambda p, m: probe(p, ["t"], p.with_suffix(".out"), m)])
def test_a_file_that_is_no_model_is_a_load_failure(tmp_path, ask):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff" * 100)
    failure = ask(path, LIMITS)
    assert isinstance(failure, LoadFailure)
    assert failure.kind == "load"


def test_what_the_process_was_closed_in_is_known_of_a_model_that_does_not_load(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff" * 100)
    for failure in (looked_at(path, LIMITS), Sandbox.start(path, name="c", limits=LIMITS)):
        assert isinstance(failure, LoadFailure)
        assert failure.isolation is not None
        assert not is_weaker(failure.isolation, LIMITS.require)
        assert failure.isolation.self_tests


def test_more_features_than_can_be_compared_are_refused(tmp_path):
    kind = TensorProto.FLOAT
    path = models.saved(
        tmp_path / "m.onnx",
        [models.node("Identity", ["x"], ["y"])],
        [models.tensor("x", kind)],
        [models.tensor("y", kind)],
        metadata={"harness.features": json.dumps([f"f{i}" for i in range(10_001)])},
    )
    failure = looked_at(path, LIMITS)
    assert isinstance(failure, LoadFailure)
    assert failure.kind == "metadata"
    assert "names 10,001 tensors" in failure.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("harness.features", "doubled"),
        ("harness.features", '["doubled", "\\ud800"]'),
        ("harness.fitted", '["\\udfff"]'),
        ("harness.training_cutoff", "last summer"),
    ],
)
def test_metadata_that_cannot_be_read_is_a_load_failure_that_names_it(tmp_path, key, value):
    kind = TensorProto.FLOAT
    path = models.saved(
        tmp_path / "m.onnx",
        [models.node("Identity", ["x"], ["y"])],
        [models.tensor("x", kind)],
        [models.tensor("y", kind)],
        metadata={key: value},
    )
    failure = looked_at(path, LIMITS)
    assert isinstance(failure, LoadFailure)
    assert failure.kind == "metadata"
    assert key in failure.message
    assert value in failure.message
    assert failure.remedy

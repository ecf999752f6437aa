"""External data: what is offered is used, everything else is refused before the runtime sees it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import sandbox_models as models
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from harness.core.errors import UsageError
from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.child import external
from harness.sandbox.graphs import Look, Looked, ProbeResult, look, probe
from harness.sandbox.hello import LoadFailure
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.process import Sandbox
from harness.sandbox.starting import Start

LIMITS = SandboxPolicy()
CONTENT = b"root:x:0:0:root:/root:/bin/bash\n" * 2


def adding(path: Path, location: str, *, length: int = 16, folder: str = "") -> Path:
    """y = x + weights with four float32 weights at a location; `weights.bin` holds 0, 1, 2, 3."""
    kind = TensorProto.FLOAT
    weights = numpy_helper.from_array(np.zeros(4, np.float32), "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(length)}.items():
        weights.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [models.node("Add", ["x", "weights"], ["sum"]), models.node("Neg", ["sum"], ["y"])],
        "g",
        [models.tensor("x", kind, 4)],
        [models.tensor("y", kind, 4)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    helper.set_model_props(model, {"harness.features": '["sum"]'})
    path.write_bytes(model.SerializeToString())
    target = path.parent / folder / "weights.bin"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    return path


def answered(started) -> BatchAnswer:
    assert isinstance(started, Sandbox), started
    with started as sandbox:
        sandbox.submit({"x": np.zeros((1, 4), np.float32)}, 1, trace=bool(sandbox._traced))
        answer = sandbox.collect()
    assert isinstance(answer, BatchAnswer), answer
    return answer


@pytest.mark.parametrize(
    ("location", "name", "folder"),
    [
        ("weights.bin", "weights.bin", ""),
        ("./weights.bin", "weights.bin", ""),
        ("sub/weights.bin", "sub/weights.bin", "sub"),
    ],
)
def test_weights_beside_the_model_are_used(tmp_path, location, name, folder):
    path = adding(tmp_path / "m.onnx", location, folder=folder)
    answer = answered(Sandbox.start(path, name="c", limits=LIMITS, external=(name,)))
    assert answer.outputs["y"].tolist() == [[0, -1, -2, -3]]


def test_a_probed_copy_keeps_its_weights_outside(tmp_path):
    path = adding(tmp_path / "m.onnx", "weights.bin")
    seen = look([Look(model=path, external=("weights.bin",), copy=tmp_path / "copy.onnx")], LIMITS)[
        0
    ]
    assert isinstance(seen, Looked)
    assert isinstance(seen.probe, ProbeResult)
    started = Sandbox.start(
        path, name="c", limits=LIMITS, external=("weights.bin",),
        trace_model=seen.probe.path, trace_tensors=seen.probe.exposed,
    )  # fmt: skip
    assert answered(started).features["sum"].tolist() == [[0, 1, 2, 3]]
    assert b"weights.bin" in seen.probe.path.read_bytes()


def test_a_look_does_not_need_the_parents_folder(tmp_path):
    """The child has the bytes, no path: the files may be gone once it has started."""
    path = adding(tmp_path / "m.onnx", "weights.bin")
    with ModelFiles(path, external=("weights.bin",)) as files:
        path.unlink()
        (tmp_path / "weights.bin").unlink()
        start = Start(files, limits=LIMITS)
        answer = answered(Sandbox.started(start, name="c"))
    assert answer.outputs["y"].tolist() == [[0, -1, -2, -3]]


@pytest.mark.parametrize("external_names", [(), ("other.bin",)])
def test_a_missing_file_is_named(tmp_path, external_names):
    path = adding(tmp_path / "m.onnx", "weights.bin")
    (tmp_path / "other.bin").write_bytes(b"")
    for failure in (
        Sandbox.start(path, name="c", limits=LIMITS, external=external_names),
        *look([Look(model=path, external=external_names)], LIMITS),
        probe(path, ["sum"], tmp_path / "p.onnx", LIMITS, external=external_names),
    ):
        assert isinstance(failure, LoadFailure)
        assert failure.kind == "load"
        assert "'weights.bin' is no file beside the model" in failure.message


@pytest.mark.parametrize(
    "location",
    [
        "{secret}",
        "../secret",
        "./../secret",
        "sub/../../secret",
        "link",
        "./link",
        "..//secret",
        "/etc/passwd",
        "../../../../../../../../etc/passwd",
        "*/_ORT_MEM_ADDR_/*",
        "",
    ],
)
def test_a_hostile_location_is_refused_before_it_is_read(tmp_path, location):
    (tmp_path / "secret").write_bytes(CONTENT)
    folder = tmp_path / "model"
    folder.mkdir()
    path = adding(folder / "m.onnx", location.format(secret=tmp_path / "secret"))
    (folder / "link").symlink_to(tmp_path / "secret")
    failure = Sandbox.start(path, name="c", limits=LIMITS, external=("weights.bin",))
    assert isinstance(failure, LoadFailure)
    assert "is no file beside the model" in failure.message
    (seen,) = look([Look(model=path, external=("weights.bin",))], LIMITS)
    assert isinstance(seen, LoadFailure)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "sub/../../secret", ""])
def test_the_parent_offers_nothing_outside_the_folder(tmp_path, name):
    (tmp_path / "secret").write_bytes(CONTENT)
    folder = tmp_path / "model"
    folder.mkdir()
    path = adding(folder / "m.onnx", "weights.bin")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match="does not lie in this folder"):
        Sandbox.start(path, name="c", limits=LIMITS, external=(name,))


def test_weights_shorter_than_the_model_says_do_not_load(tmp_path):
    path = adding(tmp_path / "m.onnx", "weights.bin")
    (tmp_path / "weights.bin").write_bytes(b"\0" * 8)
    failure = Sandbox.start(path, name="c", limits=LIMITS, external=("weights.bin",))
    assert isinstance(failure, LoadFailure)


def test_weights_over_the_memory_limit_do_not_load(tmp_path):
    path = adding(tmp_path / "m.onnx", "weights.bin")
    with (tmp_path / "weights.bin").open("ab") as file:
        file.truncate(512 << 20)
    limits = SandboxPolicy(memory_bytes=512 << 20)
    failure = Sandbox.start(path, name="c", limits=limits, external=("weights.bin",))
    assert isinstance(failure, LoadFailure)
    assert failure.message.endswith("(the policy's sandbox.memory is 512 MiB)")


def test_one_sealing_serves_several_processes(tmp_path, descriptors):
    path = adding(tmp_path / "m.onnx", "weights.bin")
    before = descriptors()
    with ModelFiles(path, external=("weights.bin",)) as files:
        starts = [Start(files, limits=LIMITS) for _ in range(3)]
        for start in starts:
            start.load()
        answers = [answered(Sandbox.started(start, name="c")) for start in starts]
    assert [a.outputs["y"].tolist() for a in answers] == [[[0, -1, -2, -3]]] * 3
    assert descriptors() == before


def test_an_onnxruntime_too_old_for_files_in_memory_is_told(tmp_path):
    path = adding(tmp_path / "m.onnx", "weights.bin")
    with pytest.raises(external.ExternalDataError, match=r"needs 1\.24\.1 or later"):
        external.offer(object(), path.read_bytes(), {"weights.bin": memoryview(CONTENT)})


def test_locations_are_found_wherever_tensors_stand(tmp_path):
    def outside(name):
        tensor = onnx.TensorProto(name=name, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
        return tensor

    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=outside("in-body"))], "b", [], [], [outside("body")]
    )  # fmt: skip
    sparse = onnx.SparseTensorProto(values=outside("values"), indices=outside("indices"))
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner)
    node.attribute.add(name="many", tensors=[outside("list")])
    node.attribute.add(name="sparse", sparse_tensor=sparse)
    graph = helper.make_graph([node], "g", [], [], [outside("initializer")])
    graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=outside("sparse-values"), indices=outside("sparse-indices"))
    )
    function = helper.make_function(
        "d", "f", ["x"], ["y"], [helper.make_node("Constant", [], ["y"], value=outside("function"))], []
    )  # fmt: skip
    model = helper.make_model(graph, functions=[function])
    model.training_info.add().algorithm.CopyFrom(
        helper.make_graph([], "t", [], [], [outside("training")])
    )
    assert set(external.locations(model.SerializeToString())) == {
        "in-body", "body", "values", "indices", "list", "initializer", "sparse-values",
        "sparse-indices", "function", "training",
    }  # fmt: skip


def test_what_a_tensor_inside_the_model_says_of_files_does_not_count(tmp_path):
    model = onnx.load_model(
        str(adding(tmp_path / "m.onnx", "weights.bin")), load_external_data=False
    )
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    assert external.locations(model.SerializeToString()) == []


def test_a_tensor_written_in_two_halves_is_one(tmp_path):
    """Protobuf merges a field that comes twice: neither half looks external by itself."""
    name = onnx.TensorProto()
    name.external_data.add(key="location", value="secret")
    outside = onnx.TensorProto(data_location=TensorProto.EXTERNAL).SerializeToString()
    attribute = b"".join(
        b"\x2a" + bytes([len(half)]) + half for half in (outside, name.SerializeToString())
    )
    merged = onnx.AttributeProto.FromString(attribute)
    assert (merged.t.data_location, merged.t.external_data[0].value) == (1, "secret")
    model = helper.make_model(
        helper.make_graph([helper.make_node("Constant", [], ["c"])], "g", [], [])
    )
    node = model.graph.node[0].SerializeToString()
    whole = node + b"\x2a" + bytes([len(attribute)]) + attribute
    graph = b"\x0a" + bytes([len(whole)]) + whole
    assert external.locations(b"\x3a" + bytes([len(graph)]) + graph) == ["secret"]


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 400), noise=st.binary(min_size=1, max_size=8))
def test_damaged_bytes_never_hide_a_location_from_the_reader_of_protobuf(
    tmp_path_factory, cut, noise
):
    """Whatever onnx still reads as an external tensor, the reader of locations has seen, or refused."""
    from google.protobuf.message import DecodeError

    path = adding(tmp_path_factory.mktemp("m") / "m.onnx", "weights.bin")
    data = path.read_bytes()
    at = cut % len(data)
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        model = onnx.load_model_from_string(damaged)
    except DecodeError:
        return
    wanted = {
        entry.value
        if isinstance(entry.value, str)
        else entry.value.decode("utf-8", "surrogateescape")
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    try:
        found = set(external.locations(damaged))
    except external.ExternalDataError:
        return
    assert wanted <= found

"""Messages: every tensor comes back as it went in, and bad bytes give a reason."""

import contextlib
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.core.tensors import NUMPY_DTYPES
from harness.wire import MODEL_INFER
from harness.wire.contents import MessageError
from harness.wire.gen import open_inference_pb2 as pb
from harness.wire.messages import (
    request_bytes,
    response_bytes,
    tensors_from_request,
    tensors_from_response,
)

ROOT = Path(__file__).parents[2]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
NAMES = st.text(min_size=1, max_size=8)


@st.composite
def arrays(draw):
    datatype = draw(st.sampled_from(sorted(NUMPY_DTYPES)))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        return draw(hnp.arrays(object, shape, elements=st.text(max_size=6), fill=st.nothing()))
    dtype = NUMPY_DTYPES[datatype]
    if datatype == "BOOL":
        return draw(hnp.arrays(dtype, shape))
    # Any bits at all: infinities, subnormals, every NaN payload.
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=count, max_size=count)), dtype).reshape(shape)


def assert_same(expected, actual):
    assert list(expected) == list(actual)
    for name, array in expected.items():
        assert array.dtype == actual[name].dtype
        assert array.shape == actual[name].shape
        if array.dtype == object:
            assert array.tolist() == actual[name].tolist()
        else:
            assert array.tobytes() == actual[name].tobytes()


@settings(deadline=None)
@given(st.dictionaries(NAMES, arrays(), max_size=4))
def test_request_gives_back_every_bit(tensors):
    assert_same(tensors, tensors_from_request(request_bytes("m", tensors, "id-1")))


@settings(deadline=None)
@given(st.dictionaries(NAMES, arrays(), max_size=4))
def test_response_gives_back_every_bit(tensors):
    assert_same(tensors, tensors_from_response(response_bytes("m", "3", tensors, "id-1")))


def test_request_carries_model_version_and_id():
    message = pb.ModelInferRequest.FromString(
        request_bytes("delays", {"x": np.zeros((1, 2), np.float32)}, "r-7", "12")
    )
    assert (message.model_name, message.model_version, message.id) == ("delays", "12", "r-7")
    assert list(message.inputs[0].shape) == [1, 2]
    assert message.inputs[0].datatype == "FP32"


def test_equal_requests_give_equal_bytes():
    tensors = {"a": np.arange(3.0), "b": np.array(["x", "y", "z"], object)}
    assert request_bytes("m", tensors, "1") == request_bytes("m", tensors, "1")


def test_raw_strings_are_length_prefixed():
    raw = pb.ModelInferRequest.FromString(
        request_bytes("m", {"s": np.array(["é", ""], object)}, "1")
    ).raw_input_contents[0]
    assert raw == struct.pack("<I", 2) + "é".encode() + struct.pack("<I", 0)


def test_big_endian_and_fortran_arrays_are_written_little_endian_row_major():
    array = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    back = tensors_from_request(request_bytes("m", {"x": array}, "1"))["x"]
    assert back.dtype == np.dtype("<i4")
    assert back.tolist() == [[0, 1, 2], [3, 4, 5]]


TYPED = [
    ("BOOL", "bool_contents", [True, False]),
    ("INT8", "int_contents", [-128, 127]),
    ("INT16", "int_contents", [-5, 5]),
    ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
    ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
    ("UINT8", "uint_contents", [0, 255]),
    ("UINT16", "uint_contents", [0, 65535]),
    ("UINT32", "uint_contents", [0, 2**32 - 1]),
    ("UINT64", "uint64_contents", [0, 2**64 - 1]),
    ("FP32", "fp32_contents", [0.5, float("inf")]),
    ("FP64", "fp64_contents", [0.1, -0.0]),
    ("BYTES", "bytes_contents", [b"JFK", b"\xc3\xa9"]),
]


@pytest.mark.parametrize(("datatype", "field", "values"), TYPED)
def test_typed_contents_are_read(datatype, field, values):
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[2, 1])
    getattr(tensor.contents, field).extend(values)
    back = tensors_from_request(message.SerializeToString())["x"]
    expected = [v.decode() if isinstance(v, bytes) else v for v in values]
    assert back.dtype == NUMPY_DTYPES[datatype]
    assert back.shape == (2, 1)
    assert back.ravel().tolist() == expected


def test_raw_outputs_win_over_empty_contents():
    message = pb.ModelInferResponse(raw_output_contents=[struct.pack("<f", 2.5)])
    tensor = message.outputs.add(name="y", datatype="FP32", shape=[1])
    tensor.contents.SetInParent()
    assert tensors_from_response(message.SerializeToString())["y"].tolist() == [2.5]


def request(raw=(), **tensor):
    message = pb.ModelInferRequest(raw_input_contents=raw)
    message.inputs.add(**tensor)
    return message.SerializeToString()


BAD = {
    "not a ModelInferRequest": b"\xff\xff\xff",
    "datatype 'BF16' is not known": request([b"ab"], name="x", datatype="BF16", shape=[1]),
    "3 raw bytes where FP32[1] needs 4": request([b"abc"], name="x", datatype="FP32", shape=[1]),
    "negative dimension": request([b"abcd"], name="x", datatype="FP32", shape=[-1]),
    "2 raw contents for 1 tensors": request([b"", b""], name="x", datatype="FP32", shape=[1]),
    "exists only as raw": request(name="x", datatype="FP16", shape=[1]),
    "0 values in fp32_contents": request(name="x", datatype="FP32", shape=[1]),
    "2 strings in raw contents": request([b"\0" * 8], name="x", datatype="BYTES", shape=[3]),
    "cut off in its 6": request([b"\x09\0\0\0ab"], name="x", datatype="BYTES", shape=[1]),
    "cut off in its 3": request([b"ab\0"], name="x", datatype="BYTES", shape=[1]),
    "not UTF-8": request([b"\x01\0\0\0\xff"], name="x", datatype="BYTES", shape=[1]),
    "cannot be held": request([b""], name="x", datatype="INT8", shape=[2**40, 2**40, 0]),
    "does not fit INT8": request(
        name="x", datatype="INT8", shape=[1], contents=pb.InferTensorContents(int_contents=[300])
    ),
}


@pytest.mark.parametrize("reason", BAD)
def test_unusable_requests_give_a_reason(reason):
    with pytest.raises(MessageError) as caught:
        tensors_from_request(BAD[reason])
    assert reason in caught.value.reason


def test_tensor_named_twice_is_refused():
    message = pb.ModelInferRequest(raw_input_contents=[b"\0", b"\0"])
    message.inputs.add(name="x", datatype="INT8", shape=[1])
    message.inputs.add(name="x", datatype="INT8", shape=[1])
    with pytest.raises(MessageError, match="appears twice"):
        tensors_from_request(message.SerializeToString())


def test_inputs_in_shared_memory_are_named_as_such():
    message = pb.ModelInferRequest(raw_input_contents=[b"\0"])
    message.inputs.add(name="x", datatype="INT8", shape=[1])
    hidden = message.inputs.add(name="y", datatype="INT8", shape=[1])
    hidden.parameters["shared_memory_region"].string_param = "r0"
    with pytest.raises(MessageError, match="shared memory"):
        tensors_from_request(message.SerializeToString())


UNWRITABLE = {
    "complex": {"x": np.zeros(1, complex)},
    "date": {"x": np.zeros(1, "datetime64[s]")},
    "bytes among strings": {"x": np.array([b"a"], object)},
    "surrogate": {"x": np.array(["\ud800"], object)},
    "surrogate name": {"\ud800": np.zeros(1)},
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_arrays_without_a_wire_form_are_refused(case):
    with pytest.raises(MessageError):
        request_bytes("m", UNWRITABLE[case], "1")


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_tensors_or_a_message_error(noise):
    for read in (tensors_from_request, tensors_from_response):
        with contextlib.suppress(MessageError):
            read(noise)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_messages_give_tensors_or_a_message_error(data):
    tensors = {"x": np.arange(4.0), "s": np.array(["a", "bc"], object), "b": np.array([True])}
    damaged = bytearray(request_bytes("m", tensors, "1"))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(MessageError):
        tensors_from_request(cut)


def test_path_of_the_public_service():
    assert MODEL_INFER == "/inference.GRPCInferenceService/ModelInfer"


@pytest.mark.parametrize("name", ["open_inference", "canary_judge"])
def test_generated_classes_match_the_proto(tmp_path, name):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-Iprotos",
            f"--python_out={tmp_path}",
            f"{name}.proto",
        ],
        cwd=ROOT,
        check=True,
    )
    committed = ROOT / "harness" / "wire" / "gen" / f"{name}_pb2.py"
    assert (tmp_path / f"{name}_pb2.py").read_text() == committed.read_text()

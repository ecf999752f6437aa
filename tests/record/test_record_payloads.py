"""Bodies as clients send them become the tensors that the model was given."""

import json
from contextlib import suppress

import logs_made as made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.tensors import Signature, TensorSpec
from harness.record.importers.parts import Payload, PayloadError, code_from_http
from harness.record.importers.payloads import Messages
from harness.wire.messages import request_bytes, tensors_from_request, tensors_from_response

NAMED = Messages(made.SIGNATURE)
PLAIN = Messages(None)
MATRIX = Messages(
    Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(3,)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(1,)),),
    )
)
ROWS = [["AA", 1.5, 3], ["B6", 2.25, 4]]
NAMES = ["carrier", "distance", "hour"]


def asked(messages, body, kind="application/json"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = messages.request(Payload(content=content, content_type=kind), "m", "id-1")
    return tensors_from_request(message)


def answered(messages, body, kind="application/json"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = messages.response(Payload(content=content, content_type=kind), "m", "1", "id-1")
    return tensors_from_response(message)


DICTS = [dict(zip(NAMES, r, strict=True)) for r in ROWS]
COLUMNS = {n: [r[i] for r in ROWS] for i, n in enumerate(NAMES)}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": DICTS},
        {"instances": ROWS},
        {"inputs": COLUMNS},
        {"dataframe_split": {"columns": NAMES, "data": ROWS}},
        {"dataframe_split": {"columns": ["hour", "carrier", "distance"], "index": [0, 1],
                             "data": [[r[2], r[0], r[1]] for r in ROWS]}},
        {"dataframe_records": DICTS},
        {"columns": NAMES, "data": ROWS},
        DICTS,
        ROWS,
        b"AA,1.5,3\nB6,2.25,4\n",
        b"hour,extra,carrier,distance\n3,x,AA,1.5\n4,y,B6,2.25\n",
        b"\n".join(json.dumps(d).encode() for d in DICTS),
    ],
)  # fmt: skip
def test_every_form_of_the_same_rows_gives_the_same_tensors(body):
    kind = "text/csv" if isinstance(body, bytes) and b"{" not in body else "application/json"
    found = asked(NAMED, body, kind)
    assert {n: v.tolist() for n, v in found.items()} == COLUMNS
    assert [v.dtype for v in found.values()] == [np.dtype(object), np.float32, np.int64]


def test_one_row_alone_is_one_row():
    assert {n: v.tolist() for n, v in asked(NAMED, DICTS[0]).items()} == {
        n: [v[0]] for n, v in COLUMNS.items()
    }


@pytest.mark.parametrize(
    "body", [{"instances": [[1, 2, 3]]}, {"inputs": [[1, 2, 3]]}, b"1,2,3", [[1, 2, 3]]]
)
def test_a_matrix_is_the_models_only_input(body):
    assert asked(MATRIX, body, "text/csv")["x"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    "body",
    [{"predictions": [0.5, 0.25]}, {"predictions": [[0.5], [0.25]]}, {"outputs": {"y": [0.5, 0.25]}},
     {"predictions": [{"y": 0.5}, {"y": 0.25}]}, b"0.5\n0.25\n", [0.5, 0.25]],
)  # fmt: skip
def test_answers_get_the_models_shape(body):
    kind = "text/csv" if isinstance(body, bytes) else "application/json"
    assert answered(MATRIX, body, kind)["y"].tolist() == [[0.5], [0.25]]


def test_without_a_signature_json_keeps_its_own_types():
    found = asked(PLAIN, {"instances": [{"a": 1, "b": 1.5, "c": "x", "d": True}]})
    assert {n: (v.dtype.kind, v.tolist()) for n, v in found.items()} == {
        "a": ("i", [1]), "b": ("f", [1.5]), "c": ("O", ["x"]), "d": ("b", [True]),
    }  # fmt: skip


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    st.booleans(),
)
def test_binary_tails_are_read_bit_by_bit(floats, integers, spaced):
    a, b = np.array(floats, "<f4"), np.array(integers, "<i8")
    described = [
        {"name": n, "datatype": t, "shape": [len(v)], "parameters": {"binary_data_size": v.nbytes}}
        for n, t, v in (("a", "FP32", a), ("b", "INT64", b))
    ]
    document = json.dumps({"id": "ä", "inputs": described}, ensure_ascii=False).encode()
    found = asked(PLAIN, (b" \n" if spaced else b"") + document + a.tobytes() + b.tobytes())
    assert found["a"].tobytes() == a.tobytes()
    assert found["b"].tobytes() == b.tobytes()


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.integers(-(2**63), 2**63 - 1)
)
def test_v2_json_keeps_text_and_whole_numbers(text, number):
    body = {"inputs": [
        {"name": "t", "datatype": "BYTES", "shape": [1, 1], "data": [[text]]},
        {"name": "n", "datatype": "INT64", "shape": [1], "data": [number]},
    ]}  # fmt: skip
    found = asked(PLAIN, body)
    assert (found["t"].tolist(), found["n"].tolist()) == ([[text]], [number])


def test_a_message_stays_byte_for_byte_whatever_its_type_is_said_to_be():
    message = request_bytes("m", {"x": np.ones((1, 3), np.float32)}, "id-9")
    for kind in (
        "application/x-protobuf",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ):
        assert NAMED.request(Payload(content=message, content_type=kind), "m", "id-1") == message


@pytest.mark.parametrize(
    ("messages", "body", "said"),
    [
        (PLAIN, b"", "empty"),
        (PLAIN, b"{half", "no JSON"),
        (PLAIN, b"[" * 100_000, "no JSON: it is nested too deeply"),
        (PLAIN, b'{"instances": [[1]], "instances": [[2]]}', "two values of 'instances' in one object"),
        (PLAIN, b'{"instances": [{"a": 1, "a": 2}]}', "two values of 'a' in one object"),
        (PLAIN, b'[[1.5]]\n{"a": 1, "b": 2, "a": 3}', "two values of 'a' in one object"),
        (PLAIN, b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "shape": [2], "data": [1, 2]}]}', "two values of 'shape'"),
        (PLAIN, {"error": "no such model"}, "no such model"),
        (PLAIN, {"foo": 1}, "none of instances"),
        (PLAIN, {"instances": [{"a": 1}, {"b": 1}]}, "different names"),
        (PLAIN, {"instances": [[1], [1, 2]]}, "different shapes"),
        (PLAIN, {"instances": [None, "x"]}, "holds a text and null"),
        (NAMED, {"instances": [["AA", 1.5]]}, "3 values"),
        (NAMED, {"inputs": {"carrier": ["AA"], "distance": [1.5]}}, "no value for the model's 'hour'"),
        (NAMED, {"inputs": {**COLUMNS, "hour": [1]}}, "different numbers of rows"),
        (NAMED, {"inputs": {**COLUMNS, "hour": ["x", "y"]}}, "hour"),
        (NAMED, b"AA,1.5\n", "2 values a line"),
        (NAMED, b"AA,far,3\n", "no FP32"),
        (NAMED, b"\xff\xfe,1,2\n", "not UTF-8"),
        (MATRIX, {"instances": [[1, 2]]}, "shape"),
        (PLAIN, {"inputs": [{"name": "a", "datatype": "FP32", "shape": [2], "data": [1]}]}, "1 values for the shape"),
        (PLAIN, {"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}, "not all there"),
        (PLAIN, {"inputs": [{"name": "a", "datatype": "FP99", "shape": [1], "data": [1]}]}, "FP99"),
        (PLAIN, {"inputs": [{"name": "a", "datatype": "FP32", "data": [1]}]}, "no shape"),
    ],
)  # fmt: skip
def test_what_is_no_body_says_why(messages, body, said):
    with pytest.raises(PayloadError, match=said):
        asked(
            messages, body, "text/csv" if isinstance(body, bytes) and body[:1] not in b"{[" else ""
        )


@given(
    st.binary(max_size=60),
    st.sampled_from(["", "application/json", "text/csv", "application/x-protobuf"]),
)
def test_any_bytes_are_a_message_or_a_reason(content, kind):
    for messages in (PLAIN, NAMED, MATRIX):
        with suppress(PayloadError):
            payload = Payload(content=content, content_type=kind)
            tensors_from_request(messages.request(payload, "m", "i"))


def test_http_codes_have_a_grpc_one():
    assert [code_from_http(c) for c in (200, 204, 400, 404, 429, 500, 503, 504, 418)] == [
        0,
        0,
        3,
        5,
        8,
        13,
        14,
        4,
        2,
    ]

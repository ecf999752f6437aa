"""Columns: the fast path says what the plain path says, and names every message it leaves out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.core.tensors import TensorSpec
from harness.wire.columns import ColumnDecoder, most_common_layout
from harness.wire.contents import MessageError
from harness.wire.gen import open_inference_pb2 as pb
from harness.wire.messages import (
    request_bytes,
    response_bytes,
    tensors_from_request,
)


def spec(name, datatype, *shape):
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def flight(i, rows=1):
    return {
        "distance": np.arange(i, i + rows, dtype=np.float32),
        "tail": np.array([f"N{i}-{k}" for k in range(rows)], object),
        "pair": np.full((rows, 2), i, np.int64),
    }


LAYOUT = (spec("distance", "FP32"), spec("tail", "BYTES"), spec("pair", "INT64", 2))


def message(i, rows=1):
    return request_bytes("m", flight(i, rows), f"r{i}")


@st.composite
def batches(draw):
    rows = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    bits = hnp.arrays(np.uint32, st.just(1))
    return [
        {
            "x": np.concatenate([draw(bits) for _ in range(r)] or [np.empty(0, np.uint32)]).view(
                np.float32
            ),
            "s": draw(hnp.arrays(object, (r, 2), elements=st.text(max_size=3), fill=st.nothing())),
            "b": draw(hnp.arrays(np.bool_, (r,))),
        }
        for r in rows
    ]


@settings(deadline=None)
@given(batches())
def test_columns_are_the_messages_one_after_another(requests):
    decoded = ColumnDecoder("request").decode(
        [request_bytes("m", r, str(i)) for i, r in enumerate(requests)]
    )
    assert decoded.ok.all()
    assert decoded.rows.tolist() == [len(r["x"]) for r in requests]
    assert decoded.request_id.tolist() == [str(i) for i in range(len(requests))]
    for name in ("x", "b"):
        expected = np.concatenate([r[name] for r in requests])
        assert decoded.tensors[name].dtype == expected.dtype
        assert decoded.tensors[name].tobytes() == expected.tobytes()
    strings = np.concatenate([r["s"] for r in requests])
    assert decoded.tensors["s"].shape == strings.shape
    assert decoded.tensors["s"].tolist() == strings.tolist()


def test_first_good_message_fixes_the_layout():
    decoder = ColumnDecoder("request")
    decoded = decoder.decode([b"\xff", message(1), message(2)])
    assert decoded.ok.tolist() == [False, True, True]
    assert decoded.reasons == ((0, "not a ModelInferRequest"),)
    assert decoder.layout == decoded.specs == LAYOUT


def test_responses_are_read_the_same_way():
    decoded = ColumnDecoder("response").decode(
        [response_bytes("m", "1", {"p": np.array([[0.25, 0.75]])}, "r")]
    )
    assert decoded.specs == (spec("p", "FP64", 2),)
    assert decoded.tensors["p"].tolist() == [[0.25, 0.75]]


def test_tensors_in_another_order_are_the_same_layout():
    shuffled = dict(reversed(flight(2, rows=2).items()))
    decoded = ColumnDecoder("request").decode(
        [message(1), request_bytes("m", shuffled, "r2"), message(3)]
    )
    assert decoded.ok.all()
    assert decoded.tensors["distance"].tolist() == [1.0, 2.0, 3.0, 3.0]
    assert decoded.tensors["tail"].tolist() == ["N1-0", "N2-0", "N2-1", "N3-0"]


def test_typed_contents_join_the_raw_ones():
    typed = pb.ModelInferRequest()
    typed.inputs.add(name="pair", datatype="INT64", shape=[1, 2]).contents.int64_contents.extend(
        [8, 9]
    )
    typed.inputs.add(name="distance", datatype="FP32", shape=[1]).contents.fp32_contents.append(5)
    typed.inputs.add(name="tail", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"T")
    decoded = ColumnDecoder("request").decode([message(1), typed.SerializeToString(), message(3)])
    assert decoded.ok.all()
    assert decoded.tensors["pair"].tolist() == [[1, 1], [8, 9], [3, 3]]
    assert decoded.tensors["tail"].tolist() == ["N1-0", "T", "N3-0"]


OTHER = {
    "no tensor 'tail'": {k: v for k, v in flight(1).items() if k != "tail"},
    "tensor 'more' is not in the window's layout": {**flight(1), "more": np.zeros(1)},
    "tensor distance FP64[?] where the window has distance FP32[?]": {
        **flight(1),
        "distance": np.zeros(1),
    },
    "tensor pair INT64[?, 3] where the window has pair INT64[?, 2]": {
        **flight(1),
        "pair": np.zeros((1, 3), np.int64),
    },
    "tensors disagree on the number of rows: [1, 2]": {
        **flight(1),
        "distance": np.zeros(2, np.float32),
    },
    "tensor 'distance' has no batch axis": {**flight(1), "distance": np.float32(1)},
}


@pytest.mark.parametrize("reason", OTHER)
def test_another_layout_is_left_out_with_the_difference(reason):
    decoded = ColumnDecoder("request").decode(
        [message(1), request_bytes("m", OTHER[reason], "odd"), message(3)]
    )
    assert decoded.ok.tolist() == [True, False, True]
    assert decoded.reasons == ((1, reason),)
    assert decoded.tensors["distance"].tolist() == [1.0, 3.0]


def test_without_a_layout_each_message_is_told_what_is_wrong_with_it():
    odd = "tensors disagree on the number of rows: [1, 2]"
    decoded = ColumnDecoder("request", ()).decode([request_bytes("m", OTHER[odd], "odd")])
    assert decoded.reasons == ((0, odd),)


def test_wrong_raw_sizes_are_left_out_even_when_the_sum_fits():
    first, second = (pb.ModelInferRequest.FromString(message(i)) for i in (1, 2))
    first.raw_input_contents[0] += b"\0"
    second.raw_input_contents[0] = second.raw_input_contents[0][:-1]
    decoded = ColumnDecoder("request", LAYOUT).decode(
        [first.SerializeToString(), second.SerializeToString(), message(3)]
    )
    assert decoded.ok.tolist() == [False, False, True]
    assert "5 raw bytes" in decoded.reasons[0][1]
    assert "3 raw bytes" in decoded.reasons[1][1]
    assert decoded.tensors["tail"].tolist() == ["N3-0"]


def test_bad_strings_are_left_out():
    bad = pb.ModelInferRequest.FromString(message(1))
    bad.raw_input_contents[1] = b"\x01\0\0\0\xff"
    two = pb.ModelInferRequest.FromString(message(1))
    two.raw_input_contents[1] = b"\0" * 8
    decoded = ColumnDecoder("request", LAYOUT).decode(
        [bad.SerializeToString(), two.SerializeToString(), message(3)]
    )
    assert decoded.ok.tolist() == [False, False, True]
    assert "not UTF-8" in decoded.reasons[0][1]
    assert "2 strings for 1 rows" in decoded.reasons[1][1]


def test_rows_without_elements_are_refused():
    decoded = ColumnDecoder("request").decode(
        [request_bytes("m", {"x": np.zeros((2, 0), np.float32)}, "1")]
    )
    assert "no elements per row" in decoded.reasons[0][1]


def test_free_dimension_of_a_given_layout_is_fixed_by_the_first_that_fits():
    decoder = ColumnDecoder("request", (spec("x", "FP32", None),))
    decoded = decoder.decode(
        [
            request_bytes("m", {"x": np.zeros((1, n), dtype)}, "1")
            for n, dtype in ((2, np.float64), (3, np.float32), (2, np.float32))
        ]
    )
    assert decoded.ok.tolist() == [False, True, False]
    assert decoder.layout == (spec("x", "FP32", 3),)


def test_nothing_readable_gives_no_columns():
    decoded = ColumnDecoder("request").decode([b"\xff"])
    assert decoded.specs == ()
    assert decoded.tensors == {}
    assert decoded.rows.tolist() == [0]


def test_known_layout_without_messages_has_empty_columns():
    decoded = ColumnDecoder("request", LAYOUT).decode([])
    assert {k: v.shape for k, v in decoded.tensors.items()} == {
        "distance": (0,),
        "tail": (0,),
        "pair": (0, 2),
    }


def test_the_most_common_layout_wins_over_the_first():
    odd = request_bytes("m", {"x": np.zeros(1)}, "odd")
    assert most_common_layout("request", [odd, b"\xff", message(1), message(2)]) == LAYOUT
    assert most_common_layout("request", [b"\xff"]) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_messages_agree_with_the_plain_path(data):
    damaged = bytearray(message(1, rows=2))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decoded = ColumnDecoder("request", LAYOUT).decode([bytes(damaged), message(7)])
    assert decoded.ok[1]
    assert decoded.tensors["tail"][-1] == "N7-0"
    if decoded.ok[0]:
        try:
            expected = tensors_from_request(bytes(damaged))
        except MessageError:
            return  # damage outside the tensors, such as the model's name
        assert decoded.tensors["distance"][:-1].tobytes() == expected["distance"].tobytes()
        assert decoded.tensors["tail"][:-1].tolist() == expected["tail"].tolist()

"""Fields found in serialized messages without parsing them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.wire.gen import open_inference_pb2 as pb
from harness.wire.scan import REQUEST_ID, bytes_field


@given(st.text(max_size=300), st.text(max_size=300), st.lists(st.binary(max_size=500), max_size=4))
def test_the_id_is_what_protobuf_reads(name, request_id, raws):
    message = pb.ModelInferRequest(model_name=name, id=request_id, raw_input_contents=raws)
    found = bytes_field(message.SerializeToString(), REQUEST_ID)
    assert (found or b"").decode() == request_id


@given(st.text(min_size=1, max_size=30), st.binary(max_size=500), st.integers(0, 40))
def test_of_a_message_that_is_cut_there_is_what_stands_before(request_id, raw, at):
    head = pb.ModelInferRequest(model_name="m", id=request_id).SerializeToString()
    whole = head + pb.ModelInferRequest(raw_input_contents=[raw]).SerializeToString()
    assert bytes_field(whole[: len(head) + at], REQUEST_ID, cut=True) == request_id.encode()
    begins = bytes_field(whole[:at], REQUEST_ID, cut=True) or b""
    assert request_id.encode().startswith(begins)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_answer(message):
    found = bytes_field(message, REQUEST_ID)
    assert found is None or found in message


def test_other_kinds_of_fields_are_skipped():
    message = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x25" + bytes(4) + b"\x1a\x02ab"
    assert bytes_field(message, REQUEST_ID) == b"ab"


def test_of_two_the_last_counts():
    assert bytes_field(b"\x1a\x01a\x1a\x01b", REQUEST_ID) == b"b"


@pytest.mark.parametrize(
    "message", [b"\x1a\x05ab", b"\x1a\x01a\x80", b"\x1a\x01a\x0b", b"\x1a\x01a\x11\x00"]
)
def test_a_broken_message_has_no_field(message):
    assert bytes_field(message, REQUEST_ID) is None

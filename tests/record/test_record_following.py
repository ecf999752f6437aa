"""A connection that is followed: its frames, however they are cut, give the calls that passed."""

import gzip
import time
import tracemalloc
import zlib

import hpack
import numpy as np
import pytest
from h2made import BEGIN, Heard, Side, client, end, message, request_fields
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.recording import Recorded
from harness.record.exchanges import ExchangeMaker
from harness.record.frames import Framed
from harness.record.h2frames import frame
from harness.record.headers import HeaderBlocks
from harness.record.messages import Room
from harness.record.metrics import CallMetrics
from harness.record.packing import ERROR_WITHIN_BYTES, unpacked
from harness.record.redaction import Redaction
from harness.store.counts import Counts
from harness.wire import MODEL_STREAM_INFER, SERVICE
from harness.wire.gen import open_inference_pb2 as pb

PING = frame(6, 0, 0, bytes(8))


def followed(sent, answered, heard=None):
    """The calls of a connection that is over for its server."""
    heard = heard or Heard()
    following = heard.follow()
    following.sent(sent)
    following.answered(answered)
    assert heard.room.used == 0 or following.open
    return heard


def one_call(request=b"request", answer=b"answer", *, fields=(), begin=(), trailers=None):
    sent = client().headers(1, [*request_fields(), *fields]).data(1, message(request), last=True)
    answered = Side().headers(1, [*BEGIN, *begin]).data(1, message(answer))
    answered.headers(1, trailers or end(), last=True)
    return sent.bytes, answered.bytes


contents = st.binary(max_size=200) | st.integers(0, 70_000).map(lambda n: b"x" * n)
names = st.sampled_from(["x-a", "x-b", "x-c"])
metadata = st.lists(st.tuples(names, st.sampled_from(["1", "2", "long" * 9])), max_size=3)


@st.composite
def calls(draw):
    """What one call says, and how its frames are made."""
    return {
        "request": draw(contents),
        "answer": draw(contents),
        "metadata": draw(metadata),
        "trailing": draw(metadata),
        "pieces": draw(st.integers(1, 5)),
        "pad": draw(st.none() | st.integers(0, 255)),
        "priority": draw(st.booleans()),
        "cut": draw(st.booleans()),
        "table": draw(st.none() | st.sampled_from([0, 100, 4096, 65_536])),
        "waits": draw(st.booleans()),
    }


def in_pieces(side, stream, content, made, *, last):
    whole = message(content)
    step = max(1, -(-len(whole) // made["pieces"]))
    parts = [whole[i : i + step] for i in range(0, len(whole), step)]
    for i, part in enumerate(parts):
        side.data(stream, part, last=last and i == len(parts) - 1, pad=made["pad"])


def built(plan):
    """Bytes of both directions; all requests go first, answers come in the other order."""
    sent, answered = client(), Side()
    for i, made in enumerate(plan):
        if made["table"] is not None:
            sent.table(made["table"])
            answered.table(made["table"])
        cuts = (3, 9) if made["cut"] else ()
        sent.headers(
            2 * i + 1, [*request_fields(), *made["metadata"]], pad=made["pad"],
            priority=made["priority"], cuts=cuts,
        )  # fmt: skip
        in_pieces(sent, 2 * i + 1, made["request"], made, last=True)
        sent.bytes += PING
    for i, made in reversed(list(enumerate(plan))):
        answered.headers(2 * i + 1, BEGIN, pad=made["pad"])
        in_pieces(answered, 2 * i + 1, made["answer"], made, last=False)
        answered.headers(2 * i + 1, end(0, "", *made["trailing"]), last=True)
    return sent.bytes, answered.bytes


def in_chunks(content, seed, most):
    at = 0
    while at < len(content):
        step = 1 + (seed * 2_654_435_761 + at * 40_503) % most
        yield content[at : at + step]
        at += step


@settings(max_examples=40, deadline=None)
@given(st.lists(calls(), min_size=1, max_size=4), st.integers(0, 10**6), st.integers(1, 3000))
def test_calls_are_the_same_however_their_frames_are_cut(plan, seed, most):
    sent, answered = built(plan)
    heard = Heard()
    following = heard.follow()
    for chunk in in_chunks(sent, seed, most):
        following.sent(chunk)
    for chunk in in_chunks(answered, seed, most):
        following.answered(chunk)
    told = [(c.request, c.response, list(c.metadata), list(c.trailing)) for c in heard.calls]
    assert told == [
        (m["request"], m["answer"], m["metadata"], m["trailing"]) for m in reversed(plan)
    ]
    assert {c.code for c in heard.calls} == {0}
    assert (following.open, heard.room.used, heard.counts) == ({}, 0, {})


def test_a_call_is_told_whole():
    before = time.time_ns()
    sent, answered = one_call(fields=[("x-user", "u"), ("key-bin", "AP8")])
    (told,) = followed(sent, answered).calls
    assert (told.method, told.upstream) == (f"/{SERVICE}/ModelInfer", "up")
    assert list(told.metadata) == [("x-user", "u"), ("key-bin", b"\x00\xff")]
    assert before <= told.ts_ns <= time.time_ns()
    assert 0 < told.latency_ns < time.time_ns() - before
    assert (told.cancelled, told.stream, told.unkept) == (False, "", None)


@pytest.mark.parametrize(
    ("said", "values"),
    [
        (b"AP8=", [b"\x00\xff"]), (b"AP8", [b"\x00\xff"]), (b"AP8,AA==", [b"\x00\xff", b"\x00"]),
        (b"\x00\x01,\xfe", [b"\x01,\xfe"]), (b"", [b""]), (b"!", [b"!"]),
    ],
)  # fmt: skip
def test_binary_metadata_comes_as_bytes(said, values):
    sent, answered = one_call(fields=[("key-bin", said)])
    (told,) = followed(sent, answered).calls
    assert list(told.metadata) == [("key-bin", value) for value in values]


@pytest.mark.parametrize(
    ("code", "text", "details"),
    [(5, "no such model", "no such model"), (13, "%C3%BC %0A50%25", "ü \n50%"), (14, "", "")],
)
def test_a_failure_has_its_code_and_details(code, text, details):
    sent, _ = one_call()
    more = ("grpc-status-details-bin", "CAU=")
    answered = Side().headers(1, [*BEGIN, *end(code, text, more)], last=True).bytes
    (told,) = followed(sent, answered).calls
    assert (told.code, told.details, told.response) == (code, details, b"")
    assert list(told.trailing) == [("grpc-status-details-bin", b"\x08\x05")]


@pytest.mark.parametrize(("http", "code"), [("503", 14), ("404", 12), ("401", 16), ("418", 2)])
def test_an_answer_of_something_else_has_the_code_of_its_http_status(http, code):
    sent, _ = one_call()
    answered = Side().headers(1, [(":status", http)]).data(1, b"<html>", last=True).bytes
    (told,) = followed(sent, answered).calls
    assert (told.code, told.response) == (code, b"")
    assert http in told.details


def test_ok_without_an_answer_is_a_failure():
    sent, _ = one_call()
    (told,) = followed(sent, Side().headers(1, [*BEGIN, *end()], last=True).bytes).calls
    assert told.code == 13


@pytest.mark.parametrize(("error", "code"), [(0x8, 1), (0xB, 8), (0x2, 13), (0, 13)])
def test_a_call_that_the_server_breaks_off(error, code):
    sent, _ = one_call()
    (told,) = followed(sent, Side().headers(1, BEGIN).reset(1, error).bytes).calls
    assert (told.code, told.cancelled, told.request) == (code, False, b"request")


def test_a_call_that_the_client_takes_back():
    sent, _ = one_call()
    heard = Heard()
    following = heard.follow()
    following.sent(sent)
    following.sent(frame(3, 0, 1, b"\0\0\0\x08"))
    (told,) = heard.calls
    assert (told.code, told.cancelled, told.request) == (1, True, b"request")


@pytest.mark.parametrize("by_server", [False, True])
def test_a_call_that_ends_at_its_deadline(by_server):
    sent, _ = one_call(fields=[("grpc-timeout", "50m")])
    heard = Heard()
    following = heard.follow()
    following.sent(sent)
    if by_server:
        following.answered(Side().reset(1, 8).bytes)
    else:
        following.client_lost()
    (told,) = heard.calls
    assert (told.code, told.cancelled) == (4, True)


def test_a_connection_that_is_lost_ends_its_calls():
    for lost, code, cancelled in (("client_lost", 1, True), ("upstream_lost", 14, False)):
        heard = Heard()
        following = heard.follow()
        following.sent(one_call()[0])
        getattr(following, lost)()
        (told,) = heard.calls
        assert (told.code, told.cancelled, told.request) == (code, cancelled, b"request")
        assert heard.room.used == 0


def test_calls_that_a_server_on_its_way_out_does_not_serve():
    sent = client()
    for stream in (1, 3):
        sent.headers(stream, request_fields()).data(stream, message(b"r"), last=True)
    answered = Side().goaway(1).headers(1, BEGIN).data(1, message(b"a"))
    heard = followed(sent.bytes, answered.headers(1, end(), last=True).bytes)
    assert [(c.code, c.response) for c in heard.calls] == [(0, b"a")]
    assert heard.counts == {Recorded.NOT_PROCESSED: 1}


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [("gzip", gzip.compress(b"message" * 9, mtime=0)), ("deflate", zlib.compress(b"message" * 9))],
)
def test_compressed_messages_are_told_as_they_were(encoding, packed):
    said = ("grpc-encoding", encoding)
    sent = client().headers(1, [*request_fields(), said])
    sent.data(1, message(packed, compressed=True), last=True)
    answered = Side().headers(1, [*BEGIN, said]).data(1, message(packed, compressed=True))
    (told,) = followed(sent.bytes, answered.headers(1, end(), last=True).bytes).calls
    assert (told.request, told.response, told.packing) == (packed, packed, (encoding, encoding))
    unpacked_ = unpacked(told, 63)
    assert (unpacked_.request, unpacked_.response) == (b"message" * 9, b"message" * 9)
    assert (told.unkept, unpacked_.packing) == (None, ("", ""))


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"no gzip", Recorded.NOT_INFLATED),
        (gzip.compress(b"x" * 99, mtime=0)[:-9], Recorded.NOT_INFLATED),
        (gzip.compress(bytes(50_000_000), mtime=0), Recorded.INFLATED_TOO_LARGE),
    ],
)
def test_what_cannot_be_decompressed_is_told_by_who_tries(packed, why, tmp_path):
    sent = client().headers(1, [*request_fields(), ("grpc-encoding", "gzip")])
    sent.data(1, message(packed, compressed=True), last=True)
    (told,) = followed(sent.bytes, one_call()[1]).calls
    counts = Counts(tmp_path / "counts")
    maker = ExchangeMaker(
        Redaction([], b""), [], made_up="u-", counts=counts, message_bytes=49_000_000
    )
    assert maker.make(Framed(told, kept_as_failed=False)) is None
    assert counts[why] == 1


def test_a_compression_that_is_not_known_is_counted():
    sent = client().headers(1, [*request_fields(), ("grpc-encoding", "snappy")])
    sent.data(1, message(b"??", compressed=True), last=True)
    (told,) = followed(sent.bytes, one_call()[1]).calls
    assert (told.code, told.request, told.unkept.why) == (0, b"", Recorded.NOT_DECODED)


def test_compressed_messages_hold_no_more_than_they_have_on_the_wire():
    zeros = pb.ModelInferRequest(model_name="m", id="r7", raw_input_contents=[bytes(15 << 20)])
    packed = message(gzip.compress(zeros.SerializeToString()), compressed=True)
    heard = Heard(message_bytes=16 << 20, room=1 << 20)
    following = heard.follow()
    said = [*request_fields(), ("grpc-encoding", "gzip")]
    following.sent(client().headers(1, said).data(1, packed[:9]).bytes)
    held = []
    tracemalloc.start()
    for _ in range(20):
        held.append(heard.follow())
        sent = client().headers(1, said)
        for at in range(0, len(packed), 16_000):
            sent.data(1, packed[at : at + 16_000])
        held[-1].sent(sent.bytes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(packed) * 10 < heard.room.used + len(packed) * 10 < 2 << 20
    assert peak < 4 << 20


def test_compressed_streams_are_paired_and_told():
    said = ("grpc-encoding", "gzip")
    sent = client().headers(1, request_fields(MODEL_STREAM_INFER, said))
    answered = Side().headers(1, [*BEGIN, said])
    for side, contents in (
        (sent, [infer(0), infer(1)]),
        (answered, [streamed_answer(1), streamed_answer(0)]),
    ):
        for content in contents:
            side.data(1, message(gzip.compress(content), compressed=True))
    answered.headers(1, end(), last=True)
    calls = [unpacked(c, 1000) for c in followed(sent.bytes, answered.bytes).calls]
    ids = [pb.ModelInferResponse.FromString(c.response).id for c in calls]
    assert [c.request for c in calls] == [infer(1), infer(0)]
    assert ids == ["r1", "r0"]


def error_behind(tensor_bytes):
    """A streamed answer whose error stands behind its tensors, compressed."""
    inner = pb.ModelInferResponse(
        id="r0", raw_output_contents=[np.random.default_rng(0).bytes(tensor_bytes)]
    )
    response = pb.ModelStreamInferResponse(infer_response=inner).SerializeToString()
    error = pb.ModelStreamInferResponse(error_message="no luck").SerializeToString()
    return gzip.compress(response + error)


@pytest.mark.parametrize(
    ("tensor_bytes", "told_code"), [(10, 2), (5_000, 2), (ERROR_WITHIN_BYTES, 0)]
)
def test_an_error_behind_the_tensors_of_a_compressed_streamed_answer_is_a_failure(
    tmp_path, tensor_bytes, told_code
):
    said = ("grpc-encoding", "gzip")
    sent = client().headers(1, request_fields(MODEL_STREAM_INFER)).data(1, message(infer(0)))
    answered = Side().headers(1, [*BEGIN, said])
    answered.data(1, message(error_behind(tensor_bytes), compressed=True))
    answered.headers(1, end(), last=True)
    (told,) = followed(sent.bytes, answered.bytes, Heard(message_bytes=4 << 20)).calls
    assert told.code == told_code  # beyond it, whoever inflates all of it finds the error
    counts = Counts(tmp_path / "counts")
    maker = ExchangeMaker(Redaction([], b""), [], made_up="u-", counts=counts)
    made = maker.make(Framed(told, kept_as_failed=False))
    assert (made.code, made.response, made.metadata[":details"]) == (2, b"", "no luck")


def many_streamed(count, *, ids=True, answers=None, heard=None, order=1, size=0):
    """A stream whose requests all come before the first answer."""
    heard = heard or Heard()
    following = heard.follow()
    sent, answered = client().headers(1, request_fields(MODEL_STREAM_INFER)), Side()
    following.sent(sent.take())
    for i in range(count):
        one = pb.ModelInferRequest(model_name="m", id=f"r{i}" if ids else "")
        one.raw_input_contents.append(bytes(size))
        following.sent(Side.data(sent, 1, message(one.SerializeToString())).take())
    answered.headers(1, BEGIN)
    for i in list(range(count if answers is None else answers))[::order]:
        answer = streamed_answer(i) if ids else b"\x12\x03\x0a\x01m"
        answered.data(1, message(answer))
    following.answered(answered.headers(1, end(), last=True).bytes)
    assert heard.room.used == 0
    return heard


def test_three_thousand_streamed_requests_may_wait():
    heard = many_streamed(3000)
    assert [c.unkept for c in heard.calls] == [None] * 3000
    assert heard.counts == {}


@pytest.mark.parametrize(("ids", "order"), [(True, 1), (True, -1), (False, 1)])
def test_streamed_requests_that_are_forgotten_are_seen_and_counted_once(monkeypatch, ids, order):
    monkeypatch.setattr("harness.record.pairs.MOST_WAITING", 100)
    heard = many_streamed(130, ids=ids, order=order)
    assert heard.counts == {Recorded.SEEN: 30, Recorded.FORGOTTEN: 30}
    kept = [pb.ModelInferRequest.FromString(c.request).id for c in heard.calls]
    assert kept == ([f"r{i}" for i in range(30, 130)][::order] if ids else [""] * 100)


def test_what_one_stream_may_hold_is_bounded_and_all_of_it_is_told(monkeypatch):
    monkeypatch.setattr("harness.record.pairs.MOST_WAITING_BYTES", 100_000)
    heard = many_streamed(40, size=5000)
    whys = [c.unkept and c.unkept.why for c in heard.calls]
    assert whys.count(None) > 10
    assert whys.count(None) + whys.count(Recorded.NO_ROOM) + heard.counts[Recorded.SEEN] == 40
    assert heard.counts[Recorded.SEEN] == heard.counts[Recorded.FORGOTTEN]


def test_pairs_without_ids_are_not_recorded_once_an_answer_came_too_many():
    heard = Heard()
    following = heard.follow()
    sent = client().headers(1, request_fields(MODEL_STREAM_INFER))
    answered = Side().headers(1, BEGIN)
    for answers in (1, 2, 1):
        following.sent(sent.data(1, message(b"\x0a\x01m")).take())
        for _ in range(answers):
            answered.data(1, message(b"\x12\x03\x0a\x01m"))
        following.answered(answered.take())
    following.sent(sent.data(1, message(infer(3))).take())
    following.answered(answered.data(1, message(streamed_answer(3))).take())
    whys = [c.unkept and c.unkept.why for c in heard.calls]
    assert whys == [None, None, Recorded.UNCERTAIN, None]
    assert heard.counts == {Recorded.UNPAIRED: 1}


def test_large_messages_are_counted_and_not_kept():
    heard = Heard(message_bytes=1000)
    sent, answered = one_call(b"x" * 1001, b"y" * 1000)
    (told,) = followed(sent, answered, heard).calls
    assert (told.request, told.response, told.code) == (b"", b"", 0)
    assert (told.unkept.why, told.unkept.request_bytes) == (Recorded.TOO_LARGE, 1001)
    assert heard.room.used == 0


def test_the_id_of_a_large_request_is_told():
    large = pb.ModelInferRequest(model_name="m", id="r7", raw_input_contents=[bytes(9000)])
    sent, answered = one_call(large.SerializeToString())
    (told,) = followed(sent, answered, Heard(message_bytes=5000)).calls
    assert told.unkept.request_id == b"r7"


def test_calls_that_hold_too_much_together_are_counted():
    heard = Heard(room=5000)
    following = heard.follow()
    sent = client()
    for stream in (1, 3, 5):
        sent.headers(stream, request_fields()).data(stream, message(b"x" * 2000), last=True)
    following.sent(sent.bytes)
    assert heard.room.used <= 5000
    answered = Side()
    for stream in (1, 3, 5):
        answered.headers(stream, BEGIN).data(stream, message(b"a")).headers(
            stream, end(), last=True
        )
    following.answered(answered.bytes)
    assert [c.unkept and c.unkept.why for c in heard.calls] == [None, None, Recorded.NO_ROOM]
    assert heard.room.used == 0


LARGE = pb.ModelInferRequest(model_name="m", id="r7", raw_input_contents=[bytes(9000)])


@pytest.mark.parametrize(
    ("came", "why", "known"),
    [
        (b"", Recorded.CUT_SHORT, (0, b"")),
        (message(b"whole")[:3], Recorded.CUT_SHORT, (0, b"")),
        (message(LARGE.SerializeToString())[:100], Recorded.CUT_SHORT, (9000, b"r7")),
        (message(bytes(20_000))[:100], Recorded.TOO_LARGE, (20_000, b"")),
    ],
)
def test_a_request_that_is_refused_before_it_is_whole_has_failed(came, why, known):
    sent = client().headers(1, request_fields()).data(1, came).bytes
    answered = Side().headers(1, [*BEGIN, *end(8, "too large")], last=True).bytes
    (told,) = followed(sent, answered, Heard(message_bytes=10_000)).calls
    assert (told.code, told.cancelled, told.unkept.why) == (8, False, why)
    size, request_id = told.unkept.request_bytes, told.unkept.request_id
    assert (size // 1000 * 1000, request_id) == known


def test_a_request_whose_client_broke_off_before_it_was_whole_is_none():
    heard, metrics = Heard(), CallMetrics()
    following = heard.follow()
    following.sent(client().headers(1, request_fields()).data(1, message(b"whole")[:-1]).bytes)
    following.sent(frame(3, 0, 1, b"\0\0\0\x08"))
    (told,) = heard.calls
    assert (told.cancelled, told.unkept.why) == (True, Recorded.INCOMPLETE)
    metrics.offer(told)
    assert metrics.requests == {}


@pytest.mark.parametrize("gone", [False, True])
def test_a_streamed_request_that_is_not_whole_at_the_end_is_not_forgotten(gone):
    sent = client().headers(1, request_fields(MODEL_STREAM_INFER))
    sent.data(1, message(infer(0)) + message(LARGE.SerializeToString())[:100])
    answered = Side().headers(1, BEGIN).headers(1, end(8, "too large"), last=True)
    heard = Heard()
    following = heard.follow()
    following.sent(sent.bytes)
    if gone:
        following.client_lost()
        assert heard.counts == {Recorded.INCOMPLETE: 1}
    else:
        following.answered(answered.bytes)
    whys = [c.unkept and c.unkept.why for c in heard.calls]
    assert whys == ([None] if gone else [None, Recorded.CUT_SHORT])
    assert heard.room.used == 0


def test_calls_that_were_not_processed_are_no_failures():
    for refusing in (Side().reset(1, 7), Side().goaway(0)):
        heard = followed(one_call()[0], refusing.bytes)
        assert (heard.calls, heard.counts) == ([], {Recorded.NOT_PROCESSED: 1})
        streamed = client().headers(1, request_fields(MODEL_STREAM_INFER))
        streamed.data(1, message(infer(0)) + message(infer(1)))
        heard = followed(streamed.bytes, refusing.bytes)
        assert (heard.calls, heard.counts) == ([], {Recorded.NOT_PROCESSED: 2})
        assert heard.room.used == 0


def test_other_services_are_not_told():
    sent = client().headers(1, request_fields("/other.Service/Call")).data(1, message(b"r"))
    _, answered = one_call()
    heard = followed(sent.bytes, answered)
    assert (heard.calls, heard.counts) == ([], {})


@pytest.mark.parametrize(
    "sent",
    [
        client().bytes + frame(1, 4, 1, b"\xff\xff\xff\xff"),
        client().bytes + frame(1, 4, 1, b"\xfe"),
        client().bytes + frame(1, 0, 1, b"") + frame(0, 0, 1, b""),
        client().bytes + frame(1, 0, 1, bytes(100_000)) + frame(9, 4, 1, bytes(100_000)),
        client().bytes[:24] + frame(0, 0, 1, b"no settings"),
    ],
)
def test_what_is_not_understood_is_counted_once_and_followed_no_more(sent):
    heard = Heard()
    following = heard.follow()
    for _ in range(2):
        following.sent(sent)
        following.answered(b"whatever")
    assert following.blind
    assert heard.counts == {Recorded.BLIND: 1, Recorded.SEEN: 1, Recorded.UNFOLLOWED: 1}
    assert heard.calls == []


def test_what_is_no_http2_is_counted_apart():
    heard = Heard()
    following = heard.follow()
    following.sent(b"GET / HTTP/1.1\r\n\r\n")
    following.answered(b"HTTP/1.1 200 OK\r\n\r\n")
    assert (following.blind, heard.counts) == (True, {Recorded.NOT_HTTP2: 1})


def test_requests_under_way_are_counted_when_their_connection_is_not_understood():
    heard = Heard()
    following = heard.follow()
    sent = client()
    for stream in (1, 3):
        sent.headers(stream, request_fields()).data(stream, message(b"r"), last=True)
    following.sent(sent.bytes)
    following.answered(b"HTTP/1.1 400 Bad Request")
    assert heard.counts == {Recorded.BLIND: 1, Recorded.SEEN: 2, Recorded.UNFOLLOWED: 2}
    assert (following.open, heard.room.used) == ({}, 0)


def infer(i, model="m"):
    return pb.ModelInferRequest(model_name=model, id=f"r{i}").SerializeToString()


def streamed_answer(i, more=b""):
    inner = pb.ModelInferResponse(model_name="m", id=f"r{i}").SerializeToString() + more
    return pb.ModelStreamInferResponse(
        infer_response=pb.ModelInferResponse.FromString(inner)
    ).SerializeToString()


def test_streamed_pairs_are_told():
    sent = client().headers(1, request_fields(MODEL_STREAM_INFER))
    sent.data(1, message(infer(0)) + message(infer(1))[:7]).data(1, message(infer(1))[7:])
    sent.data(1, message(infer(2)))
    answered = Side().headers(1, BEGIN)
    answered.data(1, message(streamed_answer(1)) + message(streamed_answer(0)))
    answered.headers(1, end(14, "gone"), last=True)
    heard = followed(sent.bytes, answered.bytes)
    assert [(c.request, c.code) for c in heard.calls] == [
        (infer(1), 0),
        (infer(0), 0),
        (infer(2), 14),
    ]
    assert len({c.stream for c in heard.calls}) == 1
    assert heard.room.used == 0


def test_a_streamed_request_that_is_too_large_finds_its_answer_and_is_counted():
    large = pb.ModelInferRequest(model_name="m", id="r7", raw_input_contents=[bytes(9000)])
    sent = client().headers(1, request_fields(MODEL_STREAM_INFER))
    sent.data(1, message(infer(0))).data(1, message(large.SerializeToString()))
    answered = Side().headers(1, BEGIN)
    answered.data(1, message(streamed_answer(7)) + message(streamed_answer(0)))
    answered.headers(1, end(), last=True)
    heard = followed(sent.bytes, answered.bytes, Heard(message_bytes=5000))
    told = [(c.code, c.unkept and c.unkept.why, c.request) for c in heard.calls]
    assert told == [(0, Recorded.TOO_LARGE, b""), (0, None, infer(0))]
    assert heard.counts == {}


def test_streamed_requests_that_wait_without_room_are_counted():
    held = [
        pb.ModelInferRequest(model_name="m", id=f"r{i}", raw_input_contents=[bytes(3000)])
        for i in range(3)
    ]
    sent = client().headers(1, request_fields(MODEL_STREAM_INFER))
    for one in held:
        sent.data(1, message(one.SerializeToString()))
    answered = Side().headers(1, BEGIN)
    for i in (2, 1, 0):
        answered.data(1, message(streamed_answer(i)))
    answered.headers(1, end(), last=True)
    heard = followed(sent.bytes, answered.bytes, Heard(room=10_300))
    told = [c.unkept and c.unkept.why for c in heard.calls]
    assert told == [Recorded.NO_ROOM, None, None]
    assert (heard.counts, heard.room.used) == ({}, 0)


def test_a_known_block_means_something_else_once_the_table_has_changed():
    encoder = hpack.Encoder()
    blocks = HeaderBlocks(dict, Room(1 << 20))
    first = encoder.encode([("x-name", "one")], huffman=False)
    indexed = encoder.encode([("x-name", "one")])
    assert [blocks.read(b) for b in (first, indexed, indexed)] == [{b"x-name": b"one"}] * 3
    assert blocks.read(encoder.encode([("x-name", "two")]))[b"x-name"] == b"two"
    assert blocks.read(indexed)[b"x-name"] == b"two"


def test_headers_that_are_remembered_are_bounded_over_all_connections_and_given_back():
    encoder, room = hpack.Encoder(), Room(60_000)
    connections = [HeaderBlocks(dict, room) for _ in range(3)]
    for blocks in connections:
        for i in range(200):
            block = encoder.encode([hpack.NeverIndexedHeaderTuple("x-n", f"{i:0500}")])
            for _ in range(2):
                assert blocks.read(block) == {b"x-n": b"%0500d" % i}
        assert 0 < room.used <= 60_000
    used = [room.used]
    for blocks in connections:
        blocks.ended()
        used.append(room.used)
    assert used == sorted(used, reverse=True)
    assert room.used == 0


def test_one_connection_remembers_few_blocks():
    encoder, room = hpack.Encoder(), Room(1 << 30)
    blocks = HeaderBlocks(dict, room)
    for i in range(1000):
        blocks.read(encoder.encode([hpack.NeverIndexedHeaderTuple("x-n", f"{i:0500}")]))
    assert room.used < 64 * 1500


def test_what_a_connection_remembers_ends_with_it():
    heard = Heard()
    following = heard.follow()
    side = client()
    for stream in (1, 3, 5):
        following.sent(side.headers(stream, request_fields()).take())
    assert heard.observer.heads.used > 0
    following.ended()
    assert heard.observer.heads.used == 0

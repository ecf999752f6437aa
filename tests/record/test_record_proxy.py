"""What a client sees through the proxy is what it sees without it, and the taps hear of it."""

import contextlib
import os
import threading
import time

import grpc
import pytest
from peers import INFER, OPTIONS, outcome, pairs, peer
from proxies import Kept, proxied
from recordings import until

from harness.core.errors import UsageError
from harness.core.recording import Recorded
from harness.record import health
from harness.wire import MODEL_STREAM_INFER, SERVICE
from harness.wire.gen import open_inference_pb2 as pb


@pytest.fixture(params=[False, True], ids=["messages", "bytes"])
def relayed(request):
    """Whether bytes pass, or messages."""
    return request.param


@pytest.fixture
def proxy(server, kept, relayed):
    with proxied(server, taps=[kept], relayed=relayed) as running:
        yield running


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"plain",
        b"initial=1;",
        b"trailing=1;",
        b"initial=1;trailing=1;" + os.urandom(100_000),
        *(b"code=%d;" % code for code in range(1, 17)),
        b"initial=1;code=5;",
    ],
)
def test_answers_and_errors_are_the_same_with_the_proxy(server, proxy, request_bytes):
    direct = outcome(server, request_bytes)
    assert outcome(proxy.address, request_bytes) == direct


def test_a_message_of_100_mb_passes(server, proxy):
    request = b"big" + bytes(100_000_000)
    assert outcome(proxy.address, request, timeout=60)["response"] == request


def test_the_server_sees_the_client_s_metadata(server, proxy):
    given = (("x-user", "u1"), ("x-user", "u2"), ("trace-bin", b"\x00\x80"))
    request = b"seen=1;"
    direct = outcome(server, request, metadata=given, timeout=None)
    assert outcome(proxy.address, request, metadata=given, timeout=None) == direct


def test_the_server_has_the_client_s_deadline(proxy):
    assert b"deadline" in outcome(proxy.address, b"seen=1;", timeout=5)["response"]
    assert b"deadline" not in outcome(proxy.address, b"seen=1;", timeout=None)["response"]


def test_a_cancelled_call_is_cancelled_at_the_server_and_told(tmp_path, proxy, kept):
    mark, begun = tmp_path / "mark", tmp_path / "begun"
    with grpc.insecure_channel(proxy.address) as channel:
        call = channel.unary_unary(INFER).future(b"begun=%s;mark=%s;" % (bytes(begun), bytes(mark)))
        until(begun.exists)
        call.cancel()
        (told,) = kept.wait(1)
    assert (told.code, told.cancelled) == (1, True)
    for _ in range(100):
        if mark.exists() and mark.read_text():
            break
        time.sleep(0.05)
    assert mark.read_text() == "cancelled"


def test_a_passed_deadline_is_told_as_such(proxy, kept):
    seen = outcome(proxy.address, b"sleep=15;", timeout=1.0, ready=True)
    assert seen["code"] is grpc.StatusCode.DEADLINE_EXCEEDED
    (told,) = kept.wait(1)
    assert (told.code, told.response) == (4, b"")


def test_a_call_is_told_whole(proxy, kept):
    before = time.time_ns()
    outcome(proxy.address, b"trailing=1;", metadata=(("x-user", "u"),))
    (told,) = kept.wait(1)
    assert (told.method, told.code, told.details) == (INFER, 0, "")
    assert (told.request, told.response) == (b"trailing=1;", b"trailing=1;")
    assert list(told.metadata) == [("x-user", "u")]
    assert sorted(told.trailing) == [("x-end", "two"), ("x-end-bin", b"\x01\xfe")]
    assert before <= told.ts_ns <= time.time_ns()
    assert 0 < told.latency_ns < time.time_ns() - before
    assert (told.upstream, told.cancelled, told.stream) == ("up0", False, "")


def test_a_failure_is_told_with_its_details(proxy, kept):
    outcome(proxy.address, b"code=5;")
    (told,) = kept.wait(1)
    assert (told.code, told.details) == (5, "what went wrong: ü and\nmore")
    assert ("grpc-status-details-bin", b"\x08\x05\x12\x03abc") in told.trailing
    assert told.response == b""


def test_without_an_upstream_clients_get_unavailable_and_it_is_told(kept, relayed):
    with proxied("127.0.0.1:1", taps=[kept], relayed=relayed) as running:
        assert outcome(running.address, b"x")["code"] is grpc.StatusCode.UNAVAILABLE
        (told,) = kept.wait(1)
    assert told.code == 14


def test_the_route_chooses_by_request_and_metadata(server, kept):
    def route(upstreams):
        return lambda _, request, metadata: upstreams[
            request == b"second" or ("arm", "1") in metadata
        ]

    with peer() as other, proxied(server, other, taps=[kept], route=route) as running:
        outcome(running.address, b"first")
        outcome(running.address, b"second")
        outcome(running.address, b"first", metadata=(("arm", "1"),))
        assert [c.upstream for c in kept.wait(3)] == ["up0", "up1", "up1"]


def test_every_method_of_the_service_passes_and_unknown_ones_are_the_upstream_s_to_refuse(
    server, proxy
):
    for name in ("ServerLive", "ModelMetadata", "RepositoryIndex", "Nothing"):
        method = f"/{SERVICE}/{name}"
        assert outcome(proxy.address, b"x", method=method) == outcome(server, b"x", method=method)


def test_other_services_pass_untold(server, proxy, kept):
    for method in ("/other.Service/Unary", "/other.Service/Nothing"):
        assert outcome(proxy.address, b"x", method=method) == outcome(server, b"x", method=method)
    assert kept.calls == []


def streamed(address, requests, method="/other.Service/Echoes"):
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        call = channel.stream_stream(method)(iter(requests), timeout=10)
        answers = []
        with contextlib.suppress(grpc.RpcError):
            answers.extend(call)
        return {
            "answers": answers,
            "initial": pairs(call.initial_metadata()),
            "trailing": pairs(call.trailing_metadata()),
            "code": call.code(),
            "details": call.details(),
        }


@pytest.mark.parametrize(
    "requests", [[], [b"a", b"b"], [b"a", b"end", b"c"], [b"a", b"end", *[b"c" * 9000] * 300]]
)
def test_streams_of_other_services_are_the_same(server, proxy, requests):
    assert streamed(proxy.address, requests) == streamed(server, requests)


def infer(model, request_id):
    return pb.ModelInferRequest(model_name=model, id=request_id).SerializeToString()


@pytest.mark.parametrize(
    "models", [["one", "one"], ["one", "bad", "one"], ["pair", "pair"], ["one", "dies"], ["twice"]]
)
def test_inference_streams_are_the_same(server, proxy, models):
    requests = [infer(m, f"r{i}") for i, m in enumerate(models)]
    direct = streamed(server, requests, MODEL_STREAM_INFER)
    assert streamed(proxy.address, requests, MODEL_STREAM_INFER) == direct


def told_of(proxy, kept, count, models, ids=None):
    ids = ids or [f"r{i}" for i in range(len(models))]
    streamed(
        proxy.address, [infer(m, i) for m, i in zip(models, ids, strict=True)], MODEL_STREAM_INFER
    )
    return [
        (
            pb.ModelInferRequest.FromString(c.request).id,
            pb.ModelInferResponse.FromString(c.response).id,
            c.code,
        )
        for c in kept.wait(count)
    ]


def test_streamed_answers_find_their_requests_by_id(proxy, kept):
    told = told_of(proxy, kept, 2, ["pair", "pair"])
    assert told == [("r1", "r1", 0), ("r0", "r0", 0)]


def test_streamed_answers_without_id_belong_to_the_oldest_request(proxy, kept):
    told_of(proxy, kept, 2, ["one", "other"], ["", ""])
    assert [pb.ModelInferRequest.FromString(c.request).model_name for c in kept.calls] == [
        "one",
        "other",
    ]


def test_errors_in_a_stream_are_told_as_failures_of_one_request(proxy, kept):
    assert told_of(proxy, kept, 3, ["one", "bad", "one"]) == [
        ("r0", "r0", 0),
        ("r1", "", 2),
        ("r2", "r2", 0),
    ]
    assert [c.details for c in kept.calls] == ["", "oops", ""]


def test_streamed_requests_without_an_answer_are_told(proxy, kept):
    assert told_of(proxy, kept, 2, ["one", "silent"]) == [("r0", "r0", 0), ("r1", "", 2)]
    assert kept.calls[1].details == "the stream ended without an answer"


def test_a_stream_that_breaks_fails_those_who_wait(proxy, kept):
    assert told_of(proxy, kept, 2, ["silent", "dies"]) == [("r0", "", 14), ("r1", "", 14)]
    assert len({c.stream for c in kept.calls}) == 1


def test_a_second_answer_to_one_request_passes_and_is_counted(proxy, kept):
    assert told_of(proxy, kept, 1, ["twice"]) == [("r0", "r0", 0)]
    assert proxy.proxy.counts == {Recorded.UNPAIRED: 1}


def test_idle_streams_do_not_stop_others(proxy):
    gate = threading.Event()

    def slow():
        yield infer("one", "a")
        gate.wait(20)

    with grpc.insecure_channel(proxy.address) as channel:
        calls = [channel.stream_stream(MODEL_STREAM_INFER)(slow()) for _ in range(8)]
        for call in calls:
            next(call)
        assert outcome(proxy.address, b"x")["response"] == b"x"
        gate.set()
        for call in calls:
            assert list(call) == []


def checked(address, request=b""):
    return outcome(address, request, method=f"/{health.NAME}/Check")


def test_health_says_serving_until_the_proxy_stops(server, relayed):
    with proxied(server, relayed=relayed) as running:
        assert checked(running.address)["response"] == health.SERVING
        with grpc.insecure_channel(running.address) as channel:
            watch = channel.unary_stream(f"/{health.NAME}/Watch")(b"", timeout=60)
            assert next(watch) == health.SERVING
            stopping = running.stop(30.0)
            assert next(watch) == health.NOT_SERVING
            watch.cancel()
            stopping.result(20)


def test_health_says_not_serving_without_the_upstream(relayed):
    with proxied("127.0.0.1:1", relayed=relayed) as running:
        outcome(running.address, b"x")
        assert checked(running.address)["response"] == health.NOT_SERVING


def test_health_of_an_unknown_service(server, proxy):
    assert checked(proxy.address, b"\x0a\x03xyz")["code"] is grpc.StatusCode.NOT_FOUND
    assert checked(proxy.address, b"\x0a\x1e" + SERVICE.encode())["response"] == health.SERVING


def test_a_port_that_is_taken_is_a_usage_error(server):
    import asyncio

    from harness.record.proxy import Proxy
    from harness.record.upstream import Upstream

    async def start():
        upstream = Upstream(server)
        proxy = Proxy(lambda *_: upstream, [], upstreams=[upstream])
        try:
            await proxy.start(server)
        finally:
            await proxy.stop(0)

    with pytest.raises(UsageError, match="cannot be listened on"):
        asyncio.run(start())


def test_calls_under_way_end_before_the_proxy_stops(server, relayed, tmp_path):
    begun = tmp_path / "begun"
    request = b"begun=%s;sleep=1;" % bytes(begun)
    with proxied(server, relayed=relayed) as running:
        seen = []
        asking = threading.Thread(target=lambda: seen.append(outcome(running.address, request)))
        asking.start()
        until(begun.exists)
        running.stop(20.0).result(30)
        asking.join(10)
    assert seen[0]["response"] == request


def test_calls_that_the_end_cancels_are_told_before_it(server, relayed, tmp_path):
    kept = Kept()
    with (
        proxied(server, taps=[kept], relayed=relayed) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        begun = [tmp_path / str(i) for i in range(8)]
        requests = [b"begun=%s;sleep=15;" % bytes(one) for one in begun]
        calls = [channel.unary_unary(INFER).future(request) for request in requests]
        until(lambda: all(one.exists() for one in begun))
        running.stop(0.1).result(20)
        told = list(kept.calls)
        assert all(call.code() is not grpc.StatusCode.OK for call in calls)
    ended = (14, "the proxy ended before the call did", False)
    assert [(call.code, call.details, call.cancelled) for call in told] == [ended] * 8

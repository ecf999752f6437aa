"""An upstream that says it serves no more: what it did not begin with is repeated, and told once."""

import socket
import struct
import threading
import time
from collections import Counter

import grpc
import pytest
from h2made import BEGIN, Heard, Side, client, end, message, request_fields
from peers import INFER, OPTIONS, peer
from proxies import proxied

from harness.core.recording import Recorded
from harness.record.h2frames import GOAWAY
from harness.wire import MODEL_STREAM_INFER

SECOND = [
    lambda asks: asks.headers(3, request_fields()).data(3, message(b"b"), last=True),
    lambda asks: asks.headers(3, request_fields(MODEL_STREAM_INFER)).data(3, message(b"b")),
]


@pytest.mark.parametrize("second", SECOND, ids=["unary", "streamed"])
@pytest.mark.parametrize("ends", ["reset", "client_lost", "upstream_lost"])
def test_a_call_that_begins_after_the_upstream_s_last_one_is_none_that_failed(second, ends):
    asks, answers, heard = client(), Side(), Heard()
    following = heard.follow()
    asks.headers(1, request_fields()).data(1, message(b"a"), last=True)
    following.sent(asks.take())
    following.answered(answers.goaway(1).take())
    following.sent(second(asks).take())
    answers.headers(1, BEGIN).data(1, message(b"answer")).headers(1, end(), last=True)
    following.answered(answers.take())
    assert following.idle
    if ends == "reset":
        following.sent(asks.reset(3, 8).take())
    else:
        getattr(following, ends)()
    assert [(c.request, c.code) for c in heard.calls] == [(b"a", 0)]
    assert (heard.counts, heard.room.used) == ({Recorded.NOT_PROCESSED: 1}, 0)


def test_calls_of_others_after_the_upstream_s_last_one_are_not_counted():
    asks, heard = client(), Heard()
    following = heard.follow()
    following.answered(Side().goaway(0).bytes)
    following.sent(asks.headers(1, request_fields("/other.Service/Call")).bytes)
    assert (heard.calls, heard.counts, following.idle) == ([], {}, True)


def test_a_server_that_will_end_serves_until_it_names_a_stream():
    asks, answers, heard = client(), Side(), Heard()
    following = heard.follow()
    following.answered(answers.goaway(0x7FFFFFFF).take())
    following.sent(asks.headers(1, request_fields()).data(1, message(b"a"), last=True).take())
    answers.headers(1, BEGIN).data(1, message(b"answer")).headers(1, end(), last=True)
    following.answered(answers.goaway(1).take())
    assert [(c.request, c.code) for c in heard.calls] == [(b"a", 0)]
    assert heard.counts == {}


def _asked(address, name, seen):
    """Asks 400 times, up to 50 at once; what became of each goes to `seen`."""
    own = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=own) as channel:
        call, asked = channel.unary_unary(INFER), []
        for i in range(400):
            request = b"sleep=0.005;%s-%d" % (name, i)
            asked.append((request, call.future(request, timeout=30)))
            if i % 20 == 19:
                time.sleep(0.02)
            if i >= 50:
                asked[i - 50][1].exception()
        for request, answer in asked:
            seen[request] = answer.code().value[0]


def test_no_call_is_told_twice_by_a_server_whose_connections_end(kept):
    seen = {}
    with peer(150) as server, proxied(server, taps=[kept], relayed=True) as running:
        asking = [
            threading.Thread(target=_asked, args=(running.address, name, seen))
            for name in (b"a", b"b", b"c")
        ]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
    told = Counter(c.request for c in kept.calls)
    assert {request: n for request, n in told.items() if n > 1} == {}
    answered = {c.request for c in kept.calls if c.code == 0}
    assert answered == {request for request, code in seen.items() if code == 0}
    assert set(running.proxy.counts) <= {Recorded.NOT_PROCESSED}


def test_our_own_end_names_no_stream_above_the_upstream_s(kept):
    asks, answers = client(), Side()
    greeting = asks.take()
    asks.headers(1, request_fields()).data(1, message(b"a"), last=True)
    asks.headers(3, request_fields()).data(3, message(b"b"), last=True)
    answers.take()
    answers.headers(1, BEGIN).data(1, message(b"answer")).headers(1, end(), last=True)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        proxied(f"127.0.0.1:{listening.getsockname()[1]}", taps=[kept], relayed=True) as running,
        socket.create_connection(("127.0.0.1", running.proxy.port)) as asking,
    ):
        asking.settimeout(10)
        asking.sendall(greeting + asks.take())
        connection, _ = listening.accept()
        with connection:
            first = Side().goaway(1).bytes
            connection.sendall(first)
            said = asking.recv(len(first), socket.MSG_WAITALL)
            stopping = running.begin_to_stop(10.0)
            connection.sendall(answers.take())
            while more := asking.recv(1 << 16):
                said += more
        stopping.result(10)
    assert [last for kind, last in _lasts(said) if kind == GOAWAY] == [1, 1, 1]
    assert [c.request for c in kept.wait(1)] == [b"a"]


def _lasts(content):
    """(kind, first number of the payload) of each frame."""
    at = 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 3], "big")
        number = content[at + 9 : at + 13] if size >= 4 else bytes(4)
        yield content[at + 3], struct.unpack(">I", number)[0]
        at += 9 + size

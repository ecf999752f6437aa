"""Bytes that pass: as they are, whoever sends them, and whatever the other side does."""

import asyncio
import contextlib
import fcntl
import re
import socket
import struct
import termios
import threading
import time
from pathlib import Path

import grpc
import pytest
from h2made import (
    BEGIN,
    SETTINGS_FRAME,
    Side,
    client,
    end,
    message,
    request_fields,
)
from hypothesis import given
from hypothesis import strategies as st
from peers import INFER, OPTIONS, outcome
from ports import reserved
from proxies import proxied, relay
from recordings import adds_up, reasons, recording, request, until

from harness.core.recording import Recorded
from harness.record import health
from harness.record.h2frames import (
    ACK,
    CONTINUATION,
    GOAWAY,
    HEAD_BYTES,
    HEADERS,
    SETTINGS,
    frame,
    head_of,
)
from harness.record.link import AckCut
from harness.record.packing import unpacked
from harness.record.session import Passes, RecordOptions, passes_of
from harness.record.tls import ClientTls, ServerTls
from harness.record.upstream import Upstream
from harness.wire import MODEL_STREAM_INFER

ACKED = frame(SETTINGS, ACK, 0, b"")
PING = frame(6, 0, 0, bytes(8))


@contextlib.contextmanager
def upstream_of_bytes(*answers):
    """A server that takes one connection and answers what it reads with these, in turn.

    Yields its address and the list of what it read."""
    read = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    for answer in answers:
                        read.append(connection.recv(1 << 20))
                        connection.sendall(answer)
                    while more := connection.recv(1 << 20):
                        read.append(more)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", read
        listening.close()
        serving.join(10)


def connected(running):
    host, port = running.address.split(":")
    made = socket.create_connection((host, int(port)))
    made.settimeout(10)
    return made


def exactly(connection, count):
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        assert more, found
        found += more
    return found


@contextlib.contextmanager
def under_way(kept, sent, settings, *, window=None):
    """A client's call that has reached the upstream; yields the proxy, the client's end and the upstream's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        proxied(f"127.0.0.1:{listening.getsockname()[1]}", taps=[kept], relayed=True) as running,
        socket.socket() as asking,
    ):
        if window is not None:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        asking.settimeout(30)
        asking.connect(("127.0.0.1", running.proxy.port))
        asking.sendall(sent)
        serving, _ = listening.accept()
        with serving:
            serving.sendall(settings)
            assert exactly(serving, len(sent)) == sent
            yield running, asking, serving


def hang_up(side):
    """Ends a connection at once, whatever lies unread."""
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()


def a_call():
    """Both sides of one call: the client's greeting, its call, the server's settings, its answer."""
    asks, answers = client(), Side()
    greeting, settings = asks.take(), answers.take()
    asks.headers(1, request_fields()).data(1, message(b"r"), last=True)
    answers.headers(1, BEGIN).data(1, message(b"a")).headers(1, end(), last=True)
    return greeting, asks.take(), settings, answers.take()


def test_bytes_of_a_client_that_does_not_wait_pass_as_they_are(kept):
    greeting, call, settings, answer = a_call()
    with (
        upstream_of_bytes(settings, answer) as (address, read),
        proxied(address, taps=[kept], relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(greeting + call)
        assert exactly(asking, len(settings + answer)) == settings + answer
        assert b"".join(read) == greeting + call
        assert [(c.request, c.response) for c in kept.wait(1)] == [(b"r", b"a")]


def test_a_client_that_waits_gets_settings_and_their_acknowledgement_stays_here(kept):
    greeting, call, _, answer = a_call()
    settings = frame(SETTINGS, 0, 0, struct.pack(">HIHI", 3, 77, 4, 70_000))
    with (
        upstream_of_bytes(settings, answer) as (address, read),
        proxied(address, taps=[kept], relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(greeting)
        first = frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 77))
        assert exactly(asking, len(first)) == first
        asking.sendall(call + ACKED[:4])
        assert exactly(asking, len(settings + answer)) == settings + answer
        asking.sendall(ACKED[4:] + ACKED + b"")
        until(lambda: b"".join(read) == greeting + call + ACKED)
        assert len(kept.wait(1)) == 1


@given(st.lists(st.binary(max_size=30), max_size=6), st.integers(0, 6), st.integers(1, 40))
def test_only_the_first_acknowledgement_is_cut(payloads, at, step):
    frames = [frame(8, ACK, 1, p) for p in payloads]
    given = b"".join([*frames[:at], ACKED, *frames[at:], ACKED])
    cut = AckCut(due=True)
    passed = b"".join(cut.feed(given[i : i + step]) for i in range(0, len(given), step))
    assert passed == b"".join([*frames, ACKED])


def test_what_is_no_http2_passes_unfollowed_and_is_counted(kept):
    with (
        upstream_of_bytes(b"HTTP/1.1 200 OK\r\n\r\n") as (address, read),
        proxied(address, taps=[kept], relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert exactly(asking, 19) == b"HTTP/1.1 200 OK\r\n\r\n"
        assert read == [b"GET / HTTP/1.1\r\n\r\n"]
        assert running.proxy.counts == {Recorded.NOT_HTTP2: 1}


def test_a_connection_that_begins_with_health_is_served_and_told_once(server, kept):
    with proxied(server, taps=[kept], relayed=True) as running:
        with grpc.insecure_channel(running.address, options=OPTIONS) as channel:
            assert channel.unary_unary(f"/{health.NAME}/Check")(b"", timeout=10) == health.SERVING
            assert channel.unary_unary(INFER)(b"x", timeout=10) == b"x"
        with grpc.insecure_channel(running.address, options=[*OPTIONS, ("n", 1)]) as channel:
            assert channel.unary_unary(INFER)(b"y", timeout=10) == b"y"
            assert channel.unary_unary(f"/{health.NAME}/Check")(b"up", timeout=10) == b"up"
        assert sorted(c.request for c in kept.wait(2)) == [b"x", b"y"]


def test_it_needs_no_folder_for_what_passes_by(server, tmp_path):
    temp = tmp_path / "temp"
    temp.mkdir()
    with recording(server, tmp_path / "t", TMPDIR=str(temp)) as running:
        assert list(temp.iterdir()) == []
        assert outcome(running.address, b"", method=f"/{health.NAME}/Check")["response"]
        running.end()


@pytest.mark.parametrize("method", [INFER, "/other.Service/Call", MODEL_STREAM_INFER])
def test_the_proxy_in_here_serves_nobody_else(server, kept, method):
    with proxied(server, taps=[kept], relayed=True) as running:
        listed = Path("/proc/net/unix").read_text()
        (name,) = {
            n for n in re.findall(r"@(harness-\w+)", listed) if n in str(vars(running.proxy))
        }
        with grpc.insecure_channel(f"unix-abstract:{name}") as stranger:
            call = stranger.stream_stream(method)(iter([b"x"]), timeout=10)
            with pytest.raises(grpc.RpcError) as refused:
                list(call)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with grpc.insecure_channel(running.address, options=OPTIONS) as channel:
            channel.unary_unary(f"/{health.NAME}/Check")(b"", timeout=10)
            assert channel.unary_unary(INFER)(b"y", timeout=10) == b"y"
        assert [c.request for c in kept.wait(1)] == [b"y"]


def test_an_upstream_that_comes_back_is_used(kept):
    with (
        reserved() as port,
        proxied(f"127.0.0.1:{port}", taps=[kept], relayed=True) as running,
    ):
        assert outcome(running.address, b"x")["code"] is grpc.StatusCode.UNAVAILABLE
        sent, call, settings, answer = a_call()
        with (
            socket.create_server(("127.0.0.1", port)) as listening,
            connected(running) as asking,
        ):
            asking.sendall(sent + call)
            connection, _ = listening.accept()
            connection.sendall(settings + answer)
            assert exactly(asking, len(settings + answer)) == settings + answer
            connection.close()
    assert [c.code for c in kept.wait(2)] == [14, 0]


def test_an_upstream_that_says_nothing_is_no_upstream(kept, monkeypatch):
    monkeypatch.setattr("harness.record.relay._CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with proxied(address, taps=[kept], relayed=True) as running:
            assert outcome(running.address, b"x", timeout=2, ready=True)["code"] in (
                grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
            )  # fmt: skip
            assert len(kept.wait(1)) == 1


def test_a_client_that_goes_takes_its_calls_back(kept):
    greeting, call, settings, _ = a_call()
    with (
        upstream_of_bytes(settings) as (address, read),
        proxied(address, taps=[kept], relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(greeting + call)
        until(lambda: len(b"".join(read)) == len(greeting + call))
        assert exactly(asking, len(settings)) == settings
        asking.shutdown(socket.SHUT_WR)
        assert asking.recv(1) == b""
    (told,) = kept.wait(1)
    assert (told.code, told.cancelled) == (1, True)


def test_an_upstream_that_goes_fails_its_calls(kept):
    greeting, call, settings, answer = a_call()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with proxied(address, taps=[kept], relayed=True) as running, connected(running) as asking:
            asking.sendall(greeting + call)
            connection, _ = listening.accept()
            exactly(connection, len(greeting))
            connection.sendall(settings)
            exactly(connection, len(call))
            connection.sendall(answer[:9])
            connection.close()
            assert exactly(asking, len(settings) + 9) == settings + answer[:9]
            assert asking.recv(1) == b""
            (told,) = kept.wait(1)
    assert (told.code, told.cancelled, told.request) == (14, False, b"r")


def test_what_the_upstream_does_not_take_is_not_read_from_the_client(kept):
    greeting, call, settings, _ = a_call()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with proxied(address, taps=[kept], relayed=True) as running, connected(running) as asking:
            asking.sendall(greeting + call)
            connection, _ = listening.accept()
            connection.sendall(settings)
            exactly(asking, len(settings))
            asking.settimeout(1.0)
            taken, flood = 0, frame(0, 0, 3, bytes(16_000)) * 60
            with contextlib.suppress(TimeoutError):
                while taken < 200_000_000:
                    taken += asking.send(flood)
            connection.close()
    assert taken < 50_000_000


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_calls_are_told_as_they_were(server, kept, algorithm):
    with proxied(server, taps=[kept], relayed=True) as running:
        with grpc.insecure_channel(running.address, compression=algorithm) as channel:
            assert channel.unary_unary(INFER)(b"x" * 5000, timeout=10) == b"x" * 5000
        (told,) = kept.wait(1)
        assert told.packing[0] == algorithm.name.lower()
        assert len(told.request) < 5000
        assert (unpacked(told, 5000).request, told.unkept) == (b"x" * 5000, None)


def frames_of(content):
    at = 0
    while at < len(content):
        size, kind, _, _ = head_of(content, at)
        yield kind, content[at + HEAD_BYTES : at + HEAD_BYTES + size]
        at += HEAD_BYTES + size


def test_the_end_waits_for_calls_as_long_as_it_may_and_then_cuts_them(kept):
    greeting, call, settings, answer = a_call()
    with (
        upstream_of_bytes(settings + answer[:20]) as (address, _),
        proxied(address, taps=[kept], relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(greeting + call)
        exactly(asking, len(settings) + 20)
        begun = time.perf_counter()
        stopping = running.begin_to_stop(1.5)
        with pytest.raises(ConnectionRefusedError):
            connected(running)
        stopping.result(20)
        assert time.perf_counter() - begun > 1.4
        (told,) = kept.wait(1)
        assert (told.code, told.cancelled) == (14, False)


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_client_is_told_that_no_more_is_served_between_two_frames(kept, cut):
    greeting, call, settings, _ = a_call()
    answers = Side()
    answers.take()
    answers.headers(1, BEGIN, cuts=(5, 9)).data(1, message(b"a" * 9)).headers(1, end(), last=True)
    answer = answers.take()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with proxied(address, taps=[kept], relayed=True) as running, connected(running) as asking:
            asking.sendall(greeting + call)
            connection, _ = listening.accept()
            with connection:
                connection.sendall(settings + answer[:cut])
                exactly(asking, len(settings) + cut)
                stopping = running.begin_to_stop(10.0)
                connection.sendall(answer[cut:])
                seen = b""
                while more := asking.recv(1 << 16):
                    seen += more
            stopping.result(10)
    frames = list(frames_of(answer[:cut] + seen))
    assert [p for k, p in frames if k != GOAWAY] == [p for _, p in frames_of(answer)]
    kinds = [k for k, _ in frames]
    assert kinds[kinds.index(HEADERS) + 1] == CONTINUATION
    away = [struct.unpack(">II", p) for k, p in frames if k == GOAWAY]
    assert away == [(0x7FFFFFFF, 0), (1, 0)]
    assert [(c.request, c.response, c.code) for c in kept.wait(1)] == [(b"r", b"a" * 9, 0)]


def no_links(running):
    return not running.proxy._links and not running.proxy._tasks


def seconds_to_stop(running, grace_s=30.0):
    begun = time.perf_counter()
    running.stop(grace_s).result(60)
    return time.perf_counter() - begun


def test_the_end_waits_for_nobody_who_watches_health(server):
    with (
        proxied(server, relayed=True) as running,
        grpc.insecure_channel(running.address, options=OPTIONS) as channel,
    ):
        watching = channel.unary_stream(health.WATCH)(b"", timeout=30)
        assert next(watching) == health.SERVING
        assert seconds_to_stop(running) < 15
        assert list(watching) == [health.NOT_SERVING]


def test_the_end_waits_for_nobody_who_watches_the_upstream_s_health():
    greeting, call, settings, answer = a_call()
    asks = Side()
    asks.take()
    watch = asks.headers(3, request_fields(health.WATCH)).data(3, message(b""), last=True).take()
    with (
        upstream_of_bytes(settings, answer) as (address, read),
        proxied(address, relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(greeting + call)
        assert exactly(asking, len(settings + answer))
        # its own encoder: only what no table is needed for
        asking.sendall(watch)
        until(lambda: b"".join(read).endswith(watch))
        assert seconds_to_stop(running) < 15


def test_what_an_upstream_said_before_it_went_arrives_though_it_takes_no_more(kept):
    greeting, call, settings, answer = a_call()
    go_on = threading.Event()
    with under_way(kept, greeting + call, settings) as (running, asking, serving):
        assert exactly(asking, len(settings)) == settings
        # What the client sends is read first, and cannot be written: the upstream has reset the connection.
        running.block(go_on)
        asking.sendall(PING)
        serving.sendall(answer)
        hang_up(serving)
        go_on.set()
        assert exactly(asking, len(answer)) == answer
        assert [(c.code, c.response) for c in kept.wait(1)] == [(0, b"a")]


def test_a_client_may_write_while_it_reads_what_an_upstream_said_before_it_went(kept):
    """A client whose write fails gives up what it has not read: gRPC's does. Nobody serves its further calls."""
    asks = client()
    greeting = asks.take()
    call = asks.headers(1, request_fields()).data(1, message(b"r"), last=True).take()
    further = asks.headers(3, request_fields()).data(3, message(b"s" * 100_000), last=True).take()
    _, _, settings, answer = a_call()
    with under_way(kept, greeting + call, settings) as (running, asking, serving):
        serving.sendall(answer)
        kept.wait(1)
        hang_up(serving)
        (link,) = running.proxy._links
        until(lambda: link._lost)
        asking.sendall(further)
        for _ in range(20):
            asking.sendall(PING)
            time.sleep(0.01)
        assert exactly(asking, len(settings + answer)) == settings + answer
        assert asking.recv(1) == b""
        assert running.proxy._links
        asking.shutdown(socket.SHUT_WR)
        until(lambda: no_links(running))
        told = [(c.request[:1], c.code, c.cancelled) for c in kept.wait(2)]
        assert told == [(b"r", 0, False), (b"s", 14, False)]
        assert running.proxy._observer.room.used == 0


def test_a_client_that_stays_though_its_upstream_has_gone_is_left_in_the_end(kept, monkeypatch):
    monkeypatch.setattr("harness.record.link._STAYS_S", 0.3)
    greeting, call, settings, answer = a_call()
    with under_way(kept, greeting + call, settings) as (running, asking, serving):
        serving.sendall(answer)
        kept.wait(1)
        hang_up(serving)
        until(lambda: no_links(running), 10)
        assert exactly(asking, len(settings + answer)) == settings + answer


def test_a_client_that_takes_its_time_gets_what_an_upstream_said_before_it_went(kept, monkeypatch):
    monkeypatch.setattr("harness.record.link._STAYS_S", 0.1)
    greeting, call, settings, _ = a_call()
    flood = frame(0, 0, 1, bytes(16_000)) * 30
    narrow = under_way(kept, greeting + call, settings, window=1 << 14)
    with narrow as (running, asking, serving):
        serving.sendall(flood)
        # What has not arrived yet would be lost with the reset that an upstream which has gone answers with.
        nothing = struct.pack("i", 0)
        until(lambda: fcntl.ioctl(serving, termios.TIOCOUTQ, nothing) == nothing)
        serving.close()
        got = b""
        while len(got) < len(settings + flood):
            # A close answers it with a reset. So much of the end is more than our side's buffer holds.
            if len(got) < len(flood) - 100_000:
                asking.sendall(PING)
            time.sleep(0.05)
            more = asking.recv(30_000)
            assert more, len(got)
            got += more
        assert got == settings + flood
        asking.close()
        until(lambda: no_links(running))


@pytest.mark.parametrize("gone", [False, True], ids=["half_closed", "gone"])
def test_the_end_waits_for_no_client_that_stays_though_its_upstream_has_gone(kept, gone):
    greeting, call, settings, _ = a_call()
    flood = frame(0, 0, 1, bytes(16_000)) * 20
    with under_way(kept, greeting + call, settings) as (running, asking, serving):
        serving.sendall(flood)
        if gone:
            assert exactly(asking, len(settings + flood)) == settings + flood
            hang_up(serving)
        else:
            serving.shutdown(socket.SHUT_WR)
        (link,) = running.proxy._links
        until(lambda: link._lost == gone and link._upstream in link._left, 10)
        began = time.perf_counter()
        stopping = running.begin_to_stop(60.0)
        if not gone:
            assert exactly(asking, len(settings + flood)) == settings + flood
        stopping.result(30)
        assert time.perf_counter() - began < 20


def test_the_end_waits_for_no_idle_connection_of_something_else():
    with (
        upstream_of_bytes(b"HTTP/1.1 200 OK\r\n\r\n") as (address, _),
        proxied(address, relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert exactly(asking, 19)
        assert seconds_to_stop(running) < 15


def test_the_end_waits_for_an_answer_of_something_else():
    with (
        upstream_of_bytes(b"") as (address, read),
        proxied(address, relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: read)
        assert seconds_to_stop(running, 2.0) > 1.9


def test_the_end_waits_for_a_connection_that_is_not_followed():
    greeting, call, settings, _ = a_call()
    unread = frame(1, 4, 1, b"\xff\xff\xff\xff")  # headers that name no entry of any table
    with (
        upstream_of_bytes(settings + unread) as (address, _),
        proxied(address, relayed=True) as running,
        connected(running) as asking,
    ):
        asking.sendall(greeting + call)
        exactly(asking, len(settings) + len(unread))
        assert seconds_to_stop(running, 2.0) > 1.9


def test_a_client_that_says_nothing_is_hung_up_at_the_end(server):
    with proxied(server, relayed=True) as running, connected(running) as silent:
        until(lambda: running.proxy._tasks)
        running.stop(0.2).result(10)
        silent.settimeout(3)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""


def test_pings_of_a_client_that_asks_nothing_are_answered(server):
    greeting, _, _, _ = a_call()
    with proxied(server, relayed=True) as running, connected(running) as idle:
        idle.sendall(greeting + frame(6, 0, 0, b"12345678"))
        seen, pong = b"", frame(6, ACK, 0, b"12345678")
        begun = time.perf_counter()
        while pong not in seen:
            seen += idle.recv(1 << 16)
        assert time.perf_counter() - begun < 10


def flooded(to, flood, most=200_000_000):
    """How much of a flood somebody takes who should read no more."""
    to.settimeout(1.0)
    taken = 0
    with contextlib.suppress(TimeoutError):
        while taken < most:
            taken += to.send(flood)
    return taken


PINGS = frame(6, 0, 0, bytes(8)) * 4000


def test_a_client_that_is_not_served_yet_is_not_read_without_end():
    greeting = client().bytes
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with proxied(address, relayed=True) as running, connected(running) as asking:
            asking.sendall(greeting)
            assert flooded(asking, PINGS, 40_000_000) < 30_000_000


def test_an_upstream_whose_client_asks_nothing_is_not_read_without_end(monkeypatch):
    monkeypatch.setattr("harness.record.relay._FIRST_CALL_S", 10.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with proxied(address, relayed=True) as running, connected(running) as asking:
            asking.sendall(client().bytes)
            connection, _ = listening.accept()
            with connection:
                connection.sendall(SETTINGS_FRAME)
                assert flooded(connection, PINGS, 40_000_000) < 30_000_000


@pytest.mark.parametrize("reset", [False, True])
def test_a_side_that_takes_nothing_is_not_waited_for_without_end(kept, monkeypatch, reset):
    """A client that resets is at once nobody's; what an upstream sent before it went, is sent a while."""
    monkeypatch.setattr("harness.record.link._FLUSH_S", 60.0 if reset else 0.3)
    greeting, call, settings, _ = a_call()
    flood = frame(0, 0, 1, bytes(16_000)) * 60
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with proxied(address, taps=[kept], relayed=True) as running, connected(running) as asking:
            asking.sendall(greeting + call)
            connection, _ = listening.accept()
            connection.sendall(settings)
            exactly(asking, len(settings))
            if reset:
                flooded(asking, flood)
                hang_up(asking)
            else:
                (link,) = running.proxy._links
                while not link._client.get_write_buffer_size():
                    connection.sendall(flood[:100_000])
                    time.sleep(0.002)
                connection.close()
            until(lambda: no_links(running), 30)
            connection.close()


def test_connections_beyond_the_limit_are_refused_and_counted(server):
    with proxied(server, relayed=True, most=3) as running:
        held = [connected(running) for _ in range(5)]
        until(lambda: running.proxy.counts[Recorded.REFUSED] == 2)
        for one in held:
            one.close()
        until(lambda: outcome(running.address, b"x").get("response") == b"x")


def test_an_end_before_the_beginning_touches_nothing(tmp_path, monkeypatch, server):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    async def ended():
        await relay(Upstream(server), []).stop(0.1)

    asyncio.run(ended())
    assert (tmp_path / "file").exists()


def test_100_mb_pass_in_flat_memory(server, tmp_path):
    with recording(server, tmp_path / "traffic") as running:
        assert running.ask([request(0)]) == 1
        before = _peak_mb(running.child.pid)
        big = b"big" + bytes(100_000_000)
        assert outcome(running.address, big, timeout=60)["response"] == big
        assert _peak_mb(running.child.pid) - before < 20
        totals = running.end()
    assert reasons(totals) == {"a message was larger than --max-message": 1}
    assert adds_up(totals)


def _peak_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def test_bytes_pass_where_both_sides_are_alike(tmp_path):
    shown, trusts = ServerTls(cert=tmp_path, key=tmp_path), ClientTls()

    def passed(**more):
        options = RecordOptions(listen="a:1", upstream="b:1", out=tmp_path, **more)
        return passes_of(options)

    assert passed() is passed(tls=shown, upstream_tls=trusts) is Passes.BYTES
    assert passed(tls=shown) is passed(upstream_tls=trusts) is Passes.MESSAGES
    assert passed(upstream_authority="models.example") is Passes.MESSAGES


def test_the_upstream_s_name_is_what_the_option_says(tmp_path):
    with (
        upstream_of_bytes(SETTINGS_FRAME) as (address, read),
        recording(address, tmp_path / "t", "--upstream-authority", "models.example") as running,
    ):
        assert running.child.stdout.readline().startswith(b"passing messages, not bytes")
        until(
            lambda: (
                outcome(running.address, b"x", timeout=1) and b"models.example" in b"".join(read)
            )
        )
        running.end()

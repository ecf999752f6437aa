"""A connection that is still being opened: a slow upstream, and the end of the recorder, lose no call."""

import contextlib
import socket
import threading
import time

import pytest
from h2made import BEGIN, SETTINGS_FRAME, Side, client, end, message, request_fields
from peers import outcome
from proxies import proxied
from recordings import until

from harness.record.h2frames import GOAWAY, HEAD_BYTES, SETTINGS, head_of
from harness.record.outcomes import PROXY_ENDED, UPSTREAM_LOST


@contextlib.contextmanager
def opened(kept, **options):
    """A relay, a client of it that has asked, and the upstream's end, which has said nothing yet."""
    asks = client().headers(1, request_fields()).data(1, message(b"a"), last=True).bytes
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        proxied(
            f"127.0.0.1:{listening.getsockname()[1]}", taps=[kept], relayed=True, **options
        ) as running,
        socket.create_connection(("127.0.0.1", running.proxy.port), timeout=10) as asking,
    ):
        asking.sendall(asks)
        connection, _ = listening.accept()
        with connection:
            until(lambda: running.proxy._links or any(c.asked.done() for c in running.proxy._tasks))
            yield running, asking, connection


def answer():
    said = Side().headers(1, BEGIN).data(1, message(b"b")).headers(1, end(), last=True)
    return said.bytes


def everything(connection):
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(1 << 16):
            said += more
    return said


def kinds(content):
    at = 0
    while at < len(content):
        size, kind, _, _ = head_of(content, at)
        yield kind
        at += HEAD_BYTES + size


def test_a_call_that_came_before_the_upstream_s_settings_is_served_after_the_end_began(kept):
    with opened(kept) as (running, asking, connection):
        stopping = running.begin_to_stop(10.0)
        connection.sendall(answer()[: len(SETTINGS_FRAME)])
        first = asking.recv(len(SETTINGS_FRAME), socket.MSG_WAITALL)
        connection.sendall(answer()[len(SETTINGS_FRAME) :])
        said = list(kinds(first + everything(asking)))
        stopping.result(10)
    assert said[:2] == [SETTINGS, GOAWAY]
    assert [(c.request, c.response, c.code) for c in kept.wait(1)] == [(b"a", b"b", 0)]


def test_a_call_that_came_before_the_upstream_s_settings_is_told_when_its_time_is_over(kept):
    with opened(kept) as (running, asking, _):
        begun = time.perf_counter()
        running.stop(0.6).result(20)
        assert 0.5 < time.perf_counter() - begun < 10
        assert everything(asking) == b""
    (told,) = kept.wait(1)
    assert (told.request, told.code, told.details, told.cancelled) == (b"a", *PROXY_ENDED, False)


def test_the_end_waits_for_no_client_that_was_let_in_and_has_not_asked(kept, monkeypatch):
    monkeypatch.setattr("harness.record.relay._FIRST_CALL_S", 60.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        proxied(f"127.0.0.1:{listening.getsockname()[1]}", taps=[kept], relayed=True) as running,
        socket.create_connection(("127.0.0.1", running.proxy.port), timeout=10) as idle,
    ):
        idle.sendall(client().bytes)
        connection, _ = listening.accept()
        with connection:
            connection.sendall(SETTINGS_FRAME)
            assert idle.recv(100) == SETTINGS_FRAME
            begun = time.perf_counter()
            running.stop(30.0).result(60)
            assert time.perf_counter() - begun < 15
            said = list(kinds(everything(idle)))
    assert said == [SETTINGS, GOAWAY, GOAWAY]


def test_an_upstream_that_is_slow_to_say_its_settings_is_not_asked_anew(kept, monkeypatch):
    monkeypatch.setattr("harness.record.relay._CONNECT_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        proxied(f"127.0.0.1:{listening.getsockname()[1]}", taps=[kept], relayed=True) as running,
    ):
        seen = []
        asking = threading.Thread(target=lambda: seen.append(outcome(running.address, b"a")))
        asking.start()
        connection, _ = listening.accept()
        with connection:
            time.sleep(1.0)
            connection.sendall(answer())
            asking.join(20)
        listening.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listening.accept()
    assert [one.get("response") for one in seen] == [b"b"]
    assert [(c.request, c.response, c.code) for c in kept.wait(1)] == [(b"a", b"b", 0)]


def test_an_upstream_that_stays_silent_is_hung_up(kept, monkeypatch):
    monkeypatch.setattr("harness.record.relay._CONNECT_S", 0.2)
    monkeypatch.setattr("harness.record.relay._SILENT_S", 0.6)
    with opened(kept) as (_, asking, _upstream):
        assert everything(asking) == b""
    (told,) = kept.wait(1)
    assert (told.request, told.code, told.details) == (b"a", *UPSTREAM_LOST)


def test_an_upstream_that_speaks_late_is_not_hung_up(kept, monkeypatch):
    monkeypatch.setattr("harness.record.relay._CONNECT_S", 0.2)
    monkeypatch.setattr("harness.record.relay._SILENT_S", 2.5)
    with opened(kept) as (running, asking, connection):
        while not running.proxy._links:  # let in without the upstream's settings
            time.sleep(0.001)
        connection.sendall(answer()[: len(SETTINGS_FRAME)])
        time.sleep(2.5)
        connection.sendall(answer()[len(SETTINGS_FRAME) :])
        kept.wait(1)
        connection.close()
        assert everything(asking) == answer()
    assert [(c.request, c.response, c.code) for c in kept.calls] == [(b"a", b"b", 0)]

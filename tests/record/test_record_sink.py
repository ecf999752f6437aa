"""KServe's logger, live: events over HTTP into a sink in a process of its own become traffic."""

import base64
import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager

import logs_made as made
import pytest
from certificates import self_signed

from harness.record.importers.sink import events
from harness.store.traffic import TrafficSource


@contextmanager
def sink(folder, *options):
    """A sink's process and (host, port)."""
    command = [
        sys.executable,
        "-m",
        "harness",
        "traffic",
        "sink",
        "--listen",
        "127.0.0.1:0",
        "--json",
    ]
    process = subprocess.Popen(
        [*command, "--to", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stderr.readline()
        found = re.search(r"listening at (\S+):(\d+)", line)
        assert found, line + process.stderr.read()
        yield process, (found[1], int(found[2]))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def ended(process):
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


def headers_of(e, side, **changes):
    at = e.ts_ns if side == "request" else e.ts_ns + e.latency_ns
    return {
        "ce-specversion": "1.0", "ce-id": e.request_id, "ce-source": "http://localhost:9081/",
        "ce-type": f"org.kubeflow.serving.inference.{side}", "ce-time": made.iso_of(at).replace("Z", "789Z"),
        "ce-inferenceservicename": "flights", "ce-namespace": "default", "ce-component": "predictor",
        "content-type": "application/json", **changes,
    }  # fmt: skip


@pytest.fixture
def connect():
    """Opens connections that are closed at the end of the test."""
    with ExitStack() as opened:
        yield lambda address: opened.enter_context(
            closing(http.client.HTTPConnection(*address, timeout=10))
        )


def posted(connection, e, side, **changes):
    body = made.v2(e, {"request": "inputs", "response": "outputs"}[side])
    connection.request("POST", "/", body, headers_of(e, side, **changes))
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_events_become_exchanges(tmp_path, connect):
    recorded = [made.exchange(i, rows=2) for i in range(20)]
    with sink(tmp_path / "t") as (process, address):
        connection = connect(address)
        for side in ("response", "request"):
            assert {posted(connection, e, side) for e in recorded} == {200}
        report = ended(process)
    read = sorted(TrafficSource.open([tmp_path / "t"]).exchanges(), key=lambda e: e.ts_ns)
    made.same(read, recorded)
    assert [e.latency_ns for e in read] == [5_000_000] * 20
    assert (report["joined"], report["records"], report["undecodable"]) == (20, 40, 0)


def test_what_was_acknowledged_survives_a_kill(tmp_path, connect):
    recorded = [made.exchange(i) for i in range(10)]
    with sink(tmp_path / "t") as (process, address):
        connection = connect(address)
        for e in recorded:
            assert posted(connection, e, "request") == 200
        process.kill()
        process.wait()
    with sink(tmp_path / "t") as (process, address):
        connection = connect(address)
        for e in recorded:
            assert posted(connection, e, "response") == 200
        assert ended(process)["joined"] == 10


def test_a_request_that_comes_late_or_by_a_slow_clock_waits_for_its_answer(tmp_path, connect):
    """These times are years ago: the logger's clock is wrong, or it had queued them."""
    recorded = [made.exchange(i) for i in range(3)]
    with sink(tmp_path / "t", "--flush", "100ms", "--wait", "5m") as (process, address):
        connection = connect(address)
        for side in ("request", "response"):
            assert {posted(connection, e, side) for e in recorded} == {200}
            time.sleep(0.7)
        report = ended(process)
    assert (report["joined"], report["one_sided_requests"], report["late"]) == (3, 0, 0)
    read = sorted(TrafficSource.open([tmp_path / "t"]).exchanges(), key=lambda e: e.ts_ns)
    made.same(read, recorded)


def test_a_request_waits_on_over_a_kill_and_is_written_without_its_answer_in_the_end(
    tmp_path, connect
):
    options = ("--flush", "100ms", "--wait", "3s")
    future = {"ce-time": "2100-01-01T00:00:00Z"}
    with sink(tmp_path / "t", *options) as (process, address):
        begun = time.monotonic()
        assert posted(connect(address), made.exchange(0), "request", **future) == 200
        time.sleep(1.0)
        process.kill()
        waited_s = time.monotonic() - begun
    time.sleep(2.5)  # nobody waits meanwhile
    begun = time.monotonic()
    with sink(tmp_path / "t", *options) as (process, address):
        while not list((tmp_path / "t").glob("model=*/**/*.parquet")):
            assert time.monotonic() - begun < 60
            time.sleep(0.1)
        assert waited_s + time.monotonic() - begun > 2.9
        report = ended(process)
    assert (report["written"], report["one_sided_requests"]) == (1, 1)


def test_faulty_events_are_answered_and_counted(tmp_path, connect):
    e = made.exchange(0)
    with sink(tmp_path / "t", "--max-record", "1KiB", "--wait", "0s") as (process, address):
        connection = connect(address)
        assert posted(connection, e, "request") == 200
        assert posted(connection, e, "request", **{"ce-time": "noon"}) == 400
        assert posted(connection, e, "request", **{"ce-component": "transformer"}) == 200
        connection.request("POST", "/", b"\xff{half", headers_of(made.exchange(1), "request"))
        assert connection.getresponse().read() == b""
        connection.request("POST", "/", b"x" * 2000, headers_of(made.exchange(2), "request"))
        assert connection.getresponse().status == 413
        connection = connect(address)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        report = ended(process)
    assert (report["one_sided_requests"], report["written"]) == (1, 1)
    assert (report["undecodable"], report["oversized"], report["other"]) == (2, 1, 1)


def test_a_silent_client_holds_up_nobody(tmp_path, connect):
    with sink(tmp_path / "t") as (process, address):
        with socket.create_connection(address) as silent:
            silent.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
            connection = connect(address)
            assert posted(connection, made.exchange(0), "request") == 200
            assert posted(connection, made.exchange(0), "response") == 200
        assert ended(process)["joined"] == 1


def test_tls(tmp_path):
    certificate, key = self_signed(tmp_path)
    options = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with sink(tmp_path / "t", *options) as (process, address):
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection(*address, timeout=10, context=context)
        for side in ("request", "response"):
            assert posted(connection, made.exchange(0), side) == 200
        connection.close()
        assert ended(process)["joined"] == 1


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("encoded", [False, True])
def test_structured_events_are_the_same_as_binary_ones(batched, encoded):
    e = made.exchange(0)
    headers, body = headers_of(e, "request"), made.v2(e, "inputs")
    document = {k.removeprefix("ce-"): v for k, v in headers.items() if k.startswith("ce-")}
    document |= (
        {"data_base64": base64.b64encode(body).decode()} if encoded else {"data": json.loads(body)}
    )
    kind = "cloudevents-batch" if batched else "cloudevents"
    content = json.dumps([document] if batched else document).encode()
    (structured,) = events({"content-type": f"application/{kind}+json; charset=utf-8"}, content)
    (binary,) = events(headers, body)
    assert (structured.id, structured.ts_ns, structured.model) == (
        binary.id,
        binary.ts_ns,
        binary.model,
    )
    assert structured.request.content == binary.request.content


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[]", "an empty batch"), (b"{", "no JSON"), (b"[1]", "no CloudEvent: a number"),
        (b"{}", "no CloudEvent: an object"), (b'[{"data_base64": "?"}]', "is no base64"),
        (b'[{"id": "a", "id": "b"}]', "two values of 'id' in one object"),
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(content, why):
    (refused,) = events({"content-type": "application/cloudevents-batch+json"}, content)
    assert refused.trouble.value == "undecodable"
    assert why in refused.why


def test_a_port_that_is_taken_is_a_usage_error(tmp_path, capsys):
    from harness.cli.entry import run

    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(["traffic", "sink", "--listen", listen, "--to", str(tmp_path / "t")]) == 2
    assert "cannot be listened at" in capsys.readouterr().err

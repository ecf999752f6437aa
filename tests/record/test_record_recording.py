"""What `harness record` leaves on disk, whatever happens to it and to its disk."""

import contextlib
import os
import resource
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from peers import outcome
from ports import reserved
from recordings import adds_up, reasons, recorded, recording, request, until

from harness.store.spool import spooled
from harness.wire import SERVICE
from harness.wire.messages import request_bytes


def test_every_call_is_recorded_as_it_was(server, tmp_path):
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (
        ("x-user", "u1"), ("x-user", "u2"), ("key-bin", b"\x00\xff"),
        ("authorization", "Bearer abc"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"),
    )  # fmt: skip
    out = tmp_path / "traffic"
    with recording(server, out, "--context", "x-user,origin,missing") as running:
        asked = [request(i) for i in range(40)]
        assert running.ask(asked) == 40
        one = request_bytes("m", {"origin": _text("JFK")}, "with-input")
        outcome(running.address, one, metadata=metadata)
        failing = request(0, request_id="code=5;")
        assert outcome(running.address, failing)["code"] is grpc.StatusCode.NOT_FOUND
        totals = running.end()
    found = {e.request_id: e for e in recorded(out)}
    assert [found[f"r{i}"].request for i in range(40)] == asked
    assert [found[f"r{i}"].response for i in range(40)] == asked
    assert {e.model for e in found.values()} == {"m"}
    with_input = found["with-input"]
    assert with_input.metadata == {
        "x-user": "u1, u2", "key-bin": "AP8=", "traceparent": metadata[-1][1],
    }  # fmt: skip
    assert with_input.context == {"x-user": "u1, u2", "origin": "JFK"}
    assert with_input.trace_id == trace
    failed = found["code=5;"]
    assert (failed.code, failed.response) == (5, b"")
    assert failed.metadata == {
        ":details": "what went wrong: ü and\nmore", ":status-details": "CAUSA2FiYw==",
    }  # fmt: skip
    assert (totals["seen"], totals["failed"], totals["written"]) == (42, 1, 42)
    assert totals["closed"]
    assert running.totals() == totals


def _text(word):
    import numpy as np

    return np.array([word], object)


def test_what_cannot_be_recorded_passes_and_is_counted(server, tmp_path):
    shared = request_bytes("m", {}, "shared")
    from harness.wire.gen import open_inference_pb2 as pb

    message = pb.ModelInferRequest.FromString(shared)
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.parameters["shared_memory_region"].string_param = "region"
    wrong = pb.ModelInferRequest(model_name="m", id="wrong")
    wrong.inputs.add(name="x", datatype="FP32", shape=[3])
    wrong.raw_input_contents.append(b"123")
    asked = {
        "the request is no ModelInferRequest": b"\x0a\xff no message",
        "a message was larger than --max-message": request(1, text="x" * 200_000),
        "tensors in shared memory, which no proxy sees": message.SerializeToString(),
    }
    out = tmp_path / "traffic"
    with recording(server, out, "--max-message", "100KB") as running:
        for sent in (*asked.values(), wrong.SerializeToString(), request(2, request_id="")):
            assert outcome(running.address, sent)["response"] == sent
        running.ask([request(7), request(7)])
        totals = running.end()
    assert reasons(totals) == dict.fromkeys(asked, 1)
    assert dict(map(tuple, totals["faults"])) == {
        "request id that another request has": 1,
        "no request id; one was made up": 1,
        "tensors that contradict themselves": 1,
    }
    assert totals["written"] == 4
    assert adds_up(totals)
    assert sum(e.request_id.startswith("rec-") for e in recorded(out)) == 1


def test_a_killed_recorder_loses_what_was_not_durable_and_the_next_says_how_many(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out) as running:
        running.ask([request(i) for i in range(100)])
        until(lambda: _durable(out) == 100)
        writer = running.writer_pid
        os.kill(writer, signal.SIGSTOP)
        running.ask([request(i) for i in range(100, 130)])
        os.kill(running.child.pid, signal.SIGKILL)
        os.kill(writer, signal.SIGKILL)
        running.child.wait()
    with recording(server, out) as running:
        running.ask([request(i) for i in range(200, 210)])
        totals = running.end()
    kept = {e.request_id for e in recorded(out)}
    assert kept >= {f"r{i}" for i in range(100)} | {f"r{i}" for i in range(200, 210)}
    assert reasons(totals) == {"lost with a recorder that was killed": 140 - len(kept)}
    assert (totals["seen"], totals["written"]) == (140, len(kept))
    assert adds_up(totals)
    assert not list((out / ".recorder").glob("*.spool"))


def _durable(out):
    return sum(len(b) for path in (out / ".recorder").glob("*.spool") for b in spooled(path))


@pytest.mark.long
def test_a_proxy_that_is_killed_alone_loses_nothing_that_it_had_handed_over(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out) as running:
        running.ask([request(i) for i in range(50)])
        until(lambda: _durable(out) == 50)
        running.child.kill()
    until(lambda: running.totals()["closed"])
    assert len(recorded(out)) == running.totals()["written"] == 50


@pytest.mark.long
def test_a_killed_writer_is_replaced_and_production_goes_on(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out) as running:
        first = running.writer_pid
        assert running.ask([request(i) for i in range(50)]) == 50
        os.kill(first, signal.SIGKILL)
        assert running.ask([request(i) for i in range(50, 100)]) == 50
        until(lambda: _child(running) not in (None, first))
        until(lambda: running.ask([request(0, request_id="last")]) and _durable(out))
        totals = running.end()
    assert "last" in {e.request_id for e in recorded(out)}
    assert totals["written"] == len(recorded(out))
    assert adds_up(totals)


def _child(running):
    try:
        return running.writer_pid
    except IndexError:
        return None


def test_a_stalled_disk_drops_and_counts_in_flat_memory(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out, "--queue-bytes", "1MiB") as running:
        running.ask([request(i) for i in range(5)])
        writer = running.writer_pid
        os.kill(writer, signal.SIGSTOP)
        sent = 40
        assert running.ask([request(i, text="x" * 500_000) for i in range(sent)], workers=2) == sent
        before = _peak_kb(running.child.pid)
        assert running.ask([request(i, text="x" * 500_000) for i in range(sent)], workers=2) == sent
        assert _peak_kb(running.child.pid) - before < 20_000
        os.kill(writer, signal.SIGCONT)
        totals = running.end()
    dropped = reasons(totals)["the queue to the writer was full"]
    assert dropped > 60
    assert totals["written"] == 5 + 2 * sent - dropped == len(recorded(out))
    assert adds_up(totals)


def _peak_kb(pid):
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_a_full_disk_is_counted_and_production_goes_on(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out) as running:
        resource.prlimit(
            running.writer_pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)
        )
        noise = os.urandom(60_000).hex()
        assert running.ask([request(0, text=noise)]) == 1
        until(lambda: running.ask([request(1, text=noise)]) and _unwritable(running))
        resource.prlimit(running.writer_pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert running.ask([request(2)]) == 1
        totals = running.end()
    assert reasons(totals)["the disk refused them"] >= 1
    assert "r2" in {e.request_id for e in recorded(out)}
    assert adds_up(totals)


def _unwritable(running):
    from harness.core.recording import Recorded
    from harness.store.counts import Counts

    counts = Counts(running.out / ".recorder" / "rec.counts")
    try:
        return counts[Recorded.UNWRITABLE]
    finally:
        counts.close()


@contextlib.contextmanager
def files_of_at_most(size):
    """Processes started meanwhile get no larger file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def room_for(*pids):
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


def test_a_full_disk_with_a_spool_left_on_it_stops_no_start(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out) as running:
        running.ask([request(0, text=os.urandom(300_000).hex())])
        until(lambda: _durable(out) == 1)
        os.kill(running.writer_pid, signal.SIGKILL)
        running.child.kill()
    with contextlib.ExitStack() as full:
        full.enter_context(files_of_at_most(20_000))
        with recording(server, out) as running:
            full.close()
            assert running.ask([request(1)]) == 1
            room_for(running.child.pid, running.writer_pid)
            totals = running.end()
    assert {e.request_id for e in recorded(out)} == {"r0", "r1"}
    assert (totals["seen"], totals["written"]) == (2, 2)


def taken(running):
    """Whether the writer's totals know of a request that it took."""
    if not (running.out / "rec.totals.json").exists():
        return False
    totals = running.totals()
    return totals["written"] + totals["waiting"] > 0


def test_without_room_for_its_counts_a_recorder_serves_and_records_when_there_is(server, tmp_path):
    out = tmp_path / "traffic"
    with contextlib.ExitStack() as full:
        full.enter_context(files_of_at_most(100))
        with recording(server, out) as running:
            full.close()
            assert running.ask([request(0)]) == 1
            room_for(running.child.pid)
            until(lambda: _child(running))
            until(lambda: running.ask([request(1)]) and taken(running))
            totals = running.end()
    assert reasons(totals)["there was no writer's process"] >= 1
    assert "r1" in {e.request_id for e in recorded(out)}
    assert adds_up(totals)


def test_a_disk_that_hangs_at_the_start_delays_no_call(server, tmp_path):
    out = tmp_path / "traffic"
    (out / ".recorder").mkdir(parents=True)
    hung = out / ".recorder" / "rec.lock"
    os.mkfifo(hung)  # opening it waits for a reader, as a disk that hangs makes every opening wait
    with recording(server, out) as running:
        assert running.ask([request(0)]) == 1
        answers = os.open(hung, os.O_RDONLY | os.O_NONBLOCK)
        try:
            until(lambda: running.ask([request(1)]) and taken(running))
            totals = running.end()
        finally:
            os.close(answers)
    assert reasons(totals)["there was no writer's process"] >= 1
    assert "r1" in {e.request_id for e in recorded(out)}
    assert adds_up(totals)


def test_a_recorder_that_never_recorded_says_so_at_its_end(server, tmp_path):
    with contextlib.ExitStack() as full:
        full.enter_context(files_of_at_most(100))
        with recording(server, tmp_path / "traffic") as running:
            full.close()
            assert running.ask([request(0)]) == 1
            running.child.send_signal(signal.SIGTERM)
            said, _ = running.child.communicate(timeout=30)
    assert running.child.returncode == 4
    assert b"there was no writer's process" in said


def test_files_are_published_while_it_runs(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out, "--rotate-seconds", "0.3") as running:
        running.ask([request(0)])
        until(lambda: len(list(out.rglob("*.parquet"))) == 1)
        running.ask([request(1, model="other/model")])
        until(lambda: len(list(out.rglob("*.parquet"))) == 2)
        running.end()
    assert sorted(p.relative_to(out).parts[0] for p in out.rglob("*.parquet")) == [
        "model=m",
        "model=other%2Fmodel",
    ]


def test_a_second_recorder_of_that_name_is_refused(server, tmp_path):
    with (
        recording(server, tmp_path / "traffic"),
        pytest.raises(AssertionError, match="is writing there already"),
        recording(server, tmp_path / "traffic"),
    ):
        pass
    with recording(server, tmp_path / "traffic", "--name", "second") as running:
        assert running.end()["seen"] == 0


def test_metrics_say_what_happened(server, tmp_path):
    with (
        reserved() as port,
        recording(server, tmp_path / "traffic", "--metrics", f"127.0.0.1:{port}") as running,
    ):
        running.ask([request(i) for i in range(5)])
        outcome(running.address, request(0, request_id="code=5;"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            shown = page.read().decode()
        running.end()
    method = 'method="/inference.GRPCInferenceService/ModelInfer"'
    assert f'harness_requests_total{{code="OK",{method}}} 5.0' in shown
    assert f'harness_requests_total{{code="NOT_FOUND",{method}}} 1.0' in shown
    assert 'harness_request_latency_seconds_bucket{le="+Inf"} 6.0' in shown
    assert "harness_recording_seen_total 6.0" in shown
    assert "harness_queue_bytes" in shown


def test_failures_are_kept_beside_the_sample(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out, "--sample", "0.5", "--seed", "3") as running:
        running.ask([request(i) for i in range(60)])
        running.ask([request(0, request_id=f"code=5;{i}") for i in range(20)])
        totals = running.end()
    found = recorded(out)
    assert sum(e.code == 5 for e in found) == 20
    assert totals["sampled_out"] + sum(e.code == 0 for e in found) == 60
    kept = [e for e in found if e.metadata.get(":sampled") == "failure"]
    assert 0 < totals["kept_as_failed"] == len(kept) < 20
    assert {e.code for e in kept} == {5}
    assert adds_up(totals)


def test_redacted_values_reach_no_file(server, tmp_path):
    out = tmp_path / "traffic"
    (tmp_path / "key").write_text("0123456789abcdef0123")
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "version: 1\nkey: {file: key}\nrules:\n"
        "  - {input: secret, action: hash}\n  - {metadata: x-session, action: hash}\n"
        "  - {metadata: x-sesion, action: drop}\n"
    )
    secret = "-".join(["very", "secret", "words"])
    with recording(server, out, "--redact", rules) as running:
        asked = [request(i, text=secret, request_id=f"empty={i};") for i in range(3)]
        running.ask(asked, metadata=(("x-session", secret),))
        running.ask([b"\x0a\x01m\x2a\x09\x0a\x06secret" + secret.encode()])
        until(lambda: _durable(out) == 3)
        for path in (p for p in out.rglob("*") if p.is_file()):
            assert secret.encode() not in path.read_bytes()
        totals = running.end()
    found = recorded(out)
    assert len(found) == 3
    for e in found:
        assert secret.encode() not in e.request + e.response
    assert len({e.metadata["x-session"] for e in found}) == 1
    assert sum(reasons(totals).values()) == 1
    assert (
        dict(map(tuple, totals["faults"]))["redaction rules that no request had a value for"] == 1
    )
    assert adds_up(totals)


@pytest.mark.parametrize("kept", [False, True])
def test_what_a_server_says_of_a_failure_is_left_out_with_any_rule(server, tmp_path, kept):
    out = tmp_path / "traffic"
    rules = tmp_path / "rules.yaml"
    text = "version: 1\nrules:\n  - {metadata: x-session, action: drop}\n"
    rules.write_text(text + "details: keep\n" * kept)
    with recording(server, out, "--redact", rules) as running:
        seen = outcome(running.address, request(0, request_id="code=5;"))
        assert seen["code"] is grpc.StatusCode.NOT_FOUND
        running.end()
    (found,) = recorded(out)
    assert found.code == 5
    assert (":details" in found.metadata, ":status-details" in found.metadata) == (kept, kept)


def test_a_client_that_goes_away_is_recorded(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out) as running:
        seen = outcome(running.address, request(0, request_id="sleep=15;"), timeout=2.0, ready=True)
        assert seen["code"] is grpc.StatusCode.DEADLINE_EXCEEDED
        running.end()
    (found,) = recorded(out)
    assert (found.request_id, found.code) == ("sleep=15;", 4)


def test_large_requests_count_in_the_sample_as_others_do(server, tmp_path):
    out = tmp_path / "traffic"
    with recording(server, out, "--sample", "0.5", "--max-message", "100KB") as running:
        running.ask([request(i, text="x" * 150_000 * (i % 2)) for i in range(80)])
        totals = running.end()
    large = reasons(totals)["a message was larger than --max-message"]
    assert 8 < large < 32
    assert 8 < totals["written"] < 32
    assert totals["sampled_out"] == 80 - large - totals["written"]
    assert adds_up(totals)


def test_a_request_that_never_arrives_whole_is_noticed_and_is_none_that_was_lost(server, tmp_path):
    import socket

    from h2made import client, message, request_fields

    with recording(server, tmp_path / "traffic") as running:
        host, port = running.address.split(":")
        with socket.create_connection((host, int(port))) as asking:
            part = message(request(1))[:-1]
            asking.sendall(client().headers(1, request_fields()).data(1, part).bytes)
            assert asking.recv(9)
        assert running.ask([request(2)]) == 1
        totals = running.end()
    assert (totals["seen"], totals["written"], totals["not_recorded"]) == (1, 1, [])
    assert dict(map(tuple, totals["faults"])) == {
        "requests whose client broke off before they were whole": 1
    }


def test_requests_that_a_server_refuses_by_their_size_have_failed(tmp_path):
    """A server as gRPC makes it takes 4 MB, and says so as soon as it has read the size."""
    echoes = grpc.unary_unary_rpc_method_handler(lambda asked, _: asked)
    handlers = grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": echoes})
    refusing = grpc.server(ThreadPoolExecutor(4), handlers=[handlers])
    port = refusing.add_insecure_port("127.0.0.1:0")
    refusing.start()
    with recording(f"127.0.0.1:{port}", tmp_path / "t", "--max-message", "8MiB") as running:
        for size in (6 << 20, 32 << 20, 32 << 20, 32 << 20):
            found = outcome(running.address, bytes(size))
            assert found["code"] is grpc.StatusCode.RESOURCE_EXHAUSTED
        totals = running.end()
    refusing.stop(0)
    assert (totals["seen"], totals["failed"]) == (4, 4)
    assert reasons(totals)["a message was larger than --max-message"] == 3
    assert adds_up(totals)

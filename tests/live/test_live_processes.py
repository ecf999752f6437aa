"""A real proxy before real servers with a real client: harm of each kind is rolled back."""

import json
import os
import signal
import socket
import time

import grpc
import numpy as np
import pytest
from live_peers import Client, canary, child, decided, events, metrics_of, model
from ports import reserved

from harness.wire import MODEL_INFER
from harness.wire.canary_judge import OBSERVE, WATCH, bytes_from_watch, standing_from_bytes

POLICY = """
version: 1
decision: {output: probability, rule: threshold, value: 0.9}
live:
  steps: [0.1, 0.5]
  unit: x-user
  stay: {requests: 100}
  patience: 2s
  guardrails:
    - {name: score, metric: score_shift, kind: shift, margin: 0.15, effect: 0.0, variance: 0.02}
    - {name: rate, metric: decision_rate_shift, kind: shift, margin: 0.2, effect: 0.0, variance: 0.05}
    - {name: errors, kind: errors, ratio: 2, gating: false}
    - {name: failed, metric: failure, kind: shift, margin: 0.15, effect: 0.0, variance: 0.02}
    - {name: nan, metric: nan_rate, kind: shift, margin: 0.15, effect: 0.0, variance: 0.02}
    - {name: slow, metric: latency, kind: shift, slower_than: 50ms, margin: 0.25, effect: 0.0, variance: 0.05}
"""
LABELS = """
version: 1
decision: {output: probability, rule: threshold, value: 0.9}
live:
  steps: [0.2, 0.5]
  unit: x-user
  stay: {requests: 100}
  guardrails:
    - {name: loss, metric: loss_difference, loss: brier, kind: shift, label_maturity: 2s, margin: 0.02}
"""


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_a_worse_candidate_is_rolled_back_through_a_kill_and_the_next_request_is_the_baseline_s(
    tmp_path, policy
):
    """score: also sticky over the kill, nothing lost but what was under way, exit code 1."""
    out = tmp_path / "out"
    with model("none", 1) as baseline, model("score", 2) as candidate:
        with canary(policy, out, baseline, candidate, "--seed", "s") as (proxy, address):
            client = Client(address)
            first = {f"user-{i}": client.ask(f"user-{i}")[1] for i in range(40)}
            assert client.ask("")[0] == "OK"  # names no unit: the baseline
            proxy.stop(signal.SIGKILL)
        with (
            reserved() as port,
            canary(policy, out, baseline, candidate, "--metrics", f"127.0.0.1:{port}") as (
                proxy,
                address,
            ),
        ):
            client = Client(address, tag="later-")
            high = [user for user, answer in first.items() if answer and _score(answer) > 0.475]
            assert high  # the candidate's, by their scores
            assert all(_score(client.ask(user)[1]) > 0.475 for user in high)
            client.ask_until(lambda: decided(out))
            for _ in range(20):
                assert _score(client.ask()[1]) < 0.475
            seen = metrics_of(port)
            code, shown, _ = proxy.stop()
        last = decided(out)
        assert seen["harness_canary_decision", "ROLLBACK"] == 1
        assert seen["harness_canary_share",] == 0
        for i, arm in enumerate(("baseline", "candidate")):
            assert seen["harness_canary_requests_total", arm] == last["arms"][i] > 0
        assert seen["harness_canary_units_judged",] == last["n_closed"]
        assert seen["harness_requests_total", "OK", MODEL_INFER] == client.sent
        assert (code, shown.split(":")[0]) == (1, "ROLLBACK")
    said = events(out)
    assert said[0]["event"] == "start"
    restart = next(e for e in said if e["event"] == "restart")
    assert restart["n_requests"] + dict(restart["counts"]).get("lost_at_a_restart", 0) <= 40
    # The average may prove what no guardrail does alone.
    assert set(decided(out)["culprits"]) <= {"score"}
    assert json.loads((out / "decision.json").read_text())["reason"] == "guardrail_failed"
    with child("-m", "harness", "canary", "--follow", out) as follower:
        code, shown, _ = follower.wait()
    assert (code, shown.splitlines()[-1].split()[1]) == (1, "ROLLBACK")


def _score(response):
    from harness.wire.messages import tensors_from_response

    return float(tensors_from_response(response)["probability"][0, 0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("harm", "code", "culprits"),
    [
        ("none", 0, None),
        ("score", 1, {"score"}),
        ("rate", 1, {"rate", "score"}),
        ("errors", 1, {"failed"}),
        ("nan", 1, {"nan"}),
        ("logit", 1, {"nan"}),
        ("latency", 1, {"slow"}),
        ("hang", 1, {"failed", "slow"}),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_harm_of_each_kind_is_rolled_back_and_none_is_promoted(
    tmp_path, policy, harm, code, culprits, seed
):
    out = tmp_path / "out"
    with (
        model("none", seed) as baseline,
        model(harm, seed + 10) as candidate,
        canary(policy, out, baseline, candidate, "--exit-when-decided", "--follow", "--json") as (
            proxy, address,
        ),
    ):  # fmt: skip
        wait_s = 0.25 if harm == "hang" else None
        Client(address).ask_until(lambda: decided(out), wait_s=wait_s)
        found, shown, err = proxy.wait()
    assert [json.loads(line) for line in shown.splitlines()] == events(out)[1:]  # served since
    assert events(out)[-1]["event"] == "decision"
    assert (found, "Traceback" in err) == (code, False)
    assert culprits is None or set(decided(out)["culprits"]) <= culprits


@pytest.mark.long
def test_answers_that_came_while_the_process_stood_still_are_no_silence(tmp_path, policy):
    out = tmp_path / "out"
    with (
        model("latency", 1) as baseline,
        model("latency", 2) as candidate,
        canary(policy, out, baseline, candidate) as (proxy, address),
    ):
        client = Client(address)
        client.ask_until(lambda: False, most=40)
        for wait_s in (0.04, 0.06, 0.08):
            client.ask_until(lambda: False, most=60, many=60, wait_s=wait_s)
            proxy.process.send_signal(signal.SIGSTOP)
            time.sleep(3.0)  # the patience is 2 s
            proxy.process.send_signal(signal.SIGCONT)
            time.sleep(1.0)
        proxy.stop()
    assert "never_answered" not in dict(events(out)[-1]["counts"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("on_failure", "codes"), [("report", {"INTERNAL", "UNAVAILABLE", "OK"}), ("baseline", {"OK"})]
)
def test_a_dead_candidate_is_rolled_back_and_clients_get_what_the_policy_says(
    tmp_path, on_failure, codes
):
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.replace("  patience", f"  on_failure: {on_failure}\n  patience"))
    out = tmp_path / "out"
    with model("none", 1) as baseline, model("none", 2) as gone:
        pass
    with model("none", 1) as baseline, canary(policy, out, baseline, gone) as (proxy, address):
        client = Client(address)
        seen = set()
        for _ in range(1500):
            seen.add(client.ask()[0])
            if decided(out):
                break
        assert set(decided(out)["culprits"]) <= {"failed"}
        assert seen <= codes
        assert "answered_late" not in dict(decided(out)["counts"])
        assert {client.ask()[0] for _ in range(20)} == {"OK"}
        assert proxy.stop()[0] == 1


def watch(line):
    """What the judge of a proxy says; observing is the proxy's own."""
    channel = grpc.insecure_channel(f"127.0.0.1:{line.split('judge on port ')[1].strip()}")
    with pytest.raises(grpc.RpcError) as refused:
        list(channel.stream_stream(OBSERVE)(iter([b""])))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    return channel.unary_stream(WATCH)(bytes_from_watch(only_final=True))


def test_a_disk_that_takes_nothing_more_sends_all_traffic_to_the_baseline(tmp_path, policy):
    out = tmp_path / "out"
    with (
        model("none", 1) as baseline,
        model("score", 2) as candidate,
        canary(policy, out, baseline, candidate, "--judge-listen", "127.0.0.1:0") as (
            proxy,
            address,
        ),
    ):
        client = Client(address)
        watched = watch(proxy.said)
        (out / "journal-000000000000.jsonl").unlink()
        (out / "journal-000000000000.jsonl").symlink_to("/dev/full")
        client.ask_until(lambda: decided(out))
        assert (decided(out)["decision"], decided(out)["reason"]) == ("HOLD", "state_not_saved")
        assert all(_score(client.ask()[1]) < 0.475 for _ in range(30))
        assert [standing_from_bytes(answer)[0].reason for answer in watched][
            -1
        ] == "state_not_saved"
        code, _, err = proxy.stop()
    assert (code, "cannot be saved" in err, "Traceback" in err) == (3, True, False)


def blocked(file):
    """Makes a file one that blocks whoever opens it, in one step: others write to it."""
    os.mkfifo(file.with_suffix(".blocks"))
    file.with_suffix(".blocks").rename(file)


def test_a_folder_that_blocks_stops_no_answer_and_no_end(tmp_path, policy):
    out = tmp_path / "out"
    with (
        model("none", 1) as baseline,
        model("none", 2) as candidate,
        canary(policy, out, baseline, candidate) as (proxy, address),
    ):
        client = Client(address)
        client.ask_until(lambda: False, most=40)
        blocked(out / "events.jsonl")
        assert {client.ask()[0] for _ in range(100)} == {"OK"}
        code, shown, err = proxy.stop()
    assert (code, "Traceback" in err) == (3, False)
    assert "not measured: the folder did not answer at the end" in shown


def test_clients_that_name_no_unit_are_said_at_once_and_what_was_not_measured_at_the_end(
    tmp_path, policy
):
    # Nothing here is about patience, and a machine under load has little of it.
    policy.write_text(POLICY.replace("patience: 2s", "patience: 600s"))
    with model("none", 1) as baseline:
        with canary(policy, tmp_path / "a", baseline, baseline) as (proxy, address):
            client = Client(address)
            assert {client.ask("")[0] for _ in range(7)} == {"OK"}
            assert "nothing is judged" in proxy.line(proxy.process.stderr, "name no unit")
            code, shown, _ = proxy.stop()
        assert code == 3
        assert "  not measured: 7 requests named no unit" in shown
        policy.write_text(policy.read_text().replace("output: probability", "output: other"))
        # Of this seed's users 1 to 60 the candidate has some, and the baseline has the first.
        with canary(policy, tmp_path / "b", baseline, baseline, "--seed", "s") as (proxy, address):
            client = Client(address)
            assert client.ask()[0] == "OK"
            client.ask_until(lambda: False, most=59, many=59)
            code, shown, _ = proxy.stop()
    for arm in ("baseline", "candidate"):
        assert f"requests to the {arm} had an answer without the measured output" in shown


@pytest.mark.parametrize("option", ["--listen", "--judge-listen", "--metrics"])
def test_an_address_that_is_taken_is_said_in_plain_words(tmp_path, policy, option):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = {"--listen": "127.0.0.1:0", option: f"127.0.0.1:{taken.getsockname()[1]}"}
        command = ["-m", "harness", "canary", "--baseline", "127.0.0.1:9", "--candidate", "127.0.0.1:9",
                   "--policy", policy, "--out", tmp_path / "out"]  # fmt: skip
        with child(*command, *(word for pair in given.items() for word in pair)) as process:
            code, _, err = process.wait()
    assert (code, "Traceback" in err, "never awaited" in err) == (2, False, False), err
    assert f"{option} 127.0.0.1" in err
    assert "cannot be listened on" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_folder_that_was_damaged_is_hold_at_the_baseline_and_says_so(tmp_path, policy):
    out = tmp_path / "out"
    with model("none", 1) as baseline, model("score", 2) as candidate:
        with canary(policy, out, baseline, candidate) as (proxy, address):
            Client(address).ask_until(lambda: False, most=60)
            assert proxy.stop()[0] == 3
        state = out / "state.json"
        state.write_text(state.read_text().replace('"until_ns": 1', '"until_ns": 2'))
        with canary(policy, out, baseline, candidate) as (proxy, address):
            assert "cannot be believed" in proxy.line(proxy.process.stderr, "HOLD")
            client = Client(address)
            assert all(_score(client.ask()[1]) < 0.475 for _ in range(40))
            assert proxy.stop()[0] == 3
    assert json.loads((out / "decision.json").read_text())["reason"] == "state_damaged"


@pytest.mark.long
def test_labels_that_show_a_worse_candidate_roll_it_back(tmp_path):
    policy, labels, out = tmp_path / "policy.yaml", tmp_path / "labels.jsonl", tmp_path / "out"
    policy.write_text(LABELS)
    labels.touch()
    rng = np.random.default_rng(3)
    with (
        model("none", 1) as baseline,
        model("score", 2) as candidate,
        canary(policy, out, baseline, candidate, "--labels", labels) as (proxy, address),
    ):
        client = Client(address)
        until = time.perf_counter() + 60
        while not decided(out) and time.perf_counter() < until:
            before = client.sent
            client.ask_until(lambda: False, most=40)
            with labels.open("a") as file:
                for i in range(before + 1, client.sent + 1):
                    row = {"unit": str(i), "label": int(rng.random() < 0.3)}
                    file.write(json.dumps(row) + "\n")
        code, _, err = proxy.stop()
    assert (code, decided(out)["culprits"]) == (1, ["loss"]), err


def test_a_label_file_that_is_away_at_a_restart_holds_up_nothing_but_labels(tmp_path):
    policy, labels, out = tmp_path / "policy.yaml", tmp_path / "labels.jsonl", tmp_path / "out"
    policy.write_text(LABELS)
    with model("none", 1) as baseline:
        labels.touch()
        with canary(policy, out, baseline, baseline, "--labels", labels) as (proxy, address):
            assert Client(address).ask()[0] == "OK"
            proxy.stop()
        labels.unlink()
        for there in (None, os.mkfifo, os.mkdir):
            if there:
                there(labels)
            with canary(policy, out, baseline, baseline, "--labels", labels) as (proxy, address):
                assert Client(address).ask()[0] == "OK"
                until = time.perf_counter() + 60
                while "label_file" not in {
                    event["event"] for event in _since_the_last_restart(out)
                }:
                    assert time.perf_counter() < until
                    time.sleep(0.05)
                proxy.stop()
            if there:
                labels.rmdir() if there is os.mkdir else labels.unlink()
    assert "label file" in " ".join(json.loads((out / "decision.json").read_text())["not_compared"])


def _since_the_last_restart(out):
    said = events(out)
    return said[max(i for i, event in enumerate(said) if event["event"] == "restart") :]

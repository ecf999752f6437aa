"""A shadow with real servers: production is the baseline's, bytes and time; differences are found."""

import json
import signal
import subprocess
import time
from contextlib import suppress

import grpc
import numpy as np
import pytest
from live_peers import Awake, child, decided, metrics_of, model, shadow
from ports import reserved

from harness.store.traffic import TrafficSource
from harness.wire import MODEL_INFER
from harness.wire.messages import request_bytes

POLICY = """
version: 1
decision: {output: probability, rule: threshold, value: 0.5}
live:
  unit: x-user
  guardrails:
    - {name: score, metric: score_shift, kind: paired, margin: 0.05, effect: 0.0, variance: 0.001}
    - {name: same, metric: parity_mismatch, kind: paired, margin: 0.1, effect: 0.0, variance: 0.01}
    - {name: failed, metric: failure, kind: paired, margin: 0.05, effect: 0.0, variance: 0.01}
"""


def requests(n, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (n, 1, 4)).astype(np.float32)
    return [request_bytes("m", {"x": row}, f"r{seed}-{i}") for i, row in enumerate(rows)]


def ask(address, asked, pause_s=0.0):
    """(answers, seconds of each)."""
    answers, seconds = [], []
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(20)
        call = channel.unary_unary(MODEL_INFER)
        for i, request in enumerate(asked):
            start = time.perf_counter()
            user = (("x-user", f"u{i}-{hash(request)}"),)
            answers.append(call(request, timeout=20.0, metadata=user))
            seconds.append(time.perf_counter() - start)
            time.sleep(pause_s)
    return answers, seconds


def ended(process):
    """(exit code, the result as JSON)."""
    code, out, err = process.stop()
    assert "Traceback" not in err, err
    return code, json.loads(out)


@pytest.fixture(scope="module")
def baseline():
    with model("exact") as address:
        yield address


def test_equal_versions_are_equal_and_another_one_is_different_by_the_requests_that_differ(
    tmp_path, baseline, monkeypatch
):
    asked = requests(300)
    rng = np.random.default_rng(0)
    moved = rng.normal(0, 1, (300, 1, 4)).astype(np.float32)[:, 0, 0] > 1.0
    with model("moved") as candidate:
        for name, upstream, code, differ in (
            ("same", baseline, 0, 0),
            ("moved", candidate, 1, moved.sum()),
        ):
            rules = tmp_path / "rules.yaml"
            rules.write_text(
                "version: 1\nkey: {env: SHADOW_KEY}\nrules:\n  - {metadata: x-user, action: hash}\n"
            )
            monkeypatch.setenv("SHADOW_KEY", "k" * 32)
            with shadow(tmp_path / name, baseline, upstream, "--json", "--redact", rules) as (
                process,
                address,
            ):
                ask(address, asked)
                found, result = ended(process)
            assert (found, result["mirrored"], result["compared"], result["differ"]) == (
                code,
                300,
                300,
                differ,
            )
            assert result["disagreements_kept"] == differ
    arms = {}
    for arm in ("baseline", "candidate"):
        kept = list(TrafficSource.open([tmp_path / "moved" / "disagreements" / arm]).exchanges())
        arms[arm] = {e.request_id: e for e in kept}
        assert {e.request for e in kept} == {asked[i] for i in np.flatnonzero(moved)}
        assert not any(e.metadata["x-user"].startswith("u") for e in kept)
    assert all(
        arms["baseline"][i].response != arms["candidate"][i].response for i in arms["baseline"]
    )


@pytest.mark.parametrize(
    "candidate",
    [
        "hang",
        pytest.param("dead", marks=pytest.mark.long),
        pytest.param("flood", marks=pytest.mark.long),
    ],
)
def test_whatever_the_candidate_does_production_s_answers_and_times_stay(
    tmp_path, baseline, candidate
):
    asked = requests(150, seed=1)
    with model("exact" if candidate == "dead" else candidate) as upstream:
        if candidate != "dead":
            _compared(tmp_path, baseline, upstream, asked)
            return
    _compared(tmp_path, baseline, upstream, asked)


def _compared(tmp_path, baseline, upstream, asked):
    """Through a shadow of itself and through one of the bad candidate, in turns, in the same run."""
    with (
        shadow(tmp_path / "good", baseline, baseline, "--sample", "0.000001", "--json") as (
            quiet,
            plain,
        ),
        shadow(tmp_path / "bad", baseline, upstream, "--json", "--deadline", "2") as (
            busy,
            mirrored,
        ),
    ):
        seconds = {plain: [], mirrored: []}
        for at in range(0, len(asked), 15):
            part = asked[at : at + 15]
            direct, _ = ask(baseline, part)
            for address in (plain, mirrored):
                answers, took = ask(address, part)
                assert answers == direct
                seconds[address] += took
        ended(quiet)
        code, result = ended(busy)
    # A candidate in the way would cost each request its deadline, two seconds; a busy machine slows down some.
    quicker = {address: np.quantile(took, 0.25) for address, took in seconds.items()}
    assert quicker[mirrored] < 2 * quicker[plain] + 0.002
    assert np.quantile(seconds[mirrored], 0.95) < 1.0
    total = result["mirrored"] + sum(result["not_mirrored"].values())
    assert total == len(asked)
    assert code in {0, 1}
    assert result["compared"] + result["candidate_failed"] == result["mirrored"]


def test_a_dead_mirror_process_leaves_production_alone_and_is_told(tmp_path, baseline):
    import psutil

    with shadow(tmp_path / "out", baseline, baseline, "--json") as (process, address):
        ask(address, requests(20))
        (mirror,) = psutil.Process(process.process.pid).children()
        mirror.send_signal(signal.SIGKILL)
        assert "nothing is compared" in process.line(process.process.stderr, "has ended")
        answers, _ = ask(address, requests(50))
        assert answers == ask(baseline, requests(50))[0]
        code, out, _ = process.stop()
    result = json.loads(out)
    assert (code, result["not_mirrored"]["mirror_gone"]) == (4, 50)


def test_a_mirror_that_was_stopped_holds_up_the_end_for_ten_seconds_and_what_it_had_is_counted(
    tmp_path, baseline
):
    import psutil

    with (
        reserved() as shown,
        shadow(tmp_path / "out", baseline, baseline, "--json", "--metrics", f"127.0.0.1:{shown}") as (
            process, address,
        ),
    ):  # fmt: skip
        before = metrics_of(shown)
        ask(address, requests(40))
        report = tmp_path / "out" / "mirror.json"
        until = time.perf_counter() + 60
        while not report.exists() or json.loads(report.read_text())["taken"] < 40:
            assert time.perf_counter() < until
            time.sleep(0.1)
        (mirror,) = psutil.Process(process.process.pid).children()
        mirror.send_signal(signal.SIGSTOP)
        ask(address, requests(30, seed=1))
        seen = metrics_of(shown)
        with Awake() as took:
            code, out, err = process.stop()
    result = json.loads(out)
    assert took.seconds < 10.0
    assert (code, result["killed"], result["compared"]) == (4, True, 40)
    assert (result["mirrored"], result["lost"]) == (70, 30)
    assert "Traceback" not in err
    assert ("harness_shadow_compared_total",) not in before  # nothing known is no zero
    assert seen["harness_shadow_compared_total",] == 40
    assert seen["harness_shadow_mirrored_total",] == 70
    assert seen["harness_shadow_not_mirrored_total", "queue_full"] == 0
    assert seen["harness_requests_total", "OK", MODEL_INFER] == 70


def test_a_folder_of_something_else_is_refused_in_plain_words(tmp_path):
    (tmp_path / "note").write_text("x")
    command = ["-m", "harness", "shadow", "--listen", "127.0.0.1:0", "--baseline", "127.0.0.1:1",
               "--candidate", "127.0.0.1:1", "--out", tmp_path]  # fmt: skip
    with child(*command) as process:
        code, _, err = process.wait()
    assert (code, "Traceback" in err, ".." in err) == (2, False, False)
    assert err.count(str(tmp_path)) == 1
    assert err.split()[-4:] == ["Name", "a", "new", "folder."]


@pytest.mark.long
def test_clients_and_both_versions_may_be_behind_tls(tmp_path, baseline):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    shown = ("--tls-cert", certificate, "--tls-key", key)
    asked = requests(30)
    direct, _ = ask(baseline, asked)
    # A shadow that shows a certificate is the upstream of another one.
    with (
        shadow(tmp_path / "behind", baseline, baseline, *shown) as (_, secured),
        shadow(tmp_path / "out", secured, secured, "--json", *shown, "--upstream-tls-ca", certificate) as (
            process, address,
        ),
    ):  # fmt: skip
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(address, credentials) as channel:
            call = channel.unary_unary(MODEL_INFER)
            assert [call(request, timeout=20.0) for request in asked] == direct
        code, result = ended(process)
    assert (code, result["compared"]) == (0, 30)


@pytest.mark.long
@pytest.mark.parametrize(("candidate", "code"), [("exact", 0), ("moved", 1), ("other", 1)])
def test_with_a_policy_it_is_judged(tmp_path, baseline, candidate, code):
    policy, out = tmp_path / "policy.yaml", tmp_path / "out"
    policy.write_text(POLICY)
    with (
        model(candidate) as upstream,
        shadow(out, baseline, upstream, "--policy", policy, "--json") as (process, address),
    ):
        for seed in range(40):
            ask(address, requests(50, seed))
            if decided(out):
                break
        found, result = ended(process)
    assert (found, result["standing"]["final"]) == (code, True)


def test_a_shadow_that_was_killed_leaves_what_it_saw_to_the_next_start(tmp_path, baseline):
    asked = requests(60)
    with model("moved") as candidate:
        with shadow(tmp_path / "out", baseline, candidate) as (process, address):
            ask(address, asked)
            report = tmp_path / "out" / "mirror.json"
            until = time.perf_counter() + 60
            while not report.exists() or json.loads(report.read_text())["taken"] < 60:
                assert time.perf_counter() < until
                time.sleep(0.1)
            process.process.kill()
            process.process.wait()
            while not json.loads(report.read_text())["whole"]:  # its mirror ends by itself
                assert time.perf_counter() < until
                time.sleep(0.1)
        with shadow(tmp_path / "out", baseline, candidate, "--json") as (process, address):
            code, result = ended(process)
    assert (code, result["cut"], result["compared"]) == (1, 1, 60)
    assert result["differ"] > 0


@pytest.mark.long
def test_every_start_that_was_killed_is_counted(tmp_path, baseline):
    out = tmp_path / "out"
    for kills in range(3):
        with shadow(out, baseline, baseline, "--json") as (process, address):
            ask(address, requests(5))
            process.process.kill()
            process.process.wait()
        report, until = out / "mirror.json", time.perf_counter() + 60
        while not (report.exists() and json.loads(report.read_text())["whole"]):
            assert time.perf_counter() < until, kills
            time.sleep(0.1)
    with shadow(out, baseline, baseline, "--json") as (process, address):
        assert ended(process)[1]["cut"] == 3


@pytest.mark.parametrize("damaged", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_shadow_whose_earlier_account_is_gone_is_not_equal(tmp_path, baseline, damaged):
    """Without any disagreement kept, only the account knows of those that were found."""
    out = tmp_path / "out"
    rows = np.random.default_rng(1).normal(0, 1, (60, 1, 4)).astype(np.float32)
    asked = [request_bytes("m", {"x": row}, f"r{i}") for i, row in enumerate(rows)]
    same = [one for one, row in zip(asked, rows, strict=True) if row[0, 0] <= 1.0]
    with model("moved") as candidate:
        with shadow(out, baseline, candidate, "--keep", "1B", "--json") as (process, address):
            ask(address, asked)
            assert ended(process)[0] == 1
        if damaged:
            (out / "mirror.json").write_text("")
        else:
            (out / "mirror.json").unlink()
        for _ in range(2):  # the second finds a whole account of the first
            with shadow(out, baseline, candidate, "--keep", "1B", "--json") as (process, address):
                ask(address, same)
                code, result = ended(process)
            assert (code, result["cut"], result["differ"]) == (2, 1, 0)


def test_a_shadow_without_room_for_its_report_says_so(tmp_path, baseline):
    out = tmp_path / "out"
    with shadow(out, baseline, baseline) as (process, address):
        ask(address, requests(5))
        report = out / "mirror.json"
        while not report.is_dir():  # the mirror may write it between the two steps
            report.unlink(missing_ok=True)
            with suppress(FileExistsError):
                report.mkdir()
        # What comes from writing there is an OSError, as from a full disk.
        (report / "full").touch()
        code, said, err = process.stop()
    assert code == 4
    assert said.startswith("BROKEN: the report cannot be written (")
    assert "5 compared, 0 differ" in said
    assert "Traceback" not in err


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_deadline_has_an_end(tmp_path, value):
    command = ["-m", "harness", "shadow", "--listen", "127.0.0.1:0", "--baseline", "127.0.0.1:1",
               "--candidate", "127.0.0.1:2", "--out", tmp_path / "o", "--deadline", value]  # fmt: skip
    with child(*command) as process:
        code, _, err = process.wait()
    assert (code, f"--deadline {value}" in err) == (2, True)

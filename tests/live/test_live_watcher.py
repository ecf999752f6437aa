"""What the proxy asks of a canary: who answers which call."""

import json
from dataclasses import replace

import numpy as np
import pytest
from canaries import POLICY, live

from harness.core.calls import Call
from harness.core.verdicts import Decision
from harness.live.arms import judged
from harness.live.endings import Ending
from harness.live.folder import CanaryFolder
from harness.live.identity import Identity
from harness.live.serving import _unseen
from harness.live.steady_clock import SteadyClock
from harness.live.watcher import Watcher
from harness.wire import MODEL_INFER, MODEL_STREAM_INFER
from harness.wire.gen import open_inference_pb2 as pb
from harness.wire.messages import request_bytes, response_bytes

PROMOTED = Ending(decision=Decision.PROMOTE, reason="x", explanation="x")
READY = "/inference.GRPCInferenceService/ModelReady"


class Up:
    def __init__(self, name):
        self.name = name


@pytest.fixture
def watching(tmp_path):
    def make(model="", changes=""):
        found = live(POLICY.replace("unit: user", "unit: x-user") + changes)
        asked = Identity.of(found, seed="s", baseline="b", candidate="c")
        folder, canary = CanaryFolder.start(tmp_path / "c", found, asked, POLICY)
        ups = Up("baseline"), Up("candidate")
        return Watcher(canary, folder, found, ups, SteadyClock(), model=model), canary

    return make


def request(model="m"):
    return request_bytes(model, {"x": np.ones((1, 1), np.float32)}, "1")


def meta(user):
    return (("x-user", user),)


def told(arm, score=0.3, code=0, version="1"):
    answer = response_bytes("m", version, {"probability": np.array([[score]], np.float32)}, "")
    return Call(
        ts_ns=1, latency_ns=10**6, method=MODEL_INFER, code=code, details="", request=b"",
        response=b"" if code else answer, metadata=(), trailing=(), upstream=arm.name,
    )  # fmt: skip


def test_answers_find_their_requests_and_enter_once(watching):
    watcher, _ = watching()
    arms = [watcher.route(MODEL_INFER, request(), meta(f"u{i}")) for i in range(40)]
    assert [judged(arm.name)[1] for arm in arms] == list(range(1, 41))
    for arm in reversed(arms):
        watcher.offer(told(arm))
    watcher.turn()
    assert watcher.standing.n_closed == 40
    assert 0 < sum(judged(arm.name)[0] for arm in arms) < 12


@pytest.mark.parametrize("method", [READY, MODEL_STREAM_INFER])
def test_other_calls_are_the_baseline_s_until_a_promotion(watching, method):
    watcher, canary = watching()
    assert watcher.route(method, b"", ()).name == "baseline"
    assert canary.counts == {"not_split": 1}
    canary.keep(PROMOTED)
    assert watcher.route(method, b"", ()).name == "candidate"
    assert watcher.route(MODEL_INFER, request(), meta("u")).name == "candidate"


def test_only_the_named_model_is_split_and_promoted(watching):
    watcher, canary = watching(model="m")
    assert watcher.route(MODEL_INFER, request("other"), meta("u")).name == "baseline"
    assert judged(watcher.route(MODEL_INFER, request("m"), meta("u")).name)
    assert canary.counts == {"other_models": 1}
    canary.keep(PROMOTED)
    assert watcher.route(MODEL_INFER, request("other"), meta("u")).name == "baseline"
    assert watcher.route(READY, b"", ()).name == "baseline"
    assert watcher.route(MODEL_INFER, request("m"), meta("u")).name == "candidate"


def test_a_version_that_changes_ends_it(watching):
    watcher, _ = watching()
    for i in range(60):
        watcher.offer(told(watcher.route(MODEL_INFER, request(), meta(f"u{i}"))))
    watcher.turn()
    assert not watcher.standing.final
    for i in range(60, 120):
        arm = watcher.route(MODEL_INFER, request(), meta(f"u{i}"))
        watcher.offer(told(arm, version="2" if judged(arm.name)[0] else "1"))
    watcher.turn()
    assert (watcher.standing.reason, watcher.standing.final) == ("version_changed", True)


def test_answers_beyond_the_room_enter_as_not_observed(watching, monkeypatch):
    from harness.live import watcher as module

    monkeypatch.setattr(module, "_MOST_BYTES", 400)
    watcher, _ = watching()
    for i in range(20):
        watcher.offer(told(watcher.route(MODEL_INFER, request(), meta(f"u{i}"))))
    watcher.turn()
    counts = dict(watcher.standing.counts)
    assert 0 < counts["not_observed"] < 20
    assert watcher.standing.n_closed == 20
    for i in range(20, 24):  # there is room again
        watcher.offer(told(watcher.route(MODEL_INFER, request(), meta(f"u{i}"))))
    watcher.turn()
    assert dict(watcher.standing.counts) == counts


def test_an_answer_without_the_policy_s_output_is_not_measured_and_said(watching):
    watcher, _ = watching()
    arm = watcher.route(MODEL_INFER, request(), meta("u"))
    answer = response_bytes("m", "1", {"other": np.zeros((1, 1), np.float32)}, "")
    call = told(arm)
    watcher.offer(Call(**{f: getattr(call, f) for f in call.__slots__} | {"response": answer}))
    watcher.turn()
    assert "no output 'probability'" in watcher.notes()[0]


def test_clients_of_other_outputs_hold_up_no_step_and_count_against_nobody(watching, tmp_path):
    watcher, canary = watching()
    message = pb.ModelInferRequest.FromString(request())
    message.outputs.add(name="other")
    other = response_bytes("m", "1", {"other": np.zeros((1, 1), np.float32)}, "")
    for i in range(400):
        arm = watcher.route(MODEL_INFER, request(), meta(f"u{i}"))
        call = told(arm)
        if i % 2:
            call = replace(call, request=message.SerializeToString(), response=other)
        watcher.offer(call)
        if i % 100 == 99:
            watcher.turn()
    assert watcher.standing.step == 1
    counts = dict(watcher.standing.counts)
    assert counts["baseline_other_outputs"] + counts["candidate_other_outputs"] == 200
    score = canary.evidence()[0]
    assert (score.n, score.n_failed, score.n_available) == (200, 0, 400)
    watcher.close()
    said = json.loads((tmp_path / "c" / "decision.json").read_text())["not_compared"]
    assert any("requests to the candidate asked for other outputs" in note for note in said)


def test_what_was_not_measured_of_an_arm_is_said_of_that_arm(watching, tmp_path):
    watcher, _ = watching()
    odd = {
        "0 failed": (b"", 13),
        "1 had NaN": (np.nan, 0),
        "2 had an answer without the measured output": (None, 0),
    }
    given = list(odd.values())
    came = {0: 0, 1: 0}
    for i in range(300):
        arm = watcher.route(MODEL_INFER, request(), meta(f"u{i}"))
        which = int(judged(arm.name)[0])
        score, code = given[came[which] % 3]
        came[which] += 1
        call = told(arm, 0.3 if score in (b"", None) else score, code)
        if score is None:
            other = response_bytes("m", "1", {"other": np.zeros((1, 1), np.float32)}, "")
            call = replace(call, response=other)
        watcher.offer(call)
    watcher.turn()
    watcher.close()
    said = json.loads((tmp_path / "c" / "decision.json").read_text())["not_compared"]
    for arm, n in (("baseline", came[0]), ("candidate", came[1])):
        for at, words in enumerate(odd):
            count = len(range(at, n, 3))
            assert any(
                note.startswith(f"{count:,} requests to the {arm} {words[2:]}") for note in said
            ), (arm, words, said)


def test_nan_beyond_its_margin_is_rolled_back(watching):
    watcher, _ = watching(
        changes="    - {name: nan, metric: nan_rate, kind: shift, margin: 0.05, effect: 0.0, variance: 0.02}\n"
    )
    for i in range(3_000):
        arm = watcher.route(MODEL_INFER, request(), meta(f"u{i}"))
        bad = judged(arm.name)[0] and i % 5 < 3
        watcher.offer(told(arm, np.nan if bad else 0.3))
        if i % 100 == 99:
            watcher.turn()
            if watcher.standing.final:
                break
    assert (watcher.standing.decision.value, watcher.standing.culprits) == ("ROLLBACK", ("nan",))


def test_harms_that_nothing_gates_on_are_said():
    assert [line[:33] for line in _unseen(live())] == [
        "no gating guardrail looks at fail", "no gating guardrail looks at NaN ",
    ]  # fmt: skip
    gated = POLICY + "    - {name: f, metric: failure, kind: shift, margin: 0.1}\n"
    gated += "    - {name: n, metric: nan_rate, kind: shift, margin: 0.1}\n"
    assert _unseen(live(gated)) == []


def test_a_mistake_in_routing_is_the_baseline_s_answer_and_the_end(watching, monkeypatch):
    watcher, canary = watching()
    monkeypatch.setattr(canary, "route", lambda *_: 1 / 0)
    assert watcher.route(MODEL_INFER, request(), meta("u")).name == "baseline"
    assert canary.standing().reason == "judge_failed"
    assert watcher.route(MODEL_INFER, request(), meta("u")).name == "baseline"


def test_what_is_cut_when_it_stops_is_nobodys_failure(watching):
    watcher, _ = watching()
    arms = [watcher.route(MODEL_INFER, request(), meta(f"u{i}")) for i in range(40)]
    watcher.offer(told(arms[0], code=14))
    watcher.stopping()
    for arm in arms[1:-1]:
        watcher.offer(told(arm, code=1))
    watcher.offer(told(arms[-1]))
    watcher.turn()
    counts = dict(watcher.standing.counts)
    assert counts["not_observed"] == 38
    assert counts.get("baseline_failed", 0) + counts.get("candidate_failed", 0) == 1

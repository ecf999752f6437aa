"""Requests that both versions need too much memory for, and those that only the candidate does."""

import json

import numpy as np
import pytest
from gates import tiny_model, tiny_traffic
from onnx import helper, parser, save_model

from harness.core.observations import Cause, Outcome
from harness.core.verdicts import Decision
from harness.pipeline import judgement
from harness.pipeline.gate import resume_gate, run_gate

GREEDY = """
<ir_version: 8, opset_import: ["" : 15]>
greedy (float[N] x) => (float[N] probability, int64[N] label) {
  doubled = Add(x, x)
  four = Constant<value = float {4.0}>()
  over = Greater(x, four)
  flags = Cast<to = 7>(over)
  any = ReduceMax<keepdims = 0>(flags)
  much = Constant<value = int64 {20000000000}>()
  none = Mul(any, much)
  one = Constant<value = int64 {1}>()
  some = Add(none, one)
  axis = Constant<value = int64[1] {0}>()
  shape = Unsqueeze(some, axis)
  zero = Constant<value = float {0.0}>()
  wide = Expand(zero, shape)
  nothing = ReduceMax<keepdims = 0>(wide)
  same = Add(x, nothing)
  probability = Sigmoid(same)
  half = Constant<value = float {0.5}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}
"""
POLICY = (
    "version: 1\npreset: none\nwindows: {newest: {days: 4000}, min_requests: 300}\n"
    "decision: {output: probability, rule: threshold, value: 0.5}\n"
    "guardrails: [{name: score, metric: score_shift, margin: 0.05, direction: both}]\n"
    "sandbox: {require: S0, memory: 1GiB}\ngraph: {when: never}\n"
)
BAD = 8
"""More than the caps of a candidate that one failure decides about."""


def greedy(path, cutoff="2020-01-01T00:00:00Z"):
    """The tiny model, which wants 80 GB as soon as any x is above 4."""
    model = parser.parse_model(GREEDY)
    properties = {"harness.features": '["doubled"]', "harness.training_cutoff": cutoff}
    helper.set_model_props(model, properties)
    save_model(model, str(path))
    return path


@pytest.fixture
def gate(tmp_path):
    """Runs a gate on 300 requests, BAD of which are bad."""
    values = np.linspace(-3, 3, 300)
    values[np.random.default_rng(5).choice(300, BAD, replace=False)] = 4.5

    def run(baseline, candidate):
        policy = tmp_path / "policy.yaml"
        policy.write_text(POLICY)
        return run_gate(
            str(baseline), str(candidate),
            traffic=[tiny_traffic(tmp_path / "traffic", 300, values=values)],
            policy=policy, out=tmp_path / "run", cache_dir=tmp_path / "cache",
            state_dir=tmp_path / "state",
        )  # fmt: skip

    return run


def blamed(tmp_path):
    saved = json.loads((tmp_path / "run" / "unanswered.json").read_text())
    return {role: sorted(one["seq"] for one in known["blamed"]) for role, known in saved.items()}


def test_versions_that_fail_alike_are_equal_and_the_report_says_so(tmp_path, gate):
    new = greedy(tmp_path / "new.onnx", "2020-01-02T00:00:00Z")
    result = gate(greedy(tmp_path / "old.onnx"), new)
    assert (result.record.decision, result.record.reason) == (
        Decision.PROMOTE,
        "all_guardrails_pass",
    )
    said = {(f.kind, f.where): f.what for f in result.findings}
    assert f"fails {BAD} requests" in said["baseline_fails", "baseline"]
    assert f"for {BAD} requests" in said["memory_limit", "candidate"]
    known = blamed(tmp_path)
    assert len(known["baseline"]) == BAD
    assert known["baseline"] == known["candidate"]


def test_a_run_that_is_gone_on_with_remembers_them(tmp_path, gate, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    new = greedy(tmp_path / "new.onnx", "2020-01-02T00:00:00Z")
    with monkeypatch.context() as patch:
        patch.setattr(judgement, "with_planned_bets", stop)
        with pytest.raises(KeyboardInterrupt):
            gate(greedy(tmp_path / "old.onnx"), new)
    before = blamed(tmp_path)
    assert len(before["baseline"]) == BAD
    restarts = []
    ended = judgement.ended

    def noted(ran):
        restarts.append(ran.result.baseline.restarts)
        return ended(ran)

    monkeypatch.setattr(judgement, "ended", noted)
    assert resume_gate(tmp_path / "run").record.decision is Decision.PROMOTE
    assert blamed(tmp_path)["baseline"] == before["baseline"]
    assert restarts == [0]


def test_what_only_the_candidate_fails_rolls_it_back(tmp_path, gate):
    result = gate(tiny_model(tmp_path / "old.onnx"), greedy(tmp_path / "new.onnx"))
    assert (result.record.decision, result.record.reason) == (
        Decision.ROLLBACK,
        "candidate_fails",
    )


def test_what_is_asked_again_is_excused_where_the_baseline_fails_it_too(
    tmp_path, gate, monkeypatch
):
    def failed_once(_prepared, window, *_rest, legs, **_options):
        asked = window.read(np.arange(300))
        legs[1].ledger.add(asked, Outcome.CRASH, Cause.UNKNOWN, "died", by="latency sample")

    monkeypatch.setattr(judgement, "take_latency", failed_once)
    new = greedy(tmp_path / "new.onnx", "2020-01-02T00:00:00Z")
    result = gate(greedy(tmp_path / "old.onnx"), new)
    assert result.record.decision is Decision.PROMOTE
    assert "candidate_fails_in_sample" not in {f.kind for f in result.findings}

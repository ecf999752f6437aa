"""Features are asked for where a guardrail judges them; elsewhere of the first requests only."""

import json

import numpy as np
import pytest
from gates import AS_OF, MODELS, REFACTOR

from harness.decide.policy import policy_from_yaml
from harness.pipeline import batching, tracing
from harness.pipeline.gate import run_gate
from harness.replay.order import schedule

FIRST = 512
WITHOUT = """
version: 1
preset: refactor
drop: [features]
decision: {output: label, rule: none}
"""
ALL = {"windows": {"min_requests": 100_000}}
"""Never decides before the traffic is used up."""


@pytest.fixture
def gated(tmp_path, windows, some_flights, write_policy, monkeypatch):
    """Gates a model with another hour feature against the usual one."""

    def gate(name="run", **changes):
        monkeypatch.setattr(tracing, "FIRST_TRACED", FIRST)
        result = run_gate(
            str(MODELS / "v2.onnx"), str(MODELS / "utc_hour.onnx"), traffic=[some_flights],
            policy=write_policy(REFACTOR, **ALL, **changes), as_of=AS_OF,
            out=tmp_path / name, cache_dir=windows,
        )  # fmt: skip
        seen = json.loads((result.run / "intermediates.json").read_text())
        return result, seen, json.loads((result.run / "decision.json").read_text())

    return gate


def test_a_policy_that_judges_features_has_all_of_them_compared(gated, monkeypatch):
    monkeypatch.setattr(batching, "first_traced", lambda *_: 7)
    result, seen, decision = gated()
    manifest = json.loads((result.run / "manifest.json").read_text())
    assert manifest["batching"]["traced"] != 7, "nothing follows from the versions' speed"
    assert seen["compared"]["feature_requests"] == result.record.n_requests > 3000
    assert not [text for text in decision["not_compared"] if "no guardrail asks" in text]


def test_a_policy_without_them_sees_the_first_and_says_so(gated):
    drop = {"drop": ["features"], "guardrails": REFACTOR["guardrails"][:1]}
    result, seen, decision = gated(**drop)
    n = result.record.n_requests
    assert seen["compared"]["output_requests"] == n
    assert seen["compared"]["feature_requests"] == FIRST
    assert seen["roots"]
    (said,) = [text for text in decision["not_compared"] if "no guardrail asks" in text]
    assert f"not on the last {n - FIRST:,}" in said


def test_slow_versions_are_traced_on_fewer_requests():
    assert tracing.first_traced(100_000, 0.0) == tracing.FIRST_TRACED
    assert tracing.first_traced(100_000, 20e-6) == tracing.FIRST_TRACED
    assert tracing.first_traced(2_048, 5e-3) == 1000
    assert tracing.first_traced(200_000, 5e-3) == 6250
    assert tracing.first_traced(10**7, 5e-3) == tracing.FIRST_TRACED
    assert tracing.first_traced(10, 60.0) == 1
    assert tracing.first_traced(3_600, 1e-4) == tracing.first_traced(3_600, 1e-3) == 3_600


def test_only_judged_requests_are_said_to_lack_a_comparison():
    orders = [("newest", np.arange(50_000))]
    batches = tracing.with_traces(schedule(orders, 1024), policy_from_yaml(WITHOUT, "p"))
    traced = sum(len(b.positions) for b in batches if b.trace)
    assert tracing.FIRST_TRACED <= traced < tracing.FIRST_TRACED + 1024
    assert tracing.not_traced(batches, {"newest": traced}) == ()
    (said,) = tracing.not_traced(batches, {"newest": traced + 1024})
    assert "not on the last 1,024:" in said


def test_answers_are_the_same_with_and_without_a_trace(gated):
    whole, _, _ = gated("whole")
    drop = {"drop": ["features"], "guardrails": REFACTOR["guardrails"][:1]}
    first, _, _ = gated("first", **drop)
    columns = ["request_id", "baseline_score", "candidate_score", "output_mismatch"]
    mine, theirs = (
        r.pairs_frame()[columns].sort_values("request_id", ignore_index=True)
        for r in (whole, first)
    )
    assert mine.equals(theirs)

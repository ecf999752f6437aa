"""Latency samples as evidence: the cut-off is fixed first, nothing of it is tested."""

import json
import math

import numpy as np
import pytest

from harness.core.observations import LatencySample
from harness.core.policies import Claim, Guardrail, Metric
from harness.core.verdicts import Verdict
from harness.judge.combine import Judge
from harness.judge.latency import LatencyValues, log_ratios
from harness.judge.plan import WindowCounts, plan_tests

TYPICAL = Guardrail(name="typical", metric=Metric.LATENCY_RATIO, margin=0.2)
SLOW = Guardrail(name="slow", metric=Metric.LATENCY_P99, margin=0.5)
NAN = math.nan


def sample(n, growth, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.lognormal(-7.0, 0.5, n)
    return LatencySample(
        positions=np.arange(n), baseline_s=size * rng.lognormal(0, 0.1, n),
        candidate_s=growth * size * rng.lognormal(0, 0.1, n),
    )  # fmt: skip


def judged(make_policy, growth, *guardrails, n=4000, seed=0):
    """Every guardrail's verdict on a sample, in pieces of 300."""
    policy = make_policy(*guardrails)
    counts = {"newest": WindowCounts(n=100_000, slices={})}
    judge = Judge(plan_tests(policy, counts), 0.05, 0.05)
    values = LatencyValues(guardrails, policy.latency.planning)
    every = sample(n, growth, seed)
    for part in np.array_split(np.arange(n), 13):
        piece = LatencySample(
            positions=every.positions[part], baseline_s=every.baseline_s[part],
            candidate_s=every.candidate_s[part],
        )  # fmt: skip
        found = values.values(piece)
        if found:
            judge.update("newest", found, {})
    return {row.name: row for row in judge.evidence()}


def test_a_candidate_as_fast_passes(make_policy):
    rows = judged(make_policy, 1.0, TYPICAL, SLOW)
    assert {row.verdict for row in rows.values()} == {Verdict.PASS}


def test_a_candidate_twice_as_slow_fails(make_policy):
    rows = judged(make_policy, 2.0, TYPICAL)
    assert rows["typical"].verdict is Verdict.FAIL
    assert math.expm1(rows["typical"].lower) > 0.9


def test_a_slow_tail_fails_though_the_typical_request_is_as_fast(make_policy):
    rng = np.random.default_rng(3)
    n, values = 6000, LatencyValues([SLOW], 500)
    base = rng.lognormal(-7.0, 0.3, n)
    slow = rng.random(n) < 0.03
    judge = Judge(
        plan_tests(make_policy(SLOW), {"newest": WindowCounts(n=n, slices={})}), 0.05, 0.05
    )
    found = values.values(
        LatencySample(
            positions=np.arange(n), baseline_s=base, candidate_s=np.where(slow, 20 * base, base)
        )
    )
    judge.update("newest", found, {})
    assert judge.evidence()[0].verdict is Verdict.FAIL


def test_the_pairs_that_fix_the_cut_off_are_no_evidence(make_policy):
    row = judged(make_policy, 1.0, SLOW, n=1200)["slow"]
    assert row.n == 700


def test_a_given_cut_off_needs_no_planning(make_policy):
    import dataclasses

    given = dataclasses.replace(SLOW, cutoff_s=0.01)
    assert judged(make_policy, 1.0, given, n=1200)["slow"].n == 1200


def test_the_same_state_goes_on_to_the_same_values():
    first, second = sample(700, 1.0), sample(100, 1.0, seed=1)
    whole = LatencyValues([SLOW], 500)
    whole.values(first)
    saved = LatencyValues([SLOW], 500).restore(json.loads(json.dumps(whole.state())))
    assert saved.values(second)["slow"].x.tolist() == whole.values(second)["slow"].x.tolist()
    assert saved.cuts() == whole.cuts()


def test_failures_of_the_candidate_count_and_those_of_the_baseline_do_not_enter():
    values = LatencyValues([TYPICAL], 0).values(
        LatencySample(
            positions=np.arange(3), baseline_s=np.array([1.0, 1.0, NAN]),
            candidate_s=np.array([1.0, NAN, 1.0]),
        )
    )["typical"]  # fmt: skip
    assert values.failed.tolist() == [False, True, False]
    assert np.isnan(values.x).tolist() == [False, True, True]


def test_ratios_are_logarithms_cut_to_a_factor_of_e():
    nobody = np.zeros(3, np.bool_)
    x = log_ratios(np.array([1.0, 2.0, 1.0]), np.array([1.0, 1.0, 100.0]), nobody).x
    assert x == pytest.approx([0.0, -math.log(2.0), 1.0])


def test_latency_is_never_a_claim_about_the_window(make_policy):
    import dataclasses

    policy = dataclasses.replace(make_policy(TYPICAL), claim=Claim.WINDOW)
    plan = plan_tests(policy, {"newest": WindowCounts(n=3000, slices={})})
    (test,) = plan.tests
    assert (test.population, test.n_available) == (None, 2000)


def test_a_promotion_of_the_rest_does_not_wait_for_latency_but_the_verdict_does(make_policy):
    flips = Guardrail(name="flips", metric=Metric.DECISION_FLIP, margin=0.1)
    judge = Judge(
        plan_tests(make_policy(flips, TYPICAL), {"newest": WindowCounts(n=900, slices={})}),
        0.05, 0.05,
    )  # fmt: skip
    from harness.judge.metrics import Values

    judge.update("newest", {"flips": Values(x=np.zeros(500), failed=np.zeros(500, np.bool_))}, {})
    assert judge.status(("typical",)).promote_ready
    assert not judge.status().promote_ready

from __future__ import annotations

import dataclasses

import pytest

from harness.core.errors import PolicyError
from harness.core.policies import Direction, Guardrail, Metric, WindowName
from harness.judge.plan import WindowCounts, plan_tests

FLIPS = Guardrail(name="flips", metric=Metric.DECISION_FLIP, margin=0.01, effect=0.002)
SCORE = Guardrail(
    name="score",
    metric=Metric.SCORE_SHIFT,
    margin=0.05,
    direction=Direction.BOTH,
    slice_by=("carrier",),
    slice_margin=0.08,
    min_slice=100,
)
CARRIERS = {"UA": 400, "AA": 100, "VX": 60, "HA": 35, "": 5}
WINDOWS = {"newest": WindowCounts(n=600, slices={"carrier": CARRIERS})}


def test_each_large_slice_is_a_test_and_the_others_are_pooled(make_policy):
    plan = plan_tests(make_policy(SCORE), WINDOWS)
    assert [t.name for t in plan.tests] == [
        "score",
        "score[carrier=AA]",
        "score[carrier=UA]",
        "score[carrier=rest]",
    ]
    assert [t.n_available for t in plan.tests] == [600, 100, 400, 100]
    assert [t.margin for t in plan.tests] == [0.05, 0.08, 0.08, 0.08]
    (pooled,) = plan.pooled
    assert pooled.values == ("", "HA", "VX")
    assert pooled.share == pytest.approx(100 / 600)
    assert pooled.tested


def test_rest_that_is_too_small_only_reports(make_policy):
    carriers = {"UA": 595, "VX": 5}
    plan = plan_tests(
        make_policy(SCORE), {"newest": WindowCounts(n=600, slices={"carrier": carriers})}
    )
    rest = plan.tests[-1]
    assert (rest.slice, rest.gating, rest.weight) == ("carrier=rest", False, 0.0)
    assert not plan.pooled[0].tested


def test_half_the_weight_lies_on_slices(make_policy):
    plan = plan_tests(make_policy(FLIPS, SCORE), WINDOWS)
    weights = {t.name: t.weight for t in plan.tests}
    assert weights["flips"] == weights["score"] == 0.25
    assert weights["score[carrier=UA]"] == pytest.approx(0.5 / 3)
    assert sum(weights.values()) == pytest.approx(1.0)


def test_without_slices_all_weight_is_on_all_traffic(make_policy):
    plan = plan_tests(make_policy(FLIPS), WINDOWS)
    assert [t.weight for t in plan.tests] == [1.0]


def test_reported_guardrails_carry_no_weight(make_policy):
    reported = dataclasses.replace(FLIPS, gating=False)
    plan = plan_tests(make_policy(reported, SCORE), WINDOWS)
    assert plan.tests[0].weight == 0.0
    assert sum(t.weight for t in plan.tests) == pytest.approx(1.0)


def test_effect_plans_zero_one_metrics_without_further_data(make_policy):
    (test,) = plan_tests(make_policy(FLIPS), WINDOWS).tests
    assert test.gap == pytest.approx(0.008)
    assert test.second_moment == pytest.approx(0.01 * 0.99)


def test_other_metrics_are_planned_only_with_a_second_moment(make_policy):
    score = Guardrail(
        name="s", metric=Metric.SCORE_SHIFT, margin=0.05, effect=0.01, direction=Direction.BOTH
    )
    assert plan_tests(make_policy(score), WINDOWS).tests[0].second_moment is None
    planned = plan_tests(make_policy(score), WINDOWS, {"s": 0.0025}).tests[0]
    assert (planned.gap, planned.second_moment) == (pytest.approx(0.04), 0.0025)


def test_effect_of_a_decrease_is_measured_from_the_other_side(make_policy):
    fall = Guardrail(
        name="s",
        metric=Metric.SCORE_SHIFT,
        margin=0.05,
        effect=-0.01,
        direction=Direction.DECREASE,
    )
    assert plan_tests(make_policy(fall), WINDOWS).tests[0].gap == pytest.approx(0.04)


def test_unrecorded_slice_column_names_the_nearest(make_policy):
    other = dataclasses.replace(SCORE, slice_by=("carier",))
    with pytest.raises(PolicyError, match="did you mean 'carrier'"):
        plan_tests(make_policy(other), WINDOWS)


def test_empty_window_leaves_the_whole_guardrail_without_slices(make_policy):
    matured = dataclasses.replace(SCORE, window=WindowName.MATURED)
    plan = plan_tests(make_policy(matured), WINDOWS)
    assert [(t.name, t.n_available) for t in plan.tests] == [("score", 0)]


def test_value_called_rest_is_not_the_pooled_rest(make_policy):
    counts = WindowCounts(n=600, slices={"carrier": {"rest": 500, "VX": 100}})
    big = dataclasses.replace(SCORE, min_slice=200)
    names = [t.name for t in plan_tests(make_policy(big), {"newest": counts}).tests]
    assert names == ["score", "score[carrier='rest']", "score[carrier=rest]"]


def test_digest_changes_with_the_plan(make_policy):
    plan = plan_tests(make_policy(FLIPS), WINDOWS)
    other = plan_tests(make_policy(dataclasses.replace(FLIPS, margin=0.02)), WINDOWS)
    assert plan.digest() == plan_tests(make_policy(FLIPS), WINDOWS).digest()
    assert plan.digest() != other.digest()

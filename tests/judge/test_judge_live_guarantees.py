"""Whole live judges at the margin: several guardrails, restarts, a daily cycle."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import binom
from simulated import simulated

from harness.core.jsonable import canonical
from harness.core.live import LiveGuardrail, LiveKind
from harness.core.verdicts import Decision
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import LiveBatch, LivePlan

SECOND = 10**9
pytestmark = pytest.mark.usefixtures("few_points")

RAMP = (0.1, 0.1, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5)


def tolerated(paths):
    return binom.ppf(0.9999, paths, 0.05)


def batch(number, n, candidate, propensity, values, seconds=10):
    start = number * seconds * SECOND
    return LiveBatch(
        number=number,
        until_ns=start + seconds * SECOND,
        requests=Requests(
            ts_ns=start + np.arange(n) * SECOND // 1_000,
            unit=np.array([f"{number}-{i}" for i in range(n)], object),
            candidate=candidate,
            propensity=propensity,
            values=values,
        ),
    )


def plan_of(k):
    rails = tuple(
        LiveGuardrail(name=f"g{i}", kind=LiveKind.SHIFT, margin=0.1, gap=0.1, second_moment=0.22)
        for i in range(k)
    )
    return LivePlan(guardrails=rails, maturity_s=0.0)


def correlated(rng, number, k, n, effects):
    """k outcomes of the same units; half of each is a coin that all share."""
    pi = RAMP[number]
    candidate = rng.random(n) < pi
    shared = rng.random(n)
    values = {}
    for i in range(k):
        luck = np.where(rng.random(n) < 0.5, shared, rng.random(n))
        chance = 0.25 + 0.02 * number + effects[i] * candidate
        values[f"g{i}"] = (luck < chance).astype(np.float64)
    return batch(number, n, candidate, np.full(n, pi), values)


def answers(k, effects, paths, seed, n=250, *, restarted=False):
    """(rollbacks, promotions) over paths."""
    plan = plan_of(k)
    rng = np.random.default_rng(seed)
    rollbacks = promotions = 0
    for _ in range(paths):
        judge, promoted = LiveJudge(plan), False
        for number in range(len(RAMP)):
            if restarted and rng.random() < 0.5:
                judge = LiveJudge.from_state(plan, json.loads(canonical(judge.state())))
            answer = judge.update(correlated(rng, number, k, n, effects))
            promoted |= answer.decision is Decision.PROMOTE
        rollbacks += answer.decision is Decision.ROLLBACK
        promotions += promoted
    return rollbacks, promotions


# One guardrail is judged as each of three is.
@pytest.mark.parametrize(("k", "paths"), [pytest.param(1, 80, marks=pytest.mark.long), (3, 40)])
def test_false_answers_at_every_margin_stay_below_alpha_with_restarts(k, paths):
    rollbacks, promotions = answers(k, [0.1] * k, paths, k, restarted=True)
    assert rollbacks <= tolerated(paths)
    assert promotions <= tolerated(paths)


@pytest.mark.long
@pytest.mark.parametrize(("k", "paths"), [(1, 200), (3, 150), (10, 100)])
def test_many_more_paths_at_every_margin(k, paths):
    rollbacks, promotions = answers(k, [0.1] * k, paths, 10 + k, restarted=True)
    assert rollbacks <= tolerated(paths)
    assert promotions <= tolerated(paths)


def test_one_guardrail_at_its_margin_blocks_promotion_by_nine_harmless_ones():
    _, promotions = answers(10, [0.1] + [-0.2] * 9, 20, 4)
    assert promotions <= tolerated(20)


def test_the_same_judges_find_harm_and_harmlessness():
    assert answers(3, [0.1, 0.45, 0.1], 10, 5, 500) == (10, 0)
    assert answers(3, [-0.15] * 3, 10, 6, 500) == (0, 10)


def cyclic(plan, paths, seed, days=12):
    """Promotions of shadow judges; good nights (.02) before bad days (.08), the average .05."""
    rng = np.random.default_rng(seed)
    promotions = 0
    for _ in range(paths):
        judge, promoted = LiveJudge(plan), False
        for number in range(days * 4):
            x = (rng.random(300) < (0.02, 0.02, 0.08, 0.08)[number % 4]).astype(np.float64)
            nobody = np.zeros(300)
            answer = judge.update(batch(number, 300, nobody > 0, nobody, {"flips": x}))
            promoted |= answer.decision is Decision.PROMOTE
        promotions += promoted
    return promotions


FLIPS = LiveGuardrail(
    name="flips", kind=LiveKind.PAIRED, margin=0.05, gap=0.03, second_moment=0.0475
)
BY_DAY = LivePlan(guardrails=(FLIPS,), maturity_s=0.0, cycle_s=40.0)


@simulated(60, 2)
def test_a_daily_cycle_at_the_margin_is_not_promoted_at_whole_days(runs):
    assert cyclic(BY_DAY, runs, 7) <= tolerated(runs)


def test_without_the_declared_cycle_a_good_night_would_promote():
    assert cyclic(dataclasses.replace(BY_DAY, cycle_s=0.0), 15, 8, days=2) > 10

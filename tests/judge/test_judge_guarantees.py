"""Seeded simulations of what the tests promise, with the mean exactly at the margin.

A rate over R paths is held against the binomial quantile that a true rate of α exceeds once in
ten thousand. Laws have few values, so that a path is its counts: wealth is counts @ log-factors.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom
from simulated import part_and_all, simulated

from harness.core.policies import Direction, Guardrail, Metric
from harness.judge.betting import one_sided
from harness.judge.combine import Judge
from harness.judge.metrics import Values
from harness.judge.plan import WindowCounts, plan_tests
from harness.judge.track import Track

ALPHA = 0.05
BAR = math.log(1.0 / ALPHA)
LOOKS = 100
BATCH = 100


@pytest.fixture(params=part_and_all(3000, 3))
def paths(request):
    return request.param


def tolerated(paths):
    return binom.ppf(0.9999, paths, ALPHA)


def law(name, mean):
    """Values and probabilities with exactly this mean, and the metric's bounds."""
    match name:
        case "zero_one":
            return np.array([0.0, 1.0]), np.array([1.0 - mean, mean]), (0.0, 1.0)
        case "ternary":
            moved = 0.1
            return (
                np.array([-1.0, 0.0, 1.0]),
                np.array([(moved - mean) / 2, 1.0 - moved, (moved + mean) / 2]),
                (-1.0, 1.0),
            )
        case "extremes":
            return np.array([-1.0, 1.0]), np.array([(1 - mean) / 2, (1 + mean) / 2]), (-1.0, 1.0)
        case "rare_large":
            # Nearly always slightly below the mean, once in 200 far above.
            small = (mean - 0.005) / 0.995
            return np.array([small, 1.0]), np.array([0.995, 0.005]), (-1.0, 1.0)
    raise AssertionError(name)


LAWS = ["zero_one", "ternary", "extremes", "rare_large"]


def log_e_paths(process, values, chances, rng, *, paths, batch=BATCH, looks=LOOKS):
    """log E at every look, shape (paths, looks)."""
    counts = rng.multinomial(batch, chances, size=(paths, looks))
    return process.log_e(np.cumsum(counts @ process.log_factors(values), axis=1))


def crossings(log_e, bar=BAR):
    return int((log_e >= bar).any(axis=1).sum())


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("margin", [0.005, 0.05])
@pytest.mark.parametrize("planned", [False, True])
def test_false_rollback_and_false_promotion_stay_below_alpha(name, margin, planned, paths):
    values, chances, bounds = law(name, margin)
    second = float(chances @ np.square(values - margin))
    plan = (margin * 0.8, second) if planned else (None, None)
    rng = np.random.default_rng(20)
    rollback = one_sided(1, margin, bounds, *plan)
    promote = one_sided(-1, -margin, bounds, *plan)
    assert crossings(log_e_paths(rollback, values, chances, rng, paths=paths)) <= tolerated(paths)
    assert crossings(log_e_paths(promote, values, chances, rng, paths=paths)) <= tolerated(paths)


@pytest.mark.parametrize("name", ["zero_one", "ternary"])
def test_the_simulation_sees_a_mean_beyond_the_margin(name, paths):
    values, chances, bounds = law(name, 0.05)
    rng = np.random.default_rng(21)
    rollback = one_sided(1, 0.03, bounds, None, None)
    promote = one_sided(-1, -0.08, bounds, None, None)
    assert crossings(log_e_paths(rollback, values, chances, rng, paths=paths)) > 0.9 * paths
    assert crossings(log_e_paths(promote, values, chances, rng, paths=paths)) > 0.9 * paths


def test_the_same_bound_catches_a_z_test_that_is_watched(paths):
    # Armitage, McPherson & Rowe 1969: 37 % at 100 looks.
    rng = np.random.default_rng(34)
    sums = np.cumsum(rng.normal(size=(paths, LOOKS)), axis=1)
    z = np.abs(sums) / np.sqrt(np.arange(1, LOOKS + 1))
    crossed = crossings(z, 1.96)
    assert crossed > tolerated(paths)
    assert crossed / paths == pytest.approx(0.374, abs=0.03)


def test_false_answers_on_continuous_values_stay_below_alpha():
    rng = np.random.default_rng(22)
    x = rng.beta(2, 5, (1000, 40, 50)) - 2 / 7 + 0.01
    for process in (
        one_sided(1, 0.01, (-1, 1), 0.01, 0.03),
        one_sided(-1, -0.01, (-1, 1), None, None),
    ):
        log_e = process.log_e(np.cumsum(process.growth(x), axis=1))
        assert crossings(log_e) <= tolerated(1000)


def test_a_daily_cycle_within_the_margin_on_running_average_is_no_harm(paths):
    process = one_sided(1, 0.05, (0.0, 1.0), None, None)
    rng = np.random.default_rng(23)
    chance = np.tile(np.repeat([0.02, 0.08], 5), 10)
    ones = rng.binomial(BATCH, np.broadcast_to(chance, (paths, LOOKS)))
    factors = process.log_factors(np.array([0.0, 1.0]))
    log_e = process.log_e(np.cumsum(np.stack([BATCH - ones, ones], axis=-1) @ factors, axis=1))
    assert crossings(log_e) <= tolerated(paths)


def correlated(rng, paths, k, shared, mean, *, batch=BATCH):
    """Counts of ones of k guardrails, shape (k, paths, looks); a share of draws is common."""
    common = rng.binomial(int(batch * shared), mean, (paths, LOOKS))
    own = rng.binomial(batch - int(batch * shared), mean, (k, paths, LOOKS))
    return common + own


@pytest.mark.parametrize(
    ("shared", "k"),
    [
        pytest.param(shared, k, marks=pytest.mark.long if (shared, k) == (0.8, 10) else [])
        for shared in (0.0, 0.8, 1.0)
        for k in (1, 3, 10)
    ],
)
def test_combined_rollback_stays_below_alpha_under_dependence(k, shared, paths):
    process = one_sided(1, 0.05, (0.0, 1.0), None, None)
    ones = correlated(np.random.default_rng(24), paths, k, shared, 0.05)
    factors = process.log_factors(np.array([0.0, 1.0]))
    wealth = np.cumsum(np.stack([BATCH - ones, ones], axis=-1) @ factors, axis=2)
    combined = np.logaddexp.reduce(process.log_e(wealth), axis=0) - math.log(k)
    assert crossings(combined) <= tolerated(paths)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_one_guardrail_at_its_margin_blocks_promotion(k, paths):
    process = one_sided(-1, -0.05, (0.0, 1.0), None, None)
    rng = np.random.default_rng(25)
    ones = correlated(rng, paths, k, 0.5, 0.01)
    ones[0] = rng.binomial(BATCH, 0.05, (paths, LOOKS))
    factors = process.log_factors(np.array([0.0, 1.0]))
    wealth = np.cumsum(np.stack([BATCH - ones, ones], axis=-1) @ factors, axis=2)
    together = process.log_e(wealth).min(axis=0)
    assert crossings(together) <= tolerated(paths)


def test_both_directions_share_the_rollback_error(paths):
    values, chances, bounds = law("ternary", 0.05)
    rng = np.random.default_rng(26)
    counts = rng.multinomial(BATCH, chances, size=(paths, LOOKS))
    sides = [
        side.log_e(np.cumsum(counts @ side.log_factors(values), axis=1))
        for side in (
            one_sided(1, 0.05, bounds, None, None),
            one_sided(-1, 0.05, bounds, None, None),
        )
    ]
    assert crossings(np.logaddexp(*sides) - math.log(2)) <= tolerated(paths)


@pytest.mark.parametrize("fail_rate", [0.01, 0.2])
def test_failed_pairs_never_help_either_answer(fail_rate, paths):
    values, chances, bounds = law("ternary", 0.05)
    rng = np.random.default_rng(27)
    counts = rng.multinomial(BATCH, [*(chances * (1 - fail_rate)), fail_rate], size=(paths, LOOKS))
    for process in (
        one_sided(1, 0.05, bounds, None, None),
        one_sided(-1, -0.05, bounds, None, None),
    ):
        factors = np.vstack([process.log_factors(values), process.log_failed()])
        log_e = process.log_e(np.cumsum(counts @ factors, axis=1))
        assert crossings(log_e) <= tolerated(paths)


@pytest.mark.parametrize("mean", [0.0, 0.03, -0.2])
def test_confidence_sequence_covers_at_every_look(mean, paths):
    # Coverage at `mean` is a crossing of the bets moved there; margins and plan stay where they are.
    values, chances, bounds = law("extremes", mean)
    rng = np.random.default_rng(28)
    lower = one_sided(1, 0.05, bounds, 0.02, 0.1).at(mean)
    upper = one_sided(-1, -0.05, bounds, 0.02, 0.1).at(-mean)
    assert crossings(log_e_paths(lower, values, chances, rng, paths=paths)) <= tolerated(paths)
    assert crossings(log_e_paths(upper, values, chances, rng, paths=paths)) <= tolerated(paths)


def test_reported_interval_covers_at_every_look():
    paths, looks = 120, 10
    rng = np.random.default_rng(29)
    missed = 0
    for _ in range(paths):
        track = Track(
            direction=Direction.BOTH, margin=0.02, bounds=(-1.0, 1.0), alphas=(ALPHA, ALPHA)
        )
        miss = False
        for _ in range(looks):
            track.add(rng.beta(2, 2, 60) - 0.5 + 0.01, 0)
            lower, upper = track.interval()
            miss |= not lower <= 0.01 <= upper
        missed += miss
    assert missed <= binom.ppf(0.9999, paths, 2 * ALPHA)


def run_judges(make_policy, margin, shift, paths, seed):
    """(rollbacks, promotions) of whole judges over two correlated guardrails, one of them sliced."""
    rails = (
        Guardrail(
            name="rate",
            metric=Metric.DECISION_RATE_SHIFT,
            margin=margin,
            slice_by=("tenant",),
            min_slice=100,
        ),
        Guardrail(name="flips", metric=Metric.DECISION_FLIP, margin=0.12, gating=False),
        Guardrail(name="score", metric=Metric.SCORE_SHIFT, margin=margin),
    )
    tenants = {"a": 900, "b": 900}
    counts = {"newest": WindowCounts(n=1800, slices={"tenant": tenants})}
    plan = plan_tests(make_policy(*rails), counts)
    rng = np.random.default_rng(seed)
    rollbacks = promotions = 0
    for _ in range(paths):
        judge = Judge(plan, ALPHA, ALPHA)
        promoted = False
        for _ in range(12):
            x = rng.choice([-1.0, 0.0, 1.0], 150, p=[0.05 - shift / 2, 0.9, 0.05 + shift / 2])
            nothing = np.zeros(150, np.bool_)
            seen = {
                "rate": Values(x=x, failed=nothing),
                "flips": Values(x=np.abs(x), failed=nothing),
                "score": Values(x=x * 0.5 + shift / 2, failed=nothing),
            }
            judge.update(
                "newest", seen, {"tenant": rng.choice(np.array(["a", "b"], dtype=object), 150)}
            )
            promoted |= judge.status().promote_ready
        rollbacks += judge.status().rollback
        promotions += promoted
    return rollbacks, promotions


@pytest.mark.usefixtures("few_points")
def test_whole_judge_at_the_margin_stays_below_alpha(make_policy):
    rollbacks, promotions = run_judges(make_policy, 0.03, 0.03, 60, 30)
    assert rollbacks <= tolerated(60)
    assert promotions <= tolerated(60)


@pytest.mark.usefixtures("few_points")
def test_whole_judge_finds_harm_and_harmlessness(make_policy):
    assert run_judges(make_policy, 0.03, 0.099, 12, 31) == (12, 0)
    rollbacks, promotions = run_judges(make_policy, 0.1, 0.0, 12, 32)
    assert rollbacks == 0
    assert promotions >= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
@simulated(20_000)
def test_many_paths_at_the_margin(name, runs):
    values, chances, bounds = law(name, 0.01)
    rng = np.random.default_rng(33)
    for process in (
        one_sided(1, 0.01, bounds, None, None),
        one_sided(-1, -0.01, bounds, None, None),
    ):
        log_e = log_e_paths(process, values, chances, rng, paths=runs, looks=100, batch=200)
        assert crossings(log_e) <= tolerated(runs)

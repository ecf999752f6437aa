"""Asking again: resumed evidence keeps α, restarted evidence is paid for; small losses add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from harness.core.errors import PolicyError
from harness.core.policies import Claim
from harness.core.verdicts import Decision
from harness.judge.attempts import Again, again, spent, spent_in_all
from harness.judge.betting import one_sided

LINEAGE = {"baseline": "a", "candidate": "b", "policy": "c"}
MARGIN = 0.05
PROMOTE = one_sided(-1, -MARGIN, (0.0, 1.0), 0.03, MARGIN * (1 - MARGIN))
PATHS = 2_000


def best_of_each_attempt(attempts, seed, *, looks=20, batch=100):
    """Largest log E of independent attempts at the margin, (paths, attempts); and of one resumed."""
    rng = np.random.default_rng(seed)
    ones = rng.binomial(batch, MARGIN, (PATHS, attempts, looks))
    factors = PROMOTE.log_factors(np.array([0.0, 1.0]))
    grown = np.stack([batch - ones, ones], axis=-1) @ factors
    restarted = PROMOTE.log_e(np.cumsum(grown, axis=2)).max(axis=2)
    resumed = PROMOTE.log_e(np.cumsum(grown.reshape(PATHS, attempts * looks, -1), axis=1))
    return restarted, resumed.max(axis=1)


@pytest.mark.parametrize("attempts", [5, 10])
def test_attempts_keep_the_bound_that_is_stated(attempts):
    restarted, resumed = best_of_each_attempt(attempts, attempts)
    bars = np.array([-math.log(spent(0.05, r)) for r in range(1, attempts + 1)])
    paid = int((restarted >= bars).any(axis=1).sum())
    assert paid <= binom.ppf(0.9999, PATHS, spent_in_all(0.05, attempts))
    assert int((resumed >= math.log(20)).sum()) <= binom.ppf(0.9999, PATHS, 0.05)


@pytest.mark.parametrize("attempts", [10, 20])
def test_some_gone_on_from_and_some_lost_keep_the_bound(attempts):
    """Four in five attempts find the evidence gone and start at a level of their own.

    At the full level they would err in 14 % of the runs after 10 attempts, 26 % after 20.
    """
    rng = np.random.default_rng(100 + attempts)
    looks, batch = 20, 100
    ones = rng.binomial(batch, MARGIN, (PATHS, attempts, looks))
    factors = PROMOTE.log_factors(np.array([0.0, 1.0]))
    grown = np.stack([batch - ones, ones], axis=-1) @ factors
    wealth, level = np.zeros((PATHS, grown.shape[-1])), np.ones(PATHS)
    wrong = np.zeros(PATHS, np.bool_)
    for attempt in range(attempts):
        lost = (rng.random(PATHS) < 0.8) & (attempt > 0)
        wealth[lost] = 0.0
        level += lost
        for look in range(looks):
            wealth += grown[:, attempt, look]
            wrong |= PROMOTE.log_e(wealth) >= -np.log(0.05 * 2.0 ** (1 - level))
    assert int(wrong.sum()) <= binom.ppf(0.9999, PATHS, spent_in_all(0.05, attempts))


@pytest.mark.parametrize(("attempts", "bound"), [(5, 0.05), (10, spent_in_all(0.05, 10))])
def test_restarting_at_full_level_would_break_it(attempts, bound):
    restarted, _ = best_of_each_attempt(attempts, attempts)
    free = int((restarted >= math.log(20)).any(axis=1).sum())
    assert free > binom.ppf(0.9999, PATHS, bound)


def test_the_levels_halve_and_stay_below_twice_alpha():
    assert [spent(0.04, r) for r in (1, 2, 3)] == [0.04, 0.02, 0.01]
    assert [spent_in_all(0.04, r) for r in (1, 2, 3)] == [
        pytest.approx(sum(spent(0.04, k) for k in range(1, r + 1))) for r in (1, 2, 3)
    ]
    assert spent_in_all(0.05, 60) <= 0.1


@pytest.mark.parametrize(("alpha", "attempt"), [(0.0, 1), (-0.1, 1), (1.0, 1), (0.05, 0)])
def test_levels_and_attempts_outside_their_range_are_refused(alpha, attempt):
    with pytest.raises(PolicyError):
        spent(alpha, attempt)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Again.RESUME),
        ({"answered": None}, Again.RESUME),
        ({"answered": Decision.ROLLBACK}, Again.SPEND),
        ({"answered": Decision.PROMOTE}, Again.SPEND),
        ({"claim": Claim.WINDOW}, Again.SPEND),
        ({"same_test": False}, Again.SPEND),
        ({"earlier": None}, Again.FIRST),
        ({"earlier": {**LINEAGE, "candidate": "z"}}, Again.FIRST),
    ],
    ids=["hold", "interrupted", "rollback", "promoted", "window", "no evidence", "none", "other"],
)
def test_how_an_attempt_continues(changed, expected):
    given = {"earlier": LINEAGE, "answered": Decision.HOLD, "claim": Claim.PROCESS,
             "same_test": True, **changed}  # fmt: skip
    earlier = given.pop("earlier")
    assert again(LINEAGE, earlier, **given) is expected


def test_ten_small_losses_pass_one_by_one_and_not_against_the_anchor():
    rng = np.random.default_rng(3)
    step = one_sided(-1, -0.05, (-1.0, 1.0), 0.01, 0.06)
    against = one_sided(-1, -0.1, (-1.0, 1.0), 0.05, 0.1)
    harm = one_sided(1, 0.1, (-1.0, 1.0), 0.05, 0.1)
    passed, refused, proven = 0, None, None
    for release in range(1, 11):
        x = rng.choice([-1.0, 0.0, 1.0], 20_000, p=[0.005, 0.95, 0.045])
        passed += step.log_e(step.growth(x)) >= math.log(20)
        moved = min(0.04 * release, 0.9)
        y = (rng.random(20_000) < moved).astype(np.float64)
        if refused is None and against.log_e(against.growth(y)) < math.log(20):
            refused = release
        if proven is None and harm.log_e(harm.growth(y)) >= math.log(20):
            proven = release
    assert passed == 10
    assert (refused, proven) == (3, 3)

"""Unpaired arms under a changing split: guarantee, power, defects that must show."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from simulated import simulated

from harness.core.errors import PolicyError, TrafficError
from harness.core.policies import Direction
from harness.judge.overlap import MAX_STEPS, OverlapTrack

ALPHAS = (0.05, 0.05)
BAR = math.log(20)
RAMP = (0.01, 0.05, 0.2, 0.5)
PLAN = (0.1, 0.2)


class Quiet:
    def due(self, _):
        return False


def track(margin=0.05, direction=Direction.INCREASE, bounds=(0.0, 1.0), plan=(None, None)):
    made = OverlapTrack(direction=direction, margin=margin, bounds=bounds, plan=plan, alphas=ALPHAS)
    made._looks = Quiet()
    return made


def units(rng, n, pi, base, effect, levels=0.0):
    """Arms by coin flip; outcomes 0/1 around `base` with the effect added for the candidate."""
    candidate = rng.random(n) < pi
    y = (rng.random(n) < base + levels + effect * candidate).astype(np.float64)
    return y, candidate, np.full(n, pi)


def crossings(paths, seed, *, effect, margin=0.05, direction=Direction.INCREASE, n=300, looks=4,
              drift=0.3, spoil=None, shares=RAMP):  # fmt: skip
    """(rollbacks, promotions) that ever cross; the base rate drifts upwards along the ramp."""
    rng = np.random.default_rng(seed)
    up = down = 0
    for _ in range(paths):
        test = track(margin, direction, plan=PLAN)
        rolled = promoted = False
        for step in range(len(shares) * looks):
            pi = shares[step // looks]
            base = 0.2 + drift * step / (len(shares) * looks)
            y, candidate, propensity = units(rng, n, pi, base, effect)
            if spoil is not None:
                propensity = np.full(n, spoil)
            test.add(y, candidate, propensity)
            rolled |= test.log_e_rollback() >= BAR
            promoted |= test.log_e_promote() >= BAR
        up += rolled
        down += promoted
    return up, down


def tolerated(paths):
    return binom.ppf(0.9999, paths, 0.05)


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.9))
def test_over_the_coin_flip_every_bet_is_fair_exactly_at_its_null(pi, chosen, otherwise, margin):
    # 1 + λ·π(1 − π)(Δ − margin), whatever the outcomes of the unit in either arm.
    expected = 0.0
    for candidate, chance in ((True, pi), (False, 1 - pi)):
        test = track(margin)
        y = np.array([chosen if candidate else otherwise])
        test.add(y, np.array([candidate]), np.array([pi]))
        expected = expected + chance * np.exp(test._wealth[0])
    gained = test._bets.lam * pi * (1 - pi) * (chosen - otherwise - margin)
    assert expected == pytest.approx(1 + gained, abs=1e-9)


@pytest.mark.parametrize(
    ("direction", "effect"),
    [
        (Direction.INCREASE, 0.05),
        pytest.param(Direction.DECREASE, -0.05, marks=pytest.mark.long),
    ],
)
@simulated(400, 2)
def test_false_answers_at_the_margin_stay_below_alpha_while_the_split_ramps(
    direction, effect, runs
):
    up, down = crossings(runs, 1, effect=effect, direction=direction)
    assert up <= tolerated(runs)
    assert down <= tolerated(runs)


@pytest.mark.parametrize("effect", [0.05, pytest.param(-0.05, marks=pytest.mark.long)])
@simulated(300, 2)
def test_both_directions_share_the_error(effect, runs):
    up, down = crossings(runs, 2, effect=effect, direction=Direction.BOTH)
    assert up <= tolerated(runs)
    assert down <= tolerated(runs)


def test_the_first_steps_share_for_a_whole_ramp_would_be_called_harm():
    # The planted defect: later hours, in which everybody's rate is higher and the candidate has
    # more units, then count as its effect.
    up, _ = crossings(40, 3, effect=0.0, spoil=RAMP[0], looks=8)
    assert up > 0.9 * 40


def test_a_prediction_that_has_seen_the_unit_would_hide_harm():
    # The planted defect: μ̂ moves half-way to the unit's own outcome.
    rng = np.random.default_rng(4)
    promoted = 0
    for _ in range(60):
        test = track()
        original = test._predicted
        test._predicted = lambda y, known, old=original: 0.5 * (old(y, known) + y)
        y, candidate, propensity = units(rng, 12_000, 0.5, 0.3, 0.05)
        test.add(y, candidate, propensity)
        promoted += test.log_e_promote() >= BAR
    assert promoted > tolerated(60)


def test_units_that_enter_again_with_every_request_would_be_caught():
    # The planted defect: 20 requests of a unit, all alike, each tested.
    rng = np.random.default_rng(5)
    crossed = 0
    for _ in range(100):
        test = track(plan=PLAN)
        for _ in range(10):
            test.add(*(np.repeat(column, 20) for column in units(rng, 50, 0.5, 0.3, 0.05)))
            if test.log_e_rollback() >= BAR:
                crossed += 1
                break
    assert crossed > tolerated(100)


def test_harm_and_harmlessness_are_found_over_a_ramp():
    up, down = crossings(40, 6, effect=0.25, n=600)
    assert (up, down) == (40, 0)
    up, down = crossings(40, 7, effect=-0.1, n=600)
    assert (up, down) == (0, 40)


def ipw_promotes(test_units, margin):
    """Inverse propensity weights under the same bets: the bound is 1/π of the smallest step."""
    y, candidate, propensity = test_units
    x = np.where(candidate, y / propensity, -y / (1 - propensity)) - margin
    bound = 1.0 / propensity.min() + margin
    lam = np.geomspace(0.003, 0.98, 8) / bound
    log_wealth = np.log1p(-lam[:, None] * x).sum(axis=1)
    return float(np.logaddexp.reduce(log_wealth)) - math.log(8) >= BAR


def test_a_ramp_decides_where_inverse_propensity_weights_do_not():
    rng = np.random.default_rng(8)
    mine = theirs = 0
    for _ in range(30):
        steps = [units(rng, 8_000, pi, 0.1, 0.0) for pi in (0.01, 0.05, 0.1, 0.25, 0.5)]
        together = tuple(np.concatenate(columns) for columns in zip(*steps, strict=True))
        test = track(margin=0.02)
        test.add(*together)
        mine += test.log_e_promote() >= BAR
        theirs += ipw_promotes(together, 0.02)
    assert mine >= 25
    assert theirs <= 15


def test_a_small_difference_is_found_with_about_the_planned_number_of_units():
    # .10 against .11, both arms: the bound is 22,514 units, the goal without a plan 1.7 times that.
    rng = np.random.default_rng(9)
    needed = []
    for _ in range(25):
        test = track(margin=0.0, plan=(0.01, 0.094))
        while test.log_e_rollback() < BAR:
            test.add(*units(rng, 500, 0.5, 0.10, 0.01))
        needed.append(test.n)
    assert np.mean(needed) < 1.5 * 22_514


def test_the_interval_covers_the_difference_and_agrees_with_the_verdict():
    rng = np.random.default_rng(10)
    for direction in Direction:
        test = track(margin=0.1, direction=direction)
        for pi in RAMP * 2:
            test.add(*units(rng, 2_000, pi, 0.3, 0.2))
            lower, upper = test.interval()
            assert lower <= 0.2 <= upper
        if direction is not Direction.DECREASE:
            assert test.log_e_rollback() >= BAR
            assert lower >= 0.1


def test_interval_misses_at_most_alpha_of_the_time():
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(150):
        test = track(margin=0.05)
        miss = False
        for pi in RAMP:
            test.add(*units(rng, 200, pi, 0.4, 0.03))
            lower, upper = test.interval()
            miss |= not lower <= 0.03 <= upper
        missed += miss
    assert missed <= binom.ppf(0.9999, 150, 0.1)


def test_before_any_unit_nothing_is_excluded():
    assert track().interval() == (-1.0, 1.0)


@pytest.mark.parametrize("pi", [0.0, 1.0])
def test_a_step_without_a_choice_adds_no_evidence(pi):
    test = track()
    test.add(np.ones(100), np.full(100, bool(pi)), np.full(100, pi))
    assert test.log_e_rollback() == pytest.approx(0.0, abs=1e-12)
    assert test.n == 100


def test_failed_units_help_neither_answer():
    rng = np.random.default_rng(12)
    y, candidate, propensity = units(rng, 4_000, 0.5, 0.3, 0.3)
    whole, lost = track(), track()
    whole.add(y, candidate, propensity)
    gone = rng.random(4_000) < 0.3
    lost.add(np.where(gone, np.nan, y), candidate, propensity)
    assert lost.n_failed == gone.sum()
    assert lost.log_e_rollback() < whole.log_e_rollback()
    assert lost.log_e_promote() < 0.0


def test_failures_that_hide_harm_do_not_promote():
    # Left out, these units would make the candidate's rate 0.
    rng = np.random.default_rng(13)
    y, candidate, propensity = units(rng, 6_000, 0.5, 0.4, 0.2)
    test = track(margin=0.05)
    test.add(np.where(candidate & (y == 1.0), np.nan, y), candidate, propensity)
    assert test.log_e_promote() < BAR
    assert test.log_e_rollback() < BAR


def test_cutting_into_batches_changes_only_when_one_looks():
    rng = np.random.default_rng(14)
    y, candidate, propensity = units(rng, 1_000, 0.3, 0.3, 0.1)
    whole, cut = track(), track()
    whole.add(y, candidate, propensity)
    for part in np.array_split(np.arange(1_000), 37):
        cut.add(y[part], candidate[part], propensity[part])
    assert cut.log_e_rollback() == pytest.approx(whole.log_e_rollback())
    assert cut.interval() == pytest.approx(whole.interval(), abs=1e-6)


def test_a_saved_track_goes_on_identically():
    rng = np.random.default_rng(15)
    arguments = {"direction": Direction.BOTH, "margin": 0.05, "bounds": (0.0, 1.0),
                 "alphas": ALPHAS}  # fmt: skip
    one = OverlapTrack(**arguments)
    one.add(*units(rng, 500, 0.1, 0.3, 0.0))
    other = OverlapTrack(**arguments).restore(json.loads(json.dumps(one.state())))
    more = units(rng, 700, 0.3, 0.3, 0.0)
    for test in (one, other):
        test.add(*more)
    assert other.path() == one.path()
    assert other.state() == one.state()


@pytest.mark.parametrize(
    ("y", "candidate", "propensity"),
    [
        ([1.2], [True], [0.5]),
        ([0.5], [True], [1.5]),
        ([0.5], [True], [math.nan]),
        ([0.5], [True], [0.0]),
        ([0.5], [False], [1.0]),
        ([0.5, 0.5], [True], [0.5]),
    ],
)
def test_units_that_cannot_be_are_refused(y, candidate, propensity):
    with pytest.raises(TrafficError):
        track().add(np.array(y), np.array(candidate), np.array(propensity))


def test_a_split_without_steps_is_refused():
    n = MAX_STEPS + 1
    with pytest.raises(TrafficError, match="different propensities"):
        track().add(np.zeros(n), np.zeros(n, np.bool_), np.linspace(0.1, 0.9, n))


@pytest.mark.parametrize("margin", [-0.1, 1.0, math.nan])
def test_a_margin_outside_its_range_is_refused(margin):
    with pytest.raises(PolicyError):
        track(margin=margin)


@pytest.mark.parametrize("alpha", [0.0, -0.05, 1.0])
def test_a_level_outside_its_range_is_refused(alpha):
    with pytest.raises(PolicyError):
        OverlapTrack(
            direction=Direction.INCREASE, margin=0.1, bounds=(0.0, 1.0), alphas=(0.05, alpha)
        )

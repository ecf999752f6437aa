"""Live error counts: the race between arms, its ratio's interval, and bursts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc, betaln
from scipy.stats import binom
from simulated import simulated

from harness.core.errors import PolicyError, TrafficError
from harness.judge.counts import Bursts, ErrorRatio

ALPHAS = (0.05, 0.05)
BAR = math.log(20)
RAMP = (0.01, 0.05, 0.2, 0.5)


def share(pi, ratio):
    return pi * ratio / (1 - pi + pi * ratio)


def crossings(ratio, true, paths, seed, *, shares=RAMP, per_look=15, looks=10):
    """(rollbacks, promotions) that ever cross, with the true ratio given."""
    rng = np.random.default_rng(seed)
    up = down = 0
    for _ in range(paths):
        test = ErrorRatio(ratio=ratio, alphas=ALPHAS)
        rolled = promoted = False
        for pi in shares:
            for _ in range(looks):
                candidate = rng.random(per_look) < share(pi, true)
                quiet_add(test, candidate, pi)
                rolled |= test.log_e_rollback() >= BAR
                promoted |= test.log_e_promote() >= BAR
        up += rolled
        down += promoted
    return up, down


def quiet_add(test, candidate, pi):
    """Adds without keeping looks: intervals are not what is simulated."""
    test._looks = Quiet()
    test.add(candidate, np.full(len(candidate), pi))


class Quiet:
    def due(self, _):
        return False


def test_at_equal_odds_it_is_the_one_sided_beta_mixture():
    test = ErrorRatio(ratio=1.0, alphas=ALPHAS)
    mine, theirs = 31, 19
    test.add(np.arange(50) < mine, np.full(50, 0.5))
    # ∫_{½}^1 of the Beta(2, 2) density, doubled, times the likelihood ratio against ½.
    exact = (
        betaln(2 + mine, 2 + theirs)
        + math.log(1 - betainc(2 + mine, 2 + theirs, 0.5))
        - betaln(2, 2)
        - math.log(0.5)
        + 50 * math.log(2)
    )
    assert test.log_e_rollback() == pytest.approx(exact, abs=1e-3)


@given(st.floats(0.01, 0.99), st.floats(0.2, 5.0), st.floats(0.0, 1.0))
def test_the_next_errors_arm_is_a_fair_bet_at_the_ratio_and_an_unfair_one_below(pi, ratio, below):
    def expected(true):
        total = 0.0
        for mine, chance in ((True, share(pi, true)), (False, 1 - share(pi, true))):
            test = ErrorRatio(ratio=ratio, alphas=ALPHAS)
            quiet_add(test, np.array([mine]), pi)
            total += chance * math.exp(test.log_e_rollback())
        return total

    assert expected(ratio) == pytest.approx(1.0, abs=1e-9)
    assert expected(below * ratio) <= 1.0 + 1e-9


# That no race gains on average, over a ramp, too, is proven exactly in test_judge_fair; many of them run
# against bursts in test_bench_margin.
@pytest.mark.long
@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_false_answers_at_the_tolerated_ratio_stay_below_alpha_over_a_ramp(ratio):
    up, down = crossings(ratio, ratio, 500, 1)
    assert up <= binom.ppf(0.9999, 500, 0.05)
    assert down <= binom.ppf(0.9999, 500, 0.05)


def test_shares_of_another_step_would_be_wrong():
    # The planted defect: every error is judged by the last step's share, as if no ramp had been.
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(50):
        test = ErrorRatio(ratio=1.0, alphas=ALPHAS)
        for pi in reversed(RAMP):
            quiet_add(test, rng.random(100) < pi, RAMP[0])
        wrong += test.log_e_rollback() >= BAR
    assert wrong == 50


def test_harm_and_harmlessness_are_found():
    up, _ = crossings(1.5, 4.0, 40, 3)
    _, down = crossings(3.0, 1.0, 40, 4, per_look=40)
    assert up == 40
    assert down >= 38


def test_the_interval_covers_and_agrees_with_the_verdict():
    rng = np.random.default_rng(5)
    test = ErrorRatio(ratio=1.5, alphas=ALPHAS)
    assert test.interval() == (0.0, math.inf)
    for _ in range(30):
        test.add(rng.random(60) < share(0.2, 2.5), np.full(60, 0.2))
        lower, upper = test.interval()
        assert lower < 2.5 < upper
        assert (lower >= 1.5) == (test.log_e_rollback() >= BAR)
    assert lower > 1.5


def test_errors_at_a_share_of_nothing_or_all_prove_nothing():
    test = ErrorRatio(ratio=1.5, alphas=ALPHAS)
    test.add(np.zeros(500, np.bool_), np.zeros(500))
    assert (test.log_e_rollback(), test.log_e_promote()) == (0.0, 0.0)
    with pytest.raises(TrafficError):
        test.add(np.ones(1, np.bool_), np.zeros(1))


def test_a_saved_test_goes_on_identically():
    rng = np.random.default_rng(6)
    one = ErrorRatio(ratio=2.0, alphas=ALPHAS)
    one.add(rng.random(100) < 0.4, np.full(100, 0.2))
    other = ErrorRatio(ratio=2.0, alphas=ALPHAS).restore(json.loads(json.dumps(one.state())))
    more = rng.random(70) < 0.3
    for test in (one, other):
        test.add(more, np.full(70, 0.1))
    assert other.path() == one.path()
    assert other.interval() == one.interval()


def outages(rng, rates, pi, hours=120.0):
    """Error times (ns) and arms: Poisson outages per arm, each 1–40 errors within a second."""
    times, arms = [], []
    for arm, rate in enumerate(rates):
        starts = rng.uniform(0, hours * 3600, rng.poisson(hours * rate * (pi if arm else 1 - pi)))
        for start in starts:
            k = rng.integers(1, 40)
            times.append(start + np.sort(rng.uniform(0, 1.0, k)))
            arms.append(np.full(k, bool(arm)))
    order = np.argsort(np.concatenate(times), kind="stable")
    at = (np.concatenate(times)[order] * 1e9).astype(np.int64)
    return at, np.concatenate(arms)[order]


def burst_crossings(gap_s, paths, seed):
    rng = np.random.default_rng(seed)
    crossed = 0
    for _ in range(paths):
        at, arms = outages(rng, (4.0, 4.0), 0.2)
        bursts = Bursts(gap_s, 60.0)
        test = ErrorRatio(ratio=1.0, alphas=ALPHAS)
        counted = arms[bursts.starts(at)]
        for piece in np.array_split(counted, 60):
            quiet_add(test, piece, 0.2)
            if test.log_e_rollback() >= BAR:
                crossed += 1
                break
    return crossed


@simulated(200, 2)
def test_outages_counted_once_are_no_harm(runs):
    assert burst_crossings(5.0, runs, 7) <= binom.ppf(0.9999, runs, 0.05)


@simulated(60, 3)
def test_outages_counted_error_by_error_would_be(runs):
    assert burst_crossings(0.0, runs, 7) > 0.5 * runs


def test_a_pause_of_each_arms_own_would_accuse_the_small_arm():
    # Dense errors, equal rates, 10 % of traffic: the busier arm's own pause hides more of them.
    rng = np.random.default_rng(8)
    at = np.sort(rng.uniform(0, 40_000e9, 40_000).astype(np.int64))
    arms = rng.random(40_000) < 0.1
    together = arms[Bursts(2.0, 2.0).starts(at)]
    apart = [Bursts(2.0, 2.0).starts(at[arms == arm]).sum() for arm in (False, True)]
    own = ErrorRatio(ratio=1.0, alphas=ALPHAS)
    own.add(np.arange(sum(apart)) < apart[1], np.full(sum(apart), 0.1))
    shared = ErrorRatio(ratio=1.0, alphas=ALPHAS)
    shared.add(together, np.full(len(together), 0.1))
    assert own.log_e_rollback() > 10
    assert shared.log_e_rollback() < BAR


def test_a_burst_ends_and_a_long_one_counts_again():
    seconds = np.array([0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21])
    marks = Bursts(3.0, 10.0).starts(seconds * 10**9)
    assert seconds[marks].tolist() == [0, 10, 20]


def test_bursts_go_on_after_a_restart():
    at = np.array([0, 1, 2, 8, 9, 30]) * 10**9
    whole = Bursts(3.0, 10.0).starts(at)
    first = Bursts(3.0, 10.0)
    head = first.starts(at[:2])
    tail = Bursts(3.0, 10.0).restore(json.loads(json.dumps(first.state()))).starts(at[2:])
    assert np.concatenate([head, tail]).tolist() == whole.tolist()


def test_errors_out_of_order_are_refused():
    with pytest.raises(TrafficError):
        Bursts(1.0, 2.0).starts(np.array([5, 4]))


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(PolicyError):
        ErrorRatio(ratio=ratio, alphas=ALPHAS)


@pytest.mark.parametrize("alphas", [(0.0, 0.05), (0.05, -1.0)])
def test_a_level_outside_its_range_is_refused(alphas):
    with pytest.raises(PolicyError):
        ErrorRatio(ratio=2.0, alphas=alphas)


@pytest.mark.parametrize("pi", [-0.1, 1.1, math.nan])
def test_a_share_outside_its_range_is_refused(pi):
    with pytest.raises(TrafficError):
        ErrorRatio(ratio=2.0, alphas=ALPHAS).add(np.ones(1, np.bool_), np.full(1, pi))


def test_lengths_that_differ_are_refused():
    with pytest.raises(TrafficError):
        ErrorRatio(ratio=2.0, alphas=ALPHAS).add(np.ones(2, np.bool_), np.full(1, 0.5))


@pytest.mark.parametrize("pair", [(-1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_bursts_outside_their_range_are_refused(pair):
    with pytest.raises(PolicyError):
        Bursts(*pair)

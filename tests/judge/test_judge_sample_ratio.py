"""The declared split: published numbers, its guarantee, and what it must notice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from harness.core.errors import PolicyError, TrafficError
from harness.judge.sample_ratio import SampleRatio


def first_stop(draws, shares, alpha):
    """(n, p) at the first unit where the always-valid p-value is at most alpha."""
    test = SampleRatio(alpha=alpha, concentration=100.0)
    for n, draw in enumerate(draws, 1):
        test.add(shares, draw)
        if test.failed():
            return n, test.p_value()
    return None


@pytest.mark.parametrize(
    ("drawn", "declared", "n", "p"),
    [
        ([0.1, 0.3, 0.6], [0.1, 0.4, 0.5], 402, 0.04845591105969517),
        (
            np.array([0.8, 0.2]) * np.exp([1.5, 2]) / (np.array([0.8, 0.2]) @ np.exp([1.5, 2])),
            [0.8, 0.2],
            210,
            0.045579631759249686,
        ),
    ],
    ids=["three arms", "two Poisson processes"],
)
def test_published_examples_stop_where_they_did(drawn, declared, n, p):
    draws = np.random.RandomState(1).multinomial(1, drawn, size=1000)
    stopped, found = first_stop(draws, declared, 0.05)
    assert stopped == n
    assert found == pytest.approx(p, abs=1e-10)


def crossing_rate(true, declared, paths, alpha, seed):
    rng = np.random.default_rng(seed)
    crossed = 0
    for _ in range(paths):
        test = SampleRatio(alpha=alpha)
        for pi, tau in zip(declared, true, strict=True):
            for mine in rng.binomial(200, tau, 8):
                test.add((1 - pi, pi), (200 - mine, mine))
        crossed += test.failed()
    return crossed


RAMP = (0.01, 0.05, 0.2, 0.5)


def test_a_working_split_over_a_ramp_is_not_called_broken():
    # At α = 0.05, so that the bound can be exceeded in 600 paths.
    assert crossing_rate(RAMP, RAMP, 600, 0.05, 1) <= binom.ppf(0.9999, 600, 0.05)


def test_one_share_for_a_whole_ramp_would_be_called_broken():
    # The planted defect: all steps tested against the mean share.
    mean = (float(np.mean(RAMP)),) * 4
    assert crossing_rate(RAMP, mean, 50, 0.001, 2) == 50


def test_a_lost_tenth_of_one_arm_is_noticed():
    rng = np.random.default_rng(3)
    test = SampleRatio()
    for _ in range(40):
        mine = rng.binomial(500, 0.45 / 0.95)
        test.add((0.5, 0.5), (500 - mine, mine))
    assert test.failed()
    assert test.p_value() < 0.001


def test_a_failure_stays_and_counts_are_kept_by_step():
    test = SampleRatio()
    test.add((0.5, 0.5), (200, 0))
    assert test.failed()
    test.add((0.5, 0.5), (0, 200))
    assert test.failed()
    assert test.counts() == (((0.5, 0.5), (200, 200)),)


def test_a_unit_in_an_arm_without_a_share_is_proof():
    test = SampleRatio()
    test.add((1.0, 0.0), (10, 0))
    assert test.p_value() == 1.0
    test.add((1.0, 0.0), (0, 1))
    assert test.log_e() == math.inf
    assert test.failed()


def test_cutting_changes_nothing_at_the_end_and_a_saved_test_goes_on():
    whole, cut = SampleRatio(), SampleRatio()
    whole.add((0.9, 0.1), (900, 130))
    cut.add((0.9, 0.1), (400, 90))
    cut = SampleRatio().restore(cut.state())
    cut.add((0.9, 0.1), (500, 40))
    assert cut.log_e() == whole.log_e()


@pytest.mark.parametrize(
    ("shares", "counts"),
    [((0.5, 0.6), (1, 1)), ((math.nan, 0.5), (1, 1)), ((1.5, -0.5), (1, 1)), ((0.5, 0.5), (1,)),
     ((0.5, 0.5), (-1, 2))],
)  # fmt: skip
def test_impossible_counts_are_refused(shares, counts):
    with pytest.raises(TrafficError):
        SampleRatio().add(shares, counts)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.0, math.nan])
def test_a_level_outside_its_range_is_refused(alpha):
    with pytest.raises(PolicyError):
        SampleRatio(alpha=alpha)

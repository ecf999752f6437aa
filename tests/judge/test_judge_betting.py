from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judge.betting import CAP, one_sided

BOUNDS = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-0.25, 0.25)])
MARGINS = st.sampled_from([1e-5, 0.001, 0.005, 0.05, 0.2])
PLANS = st.sampled_from([(None, None), (0.004, 0.005), (0.05, 0.1)])


def both_ways(bounds, margin, plan):
    return [one_sided(1, margin, bounds, *plan), one_sided(-1, -margin, bounds, *plan)]


@given(BOUNDS, MARGINS, PLANS)
def test_no_bet_can_be_ruined_and_weights_sum_to_one(bounds, margin, plan):
    for process in both_ways(bounds, margin, plan):
        worst = process.log_factors(np.array([process.sign * process.low]))
        assert (worst >= np.log(1.0 - CAP) - 1e-9).all()
        assert (process.lam > 0.0).all()
        assert np.exp(process.log_weight).sum() == pytest.approx(1.0)


@given(BOUNDS, MARGINS, PLANS, st.floats(0.0, 1.0))
def test_expected_factor_under_the_null_is_at_most_one(bounds, margin, plan, depth):
    # Two-point laws on the bounds have the largest expectation at a given mean.
    for process in both_ways(bounds, margin, plan):
        mean = process.low + depth * (process.m - process.low)
        top = (mean - process.low) / (process.high - process.low)
        ends = process.sign * np.array([process.low, process.high])
        expected = np.array([1.0 - top, top]) @ np.exp(process.log_factors(ends))
        assert (expected <= 1.0 + 1e-9).all()


@given(BOUNDS, MARGINS, PLANS, st.integers(0, 2**32), st.integers(0, 300))
def test_growth_is_the_sum_of_log_factors(bounds, margin, plan, seed, n):
    x = np.random.default_rng(seed).uniform(*bounds, n)
    for process in both_ways(bounds, margin, plan):
        assert process.growth(x) == pytest.approx(process.log_factors(x).sum(axis=0), abs=1e-9)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 400), max_size=4))
def test_wealth_does_not_depend_on_how_traffic_is_cut(seed, cuts):
    x = np.random.default_rng(seed).uniform(-1, 1, 400)
    process = one_sided(1, 0.05, (-1.0, 1.0), None, None)
    pieces = np.split(x, sorted(cuts))
    assert sum(process.growth(piece) for piece in pieces) == pytest.approx(process.growth(x))


def test_growth_over_leading_axes_equals_one_path_at_a_time():
    x = np.random.default_rng(1).uniform(0, 1, (3, 2, 100))
    process = one_sided(-1, -0.2, (0.0, 1.0), 0.1, 0.16)
    many = process.growth(x)
    assert many.shape == (3, 2, 12)
    assert many[2, 1] == pytest.approx(process.growth(x[2, 1]))


def test_products_of_rare_large_factors_do_not_overflow():
    process = one_sided(1, 1e-9, (0.0, 1.0), None, None)
    x = np.ones(1000)
    assert process.growth(x) == pytest.approx(process.log_factors(x).sum(axis=0))


@given(BOUNDS, MARGINS, PLANS, st.integers(0, 2**32))
def test_evidence_falls_as_the_null_rises(bounds, margin, plan, seed):
    x = np.random.default_rng(seed).uniform(*bounds, 50)
    for process in both_ways(bounds, margin, plan):
        nulls = np.linspace(process.low, process.high, 40)
        logs = [float(process.at(m).log_e(process.at(m).growth(x))) for m in nulls]
        assert (np.diff(logs) <= 1e-9).all()


def test_planned_bets_are_the_growth_optimal_one_and_its_neighbours():
    process = one_sided(-1, -0.005, (0.0, 1.0), 0.004, 0.005 * 0.995)
    best = 0.004 / (0.005 * 0.995 + 0.004**2)
    assert process.lam[:3] == pytest.approx(best * np.array([0.25, 0.5, 1.0]))
    assert process.lam[3] == pytest.approx(CAP / 0.995)
    assert np.exp(process.log_weight[:4]) == pytest.approx(0.75 * np.array([0.1, 0.2, 0.4, 0.3]))


def test_a_failed_observation_counts_as_the_worst_value():
    for process in both_ways((-1.0, 1.0), 0.05, (None, None)):
        worst = np.array([process.sign * process.low])
        assert process.log_failed() == pytest.approx(process.log_factors(worst)[0])

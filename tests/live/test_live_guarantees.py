"""Whole canaries by simulation: α holds at the margins, and every planted harm is rolled back."""

import pytest
from scipy.stats import binom

from harness.bench.canary import HARMS, MARGINS, live_of_bench, run_canary
from harness.core.verdicts import Decision

LIVE = live_of_bench()


def answers(harm, runs, most, seed=100):
    return [run_canary(LIVE, harm, seed + i, most).decision for i in range(runs)]


def tolerated(runs):
    return binom.ppf(0.9999, runs, 0.05)


def test_a_candidate_exactly_at_every_margin_is_seldom_rolled_back_or_promoted():
    found = answers(MARGINS, 8, 3_000)
    assert found.count(Decision.ROLLBACK) <= tolerated(8)
    assert found.count(Decision.PROMOTE) <= tolerated(8)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
def test_a_planted_harm_is_rolled_back(harm):
    assert answers(harm, 3, 8_000) == [Decision.ROLLBACK] * 3


@pytest.mark.long
def test_the_bench_keeps_its_limits():
    from harness.bench.canary import bench_canary

    figures = bench_canary()
    assert figures.within_limits, figures.to_text()

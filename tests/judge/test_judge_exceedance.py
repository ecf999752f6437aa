from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from harness.core.errors import GateError
from harness.core.policies import METRIC_BOUNDS, Metric
from harness.judge.betting import Joint, one_sided
from harness.judge.exceedance import exceedance_cut, exceedances

BAR = math.log(20)
RATIO = 0.1
PATHS = 200


def latencies(rng, n, slower):
    """Heavy-tailed pairs with a common part; the candidate is the baseline times `slower` in law."""
    common = rng.lognormal(0.0, 0.5, n)
    return 0.01 * common * rng.lognormal(0, 0.4, n), 0.01 * slower * common * rng.lognormal(
        0, 0.4, n
    )


def crossings(x_of, paths, margin, bounds, seed):
    """(false or true) rollbacks and promotions of `paths` runs."""
    rng, looks, batch = np.random.default_rng(seed), 20, 400
    sides = [one_sided(s, s * margin, bounds, None, None) for s in (1, -1)]
    joint, found = Joint(sides), [0, 0]
    for _ in range(paths):
        x = x_of(rng, looks * batch)
        wealth, crossed = [np.zeros(len(s.lam)) for s in sides], [False, False]
        for part in np.split(x, looks):
            wealth = [w + g for w, g in zip(wealth, joint.growth(part), strict=True)]
            for i, side in enumerate(sides):
                crossed[i] |= float(side.log_e(wealth[i])) >= BAR
        found = [count + hit for count, hit in zip(found, crossed, strict=True)]
    return found


def paired(slower):
    def draw(rng, n):
        earlier, _ = latencies(rng, 2000, 1.0)
        old, new = latencies(rng, n, slower)
        cut = exceedance_cut(earlier, RATIO)
        return exceedances(old, new, np.zeros(n, np.bool_), cut_s=cut, ratio=RATIO).x

    return draw


def test_a_quantile_exactly_at_its_ratio_is_seldom_called_wrong():
    wrong = crossings(paired(1.0 + RATIO), PATHS, 0.0, METRIC_BOUNDS[Metric.LATENCY_P99], 80)
    assert max(wrong) <= binom.ppf(0.9999, PATHS, 0.05)


def test_the_same_bound_catches_a_quantile_that_is_plugged_in():
    def plugged(rng, n):
        earlier, _ = latencies(rng, 1000, 1.0)
        _, new = latencies(rng, n, 1.0 + RATIO)
        return (new > exceedance_cut(earlier, RATIO)).astype(np.float64)

    wrong = crossings(plugged, PATHS, 0.01, (0.0, 1.0), 81)
    assert sum(wrong) > binom.ppf(0.9999, PATHS, 0.1)


def test_a_much_slower_candidate_is_found_and_an_equal_one_passes():
    assert crossings(paired(2.0), 30, 0.0, METRIC_BOUNDS[Metric.LATENCY_P99], 82)[0] == 30
    passed = crossings(paired(0.8), 30, 0.0, METRIC_BOUNDS[Metric.LATENCY_P99], 83)
    assert passed[0] == 0
    assert passed[1] >= 28


def test_values_say_who_lies_beyond_the_cut():
    old = np.array([1.0, 1.0, 2.0, 2.0])
    new = np.array([1.0, 3.0, 1.0, 3.0])
    found = exceedances(old, new, np.zeros(4, np.bool_), cut_s=2.1, ratio=RATIO)
    assert found.x.tolist() == [0.0, 1.0, -1.0, 0.0]


def test_what_was_not_measured_does_not_enter_and_what_failed_counts():
    old = np.array([1.0, np.nan, 1.0, -1.0, np.nan])
    new = np.array([np.nan, 1.0, 1.0, 1.0, np.nan])
    gone = np.array([False, False, True, False, True])
    found = exceedances(old, new, gone, cut_s=2.0, ratio=RATIO)
    assert np.isnan(found.x).all()
    assert found.failed.tolist() == [False, False, True, False, False]
    assert found.left_out == (("not_measured", 4),)


@pytest.mark.parametrize(
    "call",
    [
        lambda: exceedance_cut(np.ones(499), RATIO),
        lambda: exceedance_cut(np.full(1000, np.nan), RATIO),
        lambda: exceedance_cut(np.zeros(1000), RATIO),
        lambda: exceedance_cut(np.ones(1000), 0.0),
        lambda: exceedance_cut(np.ones(1000), RATIO, 1.0),
        lambda: exceedances(np.ones(2), np.ones(3), np.zeros(2, np.bool_), cut_s=1, ratio=RATIO),
        lambda: exceedances(np.ones(2), np.ones(2), np.zeros(2, np.bool_), cut_s=0, ratio=RATIO),
    ],
)
def test_what_has_no_meaning_is_refused(call):
    with pytest.raises(GateError, match="latency_p99"):
        call()

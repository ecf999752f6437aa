"""Units of tables: means, blocks, size-weighted draws; and why they are needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from harness.core.errors import TrafficError, UsageError
from harness.core.policies import Direction
from harness.judge.betting import one_sided
from harness.judge.metrics import Values
from harness.judge.track import Track
from harness.judge.units import (
    is_block,
    size_weighted_draws,
    unit_arms,
    unit_means,
    units_of_blocks,
    units_of_column,
)

BAR = math.log(20)
HOUR = 3_600_000_000_000


def values(x, failed=None):
    x = np.asarray(x, np.float64)
    return Values(x=x, failed=np.zeros(len(x), np.bool_) if failed is None else np.array(failed))


def tolerated(paths):
    return binom.ppf(0.9999, paths, 0.05)


def crossings(samples, process, looks):
    """Rows of `samples` whose log E ever crosses, looked at in `looks` equal parts."""
    wealth = np.stack([process.growth(part) for part in np.array_split(samples, looks, axis=1)])
    return int((process.log_e(np.cumsum(wealth, axis=0)) >= BAR).any(axis=0).sum())


def test_a_unit_is_the_mean_of_its_requests_in_order_of_first_request():
    units = units_of_column(np.array(["b", "a", "b", "c"], object))
    found = unit_means(values([0.0, 1.0, 1.0, 0.25]), units)
    assert found.x.tolist() == [0.5, 1.0, 0.25]
    assert units.sizes.tolist() == [2, 1, 1]


def test_requests_that_do_not_enter_are_not_averaged():
    units = units_of_column(np.array([1, 1, 2]))
    found = unit_means(values([0.5, math.nan, math.nan]), units)
    assert found.x[0] == 0.5
    assert np.isnan(found.x[1])
    assert not found.failed.any()


def test_a_unit_with_a_failed_request_has_failed():
    units = units_of_column(np.array([1, 1, 2]))
    found = unit_means(values([0.5, math.nan, 0.1], [False, True, False]), units)
    assert found.failed.tolist() == [True, False]
    assert np.isnan(found.x[0])


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(-1, 1)), max_size=60))
def test_unit_means_lie_within_bounds_and_weigh_up_to_the_request_mean(rows):
    codes = np.array([code for code, _ in rows], np.int64)
    x = np.array([value for _, value in rows], np.float64)
    units = units_of_column(codes)
    found = unit_means(values(x), units)
    assert np.all(np.abs(found.x) <= 1.0 + 1e-12)
    assert found.x @ units.sizes == pytest.approx(x.sum(), abs=1e-9)


def test_blocks_are_hours_of_the_clock():
    units = units_of_blocks(np.array([0, HOUR - 1, HOUR, 5 * HOUR]), "1h")
    assert units.code.tolist() == [0, 0, 1, 2]
    assert is_block("1h")
    assert not is_block("user")
    assert not is_block("1st_party_id")


def test_a_unit_keeps_the_arm_and_the_step_of_its_first_row():
    units = units_of_column(np.array(["b", "a", "b", "a"], object))
    arms = unit_arms(np.array([True, False, False, False]), np.array([0.1, 0.1, 0.5, 0.5]), units)
    assert arms.candidate.tolist() == [True, False]
    assert arms.propensity.tolist() == [0.1, 0.1]
    assert arms.counts.tolist() == [True, True, False, True]
    with pytest.raises(TrafficError):
        unit_arms(np.array([True]), np.array([0.1]), units)


@pytest.mark.parametrize("duration", ["0h", "1 hour", "h"])
def test_blocks_without_a_length_are_refused(duration):
    with pytest.raises(UsageError):
        units_of_blocks(np.zeros(1, np.int64), duration)


@pytest.mark.parametrize("missing", [None, "", math.nan])
def test_requests_without_a_unit_are_refused(missing):
    with pytest.raises(TrafficError, match="1 of 2"):
        units_of_column(np.array(["a", missing], object))


def test_another_number_of_requests_is_refused():
    units = units_of_column(np.array([1, 2]))
    with pytest.raises(TrafficError):
        unit_means(values([0.1]), units)


def test_an_empty_table_has_no_units():
    units = units_of_column(np.zeros(0, np.int64))
    assert len(unit_means(values([]), units).x) == 0
    assert len(size_weighted_draws(values([]), units, 10, np.random.default_rng(1)).x) == 0


def clustered(rng, paths, users=150, each=20, mean=0.05):
    """0/1 requests of users with ICC ½: Beta(a, b) rates with a + b = 1."""
    rates = rng.beta(mean, 1.0 - mean, (paths, users))
    return (rng.random((paths, users, each)) < rates[..., None]).astype(np.float64)


def test_user_means_keep_the_level_that_requests_lose():
    rng = np.random.default_rng(1)
    x = clustered(rng, 400)
    process = one_sided(1, 0.05, (0.0, 1.0), 0.05, 0.0475)
    by_user = unit_means(values(x[0].ravel()), units_of_column(np.repeat(np.arange(150), 20)))
    assert by_user.x == pytest.approx(x[0].mean(axis=1))
    assert crossings(x.mean(axis=2), process, 15) <= tolerated(400)
    assert crossings(x.reshape(400, -1), process, 15) > tolerated(400)


def test_size_weighted_draws_test_the_request_mean_exactly():
    # 2 % of users make most of the traffic and all of the flips: user means hide them.
    rng = np.random.default_rng(2)
    sizes = np.where(np.arange(500) < 10, 500, 10)
    units = units_of_column(np.repeat(np.arange(500), sizes))
    x = (rng.random(sizes.sum()) < np.where(units.code < 10, 0.05, 0.0)).astype(np.float64)
    margin = x.mean()
    assert unit_means(values(x), units).x.mean() < 0.1 * margin
    promote = one_sided(-1, -margin, (0.0, 1.0), None, None)
    rollback = one_sided(1, margin, (0.0, 1.0), None, None)
    draws = np.stack([size_weighted_draws(values(x), units, 1500, rng).x for _ in range(400)])
    assert crossings(draws, promote, 10) <= tolerated(400)
    assert crossings(draws, rollback, 10) <= tolerated(400)


def test_user_means_would_promote_what_requests_forbid():
    rng = np.random.default_rng(3)
    sizes = np.where(np.arange(2_000) < 20, 1_000, 10)
    units = units_of_column(np.repeat(np.arange(2_000), sizes))
    x = (rng.random(sizes.sum()) < np.where(units.code < 20, 0.03, 0.0)).astype(np.float64)
    assert x.mean() > 0.012
    promote = one_sided(-1, -0.01, (0.0, 1.0), 0.009, 0.01)
    means = unit_means(values(x), units).x
    assert promote.log_e(promote.growth(means)) >= BAR
    draws = size_weighted_draws(values(x), units, 2_000, rng).x
    assert promote.log_e(promote.growth(draws)) < 0.0


def autocorrelated(rng, paths, n, phi):
    """AR(1) with standard normal margins, squeezed into (−1, 1), mean exactly 0.05 as a process."""
    z = np.empty((paths, n))
    z[:, 0] = rng.standard_normal(paths)
    noise = rng.standard_normal((paths, n)) * math.sqrt(1 - phi**2)
    for i in range(1, n):
        z[:, i] = phi * z[:, i - 1] + noise[:, i]
    return 0.05 + 0.3 * np.tanh(z)


def test_time_blocks_keep_the_level_that_single_requests_lose_under_autocorrelation():
    # φ = .9: 100 requests an hour, blocks of 4 hours against single requests.
    rng = np.random.default_rng(4)
    x = autocorrelated(rng, 300, 12_000, 0.9)
    ts_ns = np.arange(12_000) * (HOUR // 100)
    blocks = units_of_blocks(ts_ns, "4h")
    assert blocks.n_units == 30
    means = np.stack([unit_means(values(row), blocks).x for row in x])
    for sign in (1, -1):
        over_blocks = one_sided(sign, sign * 0.05, (-1.0, 1.0), 0.03, 0.003)
        over_requests = one_sided(sign, sign * 0.05, (-1.0, 1.0), 0.03, 0.04)
        assert crossings(means, over_blocks, 10) <= tolerated(300)
        assert crossings(x, over_requests, 10) > tolerated(300)


def test_blocks_in_a_drawn_order_keep_the_level_about_their_own_window():
    # One window of 200 hourly blocks, its own mean at the margin, blocks drawn with replacement.
    rng = np.random.default_rng(5)
    x = autocorrelated(rng, 1, 20_000, 0.9)[0]
    blocks = units_of_blocks(np.arange(20_000) * (HOUR // 100), "1h")
    for sign in (1, -1):
        process = one_sided(sign, sign * x.mean(), (-1.0, 1.0), 0.03, 0.01)
        draws = np.stack([size_weighted_draws(values(x), blocks, 300, rng).x for _ in range(300)])
        assert crossings(draws, process, 10) <= tolerated(300)


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("sign", [1, -1])
def test_a_window_claim_about_blocks_keeps_its_level_under_autocorrelation(sign):
    # φ = .9: all 200 hours of one window, each once, in an order that is drawn for each gate.
    rng = np.random.default_rng(6)
    x = autocorrelated(rng, 1, 20_000, 0.9)[0]
    blocks = units_of_blocks(np.arange(20_000) * (HOUR // 100), "1h")
    means = unit_means(values(x), blocks).x
    rollbacks = promotions = 0
    for _ in range(120):
        track = Track(
            direction=Direction.INCREASE if sign > 0 else Direction.DECREASE,
            margin=0.05,
            bounds=(-1.0, 1.0),
            plan=(0.03, 0.01),
            alphas=(0.05, 0.05),
            population=200,
        )
        # The window's own mean exactly at the margin; the last block is never seen.
        drawn = rng.permutation(means - means.mean() + sign * 0.05)
        rolled = promoted = False
        for part in np.array_split(drawn[:-1], 10):
            track.add(part, 0)
            rolled |= track.log_e_rollback() >= BAR
            promoted |= track.log_e_promote() >= BAR
        rollbacks += rolled
        promotions += promoted
    assert rollbacks <= tolerated(120)
    assert promotions <= tolerated(120)


def test_a_block_longer_than_all_time_holds_everything_and_one_without_end_is_refused():
    found = units_of_blocks(np.array([0, 10**18], np.int64), "400000d")
    assert found.n_units == 1
    with pytest.raises(UsageError, match="longer than anything lasts"):
        units_of_blocks(np.array([0], np.int64), "9" * 400 + "d")

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.policies import Direction
from harness.judge.sequences import STEPS, Spread
from harness.judge.track import MAX_POINTS, Track

ALPHAS = (0.05, 0.05)


def track(direction=Direction.INCREASE, margin=0.05, bounds=(-1.0, 1.0), alphas=ALPHAS, **more):
    return Track(direction=direction, margin=margin, bounds=bounds, alphas=alphas, **more)


@given(st.integers(0, 2**32), st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]))
def test_spread_keeps_count_and_mean_exactly(seed, bounds):
    x = np.random.default_rng(seed).uniform(*bounds, 100)
    spread = Spread(bounds)
    spread.add(x)
    nodes, weights = spread.nodes()
    assert weights.sum() == pytest.approx(100)
    assert nodes @ weights == pytest.approx(x.sum())


def test_spread_keeps_minus_one_zero_and_one_exactly():
    spread = Spread((-1.0, 1.0))
    spread.add(np.array([-1.0, 0.0, 0.0, 1.0]))
    nodes, weights = spread.nodes()
    assert nodes.tolist() == [-1.0, 0.0, 1.0]
    assert weights.tolist() == [1.0, 2.0, 1.0]


def test_spread_does_not_grow_with_the_data():
    spread = Spread((0.0, 1.0))
    spread.add(np.random.default_rng(0).uniform(0, 1, 50_000))
    assert len(spread.nodes()[0]) <= STEPS + 1


DIRECTIONS = st.sampled_from(list(Direction))


@given(DIRECTIONS, st.floats(-0.3, 0.3), st.integers(0, 2**32), st.integers(0, 20))
def test_limits_say_what_the_e_values_say(direction, mean, seed, n_failed):
    seen = track(direction)
    rng = np.random.default_rng(seed)
    seen.add(np.clip(rng.normal(mean, 0.1, 400), -1, 1), n_failed)
    lower, upper = seen.interval()
    passes = seen.log_e_promote() >= math.log(20)
    inside = {
        Direction.INCREASE: upper <= 0.05,
        Direction.DECREASE: lower >= -0.05,
        Direction.BOTH: lower >= -0.05 and upper <= 0.05,
    }[direction]
    assert inside == passes
    beyond = {
        Direction.INCREASE: lower >= 0.05,
        Direction.DECREASE: upper <= -0.05,
        Direction.BOTH: lower >= 0.05 or upper <= -0.05,
    }[direction]
    if direction is Direction.BOTH:
        # One side at α/2 may cross a moment before the average of both, never after.
        assert not (beyond and seen.log_e_rollback() < math.log(20) - 1e-6)
    else:
        assert beyond == (seen.log_e_rollback() >= math.log(20))


@given(DIRECTIONS, st.integers(0, 2**32), st.integers(1, 300))
def test_interval_holds_the_mean_of_its_own_data(direction, seed, n):
    x = np.random.default_rng(seed).beta(1, 6, n)
    seen = track(direction)
    seen.add(x, 0)
    lower, upper = seen.interval()
    assert -1.0 <= lower <= x.mean() <= upper <= 1.0


def test_limits_between_grid_points_are_wider_by_next_to_nothing():
    rng = np.random.default_rng(5)
    x = np.clip(rng.normal(0.0103, 0.05, 20_000), -1, 1)
    snapped = np.round((x + 1.0) * STEPS / 2) * 2 / STEPS - 1.0
    off_grid, on_grid = track(), track()
    off_grid.add(x, 0)
    on_grid.add(snapped, 0)
    assert off_grid.interval() == pytest.approx(on_grid.interval(), abs=2e-5)


def test_nothing_seen_excludes_nothing():
    assert track().interval() == (-1.0, 1.0)
    assert track().path() == ()


def test_failed_pairs_widen_the_interval_on_both_sides():
    clean, failing = track(), track()
    clean.add(np.zeros(1000), 0)
    failing.add(np.zeros(1000), 30)
    (low, high), (lower, higher) = clean.interval(), failing.interval()
    assert lower < low
    assert higher > high


def test_all_failed_never_passes_nor_fails():
    seen = track(Direction.BOTH)
    seen.add(np.empty(0), 5000)
    assert seen.log_e_promote() < 0.0
    assert seen.log_e_rollback() < 0.0


def test_path_is_thinned_and_ends_at_the_last_look():
    seen = track(bounds=(0.0, 1.0))
    for _ in range(9):
        seen.add(np.zeros(1), 0)
    assert [point.n for point in seen.path()] == list(range(1, 10))
    for _ in range(3000):
        seen.add(np.zeros(1000), 0)
    path = seen.path()
    assert len(path) <= MAX_POINTS
    assert path[-1].n == seen.n == 3_000_009
    assert path[-1] == seen.point()


@given(DIRECTIONS, st.integers(0, 2**32))
def test_saved_track_continues_identically(direction, seed):
    rng = np.random.default_rng(seed)
    batches = [rng.uniform(-1, 1, 64) for _ in range(4)]
    whole = track(direction)
    for i, batch in enumerate(batches):
        whole.add(batch, i)
    first = track(direction)
    for i, batch in enumerate(batches[:2]):
        first.add(batch, i)
    second = track(direction).restore(json.loads(json.dumps(first.state())))
    for i, batch in enumerate(batches[2:], 2):
        second.add(batch, i)
    assert second.state() == whole.state()
    assert second.path() == whole.path()


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (-0.3, 0.7)])
def test_zeros_weigh_on_the_grid_what_values_next_to_them_do(bounds):
    zeros, beside = Spread(bounds), Spread(bounds)
    zeros.add(np.array([0.0] * 5 + [0.1]))
    beside.add(np.array([1e-13] * 5 + [0.1]))
    (at, weight), (at_beside, weight_beside) = zeros.nodes(), beside.nodes()
    assert weight.sum() == pytest.approx(6.0)
    assert at @ weight == pytest.approx(0.1)
    near = dict(zip(at_beside.tolist(), weight_beside.tolist(), strict=True))
    assert weight.tolist() == pytest.approx([near[a] for a in at.tolist()], abs=1e-7)


@given(DIRECTIONS, st.integers(0, 2**32), st.integers(0, 9), st.floats(-0.2, 0.2))
def test_a_limit_that_starts_from_the_look_before_is_the_one_found_from_nowhere(
    direction, seed, n_failed, drift
):
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(np.linspace(0.0, drift, 3000), 0.1), -1, 1)
    looked, once = track(direction), track(direction)
    for part in np.split(x, 5):
        looked.add(part, n_failed)
    once.add(x, 5 * n_failed)
    gap = once.interval()[1] - once.interval()[0]
    # It errs outward, by at most a thousandth of its distance from the mean.
    assert -1e-5 < once.interval()[0] - looked.interval()[0] < 1e-5 + 1e-3 * gap
    assert -1e-5 < looked.interval()[1] - once.interval()[1] < 1e-5 + 1e-3 * gap

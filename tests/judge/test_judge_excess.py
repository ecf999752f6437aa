from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from harness.core.errors import GateError
from harness.core.policies import METRIC_BOUNDS, Guardrail, Metric
from harness.judge.betting import Joint, one_sided
from harness.judge.excess import excess_flips, ratio_values

BAR = math.log(20)
N = 12_000


def decisions(rng, old_noise, new_noise, moved):
    """Both versions twice; noise flips single answers, `moved` requests have another answer."""
    truth = rng.random(N) < 0.3
    other = truth ^ (rng.random(N) < moved)

    def answer(from_, noise):
        return from_ ^ (rng.random(N) < noise)

    return (
        answer(truth, old_noise), answer(truth, old_noise),
        answer(other, new_noise), answer(other, new_noise),
    )  # fmt: skip


def excess(rng, old_noise, new_noise, moved):
    old, old_again, new, new_again = decisions(rng, old_noise, new_noise, moved)
    parts = (np.asarray(a != b, np.float64) for a, b in
             ((new, old), (old, old_again), (new, new_again)))  # fmt: skip
    return excess_flips(*parts)


def crossings(x_of, margin, bounds, paths, seed):
    rng = np.random.default_rng(seed)
    sides = [one_sided(s, s * margin, bounds, None, None) for s in (1, -1)]
    joint, found = Joint(sides), [0, 0]
    for _ in range(paths):
        x = x_of(rng)
        wealth, crossed = [np.zeros(len(s.lam)) for s in sides], [False, False]
        for part in np.split(x, 20):
            wealth = [w + g for w, g in zip(wealth, joint.growth(part), strict=True)]
            for i, side in enumerate(sides):
                crossed[i] |= float(side.log_e(wealth[i])) >= BAR
        found = [count + hit for count, hit in zip(found, crossed, strict=True)]
    return found


def margin_of(moved, old_noise, new_noise):
    """E(p − q)² in closed form: chances differ by 1 − a − b where moved, by a − b where not."""
    kept = (old_noise - new_noise) ** 2
    return moved * (1 - old_noise - new_noise) ** 2 + (1 - moved) * kept


def test_excess_exactly_at_the_margin_is_seldom_called_wrong():
    margin = margin_of(0.015, 0.03, 0.02)
    wrong = crossings(
        lambda rng: excess(rng, 0.03, 0.02, 0.015),
        margin,
        METRIC_BOUNDS[Metric.EXCESS_FLIP],
        200,
        90,
    )
    assert max(wrong) <= binom.ppf(0.9999, 200, 0.05)


def test_real_flips_show_where_a_one_sided_floor_hides_them():
    rng = np.random.default_rng(91)

    def one_sided_floor(rng):
        old, old_again, new, _ = decisions(rng, 0.03, 0.0, 0.015)
        return (new != old).astype(np.float64) - (old != old_again)

    assert one_sided_floor(rng).mean() < 0.0
    assert excess(rng, 0.03, 0.0, 0.015).mean() > 0.01
    seen = crossings(
        lambda rng: excess(rng, 0.03, 0.0, 0.03), 0.005, METRIC_BOUNDS[Metric.EXCESS_FLIP], 20, 92
    )
    assert seen[0] == 20


def test_two_versions_that_are_alike_have_no_excess():
    seen = crossings(
        lambda rng: excess(rng, 0.02, 0.02, 0.0), 0.01, METRIC_BOUNDS[Metric.EXCESS_FLIP], 20, 93
    )
    assert seen == [0, 20]


def test_without_noise_it_is_the_flip():
    flips = np.array([0.0, 1.0, 0.5])
    assert excess_flips(flips, np.zeros(3), np.zeros(3)).tolist() == flips.tolist()


def test_a_failed_repetition_counts_as_failed():
    nothing = np.array([0.0, np.nan])
    assert np.isnan(excess_flips(np.zeros(2), nothing, np.zeros(2))).tolist() == [False, True]
    assert np.isnan(excess_flips(np.zeros(2), np.zeros(2), nothing)).tolist() == [False, True]


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_repetition_is_refused(which):
    repeats = [np.zeros(2), np.zeros(2)]
    repeats[which] = None
    with pytest.raises(GateError, match="repetition is missing"):
        excess_flips(np.zeros(2), *repeats)


@pytest.mark.parametrize("wrong", [np.array([0.0, 1.5]), np.array([-0.1, 0.0]), np.zeros(3)])
def test_wrong_columns_are_refused(wrong):
    with pytest.raises(GateError):
        excess_flips(wrong, np.zeros(2), np.zeros(2))


def ratio_bounds(top, bottom, r):
    return Guardrail(
        name="r", metric=Metric.RATIO, margin=0.0, range=top, denominator_range=bottom, ratio=r
    ).bounds()


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 2)), min_size=1, max_size=30),
    st.floats(0, 3),
)
def test_the_sign_of_a_ratio_is_the_sign_of_its_values(pairs, r):
    y, w = np.array(pairs).T
    x = ratio_values(y, w, r)
    lo, hi = ratio_bounds((0.0, 1.0), (0.1, 2.0), r)
    assert lo - 1e-12 <= x.min() <= x.max() <= hi + 1e-12
    assert x.sum() == pytest.approx(w.sum() * (y.sum() / w.sum() - r), abs=1e-9)


def test_a_ratio_exactly_at_its_margin_is_seldom_called_wrong():
    def draw(rng):
        w = rng.choice([1.0, 5.0], N, p=[0.8, 0.2])
        # Five-row requests have more than five times the events, so a mean of ratios would differ.
        y = rng.binomial(w.astype(np.int64), np.where(w > 1, 0.3, 0.1))
        return ratio_values(y.astype(np.float64), w, (0.8 * 0.1 + 0.2 * 1.5) / 1.8)

    r = 0.38 / 1.8
    wrong = crossings(draw, 0.0, ratio_bounds((0.0, 5.0), (1.0, 5.0), r), 200, 94)
    assert max(wrong) <= binom.ppf(0.9999, 200, 0.05)


@pytest.mark.parametrize(
    ("y", "w", "r"),
    [
        (np.ones(2), np.ones(3), 0.5),
        (np.ones(2), -np.ones(2), 0.5),
        (np.ones(2), np.ones(2), -0.5),
        (np.ones(2), np.ones(2), math.nan),
    ],
)
def test_a_ratio_without_meaning_is_refused(y, w, r):
    with pytest.raises(GateError):
        ratio_values(y, w, r)

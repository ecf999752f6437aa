from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.judge.betting import Joint, one_sided
from harness.judge.products import log_e_each, log_products

SIZES = st.sampled_from([0, 1, 3, 4, 127, 128, 129, 1000, 8192, 8200, 9001])


@settings(deadline=None)
@given(
    SIZES,
    st.integers(0, 2**32),
    st.sampled_from([(1, 0.005), (-1, -0.005), (1, 1e-9), (1, 0.9), (-1, -0.9)]),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]),
)
def test_products_are_the_sum_of_logarithms(n, seed, side, bounds):
    process = one_sided(*side, bounds, None, None)
    x = np.random.default_rng(seed).uniform(*bounds, n)
    plain = process.log_factors(x).sum(axis=0)
    assert process.growth(x) == pytest.approx(plain, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("side", [(1, 0.005), (-1, -0.005)])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_products_at_the_bounds_neither_vanish_nor_overflow(side, value):
    process = one_sided(*side, (-1.0, 1.0), None, None)
    x = np.full(10_000, value)
    assert process.growth(x) == pytest.approx(10_000 * process.log_factors(x[:1])[0], rel=1e-9)


def test_products_of_huge_bets_stay_finite():
    process = one_sided(1, 1e-12, (0.0, 1.0), None, None)
    assert np.isfinite(process.growth(np.ones(5000))).all()


@settings(deadline=None)
@given(SIZES, st.integers(0, 2**32), st.sampled_from([(1, 0.02), (-1, -0.02), (1, 1e-9)]))
def test_a_look_after_every_observation_is_the_running_sum(n, seed, side):
    process = one_sided(*side, (0.0, 1.0), None, None)
    x = (np.random.default_rng(seed).random(n) < 0.03).astype(np.float64)
    start = np.linspace(-2.0, 3.0, len(process.lam))
    plain = process.log_e(start + np.cumsum(process.log_factors(x), axis=0)) if n else np.empty(0)
    # As pytest.approx has it, which takes each number by itself.
    off = np.abs(process.each(x, start) - plain)
    assert (off <= np.maximum(1e-8 * np.abs(plain), 1e-7)).all()


def test_nothing_adds_nothing():
    one = np.ones(2)
    assert log_products(np.empty(0), one, one).tolist() == [0.0, 0.0]
    assert len(log_e_each(np.empty(0), one, one, one)) == 0


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([1, -1]), min_size=1, max_size=4),
    st.sampled_from([0.001, 0.3, 0.9]),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]),
    st.integers(0, 2**32),
)
def test_processes_together_grow_as_they_do_alone(signs, margin, bounds, seed):
    processes = [one_sided(sign, sign * margin, bounds, None, None) for sign in signs]
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(3000) < 0.5, rng.choice(bounds, 3000), rng.uniform(*bounds, 3000))
    for process, grown in zip(processes, Joint(processes).growth(x), strict=True):
        assert grown == pytest.approx(process.log_factors(x).sum(axis=0), rel=1e-7, abs=1e-5)


def test_zeros_that_are_counted_grow_as_much_as_zeros_that_are_multiplied():
    x = np.random.default_rng(3).choice([0.0, 0.0, 0.0, -0.004, 0.25], 999)
    processes = [
        one_sided(1, 0.01, (-1.0, 1.0), None, None),
        one_sided(-1, -0.01, (-1.0, 1.0), None, None),
    ]
    for process, grown in zip(processes, Joint(processes).growth(x), strict=True):
        assert grown == pytest.approx(process.log_factors(x).sum(axis=0), rel=1e-9)

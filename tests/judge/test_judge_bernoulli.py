from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, binom

from harness.core.errors import GateError
from harness.judge.bernoulli import BetaMixture
from harness.judge.betting import one_sided

BAR = math.log(20)
SIGNS = st.sampled_from([1, -1])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("n", "s"), [(0, 0), (50, 0), (50, 4), (400, 30)])
def test_closed_form_is_the_integral(sign, n, s):
    mixture = BetaMixture(sign=sign, margin=0.05)
    prior = beta(0.5, 10.0)
    low, high = (0.05, 1.0) if sign > 0 else (0.0, 0.05)

    def ratio(p):
        return math.exp(
            s * math.log(p / 0.05) + (n - s) * math.log1p(-p) - (n - s) * math.log(0.95)
        ) * prior.pdf(p)

    mass = quad(prior.pdf, low, high)[0]
    expected = quad(ratio, max(low, 1e-12), high - 1e-12, limit=200)[0] / mass
    assert mixture.log_e(n, s) == pytest.approx(math.log(expected), abs=1e-4)


@settings(deadline=None)
@given(SIGNS, st.integers(1, 5000), st.floats(0, 1), st.floats(0.001, 0.5), st.floats(0, 1))
def test_evidence_never_grows_towards_the_data(sign, n, share, margin, at):
    mixture = BetaMixture(sign=sign, margin=margin)
    s = round(share * n)
    mean, edge = s / n, 0.0 if sign > 0 else 1.0
    outer = edge + (mean - edge) * at * 0.5
    inner = edge + (mean - edge) * (0.5 + at * 0.5)
    assert mixture.log_e(n, s, outer) >= mixture.log_e(n, s, inner) - 1e-6


def crossings(mean, margin, sign, rng, *, shape, values=(0.0, 1.0)):
    paths, looks, batch = shape
    mixture = BetaMixture(sign=sign, margin=margin)
    low, high = values
    ones = np.cumsum(rng.binomial(batch, (mean - low) / (high - low), (paths, looks)), axis=1)
    count = 0
    for path in ones:
        n = batch * np.arange(1, looks + 1)
        sums = path * high + (n - path) * low
        count += any(mixture.log_e(int(a), float(b)) >= BAR for a, b in zip(n, sums, strict=True))
    return count


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("margin", [0.0005, 0.02])
def test_false_answers_at_the_margin_stay_below_alpha(sign, margin):
    rng = np.random.default_rng(60)
    batch = 400 if margin < 0.01 else 50
    assert crossings(margin, margin, sign, rng, shape=(400, 40, batch)) <= binom.ppf(
        0.9999, 400, 0.05
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_the_simulation_sees_a_mean_beyond_the_margin(sign):
    rng = np.random.default_rng(61)
    assert crossings(0.02 + sign * 0.012, 0.02, sign, rng, shape=(100, 60, 100)) > 90


def test_values_between_zero_and_one_only_make_it_smaller():
    mixture = BetaMixture(sign=1, margin=0.1)
    bet = one_sided(1, 0.1, (0.0, 1.0), None, None)
    # The same mean from halves: a likelihood ratio of each alternative is at most its bet's factor.
    p = 0.3
    lam = (p - 0.1) / (0.1 * 0.9)
    half = 0.5 * math.log(p / 0.1) + 0.5 * math.log((1 - p) / 0.9)
    assert half <= math.log1p(lam * (0.5 - bet.m))
    rng = np.random.default_rng(62)
    assert crossings(0.1, 0.1, 1, rng, shape=(100, 30, 50), values=(0.05, 0.5)) <= 16
    assert math.isfinite(mixture.log_e(10, 5.0))


def test_data_that_the_null_excludes_reject_it():
    assert BetaMixture(sign=1, margin=0.1).log_e(10, 1, 0.0) == math.inf


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, float("nan")])
def test_a_margin_outside_the_range_is_refused(margin):
    with pytest.raises(GateError, match="margin"):
        BetaMixture(sign=1, margin=margin)

"""The published constants, to their printed digits."""

from __future__ import annotations

import numpy as np
import pytest

from harness.core.errors import GateError
from harness.judge import classic
from harness.judge.bernoulli import confidence_sequence

V, ALPHA = 100.0, 0.05
TWO, ONE = classic.best_rho(V, ALPHA), classic.best_rho(V, 2 * ALPHA)


def test_best_rho():
    assert pytest.approx(12.60056, abs=5e-6) == TWO


def test_normal_mixture():
    assert classic.normal_mixture_log(10, V, TWO, one_sided=False) == pytest.approx(
        -0.6510052, abs=5e-8
    )
    assert classic.normal_mixture_log(10, V, ONE, one_sided=True) == pytest.approx(
        -0.06502391, abs=5e-9
    )


def test_normal_boundaries():
    two = classic.boundary(
        lambda s: float(classic.normal_mixture_log(s, V, TWO, one_sided=False)), ALPHA
    )
    one = classic.boundary(
        lambda s: float(classic.normal_mixture_log(s, V, ONE, one_sided=True)), ALPHA
    )
    assert (two, one) == pytest.approx((30.35209, 27.66071), abs=5e-6)


def test_gamma_exponential():
    assert classic.gamma_exponential_log(10, V, ONE, 2) == pytest.approx(-0.2490165, abs=5e-8)
    edge = classic.boundary(lambda s: classic.gamma_exponential_log(s, V, ONE, 2), ALPHA)
    assert edge == pytest.approx(33.02017, abs=5e-6)


@pytest.mark.parametrize(
    ("rho", "one_sided", "value", "edge"),
    [(TWO, False, -0.6941012, 31.4308), (ONE, True, -0.07134019, 28.41238)],
)
def test_beta_binomial(rho, one_sided, value, edge):
    def log_mixture(s):
        return classic.beta_binomial_log(s, V, rho=rho, g=0.2, h=0.8, one_sided=one_sided)

    assert log_mixture(10) == pytest.approx(value, abs=5e-8)
    assert classic.boundary(log_mixture, ALPHA) == pytest.approx(edge, abs=5e-5)


def test_stitching():
    assert classic.stitched(V, ALPHA, 10, 3) == pytest.approx(64.48755, abs=5e-6)


def test_bernoulli_interval():
    assert confidence_sequence(1000, 700, ALPHA, 100) == pytest.approx(
        (0.651629, 0.745949), abs=1e-6
    )


@pytest.mark.parametrize(
    ("looks", "rate"),
    [(1, 0.05), (2, 0.083), (5, 0.142), (10, 0.193), (20, 0.248), (50, 0.320), (100, 0.374)],
)
def test_repeated_z_test(looks, rate):
    assert classic.repeated_z_error(looks, 1.959964) == pytest.approx(rate, abs=6e-4)


def test_obrien_fleming_spends_its_level():
    critical = classic.obrien_fleming(5, 0.025)
    # Jennison & Turnbull 2000, table 2.3: 2.040 times sqrt(5/k).
    assert critical[-1] == pytest.approx(2.040, abs=1e-3)
    assert classic.group_sequential_power(critical, 0.0).sum() == pytest.approx(0.025, abs=1e-4)


def test_empirical_bernstein_keeps_its_level_at_the_margin():
    rng = np.random.default_rng(1)
    x = rng.beta(2, 5, (1500, 1000))
    for sign in (1, -1):
        crossed = (classic.empirical_bernstein_log(x, 2 / 7, sign, ALPHA) >= np.log(20)).any(axis=1)
        assert crossed.sum() <= 110
    assert (classic.empirical_bernstein_log(x, 0.2, 1, ALPHA) >= np.log(20)).any(axis=1).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: classic.best_rho(0.0, ALPHA),
        lambda: classic.boundary(lambda s: s, 0.0),
        lambda: confidence_sequence(10, 11, ALPHA, 100),
        lambda: confidence_sequence(10, 5, 0.0, 100),
    ],
)
def test_meaningless_arguments_are_refused(call):
    with pytest.raises(GateError):
        call()

"""The published constants, to their printed digits."""

from __future__ import annotations

import numpy as np
import pytest

from harness.core.errors import GateError
from harness.judge import classic

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


def test_stitching():
    assert classic.stitched(V, ALPHA, 10, 3) == pytest.approx(64.48755, abs=5e-6)


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
    ],
)
def test_meaningless_arguments_are_refused(call):
    with pytest.raises(GateError):
        call()

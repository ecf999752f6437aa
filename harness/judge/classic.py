"""Published sequential tests beside the judge's own: for comparison and as oracles.

Mixture supermartingales M(s, v) of a sum s with intrinsic variance v (Howard, Ramdas, McAuliffe &
Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences"), the stitched bound,
the predictable plug-in empirical-Bernstein e-process (Waudby-Smith & Ramdas 2024, Thm 2), and
boundaries of repeated and group-sequential z-tests by numerical recursion (Armitage, McPherson & Rowe
1969). None of them decides a gate. Checked against the constants in the tests of the C++ library
confseq.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from harness.core.errors import GateError
from harness.core.tensors import Floats

_GRID = 401
_TAIL = 8.5


def best_rho(v_opt: float, alpha: float) -> float:
    """ρ with which the two-sided normal mixture is tightest at v_opt (Howard et al. 2021, Prop. 3).

    Args:
      v_opt: intrinsic variance to tune for, > 0.
      alpha: error level, in (0, 1); give 2α for a one-sided mixture.
    """
    _positive(v_opt=v_opt, alpha=alpha)
    nats = 2.0 * math.log(1.0 / alpha)
    return v_opt / (nats + math.log1p(nats))


def normal_mixture_log(
    s: Floats | float, v: Floats | float, rho: float, *, one_sided: bool
) -> Floats:
    """Log of the normal mixture (Robbins 1970; mSPRT of Johari et al. 2017 is the two-sided one).

    Args:
      s: centred sum, any shape.
      v: intrinsic variance, ≥ 0, the same shape.
      rho: tuning, > 0.
      one_sided: mixes over positive effects only (half-normal).
    """
    from scipy.stats import norm

    _positive(rho=rho)
    s, v = np.asarray(s, np.float64), np.asarray(v, np.float64)
    two = 0.5 * np.log(rho / (v + rho)) + s * s / (2.0 * (v + rho))
    if not one_sided:
        return np.asarray(two, np.float64)
    return np.asarray(two + math.log(2.0) + norm.logcdf(s / np.sqrt(v + rho)), np.float64)


def boundary(log_mixture: Callable[[float], float], alpha: float, largest: float = 1e6) -> float:
    """Smallest sum at which a mixture reaches 1/α.

    Args:
      log_mixture: log M as a function of s, increasing for s > 0.
      alpha: error level, in (0, 1).
      largest: where to stop searching.
    """
    from scipy.optimize import brentq

    _positive(alpha=alpha)
    bar = math.log(1.0 / alpha)
    high = 1.0
    while log_mixture(high) < bar and high < largest:
        high *= 1.5
    return float(brentq(lambda s: log_mixture(s) - bar, 0.0, high))


def stitched(
    v: float, alpha: float, v_min: float, c: float, *, s: float = 1.4, eta: float = 2.0
) -> float:
    """Polynomial stitched boundary (Howard et al. 2021, Thm 1, Eq. 10).

    Args:
      v: intrinsic variance, ≥ 0.
      alpha: P(the sum ever exceeds the boundary) ≤ this.
      v_min: variance at which the boundary begins to grow, > 0.
      c: scale of a sub-gamma sum, ≥ 0.
      s: exponent of the sum over epochs, > 1.
      eta: ratio of epochs, > 1.
    """
    from scipy.special import zeta

    _positive(alpha=alpha, v_min=v_min)
    used = max(v, v_min)
    slope = (eta**0.25 + eta**-0.25) / math.sqrt(2.0)
    linear = (math.sqrt(eta) + 1.0) / 2.0
    nats = s * math.log(math.log(eta * used / v_min))
    nats += math.log(zeta(s) / (alpha * math.log(eta) ** s))
    curved = math.sqrt(slope**2 * used * nats + (linear * c * nats) ** 2)
    return curved + linear * c * nats


def empirical_bernstein_log(x: Floats, m: float, sign: int, alpha: float) -> Floats:
    """Log of the predictable plug-in empirical-Bernstein e-process after every observation.

    Waudby-Smith & Ramdas 2024, Thm 2, one-sided. Its bets follow the data, so its null is a constant
    conditional mean; see betting.py for why the gate does not use it.

    Args:
      x: arrival order in the last axis, each in [0, 1].
      m: null mean, in (0, 1).
      sign: +1 tests "mean ≤ m", −1 "mean ≥ m".
      alpha: level the bets are tuned for.

    Returns:
      The shape of x.
    """
    y, null = (x, m) if sign > 0 else (1.0 - x, 1.0 - m)
    t = np.arange(1, y.shape[-1] + 1)
    running = (0.5 + np.cumsum(y, axis=-1)) / (t + 1.0)
    spread = (0.25 + np.cumsum((y - running) ** 2, axis=-1)) / (t + 1.0)
    variance = _before(spread, 0.25)
    bets = np.minimum(np.sqrt(2.0 * math.log(1.0 / alpha) / (variance * t * np.log1p(t))), 0.5)
    psi = -np.log1p(-bets) - bets
    steps = bets * (y - null) - psi * (y - _before(running, 0.5)) ** 2
    return np.asarray(np.cumsum(steps, axis=-1), np.float64)


def repeated_z_error(looks: int, critical: float, *, two_sided: bool = True) -> float:
    """False-alarm rate of a z-test that is looked at after every equal part of the data.

    Armitage, McPherson & Rowe 1969: 1.96 at 1, 2, 5, 10, 20, 50, 100 looks gives .05, .083, .142,
    .193, .248, .320, .374.

    Args:
      looks: ≥ 1.
      critical: z at which one stops.
      two_sided: stops on either side.
    """
    return float(_crossing(np.full(looks, critical), 0.0, two_sided=two_sided).sum())


def obrien_fleming(looks: int, alpha: float) -> Floats:
    """One-sided critical z at each of equally spaced looks (O'Brien & Fleming 1979).

    Args:
      looks: ≥ 1.
      alpha: one-sided error over all looks.

    Returns:
      Shape (looks,), falling.
    """
    from scipy.optimize import brentq

    falling = np.sqrt(looks / np.arange(1, looks + 1))

    def excess(constant: float) -> float:
        return float(_crossing(constant * falling, 0.0, two_sided=False).sum()) - alpha

    return np.asarray(float(brentq(excess, 1.0, 4.0, xtol=1e-5)) * falling, np.float64)


def group_sequential_power(critical: Floats, drift: float) -> Floats:
    """P(stopping at each look) of a one-sided group-sequential test.

    Args:
      critical: z at each look, shape (K,).
      drift: expected z at the last look.

    Returns:
      Shape (K,); the sum is the power.
    """
    return _crossing(critical, drift, two_sided=False)


def _crossing(critical: Floats, drift: float, *, two_sided: bool) -> Floats:
    """P(first crossing at look k), by recursion over the density of what has not crossed."""
    from scipy.stats import norm

    looks = len(critical)
    step = drift / math.sqrt(looks)
    out = np.zeros(looks)
    at, mass = np.zeros(1), np.ones(1)
    for k in range(1, looks + 1):
        edge = float(critical[k - 1]) * math.sqrt(k)
        ahead = edge - at - step
        out[k - 1] = float(norm.sf(ahead) @ mass)
        if two_sided:
            out[k - 1] += float(norm.cdf(-edge - at - step) @ mass)
        low = -edge if two_sided else step * k - _TAIL * math.sqrt(k)
        grid = np.linspace(low, edge, _GRID)
        simpson = np.ones(_GRID)
        simpson[1:-1:2], simpson[2:-1:2] = 4.0, 2.0
        density = np.exp(-0.5 * (grid[:, None] - at[None, :] - step) ** 2) @ mass
        density /= math.sqrt(2.0 * math.pi)
        at, mass = grid, density * simpson * (grid[1] - grid[0]) / 3.0
    return out


def _before(running: Floats, first: float) -> Floats:
    """What was known before each observation."""
    lagged = np.empty_like(running)
    lagged[..., 0] = first
    lagged[..., 1:] = running[..., :-1]
    return lagged


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0.0:
            what = f"{name} = {value:g} is not above 0"
            raise GateError("judge", what, "Report this: the method has no meaning there.")

"""One-sided e-processes for a bounded mean: a mixture of constant bets.

Every test of the judge is brought to one form. With y = sign·x in [low, high] the null is
"mean of y ≤ m", and

    E_n = Σ_k w_k Π_i (1 + λ_k (y_i − m)),   0 ≤ λ_k < 1/(m − low),

is an e-process: under the null each factor has expectation ≤ 1 and none is negative (Waudby-Smith
& Ramdas 2024, Prop. 2 and section 4; Ville 1939 for crossing at 1/α at any look). Rollback of a
guardrail whose harm is an increase is sign +1 at +margin; its promotion is sign −1 at −margin.

Constant bets, not adaptive ones: log-wealth is then a sum per λ, so it does not depend on order or
on how traffic was cut into batches, adds up over shards, and stays valid for the running average
of conditional means. Adaptive bets (aGRAPA, predictable plug-in) were left out: under a daily cycle
they reject a true null in up to 100 % of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from harness.core.tensors import Floats
from harness.judge.products import (
    coefficients,
    log_e_each,
    log_products,
    log_products_of_rows,
)

CAP = 0.98
"""Bets stop at this share of the largest admissible λ, so that one observation cannot ruin a bet."""

GENERIC_BETS = 8
"""λ of the generic grid."""

_PLANNED_MULTIPLES = np.array([0.25, 0.5, 1.0, 2.0])
_PLANNED_WEIGHTS = np.array([0.1, 0.2, 0.4, 0.3])
_PLANNED_SHARE = 0.75
_LOWEST_SHARE = 0.03
_ACCURATE = 4.0
_SMALLEST_GAP = 0.25
_MANY_TERMS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSided:
    """Bets against "the mean of y = sign·x is at most m"."""

    sign: int
    """+1 or −1."""
    m: float
    """Largest mean under the null, in y."""
    low: float
    """Mathematical lower bound of y; failed observations count as this value."""
    high: float
    """Mathematical upper bound of y."""
    lam: Floats
    """λ_k ≥ 0 with 1 + λ_k (low − m) ≥ 1 − CAP, shape (K,)."""
    log_weight: Floats
    """log w_k, weights sum to 1, shape (K,)."""

    def at(self, m: float) -> Self:
        """The same bets against another null, cut to what is admissible there.

        log-wealth at fixed data does not increase with m, which makes inversion a root search.

        Args:
          m: null mean in y; finite.
        """
        lam = self.lam if m <= self.low else np.minimum(self.lam, CAP / (m - self.low))
        return type(self)(
            sign=self.sign,
            m=m,
            low=self.low,
            high=self.high,
            lam=lam,
            log_weight=self.log_weight,
        )

    def log_factors(self, x: Floats) -> Floats:
        """Natural log of 1 + λ_k (y − m), of single observations.

        Args:
          x: values in [lo, hi] of the metric, shape (...,).

        Returns:
          Shape (..., K).
        """
        y = self.sign * np.asarray(x, np.float64)[..., None] - self.m
        return np.log1p(y * self.lam)

    def growth(self, x: Floats) -> Floats:
        """Log-wealth that observations add to each bet; sums over the last axis.

        Args:
          x: values in [lo, hi] of the metric, shape (..., n).

        Returns:
          Shape (..., K).
        """
        x = np.asarray(x, np.float64)
        offset, slope = self.line()
        if x.ndim == 1:
            return log_products(self.distance(x), offset, slope)
        rows = self.distance(x).reshape(-1, x.shape[-1])
        return log_products_of_rows(rows, offset, slope).reshape(*x.shape[:-1], len(self.lam))

    def each(self, x: Floats, log_wealth: Floats) -> Floats:
        """Log E after every single observation, all of them looks.

        Args:
          x: values in [lo, hi] of the metric in arrival order, shape (n,).
          log_wealth: before the first of them, shape (K,).

        Returns:
          Shape (n,).
        """
        x = np.asarray(x, np.float64)
        return log_e_each(self.distance(x), *self.line(), self.log_weight + log_wealth)

    def distance(self, x: Floats) -> Floats:
        """U = y − low ≥ 0 of observations; rounding below the bound is cut.

        Args:
          x: values in [lo, hi] of the metric, any shape.
        """
        u = x - self.low if self.sign > 0 else -self.low - x
        return np.maximum(u, 0.0, out=u)

    def line(self) -> tuple[Floats, Floats]:
        """(offset, slope) of each bet's factor as a function of u = y − low, shape (K,) both."""
        return 1.0 + self.lam * (self.low - self.m), self.lam

    def mirrored(self) -> tuple[Floats, Floats] | None:
        """(offset, slope) as functions of the distance from y's *upper* bound, high − y.

        With it bets on either side of a mean share one pass over the data. None where factors near
        the upper bound are so large that small ones would lose their accuracy.
        """
        offset = 1.0 + self.lam * (self.high - self.m)
        return (offset, -self.lam) if float(offset.max()) <= _ACCURATE else None

    def log_failed(self) -> Floats:
        """Log-wealth that one failed observation adds (never positive), shape (K,)."""
        return np.log1p(self.lam * (self.low - self.m))

    def log_e(self, log_wealth: Floats) -> Floats:
        """Natural log of E from log-wealth per bet.

        Args:
          log_wealth: shape (..., K).

        Returns:
          Shape (...,).
        """
        return log_mean(log_wealth, self.log_weight)


def log_mean(log_wealth: Floats, log_weight: Floats) -> Floats:
    """Natural log of Σ_k w_k exp(log-wealth_k).

    Args:
      log_wealth: shape (..., K).
      log_weight: log w_k, weights sum to 1, of a shape that goes with it.

    Returns:
      Shape (...,).
    """
    terms = log_wealth + log_weight
    top = _largest(terms)
    terms -= top[..., None]
    summed = np.log(np.exp(terms, out=terms).sum(axis=-1)) + top
    return np.asarray(summed, np.float64)


def _largest(terms: Floats) -> Floats:
    """The maximum over the last axis, which is short: numpy takes several times as long where many rows are."""
    if terms.size < _MANY_TERMS:
        return np.asarray(terms.max(axis=-1), np.float64)
    top = terms[..., 0].copy()
    for k in range(1, terms.shape[-1]):
        np.maximum(top, terms[..., k], out=top)
    return np.asarray(top, np.float64)


class Joint:
    """Several processes over the same bounds that grow in as few passes as accuracy allows."""

    __slots__ = ("_count", "_passes")

    def __init__(self, processes: Sequence[OneSided]) -> None:
        """Sorts the bets into passes.

        Args:
          processes: their y are x or −x.
        """
        self._count = len(processes)
        self._passes: list[
            tuple[OneSided, tuple[Floats, Floats, Floats], list[tuple[int, slice]]]
        ] = []
        placed: set[int] = set()
        for sign in sorted({p.sign for p in processes}, reverse=True):
            lines = {
                i: line
                for i, process in enumerate(processes)
                if i not in placed
                and (line := process.line() if process.sign == sign else process.mirrored())
            }
            placed |= set(lines)
            if lines:
                reference = next(p for p in processes if p.sign == sign)
                offset, slope = (np.concatenate(part) for part in zip(*lines.values(), strict=True))
                ends = np.cumsum([len(line[0]) for line in lines.values()]).tolist()
                parts = [slice(lo, hi) for lo, hi in zip([0, *ends[:-1]], ends, strict=True)]
                where = list(zip(lines, parts, strict=True))
                self._passes.append(
                    (reference, (offset, slope, coefficients(offset, slope)), where)
                )

    def growth(self, x: Floats, zeros: int = 0) -> list[Floats]:
        """Log-wealth that observations add to each bet of each process.

        Args:
          x: values in [lo, hi] of the metric, shape (n,).
          zeros: further observations, all exactly 0.

        Returns:
          In the processes' order, shape (K,) each.
        """
        grown = [np.empty(0)] * self._count
        for reference, bets, where in self._passes:
            found = log_products(reference.distance(x), *bets)
            if zeros:
                offset, slope, _ = bets
                found += zeros * np.log(offset + slope * reference.distance(np.zeros(1)))
            for i, part in where:
                grown[i] = found[part]
        return grown


def without_zeros(x: Floats) -> Floats:
    """The values that are not exactly 0; the array itself where none is, as copying it costs time.

    Most observations of versions that resemble each other are 0: these need only be counted.
    """
    moved = x != 0.0
    return x if moved.all() else x[moved]


def one_sided(
    sign: int, m: float, bounds: tuple[float, float], gap: float | None, second_moment: float | None
) -> OneSided:
    """Chooses the bets of one test before it sees data.

    Args:
      sign: +1 tests the mean of x, −1 the mean of −x.
      m: null mean in y = sign·x, inside the bounds of y.
      bounds: (lo, hi) of x, mathematical bounds.
      gap: expected distance of the mean of y above m; None = no plan.
      second_moment: E(y − m)² expected, from data that is not tested; None = no plan.

    Returns:
      ¾ of the weight on λ_d·{¼, ½, 1, 2} with λ_d = gap/(v + gap²) and ¼ on the generic grid; all
      on the generic grid without a plan.
    """
    low, high = (bounds[0], bounds[1]) if sign > 0 else (-bounds[1], -bounds[0])
    largest = CAP / (m - low)
    generic = _generic(m, low, high)
    weights = np.full(GENERIC_BETS, 1.0 / GENERIC_BETS)
    if gap is None or second_moment is None:
        lam = generic
    else:
        aim = gap / (second_moment + gap * gap)
        lam = np.concatenate([np.minimum(aim * _PLANNED_MULTIPLES, largest), generic])
        weights = np.concatenate(
            [_PLANNED_SHARE * _PLANNED_WEIGHTS, (1.0 - _PLANNED_SHARE) * weights]
        )
    return OneSided(sign=sign, m=m, low=low, high=high, lam=lam, log_weight=np.log(weights))


def _generic(m: float, low: float, high: float) -> Floats:
    """A log grid from the smallest bet that can pay to the largest admissible one.

    The smallest is the best bet on a mean a quarter of |m| beyond the null when the variance is the
    largest the bounds allow (Bhatia–Davis), or 3 % of the largest bet where that is lower. For rare
    0/1 events a share of the largest bet alone, 1/m, would start far too high.
    """
    largest = CAP / (m - low)
    worst = _SMALLEST_GAP * abs(m) / ((high - m) * (m - low))
    share = _LOWEST_SHARE * largest
    # Against 0 the margin says nothing about the size of what matters.
    return np.geomspace(min(share, worst) if worst > 0.0 else share, largest, GENERIC_BETS)

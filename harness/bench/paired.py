"""Ratios of two things measured in turn: their median, and how far chance may have moved it.

The interval is one of order statistics (Conover, Practical Nonparametric Statistics, 1999, section 3.2): it
holds the median whatever the ratios' law, however few there are. A bootstrap's is too narrow for a handful.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BEYOND = 40
"""The median lies beyond an end of the interval at most once in so many times: 2.5 %."""
ENOUGH = 6
"""Pairs from which on the interval holds the median so often; fewer say less than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRatio:
    """What many pairs of measurements say of one ratio."""

    median: float
    """Over the pairs."""
    low: float
    """Lower end of the median's 95 % interval; with less than ENOUGH pairs the smallest ratio."""
    high: float
    """Upper end; the largest ratio."""
    pairs: int
    """How many there were."""

    def shown(self) -> str:
        """The interval in a few words."""
        between = f"{self.low:.3f} … {self.high:.3f}"
        if self.pairs < ENOUGH:
            return (
                f"{between} in {self.pairs} pair{'s' * (self.pairs > 1)}, too few for an interval"
            )
        return f"95 % interval {between} over {self.pairs} pairs"


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> PairedRatio:
    """The median of over[i] / under[i], and its interval.

    Args:
      over: one measurement a pair, > 0, shape (n,), n ≥ 1.
      under: the pairs' other measurements, > 0, shape (n,).
    """
    ratios = np.sort(np.asarray(over, np.float64) / np.asarray(under, np.float64))
    n = len(ratios)
    out = _outside(n)
    return PairedRatio(
        median=float(np.median(ratios)),
        low=float(ratios[out]),
        high=float(ratios[n - 1 - out]),
        pairs=n,
    )


def _outside(n: int) -> int:
    """How many of n ordered values lie outside the interval on each side: 0 where even all are too few."""
    out, below = 0, 1
    while _BEYOND * (below := below + math.comb(n, out + 1)) <= 2**n:
        out += 1
    return out

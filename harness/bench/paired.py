"""Ratios of two things measured in turn: their median, and how far chance may have moved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRatio:
    """What many pairs of measurements say of one ratio."""

    median: float
    """Over the pairs."""
    low: float
    """Lower end of the median's 95 % interval."""
    high: float
    """Upper end."""
    pairs: int
    """How many there were."""

    def shown(self) -> str:
        """The interval in a few words."""
        return f"95 % interval {self.low:.3f} … {self.high:.3f} over {self.pairs} pairs"


def paired_ratio(over: Sequence[float], under: Sequence[float], *, seed: int) -> PairedRatio:
    """The median of over[i] / under[i], and its bootstrap interval (Efron 1979, percentiles).

    Args:
      over: one measurement a pair, > 0, shape (n,), n ≥ 1.
      under: the pairs' other measurements, > 0, shape (n,).
      seed: of the resamples.
    """
    ratios = np.asarray(over, np.float64) / np.asarray(under, np.float64)
    n = len(ratios)
    drawn = np.random.default_rng(seed).integers(n, size=(_RESAMPLES, n))
    medians = np.median(ratios[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return PairedRatio(median=float(np.median(ratios)), low=float(low), high=float(high), pairs=n)

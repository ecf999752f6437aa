"""Confidence sequences by inverting the very e-processes that decide.

The limit of a mean is the last null that an e-process rejects. Inversion needs log-wealth at nulls
other than the margin, hence the data; what is kept instead is their weight on a fixed grid over
[lo, hi]. An observation between two grid points is shared between them in proportion. As
log(1 + λ(y − m)) is concave in y, its chord lies below it: inverted log-wealth is never above the
true one, so a limit can only be wider, by at most about (λh)²/8 nats an observation with h the
grid's step. Values on the grid (0, 1 and −1 above all) are kept exactly. Rounding outward to the
grid, tried first, moves a limit by half a step, which is not small against a margin of 0.002.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from harness.core.tensors import Floats
from harness.judge.betting import OneSided

STEPS = 1024
"""Grid steps over [lo, hi]; a power of two keeps −1, 0, 1 and dyadic means of rows exact."""

_TOLERANCE = 1e-6
_ROUNDS = 60
_HALVE_EVERY = 4


class Spread:
    """The data of one guardrail as weights on a fixed grid; its size does not grow with them."""

    __slots__ = ("_bounds", "_weights")

    def __init__(self, bounds: tuple[float, float]) -> None:
        """Starts empty.

        Args:
          bounds: (lo, hi) of the observations.
        """
        self._bounds = bounds
        self._weights = np.zeros(STEPS + 1)

    def add(self, x: Floats) -> None:
        """Adds observations.

        Args:
          x: values in [lo, hi], shape (n,).
        """
        lo, hi = self._bounds
        at = (x - lo) * (STEPS / (hi - lo))
        left = np.minimum(at.astype(np.int64), STEPS - 1)
        share = at - left
        self._weights += np.bincount(left, 1.0 - share, STEPS + 1)
        self._weights += np.bincount(left + 1, share, STEPS + 1)

    def nodes(self) -> tuple[Floats, Floats]:
        """Grid values that carry weight and their weights, both shape (g,), g ≤ STEPS + 1."""
        lo, hi = self._bounds
        used = np.flatnonzero(self._weights)
        return np.asarray(lo + used * ((hi - lo) / STEPS), np.float64), self._weights[used]

    def state(self) -> dict[str, Any]:
        """Plain values from which `from_state` continues identically."""
        used = np.flatnonzero(self._weights)
        return {"at": used.tolist(), "weight": self._weights[used].tolist()}

    @classmethod
    def from_state(cls, bounds: tuple[float, float], state: dict[str, Any]) -> Self:
        """Continues from `state`."""
        spread = cls(bounds)
        spread._weights[np.asarray(state["at"], np.int64)] = state["weight"]
        return spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One e-process, and the nulls it answers for when a limit is sought.

    A guardrail with both directions has two e-processes on either end of its interval: nulls up to
    0 belong to the promotion process, nulls above 0 to the rollback process. Each null mean has one
    process fixed in advance, so each limit keeps its level, and at either margin the interval says
    what the verdict says.
    """

    process: OneSided
    """Bets, at the margin."""
    until: float
    """Last null mean (in y) that it answers for."""
    threshold: float
    """log E at which a null is rejected, > 0."""
    log_e: float
    """Its exact log E at its own null."""


def limit(stretches: Sequence[Stretch], spread: Spread, n_failed: int) -> float:
    """Lower limit of the mean of y = sign·x: every null up to it is rejected.

    Args:
      stretches: ascending in `until`, the last one reaching the upper bound; one sign.
      spread: observations that did not fail.
      n_failed: observations that count as the lower bound of y.

    Returns:
      A value in [low, high]; low when nothing is rejected.
    """
    nodes, weights = spread.nodes()
    total = float(weights.sum()) + n_failed
    start = stretches[0].process.low
    if not total:
        return start
    sign, low = stretches[0].process.sign, start
    mean = (sign * float(nodes @ weights) + n_failed * low) / total
    for stretch in stretches:
        excess = _Excess(stretch=stretch, nodes=nodes, weights=weights, n_failed=n_failed)
        if excess(start) < 0.0:
            return start
        end = min(stretch.until, max(mean, start))
        if end > start and excess(end) < 0.0:
            return _root(excess, start, end)
        start = end
        if end < stretch.until:
            break
    return start


@dataclass(frozen=True, slots=True, kw_only=True)
class _Excess:
    """log E − threshold as a function of the null; does not increase."""

    stretch: Stretch
    nodes: Floats
    weights: Floats
    n_failed: int

    def __call__(self, m: float) -> float:
        if m == self.stretch.process.m:
            return self.stretch.log_e - self.stretch.threshold
        process = self.stretch.process.at(m)
        wealth = self.weights @ process.log_factors(self.nodes)
        wealth = wealth + self.n_failed * process.log_failed()
        return float(process.log_e(wealth)) - self.stretch.threshold


def _root(excess: _Excess, left: float, right: float) -> float:
    """Largest rejected null found between a rejected and a not rejected one.

    The process's own null is tried first: there the exact log E is known, so that a limit and a
    verdict never contradict each other. Then false position (Illinois), halving where it stalls.
    """
    process = excess.stretch.process
    at_left, at_right = excess(left), excess(right)
    guess = process.m if left < process.m < right else 0.5 * (left + right)
    moved = 0
    for round_ in range(_ROUNDS):
        value = excess(guess)
        side = 1 if value >= 0.0 else -1
        if side > 0:
            left, at_left = guess, value
            at_right *= 0.5 if moved == side else 1.0
        else:
            right, at_right = guess, value
            at_left *= 0.5 if moved == side else 1.0
        moved = side
        if right - left <= _TOLERANCE * (process.high - process.low):
            break
        guess = 0.5 * (left + right)
        if (round_ + 1) % _HALVE_EVERY and at_left > 0.0:
            guess = left + (right - left) * at_left / (at_left - at_right)
    return left

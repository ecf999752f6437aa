"""Confidence sequences by inverting the very e-processes that decide.

The limit of a mean is the last null that an e-process rejects. Inversion needs log-wealth at nulls
other than the margin, hence the data; what is kept instead is their weight on a fixed grid over
[lo, hi]. An observation between two grid points is shared between them in proportion. As
log(1 + λ(y − m)) is concave in y, its chord lies below it: inverted log-wealth is never above the
true one, so a limit can only be wider, by at most about (λh)²/8 nats an observation with h the
grid's step. Values on the grid (0, 1 and −1 above all) are kept exactly. Rounding outward to the
grid, tried first, moves a limit by half a step, which is not small against a margin of 0.002.

A limit is found by Newton steps inside a bracket, from where the look before says it should be now
(its distance from the middle shrinks with √n): two evaluations instead of fifteen, and with them the
cost of a path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from harness.core.tensors import Floats
from harness.judge.betting import OneSided

STEPS = 1024
"""Grid steps over [lo, hi]; a power of two keeps −1, 0, 1 and dyadic means of rows exact."""

_CELLS = np.arange(STEPS + 2, dtype=np.float64)
_TOLERANCE = 1e-6
_SHARE_OF_GAP = 1e-3
"""A limit is looked for to this share of its distance from the mean; it errs outward."""

_NATS_OF_THE_MIXTURE = 2.0
"""What a mixture of about eight bets costs beside its best one."""

_ROUNDS = 60
_HALVE_EVERY = 6

Mixing = Callable[[float, float], float]
"""(null in y, log E of the bets there) → log E of the whole process there; never increases in the null."""


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

    def add(self, x: Floats, zeros: int = 0) -> None:
        """Adds observations.

        Args:
          x: values in [lo, hi], shape (n,).
          zeros: further observations, all exactly 0.
        """
        lo, hi = self._bounds
        if zeros:
            position = -lo * (STEPS / (hi - lo))
            cell = int(position)
            part = zeros * (position - cell)
            self._weights[cell] += zeros - part
            self._weights[min(cell + 1, STEPS)] += part
        if not len(x):
            return
        at = x - lo
        at *= STEPS / (hi - lo)
        left = at.astype(np.int64)
        count = np.bincount(left, minlength=STEPS + 2)[: STEPS + 2]
        # Sum of positions less the cells' own: what belongs to the right-hand grid points. Exactly 0
        # for values on the grid; rounding below 0 is cut.
        share = np.bincount(left, at, STEPS + 2) - count * _CELLS
        np.maximum(share, 0.0, out=share)
        here = count - share
        self._weights += here[:-1]
        self._weights[1:] += share[:-2]
        self._weights[-1] += here[-1] + share[-2] + share[-1]

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
    mixed: Mixing | None = None
    """What else carries its capital; None = only the bets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Where a limit was at an earlier look; only a place to start, whatever it says."""

    n: int
    """Observations then, > 0."""
    reach: float
    """Its distance from the middle of the interval."""

    def near(self, mean: float, n: float) -> float:
        """Where the limit should be now.

        Args:
          mean: of y, now.
          n: observations now.
        """
        return mean - self.reach * math.sqrt(self.n / n)


def limit(
    stretches: Sequence[Stretch], spread: Spread, n_failed: int, earlier: Earlier | None = None
) -> float:
    """Lower limit of the mean of y = sign·x: every null up to it is rejected.

    Args:
      stretches: ascending in `until`, the last one reaching the upper bound; one sign.
      spread: observations that did not fail.
      n_failed: observations that count as the lower bound of y.
      earlier: the same limit at the look before, to start from; None = nowhere.

    Returns:
      A value in [low, high]; low when nothing is rejected.
    """
    nodes, weights = spread.nodes()
    start = stretches[0].process.low
    u = stretches[0].process.distance(nodes)
    if n_failed:
        u, weights = np.append(u, 0.0), np.append(weights, n_failed)
    total = float(weights.sum())
    if not total:
        return start
    mean = start + float(u @ weights) / total
    near = earlier.near(mean, total) if earlier else _usual(stretches[0], mean, u, weights)
    for stretch in stretches:
        excess = _Excess(stretch=stretch, u=u, weights=weights)
        end = min(stretch.until, max(mean, start))
        share = _SHARE_OF_GAP if earlier else 0.0
        found = _root(excess, start, end, near, share)
        # Nulls at the mean of the data are never rejected: no bet gains there (Jensen).
        if found < end or end < stretch.until:
            return found
        start = end
    return start


def _usual(stretch: Stretch, mean: float, u: Floats, weights: Floats) -> float:
    """Where a limit lies on a bell curve of these data: only a place to start."""
    total = float(weights.sum())
    variance = float((u * u) @ weights) / total - (mean - stretch.process.low) ** 2
    nats = stretch.threshold + _NATS_OF_THE_MIXTURE
    return mean - math.sqrt(2.0 * nats * max(variance, 0.0) / total)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Excess:
    """log E − threshold as a function of the null, which does not increase, and its slope."""

    stretch: Stretch
    u: Floats
    """Distances of the data's nodes from the lower bound of y, failed observations among them, at 0."""
    weights: Floats
    """Observations at each."""

    def __call__(self, m: float) -> tuple[float, float]:
        value, slope = self._bets(m)
        mixed = self.stretch.mixed
        if mixed is not None:
            step = 1e-7 * (self.stretch.process.high - self.stretch.process.low)
            plain = value
            value = mixed(m, plain)
            slope = (mixed(m + step, plain + slope * step) - value) / step
        if m == self.stretch.process.m:
            value = self.stretch.log_e
        return value - self.stretch.threshold, slope

    def rejects(self, m: float) -> bool:
        """Whether a null is rejected; at the process's own null the exact log E says so."""
        if m == self.stretch.process.m:
            return self.stretch.log_e >= self.stretch.threshold
        return self(m)[0] >= 0.0

    def _bets(self, m: float) -> tuple[float, float]:
        """Log E of the bets at a null and its derivative (bets held)."""
        process = self.stretch.process.at(m)
        offset, slope = process.line()
        # Bets lie outermost: long rows are several times as fast as many of eight.
        factors = slope[:, None] * self.u
        factors += offset[:, None]
        wealth = np.log(factors) @ self.weights + process.log_weight
        falls = slope * (np.reciprocal(factors, out=factors) @ self.weights)
        top = float(wealth.max())
        share = np.exp(wealth - top)
        whole = float(share.sum())
        return math.log(whole) + top, -float(share @ falls) / whole


def _root(excess: _Excess, left: float, right: float, near: float, share: float) -> float:
    """Largest null in [left, right] that is found rejected; left when none is.

    The process's own null is tried first: there the exact log E is known, so that a limit and a
    verdict never contradict each other. It is looked for from `near`, to a share of its distance
    from `right`.
    """
    width = _TOLERANCE * (excess.stretch.process.high - excess.stretch.process.low)
    if left < near < right:
        width = max(width, share * (right - near))
    left, right = _bracket(excess, left, right, near)
    guess = near if left < near < right else 0.5 * (left + right)
    for round_ in range(1, _ROUNDS + 1):
        if right - left <= width:
            break
        value, slope = excess(guess)
        if value >= 0.0:
            left = guess
            if value <= width * -slope:
                break
        else:
            right = guess
        # Aims a little to the rejected side, where the answer has to lie.
        guess = guess - value / slope - 0.5 * width if slope < 0.0 else left
        if not left < guess < right or round_ % _HALVE_EVERY == 0:
            guess = 0.5 * (left + right)
    return left


def _bracket(excess: _Excess, left: float, right: float, near: float) -> tuple[float, float]:
    """A narrower bracket from the nulls worth asking first."""
    process, until = excess.stretch.process, excess.stretch.until
    inside = left < near < right
    edges = [process.m, *([right] if right == until else []), *([] if inside else [left])]
    for known in edges:
        if left <= known <= right:
            if excess.rejects(known):
                left = known
            else:
                right = known
    return left, right

"""Evidence about exactly N requests: sampling without replacement, in the drawn order.

After t of N requests with sum S the rest of the window has a mean of at most m_t = (N·m − S)/(N − t)
if the whole has one of at most m. Bets are placed against m_t, frozen for a batch, and looked at when
the batch ends (Waudby-Smith & Ramdas 2020, "Confidence sequences for sampling without
replacement"). Within a batch the requests are a draw without replacement, for which the expected
product of non-negative factors is at most that of independent draws (Maclaurin's inequality), so the
frozen bet stays fair. Bets are capped, before the batch is seen, at CAP of what is admissible at m_t.

Requests that planned the bets are read and not bet on: S and t count them from the start. The
likelihood ratios below are mixed with weights that no data chose, so they may weigh all that was read.

- m_t below the lower bound: the null has become impossible, the side is certain for good; with
  t = N this is the exact answer (exhaustion decides, of this claim only).
- m_t at or above the upper bound: the null has become certain, nothing is won any more (frozen).

For 0/1 values the number of ones in the window is the unknown: a mixture of hypergeometric likelihood
ratios M' against M depends on (n, S) alone and carries three quarters of the capital (each step is a
bet against m_t, so it is fair under every M on the null's side). The first value that is neither 0
nor 1 ends it at nothing: that is a loss, so it is allowed; bets carry on.

Limits: log-wealth depends on the path of m_t, so it is kept at a fixed grid of nulls, dense around
the margin; a limit is the outermost null up to which all are rejected. The true mean lies beyond
some null of the grid, and only that one e-process has to err for the interval to miss it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from harness.core.errors import GateError
from harness.core.tensors import Bools, Floats
from harness.judge.betting import CAP, OneSided
from harness.judge.products import log_products
from harness.judge.sequences import Earlier

CERTAIN = math.log(1e300)
"""log E of a null that has become impossible; finite, so that it can be saved and averaged."""

COUNT_SHARE = 0.75
"""Of the capital that lies on the hypergeometric mixture where values are 0 or 1."""

_ALTERNATIVES = 96
_NULLS_A_SIDE = 14
_NEAREST = 0.02
_BETS = 4
_SLACK = 1e-10
_ZERO_ONE = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Requests of the window that planned the bets: no bet is placed on them, their sum is known."""

    n: int
    """Requests."""
    total: float
    """Sum of the values of those that did not fail."""
    n_failed: int
    """Of n: failed or without a value; each side counts them as its worst."""
    shares: bool
    """Whether every value is 0 or 1."""

    @classmethod
    def of(cls, x: Floats) -> Self:
        """Sums up values, shape (n,), NaN = failed or without a value."""
        known = x[~np.isnan(x)]
        return cls(
            n=len(x),
            total=float(known.sum()),
            n_failed=len(x) - len(known),
            shares=bool(np.all((known == 0.0) | (known == 1.0))),
        )


NOTHING_READ = Read(n=0, total=0.0, n_failed=0, shares=True)


class WindowEvidence:
    """One track's e-processes under `claim: window`; memory does not grow with the data."""

    def __init__(
        self,
        processes: Sequence[OneSided],
        bars: Sequence[tuple[float, float]],
        bounds: tuple[float, float],
        population: int,
        read: Read = NOTHING_READ,
    ) -> None:
        """Starts with no evidence.

        Args:
          processes: bets of each side, against the margin.
          bars: for each of them (log E that rejects a null, last null in y it answers for).
          bounds: (lo, hi) of the observations.
          population: N ≥ 0, those that were read among them.
          read: what planned the bets; the rest of the window has a mean of at most
            (N·m − S₀)/(N − n₀) if the whole has one of at most m.

        Raises:
          GateError: more requests were read than the window holds.
        """
        if read.n > population:
            raise _too_many(read.n, population)
        self._population = population
        self._bounds = bounds
        shares = bounds == _ZERO_ONE
        self._sides = [
            _Side(process, until, population, shares=shares)
            for process, (_, until) in zip(processes, bars, strict=True)
        ]
        self._n = read.n
        self._sum = read.total
        self._n_failed = read.n_failed
        self._whole = shares and read.shares
        """Whether every value so far was 0 or 1."""
        for side in self._sides:
            side.settle(self._n, self._sum, self._n_failed)

    def add(self, x: Floats, n_failed: int, total: float) -> None:
        """Adds one batch, the next of the drawn order.

        Args:
          x: values of requests that did not fail, each in the bounds, shape (n,).
          n_failed: requests that failed or did not enter; each side counts them as its worst.
          total: sum of x.

        Raises:
          GateError: more requests than the window holds.
        """
        if self._n + len(x) + n_failed > self._population:
            raise _too_many(self._n + len(x) + n_failed, self._population)
        for side in self._sides:
            side.add(x, n_failed, self._n, self._sum, self._n_failed)
        self._n += len(x) + n_failed
        self._sum += total
        self._n_failed += n_failed
        self._whole = self._whole and bool(np.all((x == 0.0) | (x == 1.0)))
        for side in self._sides:
            side.settle(self._n, self._sum, self._n_failed)

    def log_e(self) -> list[float]:
        """Natural log of E of each process at its own null, at most CERTAIN."""
        return [float(self._log_e(side, 1)[0]) for side in self._sides]

    def _log_e(self, side: _Side, nulls: int) -> Floats:
        seen = (self._n, self._sum, self._n_failed)
        return side.log_e(*seen, counts=self._whole, nulls=nulls)

    def lower(
        self, sign: int, bars: Sequence[tuple[float, float]], earlier: Earlier | None
    ) -> float:
        """Lower limit of the window's mean of sign·x, rounded outward to the grid of nulls.

        Args:
          sign: +1 or −1.
          bars: as in the constructor.
          earlier: not needed here.

        Returns:
          In sign·x.
        """
        del earlier
        if self._n == self._population:
            # All of it is here: nothing but the failed requests is unknown.
            side = next(side for side in self._sides if side.process.sign == sign)
            return side.total(self._sum, self._n_failed) / max(self._population, 1)
        pairs = zip(self._sides, bars, strict=True)
        mine = sorted(
            ((side, bar, until) for side, (bar, until) in pairs if side.process.sign == sign),
            key=lambda entry: entry[2],
        )
        found = mine[0][0].process.low
        for side, bar, until in mine:
            nulls, log_e = side.nulls[1:], self._log_e(side, len(side.nulls))
            # One e-process a null: at the margin it is the verdict's, with all its bets.
            rejected = np.where(nulls == side.process.m, log_e[0], log_e[1:]) >= bar
            first = int(np.argmin(rejected)) if not rejected.all() else len(nulls)
            found = float(nulls[first - 1]) if first else found
            if first < len(nulls) or until == side.process.high:
                break
        return found

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "population": self._population,
            "n": self._n,
            "sum": self._sum,
            "n_failed": self._n_failed,
            "whole": self._whole,
            "sides": [side.state() for side in self._sides],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state` of the same processes and population.

        Raises:
          GateError: another population.
        """
        if state["population"] != self._population:
            what = f"saved for {state['population']:,} requests, not {self._population:,}"
            raise GateError("judge", what, "Start a new run: a window claim has one N.")
        self._n = int(state["n"])
        self._sum = float(state["sum"])
        self._n_failed = int(state["n_failed"])
        self._whole = bool(state["whole"])
        for side, saved in zip(self._sides, state["sides"], strict=True):
            side.restore(saved)


def _too_many(n: int, population: int) -> GateError:
    what = f"{n:,} requests of a window of {population:,}"
    return GateError("judge", what, "Report this: each request of a window enters once.")


class _Side:
    """One process at its own null and, for limits, at a grid of nulls."""

    def __init__(self, process: OneSided, until: float, population: int, *, shares: bool) -> None:
        self.process = process
        self.population = population
        self.nulls = np.concatenate([[process.m], _grid(process, until)])
        """Shape (G + 1,): its own null, then the grid, ascending."""
        k = len(process.lam)
        # The grid carries every other bet of the generic ones: limits are for reading, not deciding.
        few = np.linspace(k - 1, max(k - 2 * _BETS, 0), _BETS).round().astype(np.int64)
        picks = np.concatenate([np.arange(k), np.tile(few, len(self.nulls) - 1)])
        self.owner = np.concatenate(
            [np.zeros(k, np.int64), np.repeat(np.arange(1, len(self.nulls)), _BETS)]
        )
        """Index of the null that a bet is placed against, shape (B,)."""
        self.lam = process.lam[picks]
        self.log_weight = np.concatenate(
            [process.log_weight, np.full(len(picks) - k, -math.log(_BETS))]
        )
        self.wealth = np.zeros(len(picks))
        self.certain: Bools = np.zeros(len(self.nulls), np.bool_)
        self.counts = (
            CountMixture(self.nulls, process, population) if shares and population else None
        )

    def total(self, s: float, n_failed: int) -> float:
        """Sum of y with failed requests at the lower bound."""
        return self.process.sign * s + n_failed * self.process.low

    def add(self, x: Floats, n_failed: int, n: int, s: float, failed: int) -> None:
        """Bets on one batch against what the batches before it left over."""
        process, left = self.process, self.population - n
        m = (self.population * self.nulls - self.total(s, failed)) / left
        offset, lam = frozen_bets(process, self.lam, m[self.owner])
        grown = log_products(process.distance(x), offset, lam) + n_failed * np.log(offset)
        self.wealth += grown

    def settle(self, n: int, s: float, n_failed: int) -> None:
        """Notes the nulls that what was seen has made impossible, whatever is still to come."""
        process, count = self.process, self.population
        least = self.total(s, n_failed) + (count - n) * process.low
        slack = _SLACK * count * (process.high - process.low)
        self.certain |= least > count * self.nulls + slack

    def log_e(self, n: int, s: float, n_failed: int, *, counts: bool, nulls: int) -> Floats:
        """Natural log of E at the first nulls, shape (nulls,)."""
        bets = len(self.process.lam) + (nulls - 1) * _BETS
        log_e = np.full(nulls, -np.inf)
        np.logaddexp.at(log_e, self.owner[:bets], (self.wealth + self.log_weight)[:bets])
        if self.counts is not None:
            log_e += math.log1p(-COUNT_SHARE)
            if counts:
                ones = s + (n_failed if self.process.sign < 0 else 0)
                won = self.counts.log_e(n, ones, nulls)
                log_e = np.logaddexp(log_e, math.log(COUNT_SHARE) + won)
        return np.where(self.certain[:nulls], CERTAIN, np.minimum(log_e, CERTAIN))

    def state(self) -> dict[str, Any]:
        return {"wealth": self.wealth.tolist(), "certain": self.certain.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        self.wealth = np.asarray(state["wealth"], np.float64)
        self.certain = np.asarray(state["certain"], np.bool_)


def frozen_bets(process: OneSided, lam: Floats, m: Floats) -> tuple[Floats, Floats]:
    """(offset, slope) of bets that hold for one batch.

    Args:
      process: its bounds are used.
      lam: λ as planned, any shape.
      m: mean that the null leaves for the rest of the window, of a shape that goes with it.

    Returns:
      Bets cut to what is admissible at m; none where the null has become certain.
    """
    above = np.maximum(m - process.low, 0.0)
    room = np.maximum(above, CAP / max(float(lam.max()), 1.0))
    lam = np.where(m >= process.high, 0.0, np.minimum(lam, CAP / room))
    return np.asarray(1.0 - lam * above, np.float64), lam


class CountMixture:
    """Mixture of hypergeometric likelihood ratios of M' ones in the window against M."""

    def __init__(self, nulls: Floats, process: OneSided, population: int) -> None:
        margin = process.sign * process.m
        in_x = process.sign * nulls
        n = population
        # The largest number of ones that the null allows (sign +1), or the smallest (sign −1).
        nudge = _SLACK * n
        edges = np.floor(in_x * n + nudge) if process.sign > 0 else np.ceil(in_x * n - nudge)
        self._null = np.clip(edges, 0.0, n)
        edge = float(self._null[0])
        reach = n - edge if process.sign > 0 else edge
        # Alternatives in even steps of the square root (Jeffreys) near the margin, up to the range.
        near = min(reach, max(4.0 * margin * n, 16.0))
        steps = np.unique(np.round(near * np.linspace(0.0, 1.0, _ALTERNATIVES) ** 2))
        far = np.geomspace(near, max(reach, near), 8)
        found = np.unique(np.concatenate([steps[steps >= 1.0], np.round(far)]))
        found = found[(found >= 1.0) & (found <= reach)]
        self._other = edge + process.sign * found
        weights = np.diff(np.concatenate([[0.0], found])) / np.sqrt(np.maximum(margin * n, found))
        weights = weights if len(weights) else np.ones(0)
        self._log_weight = np.log(weights / weights.sum()) if len(weights) else weights
        self._sign, self._population = process.sign, n

    def log_e(self, n: int, ones: float, nulls: int) -> Floats:
        """Natural log of E at the first nulls, shape (nulls,)."""
        asked = self._null[:nulls]
        null = _log_likelihood(asked, self._population, n, ones)
        if not len(self._other):
            return np.zeros(len(null))
        other = _log_likelihood(self._other, self._population, n, ones)
        beyond = self._sign * (self._other[None, :] - asked[:, None]) > 0.0
        # Data that are impossible under the null itself win nothing here: either the null's side is
        # excluded, which `certain` says, or the null has become true.
        known = np.where(np.isneginf(null), np.inf, null)
        ratio = np.where(beyond, other[None, :] - known[:, None], 0.0)
        ratio[np.isneginf(null)] = -np.inf
        return np.asarray(np.logaddexp.reduce(ratio + self._log_weight, axis=1), np.float64)


def _log_likelihood(m: Floats, population: int, n: int, ones: float) -> Floats:
    """Log of C(M, s)·C(N − M, n − s) for every M; −inf where it is 0."""
    from scipy.special import gammaln

    def choose(whole: Floats, part: float) -> Floats:
        possible = whole >= part
        safe = np.where(possible, whole, part)
        value = gammaln(safe + 1.0) - gammaln(part + 1.0) - gammaln(safe - part + 1.0)
        return np.where(possible, value, -np.inf)

    return np.asarray(choose(m, ones) + choose(population - m, n - ones), np.float64)


def _grid(process: OneSided, until: float) -> Floats:
    """Nulls in (low, until], ascending: dense around the margin, sparse towards the bounds."""
    low, high, m = process.low, min(until, process.high), process.m
    scale = max(abs(m), 1e-6 * (process.high - process.low)) * _NEAREST
    below = m - np.geomspace(scale, max(m - low, 2.0 * scale), _NULLS_A_SIDE)
    above = m + np.geomspace(scale, max(process.high - m, 2.0 * scale), _NULLS_A_SIDE)
    inside = np.unique(np.concatenate([below, [m], above, [high]]))
    return np.asarray(inside[(inside > low) & (inside <= high)], np.float64)

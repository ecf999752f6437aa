"""Evidence about traffic like the window's: sums over observations, in any order.

Log-wealth of constant bets is additive, so this state has no order and no end (N = ∞). For shares
without a plan a Beta mixture (bernoulli.py) carries three quarters of the capital and bets one
quarter: rare events are decided with about a fifth fewer requests, and means of several rows, whose
variance only bets use, lose no more than log 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.core.tensors import Bools, Floats
from harness.judge.bernoulli import BetaMixture
from harness.judge.betting import Joint, OneSided, log_mean, without_zeros
from harness.judge.sequences import Earlier, Mixing, Spread, Stretch, limit

BETA_SHARE = 0.75
"""Of the capital that lies on the Beta mixture where there is one."""

_LARGEST = math.log(1e300)


class ProcessEvidence:
    """One track's e-processes under `claim: process`; memory does not grow with the data."""

    def __init__(
        self,
        processes: Sequence[OneSided],
        mixtures: Sequence[BetaMixture | None],
        bounds: tuple[float, float],
    ) -> None:
        """Starts with no evidence.

        Args:
          processes: bets of each side, equally many.
          mixtures: for each of them a Beta mixture against the same null, or None.
          bounds: (lo, hi) of the observations.
        """
        self._processes = tuple(processes)
        self._joint = Joint(processes)
        self._mixtures = tuple(mixtures)
        self._log_weight = np.stack([p.log_weight for p in processes])
        self._log_failed = np.stack([p.log_failed() for p in processes])
        self._wealth = np.zeros_like(self._log_weight)
        """Log-wealth of each bet of each process, failed observations not counted, shape (P, K)."""
        self._bounds = bounds
        self._spread = Spread(bounds)
        self._n = 0
        self._sum = 0.0
        self._n_failed = 0
        self._now: list[float] | None = None
        """log E at this look, once asked for."""

    def add(self, x: Floats, n_failed: int, total: float) -> None:
        """Adds observations.

        Args:
          x: values of observations that did not fail, each in the bounds, shape (n,).
          n_failed: observations that failed.
          total: sum of x.
        """
        other = without_zeros(x)
        zeros = len(x) - len(other)
        self._wealth = self._wealth + self._joint.growth(other, zeros)
        self._now = None
        self._spread.add(other, zeros)
        self._n += len(x)
        self._sum += total
        self._n_failed += n_failed

    def each(self, x: Floats, failed: Bools, sides: int) -> list[Floats]:
        """Log E of the first processes after each observation that is to be added, without adding.

        Args:
          x: values in arrival order, shape (n,); what failed is not read.
          failed: shape (n,).
          sides: how many processes.

        Returns:
          For each of them, shape (n,).
        """
        return [self._each(i, x, failed) for i in range(sides)]

    def _each(self, i: int, x: Floats, failed: Bools) -> Floats:
        process, mixture = self._processes[i], self._mixtures[i]
        # A failed observation is the worst for what the side is to prove: y at its lower bound.
        filled = np.where(failed, process.sign * process.low, x)
        before = self._wealth[i] + self._n_failed * self._log_failed[i]
        bets = process.each(filled, before)
        if mixture is None:
            return bets
        n = self._n + self._n_failed + np.arange(1.0, len(x) + 1.0)
        total = self._sum + (self._n_failed if mixture.sign < 0 else 0) + np.cumsum(filled)
        beta = np.minimum(mixture.log_e_each(n, total), _LARGEST)
        return np.logaddexp(math.log(BETA_SHARE) + beta, math.log1p(-BETA_SHARE) + bets)

    def log_e(self) -> list[float]:
        """Natural log of E of each process at its own null."""
        if self._now is None:
            wealth = self._wealth + self._n_failed * self._log_failed
            bets = log_mean(wealth, self._log_weight).tolist()
            nulls = [p.sign * p.m for p in self._processes]
            self._now = [self._mixed(i, bets[i], null) for i, null in enumerate(nulls)]
        return self._now

    def _mixed(self, i: int, bets: float, null: float) -> float:
        """Log E of a process at a null in x, given the bets' part of it."""
        mixture = self._mixtures[i]
        if mixture is None:
            return bets
        # A failed observation is the worst for what the side is to prove: 0 above, 1 below.
        total = self._sum + (self._n_failed if mixture.sign < 0 else 0)
        beta = mixture.log_e(self._n + self._n_failed, total, null)
        share = math.log(BETA_SHARE) + min(beta, _LARGEST)
        return float(np.logaddexp(share, math.log1p(-BETA_SHARE) + bets))

    def lower(
        self, sign: int, bars: Sequence[tuple[float, float]], earlier: Earlier | None
    ) -> float:
        """Lower limit of the mean of sign·x: every null below it is rejected.

        Args:
          sign: +1 or −1.
          bars: for each process (log E at which a null is rejected, last null it answers for).
          earlier: the limit at the look before, to start from; None = nowhere.

        Returns:
          In sign·x.
        """
        stretches = [
            Stretch(process=process, until=until, threshold=bar, log_e=self.log_e()[i],
                    mixed=self._at(i) if self._mixtures[i] else None)
            for i, (process, (bar, until)) in enumerate(zip(self._processes, bars, strict=True))
            if process.sign == sign
        ]  # fmt: skip
        stretches.sort(key=lambda stretch: stretch.until)
        return limit(stretches, self._spread, self._n_failed, earlier)

    def _at(self, i: int) -> Mixing:
        """How log E of the bets at a null of sign·x becomes log E of the process there."""
        sign = self._processes[i].sign
        return lambda null, bets: self._mixed(i, bets, sign * null)

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "n": self._n,
            "sum": self._sum,
            "n_failed": self._n_failed,
            "wealth": self._wealth.tolist(),
            "spread": self._spread.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state` of the same processes."""
        self._now = None
        self._n = int(state["n"])
        self._sum = float(state["sum"])
        self._n_failed = int(state["n_failed"])
        self._wealth = np.asarray(state["wealth"], np.float64)
        self._spread = Spread.from_state(self._bounds, state["spread"])

"""Two arms that saw different units, while the split changes: the overlap-weighted difference.

A unit with outcome Y in [lo, hi] is in the candidate's arm (A = 1) with the probability π_t of its
ramp step. With any prediction μ̂_t that uses only earlier units,

    X_t = (Y_t − μ̂_t)(A_t − π_t)    has    E(X_t | past) = π_t(1 − π_t)·Δ_t ,

Δ_t being the candidate's effect on unit t: only the coin flip A_t is needed for that, neither equal
hours nor equal users. So Z_t = X_t − π_t(1 − π_t)·δ has mean ≤ 0 under "Δ ≤ δ" and feeds the
constant bets of `betting`. The subject is the average effect weighted by π(1 − π) (overlap weights:
Li, Morgan & Zaslavsky 2018; the martingale form is that of R-learning's residuals, Robinson 1988).

|Z_t| ≤ hi − lo for every π and every δ in [lo − hi, hi − lo], as max(π, 1 − π) + π(1 − π) ≤ 1. One
set of bets is therefore admissible at every step and at every null, and a limit is where the
log-wealth of these very bets crosses.

Tried and left: inverse propensity weights. Their bound is 1/π, so at 1 % of traffic one unit weighs
a hundred times one at 50 %, and a ramp from 1 to 50 % hardly ever decides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from harness.core.errors import PolicyError, TrafficError
from harness.core.policies import Direction
from harness.core.tensors import Bools, Floats
from harness.core.verdicts import PathPoint
from harness.judge.betting import OneSided, one_sided
from harness.judge.looks import Looks, point_of
from harness.judge.sequences import Spread

MAX_STEPS = 64
"""Different propensities at most; ramps have a handful."""

_ROUNDS = 22
_LEAST_SCALE = 0.01
_SIGNS = {Direction.INCREASE: (1,), Direction.DECREASE: (-1,), Direction.BOTH: (1, -1)}


class OverlapTrack:
    """Evidence about the overlap-weighted difference candidate − baseline of one quantity.

    Guarantee: if Δ_t ≤ margin for every unit (running averages of π(1 − π)(Δ_t − margin) ≤ 0 at
    every look are enough), the rollback e-value reaches 1/α at any look with probability ≤ α;
    promotion likewise with Δ_t ≥ margin.
    """

    def __init__(
        self,
        *,
        direction: Direction,
        margin: float,
        bounds: tuple[float, float],
        plan: tuple[float | None, float | None] = (None, None),
        alphas: tuple[float, float],
    ) -> None:
        """Chooses the bets.

        Args:
          direction: which side of the margin is harm.
          margin: largest tolerated difference, in [0, hi − lo).
          bounds: (lo, hi), mathematical bounds of one outcome.
          plan: (expected distance of the difference from the margin, variance of an outcome); the
            best bet, distance/variance, is the same at every π.
          alphas: (promotion, rollback) levels of the interval's ends.

        Raises:
          PolicyError: a margin or a level outside its range.
        """
        width = bounds[1] - bounds[0]
        if not 0.0 <= margin < width:
            what = f"margin {margin:g} is not in [0, {width:g})"
            raise PolicyError("margin", what, "A difference of outcomes lies within their range.")
        if not all(0.0 < alpha < 1.0 for alpha in alphas):
            raise PolicyError("alpha", f"{alphas} is not in (0, 1)", "Use levels like 0.05.")
        self._bets = overlap_bets(margin, width, plan)
        self._bounds = bounds
        self._width = width
        self._alphas = alphas
        signs = _SIGNS[direction]
        # (sign of the bet, null difference): rollback sides, then their promotions.
        self._rollbacks = [(s, s * margin) for s in signs]
        self._promotes = [(-s, s * margin) for s in signs]
        self._wealth = np.zeros((2 * len(signs), len(self._bets.lam)))
        self._spreads: dict[float, dict[int, Spread]] = {}
        self._looks = Looks()
        self._mean_of = (0.5 * (bounds[0] + bounds[1]), 1)
        self.n = 0
        """Units that entered, failed ones among them."""
        self.n_failed = 0
        """Units whose outcome counts as the worst for whatever is to be proven."""

    def add(
        self, y: Floats, candidate: Bools, propensity: Floats, failed: Bools | None = None
    ) -> Floats:
        """Adds units, each of them a look of rollback's; promotion's follows.

        Args:
          y: outcomes in [lo, hi], shape (n,), in order of exposure; NaN counts as failed, because
            leaving units out after the coin flip would compare different units.
          candidate: arm per unit, shape (n,).
          propensity: π of the unit's step, shape (n,), each in [0, 1]; 0 and 1 add no evidence.
          failed: units without an outcome, shape (n,).

        Returns:
          `log_e_rollback` after each unit, shape (n,).

        Raises:
          TrafficError: lengths differ, a value outside its range, a unit in an arm that had
            probability 0, or more than MAX_STEPS different propensities.
        """
        lost = np.isnan(y) if failed is None else np.isnan(y) | failed
        self._check(y, candidate, propensity, lost)
        if not len(y):
            return np.zeros(0)
        predicted = self._predicted(np.where(lost, 0.0, y), ~lost)
        lo, hi = self._bounds
        turned = candidate - propensity
        products = {}
        for sign in (1, -1):
            # The worst for a bet on +X: the candidate's unit at lo, the baseline's at hi.
            worst = np.where(candidate == (sign > 0), lo, hi)
            products[sign] = (np.where(lost, worst, y) - predicted) * turned
        overlap = propensity * (1.0 - propensity)
        each = []
        for i, (sign, null) in enumerate([*self._rollbacks, *self._promotes]):
            z = sign * (products[sign] - overlap * null)
            if i < len(self._rollbacks):
                each.append(self._bets.each(z, self._wealth[i]))
            self._wealth[i] += self._bets.growth(z)
        self._remember(propensity, products)
        self.n += len(y)
        self.n_failed += int(np.count_nonzero(lost))
        if self._looks.due(self.n):
            self._looks.keep(self.point())
        return np.asarray(np.logaddexp.reduce(each, axis=0) - math.log(len(each)), np.float64)

    def _check(self, y: Floats, candidate: Bools, propensity: Floats, lost: Bools) -> None:
        if not len(y) == len(candidate) == len(propensity) == len(lost):
            what = f"{len(y)} outcomes, {len(candidate)} arms, {len(propensity)} propensities"
            raise TrafficError("arms", what, "Give one of each for every unit.")
        lo, hi = self._bounds
        if np.any((y[~lost] < lo) | (y[~lost] > hi)):
            what = f"an outcome is outside [{lo:g}, {hi:g}]"
            raise TrafficError("outcome", what, "The test is valid only within true bounds.")
        if not np.all((propensity >= 0.0) & (propensity <= 1.0)):
            what = "a propensity is missing or outside [0, 1]"
            raise TrafficError("propensity", what, "Record the split that was in force.")
        if np.any(np.where(candidate, propensity, 1.0 - propensity) == 0.0):
            what = "a unit is in an arm that had probability 0"
            raise TrafficError("propensity", what, "Record the split in force at first exposure.")

    def _predicted(self, y: Floats, known: Bools) -> Floats:
        """Mean of all earlier outcomes, whatever their arm; starts in the middle of the range."""
        total, count = self._mean_of
        sums = total + np.concatenate([[0.0], np.cumsum(y)])
        counts = count + np.concatenate([[0], np.cumsum(known)])
        self._mean_of = (float(sums[-1]), int(counts[-1]))
        return np.asarray(sums[:-1] / counts[:-1], np.float64)

    def _remember(self, propensity: Floats, products: dict[int, Floats]) -> None:
        for pi in np.unique(propensity):
            if float(pi) not in self._spreads and len(self._spreads) == MAX_STEPS:
                what = f"more than {MAX_STEPS} different propensities"
                raise TrafficError("propensity", what, "Ramp in steps.")
            both = self._of_step(float(pi))
            at = propensity == pi
            for sign, product in products.items():
                both[sign].add(product[at])

    def _of_step(self, pi: float) -> dict[int, Spread]:
        bounds = (-self._width, self._width)
        return self._spreads.setdefault(pi, {sign: Spread(bounds) for sign in (1, -1)})

    def log_e_rollback(self) -> float:
        """Natural log of the average over sides."""
        sides = self._bets.log_e(self._wealth[: len(self._rollbacks)])
        return float(np.logaddexp.reduce(sides)) - math.log(len(sides))

    def log_e_promote(self) -> float:
        """Natural log of the smaller side."""
        return float(self._bets.log_e(self._wealth[len(self._rollbacks) :]).min())

    def point(self) -> PathPoint:
        """The evidence now."""
        return point_of(self)

    def path(self) -> tuple[PathPoint, ...]:
        """Looks kept for a report, the last one among them."""
        return self._looks.until(self.point())

    def interval(self) -> tuple[float, float]:
        """Confidence sequence of the overlap-weighted difference; ends as in `Track.interval`."""
        return self._limit(1), -self._limit(-1)

    def _limit(self, sign: int) -> float:
        """Lower limit of sign·Δ: nulls that promotion answers for, then rollback's."""
        alpha_promote, alpha_rollback = self._alphas
        processes = [*self._rollbacks, *self._promotes]
        mine = [(i, sign * null) for i, (s, null) in enumerate(processes) if s == sign]
        sides = len(self._rollbacks)
        found = -self._width
        for i, null in sorted(mine, key=lambda process: process[1]):
            promotes = i >= sides
            until = 0.0 if promotes and sides > 1 else self._width
            bar = math.log(1.0 / (alpha_promote if promotes else alpha_rollback / sides))
            found = self._rejected_until(sign, found, until, bar)
            if float(self._bets.log_e(self._wealth[i])) >= bar:
                # The exact e-value rules at its own null: limit and verdict never disagree.
                found = max(found, null)
            if found < until:
                break
        return found

    def _rejected_until(self, sign: int, left: float, right: float, bar: float) -> float:
        """Last null in [left, right] up to which all are rejected; left when none is."""
        log_e = self._log_e_of_nulls(sign)
        if log_e(left) < bar:
            return left
        if log_e(right) >= bar:
            return right
        for _ in range(_ROUNDS):
            middle = 0.5 * (left + right)
            if log_e(middle) >= bar:
                left = middle
            else:
                right = middle
        return left

    def _log_e_of_nulls(self, sign: int) -> Callable[[float], float]:
        """Log E against "sign·Δ ≤ null" by null; falls as the null rises, never above the exact one."""
        seen = [(pi * (1.0 - pi), *both[sign].nodes()) for pi, both in self._spreads.items()]

        def log_e(null: float) -> float:
            wealth = np.zeros(len(self._bets.lam))
            for share, nodes, weights in seen:
                wealth += weights @ self._bets.log_factors(sign * nodes - share * null)
            return float(self._bets.log_e(wealth))

        return log_e

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "n": self.n,
            "n_failed": self.n_failed,
            "wealth": self._wealth.tolist(),
            "mean_of": list(self._mean_of),
            "looks": self._looks.state(),
            "spreads": [
                [pi, both[1].state(), both[-1].state()] for pi, both in self._spreads.items()
            ],
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of a track with the same arguments."""
        self.n = int(state["n"])
        self.n_failed = int(state["n_failed"])
        self._wealth = np.asarray(state["wealth"], np.float64)
        total, count = state["mean_of"]
        self._mean_of = (float(total), int(count))
        self._looks.restore(state["looks"])
        bounds = (-self._width, self._width)
        self._spreads = {
            float(pi): {1: Spread.from_state(bounds, up), -1: Spread.from_state(bounds, down)}
            for pi, up, down in state["spreads"]
        }
        return self


def overlap_bets(margin: float, width: float, plan: tuple[float | None, float | None]) -> OneSided:
    """Bets on Z in [−width, width] with null 0.

    Its variance is at most π(1 − π)·width²/4, so the smallest bet that can pay, for a difference a
    quarter of the margin beyond it, is margin/width² at every π. `one_sided` places its grid for a
    variance of width²; it is given four times the margin to end up there.
    """
    shown = 4.0 * max(margin, _LEAST_SCALE * width)
    placed = one_sided(1, shown, (shown - width, shown + width), *plan)
    return dataclasses.replace(placed, m=0.0, low=-width, high=width)

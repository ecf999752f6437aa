"""The running evidence of one test: one or two sides, each with a rollback and a promotion process."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from harness.core.errors import GateError
from harness.core.policies import Direction
from harness.core.tensors import Bools, Floats
from harness.core.verdicts import PathPoint
from harness.judge.bernoulli import BetaMixture
from harness.judge.betting import one_sided
from harness.judge.looks import point_of
from harness.judge.process_claim import ProcessEvidence
from harness.judge.sequences import Earlier
from harness.judge.window_claim import NOTHING_READ, Read, WindowEvidence

MAX_POINTS = 400
"""Path points kept at most, the last one not counted."""

_SIGNS = {Direction.INCREASE: (1,), Direction.DECREASE: (-1,), Direction.BOTH: (1, -1)}
_ZERO_ONE = (0.0, 1.0)
_WHOLE_STRIDE = 1.1
_SLICE_STRIDE = 1.2


class Track:
    """Accumulates one guardrail's observations; memory does not grow with them.

    For each sign of harm there is a rollback process on sign·x against "mean ≤ margin" and a
    promotion process on −sign·x against "mean ≤ −margin", which is "mean of sign·x ≥ margin".
    """

    def __init__(
        self,
        *,
        direction: Direction,
        margin: float,
        bounds: tuple[float, float],
        plan: tuple[float | None, float | None] = (None, None),
        alphas: tuple[float, float],
        sliced: bool = False,
        population: int | None = None,
        read: Read = NOTHING_READ,
    ) -> None:
        """Chooses the bets.

        Args:
          direction: which side of the margin is harm.
          margin: largest tolerated mean, inside the bounds.
          bounds: (lo, hi) of the observations.
          plan: (gap, second moment) as in `betting.one_sided`.
          alphas: (promotion, rollback) levels of the interval's ends.
          sliced: a slice's path is drawn with fewer points.
          population: N of a claim about these N requests only, whose batches then come in the drawn
            order; None = a claim about traffic like them.
          read: of these N, what planned the bets and is not added again.

        Raises:
          GateError: a margin, a level or a population that has no meaning.
        """
        _check_arguments(direction, margin, bounds, alphas=alphas, population=population)
        self._sides = len(_SIGNS[direction])
        processes = [one_sided(s, margin, bounds, *plan) for s in _SIGNS[direction]]
        processes += [one_sided(-s, -margin, bounds, *plan) for s in _SIGNS[direction]]
        self._processes = tuple(processes)
        self._bars = self._limits_bars(alphas)
        self._claim: ProcessEvidence | WindowEvidence
        if population is None:
            shares = bounds == _ZERO_ONE and None in plan
            mixtures = [
                BetaMixture(sign=p.sign, margin=margin) if shares else None for p in processes
            ]
            self._claim = ProcessEvidence(processes, mixtures, bounds)
        else:
            self._claim = WindowEvidence(processes, self._bars, bounds, population, read)
        self._stride = _SLICE_STRIDE if sliced else _WHOLE_STRIDE
        self._path: list[PathPoint] = []
        self.n = 0
        """Observations that entered, failed ones among them."""
        self.n_failed = 0
        """Observations that count as the worst for whatever is to be proven."""

    def _limits_bars(self, alphas: tuple[float, float]) -> tuple[tuple[float, float], ...]:
        """For each process: log E that rejects a null, and the last null (in y) it answers for."""
        alpha_promote, alpha_rollback = alphas
        bars = []
        for i, process in enumerate(self._processes):
            promotes = i >= self._sides
            alpha = alpha_promote if promotes else alpha_rollback / self._sides
            until = 0.0 if promotes and self._sides > 1 else process.high
            bars.append((math.log(1.0 / alpha), until))
        return tuple(bars)

    def add(self, x: Floats, n_failed: int) -> None:
        """Adds observations; one look at the evidence follows.

        Args:
          x: values of observations that did not fail, each in the bounds, shape (n,).
          n_failed: observations that failed.

        Raises:
          GateError: a value that is not a number; under a window claim, more than the window holds.
        """
        if not len(x) and not n_failed:
            return
        total = float(x.sum())
        if not math.isfinite(total):
            what = "a value that is not a number among those that did not fail"
            raise GateError("judge", what, "Report this: such a request has failed.")
        self._claim.add(x, n_failed, total)
        self.n += len(x) + n_failed
        self.n_failed += n_failed
        if not self._path or self.n >= self._path[-1].n * self._stride:
            self._path.append(self.point())
        if len(self._path) > MAX_POINTS:
            self._path = self._path[::2]
            self._stride *= self._stride

    def add_each(self, x: Floats, failed: Bools) -> Floats:
        """Adds observations of a process claim, each of them a look of rollback's.

        Args:
          x: values in arrival order, shape (n,); what failed is not read.
          failed: shape (n,).

        Returns:
          `log_e_rollback` after each of them, shape (n,).

        Raises:
          GateError: as `add`; also under a window claim, whose looks are at batch ends.
        """
        if isinstance(self._claim, WindowEvidence):
            what = "a window claim is looked at when a batch ends"
            raise GateError("judge", what, "Report this: use `add`.")
        sides = self._claim.each(x, failed, self._sides)
        self.add(x[~failed], int(np.count_nonzero(failed)))
        return np.asarray(np.logaddexp.reduce(sides, axis=0) - math.log(len(sides)), np.float64)

    def log_e_rollback(self) -> float:
        """Natural log of the average over sides."""
        sides = self._claim.log_e()[: self._sides]
        return float(np.logaddexp.reduce(sides)) - math.log(len(sides))

    def log_e_promote(self) -> float:
        """Natural log of the smaller side: non-inferiority must hold on every side."""
        return min(self._claim.log_e()[self._sides :])

    def point(self) -> PathPoint:
        """The evidence now."""
        return point_of(self)

    def path(self) -> tuple[PathPoint, ...]:
        """At most MAX_POINTS looks, the last one among them."""
        if not self.n:
            return ()
        kept = self._path if self._path[-1].n == self.n else [*self._path, self.point()]
        return tuple(kept if len(kept) <= MAX_POINTS else [kept[0], *kept[2:]])

    def interval(self) -> tuple[float, float]:
        """Confidence sequence of the mean: lower and upper end.

        An end that a promotion process sets misses the mean at any look with probability ≤ α_P, one
        that a rollback process sets with ≤ α_R, so the interval covers at ≥ 1 − α_P − α_R.
        """
        earlier = None
        if self._path:
            before = self._path[-1]
            earlier = Earlier(n=before.n, reach=0.5 * (before.upper - before.lower))
        lower = self._claim.lower(1, self._bars, earlier)
        return lower, -self._claim.lower(-1, self._bars, earlier)

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "n": self.n,
            "n_failed": self.n_failed,
            "claim": self._claim.state(),
            "stride": self._stride,
            "path": [list(point.row()) for point in self._path],
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of a track with the same arguments."""
        self.n = int(state["n"])
        self.n_failed = int(state["n_failed"])
        self._claim.restore(state["claim"])
        self._stride = float(state["stride"])
        self._path = [PathPoint.from_row(row) for row in state["path"]]
        return self


def _check_arguments(
    direction: Direction,
    margin: float,
    bounds: tuple[float, float],
    *,
    alphas: tuple[float, float],
    population: int | None,
) -> None:
    """Refuses what would make a test invalid rather than merely useless."""
    lo, hi = bounds
    wrong = ""
    if not -math.inf < lo < hi < math.inf:
        wrong = f"bounds [{lo:g}, {hi:g}]"
    elif not all(lo < sign * margin < hi for sign in _SIGNS[direction]):
        wrong = f"a margin of {margin:g} ({direction.value}) within bounds [{lo:g}, {hi:g}]"
    elif not all(0.0 < alpha < 1.0 for alpha in alphas):
        wrong = f"error levels {alphas[0]:g} and {alphas[1]:g}"
    elif population is not None and population < 0:
        wrong = f"a population of {population}"
    if wrong:
        raise GateError("judge", f"{wrong} cannot be tested", "Report this: policies are checked.")

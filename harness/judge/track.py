"""The running evidence of one test: one or two sides, each with a rollback and a promotion process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from harness.core.policies import Direction
from harness.core.tensors import Floats
from harness.core.verdicts import PathPoint
from harness.judge.betting import OneSided, one_sided
from harness.judge.sequences import Spread, Stretch, limit

MAX_POINTS = 400
"""Path points kept at most, the last one not counted."""

_SIGNS = {Direction.INCREASE: (1,), Direction.DECREASE: (-1,), Direction.BOTH: (1, -1)}
_WHOLE_STRIDE = 1.02
_SLICE_STRIDE = 1.1


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
    ) -> None:
        """Chooses the bets.

        Args:
          direction: which side of the margin is harm.
          margin: largest tolerated mean, inside the bounds.
          bounds: (lo, hi) of the observations.
          plan: (gap, second moment) as in `betting.one_sided`.
          alphas: (promotion, rollback) levels of the interval's ends.
          sliced: a slice's path is drawn with fewer points.
        """
        signs = _SIGNS[direction]
        self._rollbacks = [one_sided(s, margin, bounds, *plan) for s in signs]
        self._promotes = [one_sided(-s, -margin, bounds, *plan) for s in signs]
        self._wealth = [np.zeros(len(p.lam)) for p in self._processes()]
        self._bounds = bounds
        self._alphas = alphas
        self._spread = Spread(bounds)
        self._stride = _SLICE_STRIDE if sliced else _WHOLE_STRIDE
        self._path: list[PathPoint] = []
        self.n = 0
        """Observations that entered, failed ones among them."""
        self.n_failed = 0
        """Observations that count as the worst for whatever is to be proven."""

    def _processes(self) -> list[OneSided]:
        return [*self._rollbacks, *self._promotes]

    def add(self, x: Floats, n_failed: int) -> None:
        """Adds observations; one look at the evidence follows.

        Args:
          x: values of observations that did not fail, each in the bounds, shape (n,).
          n_failed: observations that failed.
        """
        if not len(x) and not n_failed:
            return
        grown = zip(self._processes(), self._wealth, strict=True)
        self._wealth = [wealth + process.growth(x) for process, wealth in grown]
        self._spread.add(x)
        self.n += len(x) + n_failed
        self.n_failed += n_failed
        if not self._path or self.n >= self._path[-1].n * self._stride:
            self._path.append(self.point())
        if len(self._path) > MAX_POINTS:
            self._path = self._path[::2]
            self._stride *= self._stride

    def log_e_rollback(self) -> float:
        """Natural log of the average over sides."""
        sides = self._log_e(self._rollbacks, self._wealth)
        return float(np.logaddexp.reduce(sides)) - math.log(len(sides))

    def log_e_promote(self) -> float:
        """Natural log of the smaller side: non-inferiority must hold on every side."""
        return min(self._log_e(self._promotes, self._wealth[len(self._rollbacks) :]))

    def _log_e(self, processes: Sequence[OneSided], wealths: Sequence[Floats]) -> list[float]:
        pairs = zip(processes, wealths, strict=False)
        return [float(p.log_e(w + self.n_failed * p.log_failed())) for p, w in pairs]

    def point(self) -> PathPoint:
        """The evidence now."""
        lower, upper = self.interval()
        return PathPoint(
            n=self.n,
            lower=lower,
            upper=upper,
            log_e_promote=self.log_e_promote(),
            log_e_rollback=self.log_e_rollback(),
        )

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
        return self._limit(1), -self._limit(-1)

    def _limit(self, sign: int) -> float:
        """Lower limit of sign·x: promotion's nulls first, rollback's beyond zero."""
        alpha_promote, alpha_rollback = self._alphas
        sides = len(self._rollbacks)
        stretches = []
        for i, process in enumerate(self._processes()):
            if process.sign != sign:
                continue
            promotes = i >= sides
            alpha = alpha_promote if promotes else alpha_rollback / sides
            (log_e,) = self._log_e([process], [self._wealth[i]])
            until = 0.0 if promotes and sides > 1 else process.high
            stretch = Stretch(
                process=process, until=until, threshold=math.log(1.0 / alpha), log_e=log_e
            )
            stretches.append(stretch)
        stretches.sort(key=lambda stretch: stretch.until)
        return limit(stretches, self._spread, self.n_failed)

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "n": self.n,
            "n_failed": self.n_failed,
            "wealth": [w.tolist() for w in self._wealth],
            "spread": self._spread.state(),
            "stride": self._stride,
            "path": [
                [p.n, p.lower, p.upper, p.log_e_promote, p.log_e_rollback] for p in self._path
            ],
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of a track with the same arguments."""
        self.n = int(state["n"])
        self.n_failed = int(state["n_failed"])
        self._wealth = [np.asarray(w, np.float64) for w in state["wealth"]]
        self._spread = Spread.from_state(self._bounds, state["spread"])
        self._stride = float(state["stride"])
        self._path = [
            PathPoint(n=n, lower=lower, upper=upper, log_e_promote=up, log_e_rollback=down)
            for n, lower, upper, up, down in state["path"]
        ]
        return self

"""How many units of two arms a verdict will need: `planning` for the overlap-weighted difference.

A unit is one of the cells (arm, outcome). With the prediction at the outcomes' mean, where it soon
is, its Z takes one value a cell, so counts of cells at growing looks are multinomial and log-wealth
is linear in them, as for paired requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.core.policies import Direction
from harness.core.tensors import Floats, Ints
from harness.judge.betting import OneSided
from harness.judge.overlap import overlap_bets
from harness.judge.planning import (
    HORIZON_OF_BOUND,
    POWER,
    RUNS,
    RequestModel,
    Requirement,
    look_sizes,
)

_SIGNS = {Direction.INCREASE: (1,), Direction.DECREASE: (-1,), Direction.BOTH: (1, -1)}
_AT_ONCE = 40
_LOOKS = 600
_REACHED = 0.995


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmsQuestion:
    """One guardrail over two arms, and how units are expected to be."""

    name: str
    """Evidence name."""
    margin: float
    """Largest tolerated difference of means, candidate − baseline."""
    direction: Direction
    """Which side is harm."""
    effect: float | None
    """The difference a harmless candidate is expected to have; None = not declared, planned as 0."""
    planned: bool
    """Whether the judge will know the outcomes' spread from rows that it does not test."""
    outcome: RequestModel
    """An outcome of the baseline."""
    propensity: float
    """Share of the candidate's arm, in (0, 1)."""

    def sides(self) -> tuple[list[Floats], Floats]:
        """Per harmful side the Z of its promotion bet in each cell, and the cells' probabilities."""
        pi, effect = self.propensity, self.effect or 0.0
        base = self.outcome
        lo, hi = base.bounds
        moved = base.with_mean(min(max(base.mean() + effect, lo), hi))
        mean = (1.0 - pi) * base.mean() + pi * moved.mean()
        product = np.concatenate([(moved.nodes - mean) * (1.0 - pi), (mean - base.nodes) * pi])
        p = np.concatenate([pi * moved.p, (1.0 - pi) * base.p])
        overlap = pi * (1.0 - pi)
        return [-s * product + overlap * self.margin for s in _SIGNS[self.direction]], p / p.sum()

    def bets(self) -> OneSided:
        """Those that the judge will make."""
        lo, hi = self.outcome.bounds
        aim: tuple[float | None, float | None] = (None, None)
        if self.planned and self.effect is not None:
            effects = {
                Direction.INCREASE: self.effect,
                Direction.DECREASE: -self.effect,
                Direction.BOTH: abs(self.effect),
            }
            spread = self.outcome.p @ np.square(self.outcome.nodes - self.outcome.mean())
            aim = (self.margin - effects[self.direction], float(spread))
        return overlap_bets(self.margin, hi - lo, aim)


def require_arms(
    question: ArmsQuestion, alpha: float, horizon: int, rng: np.random.Generator
) -> Requirement:
    """What a guardrail over two arms needs to be proven, in units of both arms together.

    Args:
      question: with a mean within the margin.
      alpha: promotion level, in (0, 1).
      horizon: most units looked at, ≥ 1.
      rng: draws the runs.
    """
    sides, p = question.sides()
    bets = question.bets()
    growth = min(_growth(z, p, -bets.low) for z in sides)
    bound = math.log(1.0 / alpha) / growth if growth > 0.0 else math.inf
    longest = horizon if bound == math.inf else max(1000, math.ceil(HORIZON_OF_BOUND * bound))
    ends = look_sizes(min(horizon, longest), _LOOKS)
    at = _crossings(bets, sides, p, ends, math.log(1.0 / alpha), rng)
    power = np.array([float((at <= end).mean()) for end in ends])
    enough = np.flatnonzero(power >= POWER)
    reached = bool((at < np.inf).mean() >= _REACHED)
    return Requirement(
        name=question.name,
        mean=question.effect or 0.0,
        declared=question.effect is not None,
        basis=question.outcome.basis,
        bound=bound,
        expected=float(at[at < np.inf].mean()) if reached else math.inf,
        quantile=float(ends[enough[0]]) if len(enough) else math.inf,
        n=ends,
        power=power,
    )


def spread_of(question: ArmsQuestion) -> tuple[float, float]:
    """(mean, standard deviation) of Z on the harder side, for a test with one look."""
    sides, p = question.sides()
    found = [(float(p @ z), math.sqrt(float(p @ np.square(z - p @ z)))) for z in sides]
    return min(found)


def _growth(z: Floats, p: Floats, width: float) -> float:
    """max_λ E log(1 + λz) over admissible bets, on a grid refined once."""
    lam = np.linspace(0.0, (1.0 - 1e-9) / width, 2001)
    best = int((np.log1p(lam[:, None] * z) @ p).argmax())
    fine = np.linspace(lam[max(best - 1, 0)], lam[min(best + 1, 2000)], 201)
    return float((np.log1p(fine[:, None] * z) @ p).max())


def _crossings(
    bets: OneSided, sides: list[Floats], p: Floats, ends: Ints, bar: float, rng: np.random.Generator
) -> Floats:
    """First look of each run at which every side is proven; inf = none, shape (RUNS,)."""
    steps = np.diff(ends, prepend=0)
    factors = [bets.log_factors(z) for z in sides]
    found: list[Floats] = []
    for start in range(0, RUNS, _AT_ONCE):
        runs = min(_AT_ONCE, RUNS - start)
        drawn = rng.multinomial(np.broadcast_to(steps, (runs, len(steps))), p)
        counts = np.cumsum(drawn, axis=1).astype(np.float64)
        logs = np.stack([bets.log_e(counts @ f) for f in factors], axis=-1).min(axis=-1)
        crossed = logs >= bar
        first = ends[crossed.argmax(axis=1)].astype(np.float64)
        found.append(np.where(crossed.any(axis=1), first, np.inf))
    return np.concatenate(found)

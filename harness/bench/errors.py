"""How often the judge is wrong with the mean exactly at the margin: simulations with a binomial limit.

A rate over R runs is held to the number of errors that a true rate of α exceeds once in ten thousand
(times two answers and as many conditions: still rare). Every condition is run for both answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.bench.figures import Figure
from harness.core.policies import Direction
from harness.core.tensors import Floats
from harness.judge.betting import Joint, one_sided
from harness.judge.track import Track

ALPHA = 0.05
_BAR = math.log(1.0 / ALPHA)
_ONCE_IN = 1e-4
_RARE, _OUTLIERS = 0.0005, 0.02

Sample = Callable[[int, np.random.Generator], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A law whose tested mean is exactly the margin."""

    name: str
    margin: float
    """Also the mean of what is tested."""
    bounds: tuple[float, float]
    draw: Sample
    """(n, generator) → observations within the bounds, shape (n,)."""
    note: str = ""


def conditions() -> tuple[Condition, ...]:
    """Laws that have broken sequential tests before."""
    tail = _clipped_tail(0.25)
    return (
        Condition(
            name="i.i.d. score", margin=0.01, bounds=(-1.0, 1.0),
            draw=lambda n, rng: 0.01 + rng.uniform(-0.1, 0.1, n),
        ),
        Condition(
            name="heavy tails", margin=0.01, bounds=(-1.0, 1.0),
            draw=lambda n, rng: 0.01 + rng.choice(_TAILS, n) * rng.choice([-1.0, 1.0], n),
            note="nearly always ±.001, once in 500 ±.9",
        ),
        Condition(
            name="rare events", margin=_RARE, bounds=(0.0, 1.0),
            draw=lambda n, rng: (rng.random(n) < _RARE).astype(np.float64),
            note="p = .0005",
        ),
        Condition(
            name="outliers beyond the range", margin=tail[1], bounds=(-0.25, 0.25),
            draw=tail[0], note="2 % at +1 under ±.25; the clipped mean is tested",
        ),
    )  # fmt: skip


_TAILS = np.concatenate([np.full(499, 0.001), [0.9]])


def _clipped_tail(edge: float) -> tuple[Sample, float]:
    """Noise with 2 % of requests far outside a declared range, cut to it, and its mean after that."""

    def draw(n: int, rng: np.random.Generator) -> Floats:
        x = np.where(rng.random(n) < _OUTLIERS, 1.0, rng.uniform(-0.05, 0.05, n))
        return np.clip(x, -edge, edge)

    return draw, _OUTLIERS * edge


def process_errors(runs: int, n: int, batch: int, seed: int) -> list[Figure]:
    """False answers about traffic at the margin, looked at after every batch.

    Args:
      runs: simulated runs a condition.
      n: requests a run.
      batch: requests between looks.
      seed: of the simulations.
    """
    rng = np.random.default_rng(seed)
    figures = []
    for condition in conditions():
        wrong = {"rollback": 0, "promotion": 0}
        for _ in range(runs):
            x = condition.draw(n, rng)
            for answer, crossed in _ever(condition, x, batch).items():
                wrong[answer] += crossed
        figures += [figure_of_errors(f"process, {condition.name}: false {answer}", count, runs,
                            condition.note) for answer, count in wrong.items()]  # fmt: skip
    return figures


def _ever(condition: Condition, x: Floats, batch: int) -> dict[str, bool]:
    """Whether each answer was ever given, of the bets alone (a track's paths cost time here)."""
    if condition.bounds == (0.0, 1.0):
        return _ever_track(condition, x, batch, None)
    sides = [one_sided(s, s * condition.margin, condition.bounds, None, None) for s in (1, -1)]
    wealth = [np.zeros(len(side.lam)) for side in sides]
    joint = Joint(sides)
    crossed = [False, False]
    for start in range(0, len(x), batch):
        grown = joint.growth(x[start : start + batch])
        for i, side in enumerate(sides):
            wealth[i] += grown[i]
            crossed[i] |= float(side.log_e(wealth[i])) >= _BAR
    return {"rollback": crossed[0], "promotion": crossed[1]}


def _ever_track(
    condition: Condition, x: Floats, batch: int, population: int | None
) -> dict[str, bool]:
    track = Track(
        direction=Direction.INCREASE, margin=condition.margin, bounds=condition.bounds,
        alphas=(ALPHA, ALPHA), population=population, sliced=True,
    )  # fmt: skip
    rollback = promotion = False
    for start in range(0, len(x), batch):
        track.add(x[start : start + batch], 0)
        rollback |= track.log_e_rollback() >= _BAR
        promotion |= track.log_e_promote() >= _BAR
    return {"rollback": rollback, "promotion": promotion}


def window_errors(runs: int, n: int, batch: int, seed: int) -> list[Figure]:
    """False answers about a window whose own mean is the margin, in freshly drawn orders.

    Args:
      runs: orders a condition.
      n: requests in the window, all of which are read.
      batch: requests between looks.
      seed: of the simulations.
    """
    rng = np.random.default_rng(seed)
    figures = []
    for condition in conditions():
        x = condition.draw(n, rng)
        while x.mean() <= 0.0:  # a margin of 0 asks another question
            x = condition.draw(n, rng)
        own = Condition(name=condition.name, margin=float(x.mean()), bounds=condition.bounds,
                        draw=condition.draw)  # fmt: skip
        wrong = {"rollback": 0, "promotion": 0}
        for _ in range(runs):
            for answer, crossed in _ever_track(own, rng.permutation(x), batch, n).items():
                wrong[answer] += crossed
        figures += [figure_of_errors(f"window, {condition.name}: false {answer}", count, runs,
                            condition.note) for answer, count in wrong.items()]  # fmt: skip
    return figures


def figure_of_errors(name: str, wrong: int, runs: int, note: str) -> Figure:
    """A rate of wrong answers beside the binomial limit of a true rate of α.

    Args:
      name: of the condition and the answer.
      wrong: runs with a wrong answer.
      runs: all runs.
      note: what is done about the condition.
    """
    from scipy.stats import binom

    limit = float(binom.ppf(1.0 - _ONCE_IN, runs, ALPHA)) / runs
    return Figure(name=name, value=wrong / runs, unit=f"of {runs:,} runs", limit=limit, note=note)

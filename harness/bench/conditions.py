"""Traffic on which sequential tests have gone wrong before, for many simulated runs at once.

A condition says how requests hang together (their latent ranks) and which values they have (a law
whose mean is known exactly). Latent ranks are uniform on (0, 1) whatever hangs together, so every
test can make its own observations from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.tensors import Floats

Rows = npt.NDArray[Any]
"""Of many runs: float32, float64 or bool, usually of shape (runs, n)."""

LOOKS = 100
"""Of a run."""
ATTEMPT_LOOKS = 20
"""After which an attempt ends where a condition restarts."""

_PHI = 0.9
_CLUSTER = 20
_ICC = 0.5
_DAY = 10
_RAMP = (0.01, 0.05, 0.1, 0.25, 0.5)
_TREND = 0.5
_RARE, _OUTLIERS = 0.0005, 0.02
_MIDDLE, _RARELY = 0.5, 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Values whose mean is the margin."""

    margin: float
    """Mean where nothing swings."""
    bounds: tuple[float, float]
    """Of the values; a declared range where it clips."""
    raw: Callable[[Rows, float], Rows]
    """(latent ranks, mean without outliers) → values, not yet clipped; float32 or float64."""

    def values(self, u: Rows, swing: float) -> Rows:
        """Observations from latent ranks.

        Args:
          u: ranks in (0, 1), any shape.
          swing: the mean is margin·(1 + swing).
        """
        return np.clip(self.raw(u, self.margin * (1.0 + swing)), *self.bounds)


def _heavy(u: Rows, mean: float) -> Rows:
    """Nearly always ±.001, once in 500 ±.9."""
    small = np.where(u < _MIDDLE, -0.001, 0.001)
    return mean + np.where(u < _RARELY, -0.9, np.where(u > 1.0 - _RARELY, 0.9, small))


def _outlying(edge: float) -> Law:
    """Noise with 2 % of requests far beyond a declared range; the clipped mean is tested."""
    middle = 0.5 * (1.0 + _OUTLIERS)

    def raw(u: Rows, mean: float) -> Rows:
        # What is no outlier keeps the clipped mean of all where it is asked for.
        usual = (mean - _OUTLIERS * edge) / (1.0 - _OUTLIERS) + 0.1 * (u - middle)
        return np.where(u < _OUTLIERS, 3.0, usual)

    return Law(margin=_OUTLIERS * edge, bounds=(-edge, edge), raw=raw)


SCORE = Law(margin=0.01, bounds=(-1.0, 1.0), raw=lambda u, mean: mean + 0.2 * (u - 0.5))
HEAVY = Law(margin=0.01, bounds=(-1.0, 1.0), raw=_heavy)
RARE = Law(margin=_RARE, bounds=(0.0, 1.0), raw=lambda u, mean: (u < mean).astype(np.float32))
SHARE = Law(margin=0.05, bounds=(0.0, 1.0), raw=lambda u, mean: (u < mean).astype(np.float32))
OUTLYING = _outlying(0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How requests hang together, and what their values are."""

    name: str
    law: Law = SCORE
    hangs: str = ""
    """Together how: "", "ar", "users", "bursts"."""
    swings: bool = False
    """Good half-days before bad ones."""
    ramps: bool = False
    """1 → 50 % of units, everybody's rate rising meanwhile."""
    restarts: bool = False
    """An attempt ends undecided every `ATTEMPT_LOOKS`; the question is asked again."""


CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition(name="i.i.d."),
        Condition(name="AR(1) .9", hangs="ar"),
        Condition(name="daily cycle", swings=True),
        Condition(name="clustered users", hangs="users"),
        Condition(name="heavy tails", law=HEAVY),
        Condition(name="rare .0005", law=RARE),
        Condition(name="outliers", law=OUTLYING),
        Condition(name="restarts", restarts=True),
        Condition(name="ramp", ramps=True),
        Condition(name="bursts", hangs="bursts"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What all runs see between two looks."""

    u: Rows
    """Latent ranks, float32, shape (runs, requests)."""
    swing: float
    """Relative swing of the mean."""
    whole: bool
    """Whether a whole cycle ends here."""
    pi: float
    """Candidate's share of units."""
    trend: float
    """By how much everybody's rate has risen, in [0, 1)."""


def blocks(
    condition: Condition, runs: int, batch: int, rng: np.random.Generator
) -> Iterator[Block]:
    """The traffic of many runs, look by look.

    Args:
      condition: what hangs together.
      runs: simulated at once.
      batch: requests between looks.
      rng: source.
    """
    latent = _latent(condition.hangs, runs, batch, rng)
    for look in range(LOOKS):
        hour = look % _DAY
        yield Block(
            u=next(latent),
            swing=(-0.6 if hour < _DAY // 2 else 0.6) if condition.swings else 0.0,
            whole=not condition.swings or hour == _DAY - 1,
            pi=_RAMP[look * len(_RAMP) // LOOKS] if condition.ramps else 0.5,
            trend=_TREND * look / LOOKS if condition.ramps else 0.0,
        )


def _latent(hangs: str, runs: int, batch: int, rng: np.random.Generator) -> Iterator[Rows]:
    from scipy.signal import lfilter
    from scipy.special import ndtr

    last = rng.standard_normal((runs, 1)) * _PHI
    scale = np.float32(math.sqrt(1.0 - _PHI * _PHI))
    while True:
        if hangs == "ar":
            z = rng.standard_normal((runs, batch), np.float32) * scale
            z, last = lfilter([1.0], [1.0, -_PHI], z, zi=last)
            yield _inside(ndtr(np.asarray(z, np.float32)))
        elif hangs == "users":
            z = rng.standard_normal((runs, batch), np.float32) * np.float32(math.sqrt(1 - _ICC))
            user = rng.standard_normal((runs, -(-batch // _CLUSTER)), np.float32)
            z += np.float32(math.sqrt(_ICC)) * np.repeat(user, _CLUSTER, axis=1)[:, :batch]
            yield _inside(ndtr(z))
        elif hangs == "bursts":
            events = rng.random((runs, -(-batch // _CLUSTER)), np.float32)
            yield np.repeat(events, _CLUSTER, axis=1)[:, :batch]
        else:
            yield rng.random((runs, batch), np.float32)


def _inside(u: Rows) -> Rows:
    return np.asarray(np.clip(u, 1e-7, 1.0 - 1e-7), np.float32)


def requests_of_a_unit() -> int:
    """Requests that a user or a burst holds."""
    return _CLUSTER


def window_of(condition: Condition, law: Law, n: int, rng: np.random.Generator) -> Floats:
    """One sealed window in arrival order, shape (n,), whose own mean is not 0."""
    while True:
        parts = [
            law.values(block.u[0], block.swing)
            for block in blocks(condition, 1, n // LOOKS, rng)
        ]  # fmt: skip
        x = np.concatenate(parts).astype(np.float64)
        if x.mean() > 0.0:  # a margin of 0 asks another question
            return x

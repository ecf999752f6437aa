"""How often the judge is wrong where requests depend on each other or the split changes.

As in `margin`, the tested quantity is exactly at its margin and every condition is run for both
answers, here with whole objects, one run after another. Each condition uses what the judge offers against it: overlap weights, pauses, unit means,
time blocks, whole cycles, saved evidence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np

from harness.bench.figures import Figure
from harness.bench.margin import ALPHA, figure_of_errors
from harness.core.policies import Direction
from harness.core.tensors import Floats
from harness.judge.counts import Bursts, ErrorRatio
from harness.judge.metrics import Values
from harness.judge.overlap import OverlapTrack
from harness.judge.track import Track
from harness.judge.units import unit_means, units_of_blocks, units_of_column

_BAR = math.log(1.0 / ALPHA)
_RAMP = (0.01, 0.05, 0.1, 0.25, 0.5)
_MARGIN = 0.05
_NS = 1_000_000_000

Path = Callable[[np.random.Generator], tuple[bool, bool]]
"""One run → whether it was ever rolled back, whether it was ever promoted."""


def dependent_errors(runs: int, seed: int) -> list[Figure]:
    """False answers at the margin under dependence and ramps.

    Args:
      runs: simulated runs a condition.
      seed: of the simulations.
    """
    rng = np.random.default_rng(seed)
    figures = []
    for name, (path, note) in _CONDITIONS.items():
        answers = np.array([path(rng) for _ in range(runs)])
        for answer, wrong in zip(("rollback", "promotion"), answers.sum(axis=0), strict=True):
            figures.append(figure_of_errors(f"{name}: false {answer}", int(wrong), runs, note))
    return figures


def _ramp(rng: np.random.Generator) -> tuple[bool, bool]:
    """Unpaired arms, 1 → 50 %, everybody's rate rising with the ramp."""
    track = OverlapTrack(
        direction=Direction.INCREASE, margin=_MARGIN, bounds=(0.0, 1.0), plan=(0.1, 0.2),
        alphas=(ALPHA, ALPHA),
    )  # fmt: skip
    crossed = [False, False]
    for look in range(20):
        pi, n = _RAMP[look // 4], 300
        candidate = rng.random(n) < pi
        y = (rng.random(n) < 0.2 + 0.015 * look + _MARGIN * candidate).astype(np.float64)
        track.add(y, candidate, np.full(n, pi))
        _look(track, crossed)
    return crossed[0], crossed[1]


def _outages(rng: np.random.Generator) -> tuple[bool, bool]:
    """Outages of 1–40 errors, equally often in each arm for its traffic, while the split ramps."""
    test = ErrorRatio(ratio=1.0, alphas=(ALPHA, ALPHA))
    bursts = Bursts(5.0, 60.0)
    crossed = [False, False]
    for step, pi in enumerate(_RAMP):
        starts = np.sort(rng.uniform(step, step + 1, 80)) * 86_400.0
        sizes = rng.integers(1, 40, len(starts))
        at = np.repeat(starts, sizes) + rng.uniform(0.0, 1.0, int(sizes.sum()))
        arms = np.repeat(rng.random(len(starts)) < pi, sizes)
        order = np.argsort(at, kind="stable")
        counted = arms[order][bursts.starts((at[order] * _NS).astype(np.int64))]
        for part in np.array_split(counted, 4):
            test.add(part, np.full(len(part), pi))
            _look(test, crossed)
    return crossed[0], crossed[1]


def _users(rng: np.random.Generator) -> tuple[bool, bool]:
    """150 users of 20 requests, ICC ½, tested by user means."""
    rates = rng.beta(_MARGIN, 1.0 - _MARGIN, 150)
    x = (rng.random((150, 20)) < rates[:, None]).astype(np.float64).ravel()
    means = unit_means(_values(x), units_of_column(np.repeat(np.arange(150), 20))).x
    return _batches(np.array_split(means, 15), (0.0, 1.0), (0.05, 0.0475))


def _blocks(rng: np.random.Generator) -> tuple[bool, bool]:
    """AR(1), φ = .9, a hundred requests an hour, tested by blocks of four hours."""
    n, phi = 8_000, 0.9
    z = rng.standard_normal(n) * math.sqrt(1.0 - phi * phi)
    z[0] /= math.sqrt(1.0 - phi * phi)
    for i in range(1, n):
        z[i] += phi * z[i - 1]
    x = _MARGIN + 0.3 * np.tanh(z)
    blocks = units_of_blocks(np.arange(n) * (36 * _NS), "4h")
    means = unit_means(_values(x), blocks).x
    return _batches(np.array_split(means, 10), (-1.0, 1.0), (0.03, 0.003))


def _days(rng: np.random.Generator) -> tuple[bool, bool]:
    """Quiet nights before worse days; promotion looks at whole days, rollback at every hour."""
    track = _track((0.0, 1.0), (0.03, 0.0475))
    rollback = promotion = False
    for _ in range(10):
        for chance in (0.02, 0.02, 0.08, 0.08):
            track.add((rng.random(300) < chance).astype(np.float64), 0)
            rollback |= track.log_e_rollback() >= _BAR
        promotion |= track.log_e_promote() >= _BAR
    return rollback, promotion


def _resumed(rng: np.random.Generator) -> tuple[bool, bool]:
    """Ten attempts that each end undecided and go on from what was saved."""
    track = _track((0.0, 1.0), (0.03, 0.0475))
    crossed = [False, False]
    for _ in range(10):
        saved = json.loads(json.dumps(track.state()))
        track = _track((0.0, 1.0), (0.03, 0.0475)).restore(saved)
        for _ in range(4):
            track.add((rng.random(200) < _MARGIN).astype(np.float64), 0)
            _look(track, crossed)
    return crossed[0], crossed[1]


_CONDITIONS: dict[str, tuple[Path, str]] = {
    "ramp 1 → 50 %, rising rate": (_ramp, "overlap weights"),
    "outages over a ramp": (_outages, "counted once"),
    "20 requests a user, ICC .5": (_users, "user means"),
    "AR(1) .9": (_blocks, "blocks of 4h"),
    "daily cycle": (_days, "promotion at whole days"),
    "ten attempts": (_resumed, "resumed"),
}


def _batches(
    parts: list[Floats], bounds: tuple[float, float], plan: tuple[float, float]
) -> tuple[bool, bool]:
    track, crossed = _track(bounds, plan), [False, False]
    for part in parts:
        track.add(part, 0)
        _look(track, crossed)
    return crossed[0], crossed[1]


def _track(bounds: tuple[float, float], plan: tuple[float, float]) -> Track:
    return Track(
        direction=Direction.INCREASE, margin=_MARGIN, bounds=bounds, plan=plan,
        alphas=(ALPHA, ALPHA), sliced=True,
    )  # fmt: skip


def _look(test: Track | OverlapTrack | ErrorRatio, crossed: list[bool]) -> None:
    crossed[0] |= test.log_e_rollback() >= _BAR
    crossed[1] |= test.log_e_promote() >= _BAR


def _values(x: Floats) -> Values:
    return Values(x=x, failed=np.zeros(len(x), np.bool_))

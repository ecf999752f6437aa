"""The judge's figures: requests to decide, speed beside numpy's cumsum, and, at length, its errors."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from harness.bench.dependence import dependent_errors
from harness.bench.efficiency import efficiency, naive
from harness.bench.figures import Figure, Figures
from harness.bench.live_form import live_form
from harness.bench.margin import reasons, whole_table
from harness.core.policies import Direction
from harness.core.tensors import Floats
from harness.judge.betting import one_sided
from harness.judge.track import Track

BATCH_SPEED, EACH_SPEED, TEN_LIMIT_S = 50e6, 3e6, 2.0
"""Observations/s at batch ends and after every request; seconds for ten guardrails × a million."""

_RUNS, _LONG_RUNS = 300, 2000
_LONG_N, _MILLION, _MILLION_RUNS = 20_000, 1_000_000, 40
_DEPENDENT_RUNS = 500
_BATCH = 10_000
_REPEATS = 25
_MEMORY_GROWTH = 1.1
_SEED = 20_240_704


def bench_judge(*, long: bool, told: Callable[[str], None]) -> Figures:
    """Efficiency and speed; in the long form errors at the margin, too (half an hour).

    Args:
      long: every combination of `margin.table`: 2,000 runs to n = 20,000, 40 to a million.
      told: is called with lines of progress.
    """
    runs = _LONG_RUNS if long else _RUNS
    figures = efficiency(runs, _SEED)
    figures += [live_form(runs, _SEED + 5), naive(), *speed()]
    if long:
        figures += dependent_errors(_DEPENDENT_RUNS, _SEED + 4)
        figures += whole_table(runs=_LONG_RUNS, n=_LONG_N, seed=_SEED, told=told)
        figures += whole_table(runs=_MILLION_RUNS, n=_MILLION, seed=_SEED + 1, told=told)
    without = tuple(f"{name}: {why}" for name, why in reasons().items()) if long else ()
    return Figures(title="The judge", figures=tuple(figures), left_out=without)


def speed() -> list[Figure]:
    """Observations a second of one guardrail (rollback and promotion), on one core."""
    rng = np.random.default_rng(_SEED)
    x = np.clip(rng.normal(0.004, 0.05, _MILLION), -1.0, 1.0)
    batches = np.split(x, _MILLION // _BATCH)
    plain = _MILLION / _least_s(lambda: [np.cumsum(batch) for batch in batches])
    looks = _MILLION / _least_s(lambda: _track(batches))
    each = _MILLION / _least_s(lambda: _each(batches))
    ten = _least_s(lambda: [_track(batches) for _ in range(10)], repeats=2)
    small, large = (_peak_bytes(batches[:k]) for k in (20, 100))
    return [
        Figure(name="numpy.cumsum of the same batches", value=plain, unit="observations/s"),
        Figure(name="one guardrail, a look every 10,000", value=looks, unit="observations/s",
               limit=BATCH_SPEED, at_most=False, note=f"{looks / plain:.2f} of cumsum, with interval path"),
        Figure(name="one guardrail, every request a look", value=each, unit="observations/s",
               limit=EACH_SPEED, at_most=False, note=f"{each / plain:.3f} of cumsum"),
        Figure(name="ten guardrails × a million requests", value=ten, unit="s", limit=TEN_LIMIT_S),
        Figure(name="memory at 1,000,000 over 200,000", value=large / small, unit="×",
               limit=_MEMORY_GROWTH, note=f"peak {large / 1e6:.2f} MB beside the data"),
    ]  # fmt: skip


def _track(batches: list[Floats]) -> Track:
    track = Track(
        direction=Direction.INCREASE, margin=0.005, bounds=(-1.0, 1.0), alphas=(0.05, 0.05)
    )
    for batch in batches:
        track.add(batch, 0)
        track.log_e_rollback()
        track.log_e_promote()
    return track


def _peak_bytes(batches: list[Floats]) -> int:
    """Most memory that a track holds while it reads."""
    tracemalloc.start()
    try:
        _track(batches)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _each(batches: list[Floats]) -> float:
    sides = [one_sided(sign, sign * 0.005, (-1.0, 1.0), None, None) for sign in (1, -1)]
    wealth = [np.zeros(len(side.lam)) for side in sides]
    best = -np.inf
    for batch in batches:
        for i, side in enumerate(sides):
            best = max(best, float(side.each(batch, wealth[i]).max()))
            wealth[i] = wealth[i] + side.growth(batch)
    return best


def _least_s(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Least CPU seconds of several runs: per core, and another process can only slow them down."""
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)

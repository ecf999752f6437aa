"""Steady throughput of a sandbox beside the same session in this process, on the same batches.

Short blocks of both come in pairs, in an order by coin, so that both see the same machine; the figure is
the median of the pairs' ratios. What is alike on both sides: the model runs on one and the same processor
(the parent moves to the others while it only sends and receives), the session's options, the batches, which
are all different as a replay's are, and where they lie in memory (at a multiple of 64 bytes). A block's
first batches are not counted. A sandbox has several batches in flight, as in a gate: while the model
computes, the parent writes and reads.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.bench.figures import Figure
from harness.bench.paired import paired_ratio
from harness.core.errors import GateError
from harness.core.tensors import Array, Tensors
from harness.replay.pairs import IN_FLIGHT
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.child.columns import ALIGNMENT
from harness.sandbox.process import Sandbox

Run = Callable[[list[str] | None, Tensors], object]
"""An InferenceSession's run."""
_PAIRS = 61
_BLOCK_S = 0.03
_LEAST_BATCHES = 4
_AHEAD = IN_FLIGHT - 1
"""Batches of a block that come before the clock starts."""
_DIFFERENT_BYTES = 16 << 20
"""Of all batches together: a replay's batch was never seen before, so none may still lie in a near cache."""
_SEED = 4
_TRIES = 12
_CLOSE = 1.1
_TIMED_S = 0.5
_TIMED = 25


def throughput(
    run: Run, sandbox: Sandbox, *, columns: int, wanted_s: float, limit: float
) -> list[Figure]:
    """Sandboxed throughput over that in this process.

    Args:
      run: of the session here.
      sandbox: with the same model.
      columns: of its input `x`, float32 (N, columns).
      wanted_s: time that a batch is to take at least, a little more at most.
      limit: least ratio.
    """
    rows = rows_for(run, columns, wanted_s)
    different = -(-_DIFFERENT_BYTES // (rows * columns * 4))
    batches: list[Tensors] = [{"x": batch(rows, columns, seed)} for seed in range(different)]
    each_s = _processor_s(run, batches)
    count = max(int(_BLOCK_S / each_s), _LEAST_BATCHES)
    here: list[tuple[float, float]] = []
    there: list[tuple[float, float]] = []
    first = np.random.default_rng(_SEED).random(_PAIRS + 1) < 1 / 2
    with _apart(sandbox.pid) as at_model:
        for here_first in first:
            for mine in (here_first, not here_first):
                if mine:
                    here.append(at_model(lambda: _in_process(run, batches, count)))
                else:
                    there.append(_sandboxed(sandbox, batches, rows, count))
    # The first pair warms both up.
    wall, cpu = (paired_ratio([h[i] for h in here[1:]], [t[i] for t in there[1:]]) for i in (0, 1))
    name = f"batches of {statistics.median(h[1] for h in here) * 1e3:.2f} ms"
    return [
        Figure(
            name=f"throughput to in-process, {name}", unit="×",
            value=wall.median, limit=limit, at_most=False,
            note=f"{wall.shown()}; {rows:,} rows × {columns} float32, {IN_FLIGHT} in flight",
        ),
        Figure(
            name=f"the same by processor time, {name}", unit="×", value=cpu.median,
            note=f"{cpu.shown()}; what other load changes little",
        ),
    ]  # fmt: skip


def rows_for(run: Run, columns: int, wanted_s: float) -> int:
    """Rows whose batch takes the wanted processor time, or up to a tenth more."""
    rows = 16
    for _ in range(_TRIES):
        took = _processor_s(run, [{"x": batch(rows, columns, 0)}])
        if wanted_s <= took <= _CLOSE * wanted_s:
            return rows
        # Aimed at the middle; a few rows say little of many.
        rows = max(1, int(rows * min((1 + _CLOSE) / 2 * wanted_s / took, 8.0)))
    return rows


def batch(rows: int, columns: int, seed: int) -> Array:
    """Random rows, in memory as a ring's slot has them."""
    room = np.empty(rows * columns * 4 + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    found: Array = room[start : start + rows * columns * 4].view(np.float32).reshape(rows, columns)
    found[:] = np.random.default_rng(seed).standard_normal((rows, columns))
    return found


def _processor_s(run: Run, batches: Sequence[Tensors]) -> float:
    """Processor time of a batch: the quickest of some stretches.

    A processor that others share takes up to twice as long for the same work, for seconds.
    """
    for inputs in batches:
        run(None, inputs)
    began = time.thread_time()
    run(None, batches[0])
    count = max(int(_TIMED_S / _TIMED / max(time.thread_time() - began, 1e-6)), 1)
    times = [_in_process(run, batches, count)[1] for _ in range(_TIMED)]
    return min(times)


def _in_process(run: Run, batches: Sequence[Tensors], count: int) -> tuple[float, float]:
    """Seconds a batch, and processor seconds."""
    turn = itertools.cycle(batches)
    for _ in range(_AHEAD):
        run(None, next(turn))
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in range(count):
        run(None, next(turn))
    return (time.perf_counter() - wall) / count, (time.thread_time() - cpu) / count


def _sandboxed(
    sandbox: Sandbox, batches: Sequence[Tensors], rows: int, count: int
) -> tuple[float, float]:
    """Seconds a batch while several are in flight, and the child's processor seconds, all batches counted."""
    turn = itertools.cycle(batches)
    cpu = child_cpu_s(sandbox.pid)
    for _ in range(_AHEAD):
        sandbox.submit(next(turn), rows, trace=False)
    sandbox.submit(next(turn), rows, trace=False)
    answered(sandbox)
    wall = time.perf_counter()
    for _ in range(count):
        sandbox.submit(next(turn), rows, trace=False)
        answered(sandbox)
    wall = (time.perf_counter() - wall) / count
    for _ in range(_AHEAD):
        answered(sandbox)
    return wall, (child_cpu_s(sandbox.pid) - cpu) / (count + IN_FLIGHT)


def answered(sandbox: Sandbox) -> None:
    """Takes one answer.

    Raises:
      GateError: it is none.
    """
    answer = sandbox.collect()
    if not isinstance(answer, BatchAnswer):
        raise GateError("bench sandbox", answer.message, "Run harness doctor.")


def child_cpu_s(pid: int) -> float:
    """Processor time of a process's main thread, which is the one that runs the model."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextlib.contextmanager
def _apart(
    pid: int,
) -> Iterator[Callable[[Callable[[], tuple[float, float]]], tuple[float, float]]]:
    """Gives the child one processor and this thread the others, where there are several.

    Yields:
      Calls a function on the child's processor, which is idle meanwhile.
    """
    before = os.sched_getaffinity(0)
    model = {max(before)}
    others = before - model or before
    os.sched_setaffinity(pid, model)
    os.sched_setaffinity(0, others)

    def at_model(measured: Callable[[], tuple[float, float]]) -> tuple[float, float]:
        os.sched_setaffinity(0, model)
        try:
            return measured()
        finally:
            os.sched_setaffinity(0, others)

    try:
        yield at_model
    finally:
        os.sched_setaffinity(0, before)

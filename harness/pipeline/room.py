"""How many requests a batch may have from the start: as many answers as the gate holds, and as a leg has memory for.

Everything before the replay (the noise floor, the sample, trials of other batches, the planning set) asks in
the same batches as the replay does. What an answer weighs is learnt from one request, then from a few,
then from more: each time no more than is known to fit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.pipeline.legs_of_run import keep_answered
from harness.replay.blamed import without_blamed
from harness.replay.composition import rows_of
from harness.replay.legs import Leg
from harness.replay.order import Batch
from harness.store.runs import RunFolder

ROOM_FILE = "room.json"
LARGEST = 8192
MOST_ANSWERED = 256 << 20
"""Bytes of both versions' answers to a batch: both are in memory at a time. In the mean: a batch with more
bulk requests than others has more."""
_SIZES = (16, 256)
"""Requests that are asked together, after one by itself."""
_FIRST = 3
"""Requests that may fail by themselves before nothing is learnt."""
_LONGEST_S = 1.0
"""What would take longer is not asked: the replay learns as it goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How large a batch may be."""

    requests: int
    """So many, ≥ 1; LARGEST where nothing speaks against that."""
    why: str = ""
    """What does not allow for more."""


def room_for(legs: Sequence[Leg], rows_each: float | None = None) -> Room:
    """By what is known of the versions' answers and memory.

    Args:
      legs: every version.
      rows_each: that requests have in the mean; None = as those that the legs answered.
    """
    heaviest = max(
        leg.answered.bytes_a_row * (leg.answered.rows_each if rows_each is None else rows_each)
        for leg in legs
    )
    fitting = int(MOST_ANSWERED // (2 * heaviest)) if heaviest else LARGEST
    found = Room(requests=LARGEST)
    if fitting < LARGEST:
        why = f"the answers to a request have {round(heaviest):,} bytes in the mean"
        found = Room(requests=max(fitting, 1), why=why)
    return in_memory(legs, found, rows_each)


def in_memory(legs: Sequence[Leg], found: Room, rows_each: float | None = None) -> Room:
    """The same room, or as much of it as is known to fit into every leg's memory.

    Args:
      legs: every version.
      found: what else there is room for.
      rows_each: as for `room_for`.
    """
    for leg in legs:
        rows = leg.answered.rows_each if rows_each is None else rows_each
        most = max(int(leg.answered.most_rows / rows), 1) if leg.answered.most_rows and rows else 0
        if 0 < most < found.requests:
            why = f"larger batches do not fit into the {leg.name}'s sandbox.memory"
            found = Room(requests=most, why=why)
    return found


def room_of_run(
    run: RunFolder,
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    traced: Sequence[Leg],
) -> Room:
    """Finds it once a run: a resumed run keeps the batch borders of the interrupted one.

    Args:
      run: keeps the answer.
      legs: every version, with nothing in flight.
      batches: the run's schedule in batches of the usual size.
      read: gives the requests at storage positions.
      traced: those of them whose features are asked for.
    """
    if run.has(ROOM_FILE):
        return Room(**run.read_json(ROOM_FILE))
    found = room_in(legs, batches, read, traced=traced)
    keep_answered(run, legs)
    run.write_json(ROOM_FILE, found)
    return found


def room_in(
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    traced: Sequence[Leg],
) -> Room:
    """Asks every version the first request of the schedule, then some of the first ones together.

    What fails says nothing: the replay asks the same and finds out.

    Args:
      legs: every version, with nothing in flight.
      batches: the schedule.
      read: gives the requests at storage positions.
      traced: those of them whose features are asked for.
    """
    if not batches:
        return room_for(legs)
    first = read(batches[0].positions)
    # Of all of these, not of the one that is asked: it may be a bulk request.
    rows_each = float(first.rows.mean())
    each_s = {leg.name: _one(leg, first, trace=leg in traced) for leg in legs}
    for size in _SIZES:
        requests = rows_of(first, 0, min(size, len(first), room_for(legs, rows_each).requests))
        for leg in legs:
            quick = len(requests) * each_s[leg.name] <= _LONGEST_S
            if len(requests) > 1 and quick and not leg.singly:
                each_s[leg.name] = _weighed(leg, requests, trace=leg in traced)
    return room_for(legs, rows_each)


def _one(leg: Leg, requests: RequestBatch, *, trace: bool) -> float:
    """As `_weighed`, of the first of these requests that is answered by itself."""
    began = time.perf_counter()
    for index in range(min(_FIRST, len(requests))):
        each_s = _weighed(leg, rows_of(requests, index, index + 1), trace=trace)
        if math.isfinite(each_s) or time.perf_counter() - began > _LONGEST_S:
            return each_s
    return math.inf


def _weighed(leg: Leg, requests: RequestBatch, *, trace: bool) -> float:
    """Learns what the answer to some requests weighs; the time that one took, infinite when they failed."""
    answer = None
    for _ in range(_FIRST):
        known = len(leg.blamed.faults)
        requests = without_blamed(requests, [leg.blamed])
        answer = leg.tried(requests, trace=trace, usual=False)
        # Without a request that has just shown to need too much by itself, the others may be answered.
        if answer is not None or len(leg.blamed.faults) == known or len(requests) == 1:
            break
    if answer is None:
        return math.inf
    came = trace and bool(answer.features or answer.trace_outputs)
    leg.answered.weigh(answer, int(requests.rows.sum()), len(requests), trace=came)
    return float(np.nansum(answer.latency_s)) / len(requests)

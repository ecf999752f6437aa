"""How large a batch may be: as large as replays fastest, where both versions show that it changes nothing.

A batch costs the same few hundred calls whatever its size, so a small model is replayed several
times faster in large ones. Nothing is assumed: both versions answer the same requests in batches of
the usual size and then in one large batch, and only bit-identical answers let batches grow.

A version whose answers are heavy, by its features most of all, gets smaller ones than usual: the answers of
both versions to a batch are in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.pipeline.company import same_answers, tried_in_parts
from harness.pipeline.room import LARGEST, Room, in_memory, room_for
from harness.pipeline.tracing import FIRST_TRACED, first_traced
from harness.replay.legs import Leg
from harness.replay.order import GROWS_AFTER, Batch
from harness.store.runs import RunFolder

BATCHING_FILE = "batching.json"
_BY = "batching trial"
_LONGEST_S = 0.25
"""A batch that takes longer already costs next to nothing around it."""
_FEW, _TRIES = 256, 5
"""Requests, and how often, that show how long one takes."""
_MOST_BYTES = 16 << 20
"""Of inputs in a batch: several are in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """What was found about larger batches."""

    requests: int
    """A batch may hold so many."""
    why: str
    """Why not more, or what shows that so many change nothing."""
    traced: int = FIRST_TRACED
    """Of each window, as the versions' speed has it; where a guardrail judges features, all are traced."""


def largest_batch(
    run: RunFolder,
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    usual: int,
    *,
    all_traced: bool = False,
) -> Batching:
    """Finds it once a run: a resumed run keeps the batch borders of the interrupted one.

    Args:
      run: keeps the answer.
      legs: both versions, with nothing in flight.
      batches: the run's schedule in batches of the usual size.
      read: gives the requests at storage positions.
      usual: requests in a batch that has not grown.
      all_traced: a guardrail judges features: nothing follows from how long they take.
    """
    if run.has(BATCHING_FILE):
        return Batching(**run.read_json(BATCHING_FILE))
    sizes = Counter({"": 0})
    for batch in batches:
        sizes[batch.window] += len(batch)
    # Asked before larger batches are tried: what the floor took is what a traced batch takes, and trials
    # repeat the same few requests.
    traced = FIRST_TRACED
    if not all_traced:
        traced = first_traced(max(sizes.values()), max(leg.answered.mean_s for leg in legs))
    room = room_for(legs)
    if room.requests < usual:
        found = Batching(requests=room.requests, why=room.why)
    else:
        found = _measured(legs, batches, read, usual, min(room.requests, LARGEST))
        # Larger batches were tried, and perhaps did not fit.
        room = in_memory(legs, Room(requests=found.requests, why=found.why))
        if room.requests < found.requests:
            found = Batching(requests=min(room.requests, usual), why=room.why)
    found = replace(found, traced=traced)
    run.write_json(BATCHING_FILE, found)
    return found


def _measured(
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    usual: int,
    most: int,
) -> Batching:
    """A size up to `most`, which the answers allow."""
    if any(leg.singly for leg in legs):
        return Batching(requests=usual, why="every request is replayed by itself, as recorded")
    positions = _of_one_window(batches)
    if len(positions) <= GROWS_AFTER:
        return Batching(requests=usual, why="too few requests for larger batches")
    few = read(positions[:_FEW])
    size = min(_affordable(leg, few, usual, most) for leg in legs)
    if size == usual:
        return Batching(
            requests=usual, why="the usual batches are slow or large enough, or some fail"
        )
    whole = read(positions[:size])
    parts = [read(positions[at : at + usual]) for at in range(0, size, usual)]
    for leg in legs:
        small, large = tried_in_parts(leg, parts, by=_BY), leg.tried(whole, by=_BY)
        if small is None or large is None:
            return Batching(
                requests=usual, why=f"the {leg.name} did not answer all of the first batches"
            )
        if not same_answers(small, large):
            why = f"the {leg.name} answers otherwise in batches of {size:,}"
            return Batching(requests=usual, why=why)
    why = f"both versions answered {size:,} requests bit for bit as in batches of {usual:,}"
    return Batching(requests=size, why=why)


def _of_one_window(batches: Sequence[Batch]) -> Ints:
    """The first storage positions of the window with most requests, in test order.

    All of them, or as many as decide whether and how far batches may grow.
    """
    sizes: Counter[str] = Counter()
    for batch in batches:
        sizes[batch.window] += len(batch)
    window = max(sizes, key=lambda name: sizes[name], default="")
    parts: list[Ints] = []
    for batch in batches:
        if batch.window == window and sum(map(len, parts)) <= max(GROWS_AFTER, LARGEST):
            parts.append(batch.positions)
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _affordable(leg: Leg, few: RequestBatch, usual: int, most: int) -> int:
    """Requests in the largest batch that is neither slow nor heavy; the usual size, doubled."""
    each_s = np.inf
    for _ in range(_TRIES):
        answers = leg.tried(few, by=_BY)
        if answers is None:
            return usual
        # The quickest: a busy machine makes a batch slower, never faster.
        each_s = min(each_s, float(np.nansum(answers.latency_s)) / len(few))
    each_bytes = sum(a.nbytes for a in few.inputs.values()) / len(few)
    size = usual
    while 2 * size <= most and 2 * size * each_s <= _LONGEST_S:
        if 2 * size * each_bytes > _MOST_BYTES:
            break
        size *= 2
    return size

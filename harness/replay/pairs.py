"""Both versions over the same batches, several in flight so that both compute at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from harness.core.observations import PairBatch
from harness.core.traffic import RequestBatch
from harness.replay.asked import asked_by
from harness.replay.legs import Leg
from harness.replay.order import Batch

IN_FLIGHT = 3
"""Batches given to both legs before the first answer is awaited."""
_LEAST_IN_FLIGHT = 2
"""So that a version computes while its last answer is looked at."""
_MOST_REQUESTS = 16_384
"""In flight, where that is more than the least: large batches take long, and each is memory."""
_MOST_BYTES = 128 << 20
"""Of inputs and answers in flight, where that is more than one batch's."""


def replay_pairs(
    baseline: Leg,
    candidate: Leg,
    batches: Iterable[tuple[Batch, RequestBatch]],
    *,
    trace: bool,
    anchor: Leg | None = None,
) -> Iterator[tuple[Batch, PairBatch]]:
    """Runs batches through both legs and yields the pairs in order.

    Args:
      baseline: the old version's leg.
      candidate: the new version's leg.
      batches: what to replay, read lazily, so that no more than IN_FLIGHT batches are in memory besides the yielded one;
        heavy ones fewer.
      trace: also return feature tensors, of the batches that ask for them.
      anchor: the leg of a third version; only its outputs are asked for.

    Yields:
      Each batch with the observations of both versions.
    """
    waiting: deque[_Waiting] = deque()
    source = iter(batches)
    old, new = asked_by(baseline), asked_by(candidate)
    third = None if anchor is None else asked_by(anchor)
    while True:
        while _room(waiting, (baseline, candidate)) and (item := next(source, None)) is not None:
            wanted = trace and item[0].trace
            for leg in (old, new):
                leg.submit(item[1], trace=wanted, alone=item[0].alone, cut=item[0].cut)
            if third is not None:
                third.submit(item[1], trace=False)
            waiting.append(_Waiting.of(*item))
        if not waiting:
            return
        batch, requests, *_ = waiting.popleft()
        pair = PairBatch(
            requests=requests,
            baseline=old.collect(),
            candidate=new.collect(),
            anchor=None if third is None else third.collect(),
        )
        yield batch, pair
        # Before the next batch is read: it would be one more in memory.
        del requests, pair


class _Waiting(NamedTuple):
    """A batch in flight."""

    batch: Batch
    requests: RequestBatch
    input_bytes: int
    """Of the requests' inputs."""
    rows: int
    """Of all requests."""

    @classmethod
    def of(cls, batch: Batch, requests: RequestBatch) -> _Waiting:
        """Weighs a batch, once."""
        return cls(batch, requests, requests.input_bytes(), int(requests.rows.sum()))


def _room(waiting: Sequence[_Waiting], legs: Sequence[Leg]) -> bool:
    """Whether one more batch, as large as the last, may be in flight."""
    if not waiting:
        return True
    a_row = sum(leg.answered.bytes_a_row for leg in legs)
    # Of inputs, and of answers with so many bytes a row.
    held = [one.input_bytes + a_row * one.rows for one in waiting]
    if sum(held) + held[-1] > _MOST_BYTES:
        return False
    if len(waiting) < _LEAST_IN_FLIGHT:
        return True
    sizes = [len(one.requests) for one in waiting]
    return len(waiting) < IN_FLIGHT and sum(sizes) + sizes[-1] <= _MOST_REQUESTS

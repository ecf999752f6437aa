"""The A/A leg: the baseline against itself, in other batches, on a random prefix of the traffic.

Whatever differs here is noise of the machine and the runtime. A tolerance that was assumed instead
of measured either hides a fault or raises an alarm about nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from harness.core.observations import Observations, PairBatch
from harness.core.policies import Policy
from harness.core.tensors import Ints, Tensors
from harness.core.traffic import RequestBatch
from harness.diff.floor import Floor, FloorBuilder, floor_from_json
from harness.pipeline.noise import NoiseLevels
from harness.replay.legs import Leg
from harness.replay.order import Batch
from harness.store.runs import RunFolder

FLOOR_FILE = "floor.json"
FLOOR_REQUESTS = 20_000
_SPLITS = (333, 512)
"""Sizes into which the second leg's batches are cut, the rest being the third piece."""


def floor_of_run(
    run: RunFolder,
    first: Leg,
    second: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    trace: bool,
    policy: Policy,
    fitted: Collection[str],
    heard: Callable[[int, int], None],
) -> Floor:
    """A run's noise floor, measured once: that of a noisy baseline is another one the next time.

    Args:
      run: keeps the floor, so that a resumed run goes on with it.
      first: the baseline in the run's batches.
      second: the baseline again, in a process of its own, which ends here; empty when the run has
        its floor.
      batches: the run's schedule.
      read: gives the requests at storage positions.
      trace: also compare feature tensors.
      policy: its guardrails' noise is measured in their own units; what it expects to change makes
        no request differ.
      fitted: tensors after fitted constants, which never make one differ.
      heard: told (done, total) requests.
    """
    if run.has(FLOOR_FILE):
        return floor_from_json(run.read_json(FLOOR_FILE))
    with second[0] as again:
        floor = measure_floor(
            first, again, batches, read, trace=trace, policy=policy, fitted=fitted, heard=heard
        )
    run.write_json(FLOOR_FILE, floor)
    return floor


def measure_floor(
    first: Leg,
    second: Leg,
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    trace: bool,
    heard: Callable[[int, int], None],
    policy: Policy | None = None,
    fitted: Collection[str] = (),
) -> Floor:
    """Runs both baseline legs over the same requests and measures how far they differ.

    Args:
      first: the baseline in the run's batches.
      second: the baseline again, in a process of its own, each batch cut in three.
      batches: the run's schedule; the prefix up to FLOOR_REQUESTS is used.
      read: gives the requests at storage positions.
      trace: also compare feature tensors.
      heard: told (done, total) requests.
      policy: as for `floor_of_run`; None where nothing is judged.
      fitted: as for `floor_of_run`.
    """
    guardrails = policy.guardrails if policy else ()
    expected = {name for g in guardrails for name in g.expected_changes}
    builder = FloorBuilder(uncounted={*expected, *fitted})
    levels = NoiseLevels(policy)
    prefix = list(_prefix(batches))
    total = sum(len(b.positions) for b in prefix)
    done = 0
    for batch in prefix:
        requests = read(batch.positions)
        pieces = [_rows(requests, start, stop) for start, stop in _cuts(len(requests))]
        first.submit(requests, trace=trace)
        for piece in pieces:
            second.submit(piece, trace=trace)
        pair = PairBatch(
            requests=requests,
            baseline=first.collect(),
            candidate=joined([second.collect() for _ in pieces]),
        )
        builder.update(pair)
        levels.update(pair)
        done += len(requests)
        heard(done, total)
        if first.ended or second.ended:
            break
    return replace(builder.finish(), levels=levels.finish())


def _prefix(batches: Sequence[Batch]) -> Iterator[Batch]:
    """The first batches of one window, until FLOOR_REQUESTS are reached."""
    count = 0
    window = batches[0].window if batches else ""
    for batch in batches:
        if batch.window != window:
            continue
        if count >= FLOOR_REQUESTS:
            return
        count += len(batch.positions)
        yield batch


def _cuts(n: int) -> list[tuple[int, int]]:
    edges = sorted({0, *(min(e, n) for e in np.cumsum(_SPLITS).tolist()), n})
    return list(itertools.pairwise(edges))


def _rows(batch: RequestBatch, start: int, stop: int) -> RequestBatch:
    """Requests start:stop of a batch."""
    offsets = np.concatenate([[0], np.cumsum(batch.rows)])
    low, high = int(offsets[start]), int(offsets[stop])
    return RequestBatch(
        seq=batch.seq[start:stop],
        request_id=batch.request_id[start:stop],
        ts_ns=batch.ts_ns[start:stop],
        rows=batch.rows[start:stop],
        inputs={name: tensor[low:high] for name, tensor in batch.inputs.items()},
        recorded={name: tensor[low:high] for name, tensor in batch.recorded.items()},
        answered=batch.answered[start:stop],
        context={name: column[start:stop] for name, column in batch.context.items()},
    )


def joined(pieces: Sequence[Observations]) -> Observations:
    """Observations of consecutive pieces of a batch as those of the whole batch."""
    return Observations(
        outcome=np.concatenate([p.outcome for p in pieces]),
        outputs=_joined([p.outputs for p in pieces]),
        features=_joined([p.features for p in pieces]),
        trace_outputs=_joined([p.trace_outputs for p in pieces]),
        latency_s=np.concatenate([p.latency_s for p in pieces]),
        keys=pieces[0].keys,
    )


def _joined(parts: Sequence[Tensors]) -> Tensors:
    names = set.intersection(*(set(p) for p in parts))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0] if name in names}

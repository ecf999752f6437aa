"""Whether a version's answers change with the requests that share their batch.

The A/A leg asks this of the baseline. A candidate that mixes the requests of a batch while the baseline
does not would be judged on answers that production, which serves single requests, never gives: it is
asked on the first requests, in its own leg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.core.observations import Observations, Outcome
from harness.core.tensors import Ints, same_bits
from harness.core.traffic import RequestBatch
from harness.pipeline.floorpass import FLOOR_REQUESTS, SINGLE_REQUESTS, prefix
from harness.replay.composition import cuts, joined, rows_of
from harness.replay.legs import Leg
from harness.replay.order import Batch
from harness.store.runs import RunFolder

BATCH_MATES_FILE = "batch_mates.json"
_SINGLES = 64
"""Requests that are run by themselves, twice, to tell company from chance."""
_FAILURES = 3
"""Batches that may fail before nothing more is asked: each may cost a deadline and a process."""


def mixing_of_run(
    run: RunFolder,
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
) -> tuple[str, ...]:
    """Names of the legs whose answers depend on the batch; asked once, as a resumed run must not change.

    Args:
      run: keeps the answer.
      legs: versions besides the baseline, with nothing in flight.
      batches: the run's schedule.
      read: gives the requests at storage positions.
    """
    if run.has(BATCH_MATES_FILE):
        return tuple(run.read_json(BATCH_MATES_FILE)["mixing"])
    found = tuple(leg.name for leg in legs if mixes(leg, batches, read))
    run.write_json(BATCH_MATES_FILE, {"mixing": found})
    return found


def together(legs: Sequence[Leg], mixing: Sequence[str]) -> bool:
    """Puts all legs into one composition: by itself each request where any version asks for it.

    Args:
      legs: every version.
      mixing: names of the legs whose answers depend on the batch.

    Returns:
      Whether each request runs by itself, as recorded.
    """
    by_itself = bool(mixing) or any(leg.whole for leg in legs)
    for leg in legs:
        leg.singly = by_itself
    return by_itself


def mixes(leg: Leg, batches: Sequence[Batch], read: Callable[[Ints], RequestBatch]) -> bool:
    """Whether requests get other answers in a part of their batch, and the same ones when alone.

    A leg that runs each request by itself has no company to ask about. Batches that fail say nothing here; what fails is found in the replay. Answers that change from run
    to run are noise, and no mixing.

    Args:
      leg: a version, with nothing in flight.
      batches: the schedule; the first SINGLE_REQUESTS answered requests are compared.
      read: gives the requests at storage positions.
    """
    if leg.singly:
        return False
    compared = failed = 0
    for batch in prefix(batches, FLOOR_REQUESTS):
        requests = read(batch.positions)
        parts = [rows_of(requests, start, stop) for start, stop in cuts(len(requests))]
        whole, pieces = leg.tried(requests), tried_in_parts(leg, parts)
        if whole is None or pieces is None:
            failed += 1
        elif not same_answers(pieces, whole):
            return _steady_alone(leg, requests)
        else:
            compared += len(requests)
        if compared >= SINGLE_REQUESTS or failed >= _FAILURES:
            break
    return False


def tried_in_parts(leg: Leg, parts: Sequence[RequestBatch]) -> Observations | None:
    """Consecutive requests, batch by batch, as one; None as soon as one fails."""
    found = []
    for part in parts:
        answers = leg.tried(part)
        if answers is None:
            return None
        found.append(answers)
    return joined(found)


def same_answers(one: Observations, other: Observations) -> bool:
    """Whether every request was answered both times, with the same bits."""
    return (
        bool((one.outcome == Outcome.OK).all() and (other.outcome == Outcome.OK).all())
        and one.keys == other.keys
        and set(one.outputs) == set(other.outputs)
        and all(same_bits(a, other.outputs[name]) for name, a in one.outputs.items())
    )


def _steady_alone(leg: Leg, requests: RequestBatch) -> bool:
    """Whether requests that run by themselves get the same answers twice."""
    singles = [rows_of(requests, i, i + 1) for i in range(min(len(requests), _SINGLES))]
    first, second = (tried_in_parts(leg, singles) for _ in range(2))
    return first is not None and second is not None and same_answers(first, second)

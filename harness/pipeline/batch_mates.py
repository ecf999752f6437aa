"""Whether a version's answers change with the requests that share their batch.

The A/A leg asks this of the baseline. A candidate that mixes the requests of a batch while the baseline
does not would be judged on answers that production, which serves single requests, never gives: it is
asked on the first requests, in its own leg. Rounding is told apart: sums in another order change last
digits, which the tolerance allows for, and running each request by itself would cost many times as much.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.tensors import Ints, same_bits
from harness.core.traffic import RequestBatch
from harness.diff.floor import Floor, FloorBuilder
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


class Company(enum.StrEnum):
    """What the requests that share a batch change in each other's answers."""

    NOTHING = "nothing"
    """No bit; or too much failed to tell."""
    ROUNDING = "rounding"
    """Last digits, within the tolerance that a quiet version has."""
    ANSWERS = "answers"
    """More than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """Names of the versions whose answers depend on the batch."""

    answers: tuple[str, ...] = ()
    """By more than rounding, or at all where bits count: every request runs by itself."""
    rounding: tuple[str, ...] = ()
    """By rounding alone: requests share batches."""


def mixing_of_run(
    run: RunFolder,
    floor: Floor,
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    exact: bool,
) -> Mixing:
    """`mixing_of` a run; asked once, as a resumed run must not change.

    Args:
      run: keeps the answer.
      floor: what the A/A leg showed of the baseline.
      legs: versions besides the baseline, with nothing in flight.
      batches: the run's schedule.
      read: gives the requests at storage positions.
      exact: bits count.
    """
    if run.has(BATCH_MATES_FILE):
        saved = run.read_json(BATCH_MATES_FILE)
        return Mixing(answers=tuple(saved["answers"]), rounding=tuple(saved["rounding"]))
    found = mixing_of(floor, legs, batches, read, exact=exact)
    run.write_json(BATCH_MATES_FILE, found)
    return found


def mixing_of(
    floor: Floor,
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    exact: bool,
) -> Mixing:
    """Which versions' answers depend on the batch; of a baseline's that do, no other is asked.

    Args:
      floor: what the A/A leg showed of the baseline.
      legs: versions besides it, with nothing in flight.
      batches: the schedule.
      read: gives the requests at storage positions.
      exact: bits count.
    """
    if floor.batch_dependent:
        return Mixing(answers=("baseline",))
    asked = [(leg.name, company(leg, batches, read, dict(floor.random))) for leg in legs]
    rounding = [name for name, found in asked if found is Company.ROUNDING and not exact]
    return Mixing(
        answers=tuple(n for n, c in asked if c is not Company.NOTHING and n not in rounding),
        rounding=(*(("baseline",) if floor.batch_rounding else ()), *rounding),
    )


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


def company(
    leg: Leg,
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    random: Mapping[str, str] | None = None,
) -> Company:
    """Whether requests get other answers in a part of their batch, and the same ones when alone.

    A leg that runs each request by itself has no company to ask about. Batches that fail say nothing here; what fails is found in the replay. Answers that change from run
    to run are noise, and no mixing.

    Args:
      leg: a version, with nothing in flight.
      batches: the schedule; the first SINGLE_REQUESTS answered requests are compared.
      read: gives the requests at storage positions.
      random: outputs that a random operator is before: they say nothing about company.
    """
    if leg.singly:
        return Company.NOTHING
    random = random or {}
    apart, last = FloorBuilder(random=random), None
    compared = failed = 0
    for batch in prefix(batches, FLOOR_REQUESTS):
        requests = read(batch.positions)
        parts = [rows_of(requests, start, stop) for start, stop in cuts(len(requests))]
        whole, pieces = leg.tried(requests), tried_in_parts(leg, parts)
        if whole is None or pieces is None:
            failed += 1
        else:
            if not same_answers(pieces, whole, random):
                last = requests
                apart.update(PairBatch(requests=requests, baseline=whole, candidate=pieces))
            compared += len(requests)
        if compared >= SINGLE_REQUESTS or failed >= _FAILURES:
            break
    if last is None or not _steady_alone(leg, last, random):
        return Company.NOTHING
    return Company.ROUNDING if apart.finish().rounding else Company.ANSWERS


def tried_in_parts(leg: Leg, parts: Sequence[RequestBatch]) -> Observations | None:
    """Consecutive requests, batch by batch, as one; None as soon as one fails."""
    found = []
    for part in parts:
        answers = leg.tried(part)
        if answers is None:
            return None
        found.append(answers)
    return joined(found)


def same_answers(one: Observations, other: Observations, but: Collection[str] = ()) -> bool:
    """Whether every request was answered both times, with the same bits.

    Args:
      one: observations.
      other: of the same requests.
      but: outputs that do not count.
    """
    return (
        bool((one.outcome == Outcome.OK).all() and (other.outcome == Outcome.OK).all())
        and one.keys == other.keys
        and set(one.outputs) == set(other.outputs)
        and all(
            same_bits(a, other.outputs[name]) for name, a in one.outputs.items() if name not in but
        )
    )


def _steady_alone(leg: Leg, requests: RequestBatch, but: Collection[str]) -> bool:
    """Whether requests that run by themselves get the same answers twice."""
    singles = [rows_of(requests, i, i + 1) for i in range(min(len(requests), _SINGLES))]
    first, second = (tried_in_parts(leg, singles) for _ in range(2))
    return first is not None and second is not None and same_answers(first, second, but)

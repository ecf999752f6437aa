"""What the requests that share a batch change in each other's answers, by cutting batches into parts.

Rounding is told apart: sums in another order change last digits, which the tolerance allows for, and
running each request by itself would cost many times as much.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.tensors import Ints, same_bits
from harness.core.traffic import RequestBatch
from harness.diff.floor_builder import FloorBuilder
from harness.pipeline.floorpass import FLOOR_REQUESTS, SINGLE_REQUESTS, prefix
from harness.replay.assembly import in_key_order
from harness.replay.composition import cuts, joined, rows_of
from harness.replay.legs import Leg
from harness.replay.order import Batch

SINGLES = 64
"""Requests that are run by themselves, twice, to tell company from chance."""
_BY = "question what batches change"
_FAILURES = 3
"""Batches that may fail before nothing more is asked: each may cost a deadline and a process."""


class Company(enum.StrEnum):
    """What the requests that share a batch change in each other's answers."""

    NOTHING = "nothing"
    """No bit that is seen; of parts of batches also where too much failed to tell, or changes by itself."""
    ROUNDING = "rounding"
    """Last digits, within the tolerance that a quiet version has."""
    ANSWERS = "answers"
    """More than that."""
    UNSHOWN = "unshown"
    """More than that, and as much from run to run: that the batch changes nothing is not shown."""


def company(
    leg: Leg,
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    random: Mapping[str, str] | None = None,
) -> Company:
    """Whether requests get other answers in a part of their batch, and the same ones when alone.

    A leg that runs each request by itself has no company to ask about. Batches that fail say nothing here; they are in the leg's ledger. Answers that change from run
    to run are noise, and no mixing: requests that run alone show whether they may share batches.

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
    shapes = False
    compared = failed = 0
    for batch in prefix(batches, FLOOR_REQUESTS):
        requests = read(batch.positions)
        whole = leg.tried(requests, by=_BY)
        parts = [rows_of(requests, start, stop) for start, stop in cuts(len(requests))]
        # What fails whole says nothing whatever its parts do, which may cost a deadline each.
        pieces = None if whole is None else tried_in_parts(leg, parts, by=_BY)
        if whole is None or pieces is None:
            failed += 1
        else:
            if not same_answers(pieces, whole, random):
                last = requests
                shapes |= bool(
                    (pieces.outcome != whole.outcome).any() or pieces.forms or whole.forms
                )
                apart.update(PairBatch(requests=requests, baseline=whole, candidate=pieces))
            compared += len(requests)
        if compared >= SINGLE_REQUESTS or failed >= _FAILURES:
            break
    if last is None or not steady_alone(leg, last, random):
        return Company.NOTHING
    return Company.ROUNDING if apart.finish().rounding and not shapes else Company.ANSWERS


def tried_in_parts(
    leg: Leg, parts: Sequence[RequestBatch], *, by: str, usual: bool = True
) -> Observations | None:
    """Consecutive requests, batch by batch, as one; None as soon as one fails; the rest as in `Leg.tried`."""
    found = []
    for part in parts:
        answers = leg.tried(part, usual=usual, by=by)
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
        # What has several shapes is compared request by request, which is not done here.
        and not (one.forms or other.forms)
        and set(one.outputs) == set(other.outputs)
        and all(
            same_bits(a, other.outputs[name]) for name, a in one.outputs.items() if name not in but
        )
    )


def unlike(one: Observations, other: Observations) -> frozenset[str]:
    """Outputs of a request, or of several, that hold other bits, or are of another form.

    Classes that only the other one has a score of are NaN in one of them, as they are in a batch.

    Args:
      one: observations.
      other: of the same requests.
    """
    names = {*one.outputs, *other.outputs, *one.forms, *other.forms}
    if not np.array_equal(one.outcome, other.outcome):
        return frozenset(names)
    return frozenset(n for n in names if not _alike(n, one, other))


def _alike(name: str, one: Observations, other: Observations) -> bool:
    if name not in one.outputs or name not in other.outputs:
        return False
    ours, theirs = one.keys.get(name), other.keys.get(name)
    if ours is not None and theirs is not None and not set(ours) <= set(theirs):
        return False
    values = other.outputs[name]
    # Without rows nobody sees the shape of one.
    return not len(values) or same_bits(in_key_order(one.outputs[name], ours, theirs), values)


def steady_alone(leg: Leg, requests: RequestBatch, but: Collection[str]) -> bool:
    """Whether requests that run by themselves get the same answers twice."""
    singles = [rows_of(requests, i, i + 1) for i in range(min(len(requests), SINGLES))]
    first, second = ([leg.tried(s, usual=False, by=_BY) for s in singles] for _ in range(2))
    return all(
        one is not None and other is not None and unlike(one, other) <= set(but)
        for one, other in zip(first, second, strict=True)
    )

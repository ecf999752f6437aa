"""Requests that run alone, as they were recorded, beside the batches that stand for them.

Cutting a batch into parts shows what changes with the batch's size or with sums over it. It does not show
what every part of some dozens of requests has and one request has not: a graph that takes another branch as
soon as any row holds a NaN answers nearly every batch by that branch, and most single requests by the other.
So requests from all over the schedule are run in exactly their recorded composition and held against what
they got in their batch. They are drawn at random, which bounds the share that can escape, and some more are
drawn where rows are unusual (NaN, infinity, empty text) and where they are not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.counted import counted
from harness.core.observations import Observations, PairBatch
from harness.core.tensors import Bools, Ints
from harness.core.traffic import RequestBatch
from harness.diff.floor_builder import FloorBuilder
from harness.pipeline.company import Company, same_answers, steady_alone
from harness.replay.composition import cuts, joined, requests_at, rows_of
from harness.replay.legs import FIRST_AHEAD, Leg
from harness.replay.order import Batch

BY = "sample that runs alone"
"""Who asks."""
WANTED = 1024
"""Requests drawn at random: of such a number a share of 0.3 % escapes with a probability below 5 %."""
_SPREAD = 16
"""Batches, spread over the schedule, that they are drawn from."""
_LEAST = FIRST_AHEAD
"""Requests of each batch that are run alone however long it takes."""
_OF_A_KIND = 4
"""Further ones of each batch whose rows are unusual, and as many whose rows are not."""
_LONGEST_S = 5.0
"""For the requests of one batch: a version that takes longer is slow, and asked `_LEAST` of each from then on.
Wide of what others take, so that what runs alone does not follow from the machine's mood."""
_FAILURES = 9
"""Batches and parts that may fail before nothing more is asked: each may cost a deadline and a process."""
_ESCAPES = 0.05
"""Probability with which a share as large as `Alone.escaping` is overlooked."""


_SAID = {
    Company.NOTHING: "answered as in their batches",
    Company.ROUNDING: "answered as in their batches but for rounding",
    Company.ANSWERS: "answered otherwise than in their batches",
}
_FAILS = "not all answered, as they are in their batches"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What one version's requests got alone and in their batches."""

    role: str
    """Which version."""
    requests: int = 0
    """Drawn at random and run alone."""
    further: int = 0
    """Run alone because their rows are unusual, or are not."""
    differ: Company = Company.NOTHING
    """How far their answers alone are from those in the batch."""
    failed: tuple[str, ...] = ()
    """Requests and batches that it did not answer; the leg's ledger has them, too."""
    fails_alone: bool = False
    """Whether one of them is a request by itself, whose batch was answered."""

    @property
    def escaping(self) -> float:
        """Share of requests that may differ alone and be overlooked with a probability of 5 %; 1 = none ran."""
        return float(1 - _ESCAPES ** (1 / self.requests)) if self.requests else 1.0

    def to_text(self) -> str:
        """How many requests were run alone, and what that says."""
        if not self.requests:
            return (
                f"{self.role}: no batch was answered that requests run alone could be held against"
            )
        unanswered = f"; it failed on {', '.join(self.failed[:3])}" if self.failed else ""
        return (
            f"{self.role}: {self.requests + self.further:,} requests run alone: "
            + (_FAILS if self.fails_alone else _SAID[self.differ])
            + unanswered
            + (
                f"; a share of other answers above {100 * self.escaping:.2g} % escapes with a probability below 5 %"
                if self.differ is not Company.ANSWERS
                else ""
            )
        )


def alone_from_json(value: Mapping[str, Any]) -> Alone:
    """Reads what `core.jsonable` made of an Alone."""
    read = {"differ": Company(value["differ"]), "failed": tuple(value["failed"])}
    return Alone(**{**value, **read})


def run_alone(
    leg: Leg,
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    rng: np.random.Generator,
    random: Mapping[str, str] | None = None,
) -> Alone:
    """Runs a sample of requests in their batch and by themselves, and compares.

    A leg that runs each request by itself is not asked. A request that its batch answers and that fails
    alone gets another answer. Answers that change from run to run are noise. Requests without rows are
    not drawn: they have no answer that could be compared.

    Args:
      leg: a version, with nothing in flight.
      batches: the whole schedule.
      read: gives the requests at storage positions.
      rng: what is drawn with; the same seed draws the same requests of every version.
      random: outputs that a random operator is before.
    """
    if leg.singly or not batches:
        return Alone(role=leg.name)
    look = _Look(leg, dict(random or {}))
    picked = np.unique(np.linspace(0, len(batches) - 1, min(_SPREAD, len(batches))).astype(int))
    for index in picked.tolist():
        batch = read(batches[index].positions)
        drawn, further = _drawn(batch, -(-WANTED // len(picked)), rng)
        look.batch(batch, drawn, further)
        if look.over:
            break
    return look.found()


def _drawn(batch: RequestBatch, wanted: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Indices of requests drawn at random, in random order, and of further ones of both kinds."""
    order = rng.permutation(np.flatnonzero(batch.rows))
    drawn, left = order[:wanted], order[wanted:]
    odd = unusual(batch)[left]
    return drawn, np.concatenate([left[odd][:_OF_A_KIND], left[~odd][:_OF_A_KIND]])


def unusual(batch: RequestBatch) -> Bools:
    """Which requests hold a NaN, an infinity or an empty text, shape (n,)."""
    rows: Bools = np.zeros(int(batch.rows.sum()), np.bool_)
    for tensor in batch.inputs.values():
        flat = tensor.reshape(len(tensor), -1)
        if tensor.dtype == object:
            rows |= (flat == "").any(axis=1)
        elif tensor.dtype.kind not in "iub":
            rows |= ~np.isfinite(flat.astype(np.float32)).all(axis=1)
    owner = np.repeat(np.arange(len(batch)), batch.rows)
    return np.bincount(owner[rows], minlength=len(batch)).astype(np.bool_)


class _Look:
    """One version's sample so far."""

    def __init__(self, leg: Leg, random: dict[str, str]) -> None:
        self._leg, self._random = leg, random
        self._apart = FloorBuilder(random=random)
        self._differing: list[RequestBatch] = []
        self._requests = self._further = self._failures = 0
        self._failed: list[str] = []
        self._fails_alone = self._slow = False

    @property
    def over(self) -> bool:
        """Whether nothing more needs to be asked, or may be."""
        return self._fails_alone or self._failures >= _FAILURES

    def batch(self, batch: RequestBatch, drawn: Ints, further: Ints) -> None:
        """Answers a batch whole, and some of its requests alone.

        Args:
          batch: requests.
          drawn: indices of those that were drawn at random.
          further: indices of others.
        """
        chance = set(drawn.tolist())
        for start, stop, whole in self._whole(batch):
            part = rows_of(batch, start, stop)
            until = time.perf_counter() + _LONGEST_S * len(part) / len(batch)
            inside = [i for i in (*drawn.tolist(), *further.tolist()) if start <= i < stop]
            singles = self._singles(batch, inside, until)
            self._requests += sum(i in chance for i in singles)
            self._further += sum(i not in chance for i in singles)
            if singles:
                self._compare(part, whole, np.array(list(singles)) - start, [*singles.values()])

    def _singles(self, batch: RequestBatch, at: list[int], until: float) -> dict[int, Observations]:
        """What requests get by themselves, as far as there is time, up to the first that fails.

        One that is answered the second time proves nothing: the leg counts it, and no version that has
        such a one is promoted. Nor does one that the host gave no processor.
        """

        def wanted() -> Iterator[RequestBatch]:
            for count, index in enumerate(at):
                self._slow = self._slow or time.perf_counter() > until
                if self._slow and count >= _LEAST:
                    return
                yield rows_of(batch, index, index + 1)

        singles: dict[int, Observations] = {}
        with contextlib.closing(self._leg.tried_each(wanted(), by=BY)) as answers:
            for index, alone in zip(at, answers, strict=False):
                if alone is not None:
                    singles[index] = alone
                    continue
                self._failures += 1
                if self._leg.ledger.holds(rows_of(batch, index, index + 1), BY):
                    self._fails_alone = True
                    self._failed.append(f"request {batch.request_id[index]}")
                if self.over:
                    break
        return singles

    def _whole(self, batch: RequestBatch) -> Iterator[tuple[int, int, Observations]]:
        """The batch as it is replayed; its parts where it fails, so that one request hides no others."""
        whole = self._leg.tried(batch, by=BY)
        if whole is not None:
            yield 0, len(batch), whole
            return
        self._fails(batch)
        for start, stop in cuts(len(batch)) if len(batch) > 1 else ():
            if self.over:
                return
            some = rows_of(batch, start, stop)
            part = self._leg.tried(some, by=BY)
            if part is not None:
                yield start, stop, part
            else:
                self._fails(some)

    def _fails(self, batch: RequestBatch) -> None:
        """Notes a batch that was not answered."""
        self._failures += 1
        if self._leg.ledger.holds(batch, BY):
            self._failed.append(f"{counted(len(batch))} from {batch.request_id[0]} on")

    def _compare(
        self, batch: RequestBatch, whole: Observations, at: Ints, singles: list[Observations]
    ) -> None:
        """Holds answers alone, in the order of `at`, against those in the batch."""
        order = np.argsort(at)
        alone = joined([singles[i] for i in order.tolist()])
        requests, together = requests_at(batch, whole, at[order])
        if not same_answers(alone, together, self._random):
            self._differing.append(requests)
            self._apart.update(PairBatch(requests=requests, baseline=together, candidate=alone))

    def found(self) -> Alone:
        """What the sample shows."""
        return Alone(
            role=self._leg.name, requests=self._requests, further=self._further,
            differ=self._company(), failed=tuple(self._failed), fails_alone=self._fails_alone,
        )  # fmt: skip

    def _company(self) -> Company:
        if self._fails_alone:
            return Company.ANSWERS
        if not self._differing or not steady_alone(self._leg, self._differing[-1], self._random):
            return Company.NOTHING
        return Company.ROUNDING if self._apart.finish().rounding else Company.ANSWERS

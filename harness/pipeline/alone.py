"""Requests that run alone, as they were recorded, beside the batches that stand for them.

Cutting a batch into parts shows what changes with the batch's size or with sums over it. It does not show
what every part of some dozens of requests has and one request has not: a graph that takes another branch as
soon as any row holds a NaN answers nearly every batch by that branch, and most single requests by the other.
So requests from all over the schedule are run in exactly their recorded composition and held against what
they got in their batch. They are drawn at random, which bounds the share that can escape, and some more are
drawn where rows are unusual (NaN, infinity, empty text), where they are not, and where there is none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.counted import counted
from harness.core.observations import Observations
from harness.core.tensors import Bools, Ints, flat_rows
from harness.core.traffic import RequestBatch
from harness.pipeline.company import Company, same_answers
from harness.pipeline.differing import Differing
from harness.replay.composition import cuts, joined, requests_at, rows_of
from harness.replay.legs import Leg
from harness.replay.order import Batch
from harness.replay.trials import FIRST_AHEAD

BY = "sample that runs alone"
"""Who asks."""
WANTED = 1024
"""Requests drawn at random: of such a number a share of 0.3 % escapes with a probability below 5 %."""
_SPREAD = 16
"""Batches, spread over the schedule, that they are drawn from."""
_LEAST = FIRST_AHEAD
"""Requests of each batch that are run alone however long it takes."""
_OF_A_KIND = 4
"""Further ones of each batch whose rows are unusual, as many whose rows are not, and as many without rows."""
_LONGEST_S = 5.0
"""For the requests of one batch: a version that takes longer, and as long again, is slow, and asked `_LEAST` of each
from then on. Wide of what others take, and once it may be a pause of the machine's: what runs alone does not follow
from its mood."""
_FAILURES = 9
"""Batches and parts that may cost a process, and a deadline, before nothing more is asked."""
_ENOUGH = 0.975
"""Part of the requests that were wanted which keeps what they promise."""
_ESCAPES = 0.05
"""Probability with which a share as large as `Alone.escaping` is overlooked."""


_SAID = {
    Company.NOTHING: "answered as in their batches",
    Company.ROUNDING: "answered as in their batches but for rounding",
    Company.ANSWERS: "answered otherwise than in their batches",
    Company.UNSHOWN: "not compared with their batches, as these fail or their answers change from run to run",
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
    """Run alone because their rows are unusual, or are not, or because they have none."""
    differ: Company = Company.NOTHING
    """How far their answers alone are from those in the batch."""
    failed: tuple[str, ...] = ()
    """Requests and batches that it did not answer; the leg's ledger has them, too."""
    fails_alone: bool = False
    """Whether one of them is a request by itself, whose batch was answered."""

    @property
    def escaping(self) -> float:
        """Share of requests that may differ alone and be overlooked with a probability of 5 %; 1 = none ran."""
        return _escaping(self.requests)

    def to_text(self) -> str:
        """How many requests were run alone, and what that says."""
        if not self.requests:
            return (
                f"{self.role}: no batch was answered that requests run alone could be held against"
            )
        unanswered = f"; it failed on {', '.join(self.failed[:3])}" if self.failed else ""
        return (
            f"{self.role}: {counted(self.requests + self.further)} run alone: "
            + (_FAILS if self.fails_alone else _SAID[self.differ])
            + unanswered
            + (
                f"; a share of other answers above {100 * self.escaping:.2g} % escapes with a probability below 5 %"
                if self.differ in (Company.NOTHING, Company.ROUNDING)
                else ""
            )
        )


def _escaping(requests: int) -> float:
    return float(1 - _ESCAPES ** (1 / requests)) if requests else 1.0


def alone_from_json(value: Mapping[str, Any]) -> Alone:
    """Reads what `core.jsonable` made of an Alone."""
    read = {"differ": Company(value["differ"]), "failed": tuple(value["failed"])}
    return Alone(**{**value, **read})


def run_alone(
    leg: Leg,
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    rng: np.random.Generator,
    *,
    most: float = 0.0,
    steady: bool = False,
) -> Alone:
    """Runs a sample of requests in their batch and by themselves, and compares.

    A leg that runs each request by itself is not asked. A request that its batch answers and that fails
    alone gets another answer; of requests without rows that is all that is compared. Where answers differ
    that also change from run to run, as behind a random operator, nothing is shown. Requests whose batch, and
    part of it, fails are not compared: others are drawn in their place, and where too few are left nothing is
    shown either.

    Args:
      leg: a version, with nothing in flight.
      batches: the whole schedule.
      read: gives the requests at storage positions.
      rng: what is drawn with; the same seed draws the same requests of every version.
      most: share of other answers that may escape where some batches fail; what is promised always may.
      steady: a version that fails by chance is not promoted. Where only chance kept its batches from being
        answered they are no reason to run each request by itself: each might cost a process.
    """
    if leg.singly or not batches:
        return Alone(role=leg.name)
    look = _Look(leg, most, steady=steady)
    picked = np.unique(np.linspace(0, len(batches) - 1, min(_SPREAD, len(batches))).astype(int))
    usual = -(-WANTED // len(picked))
    for count, index in enumerate(picked.tolist()):
        batch = read(batches[index].positions)
        wanted = usual + -(-look.lost // (len(picked) - count))
        drawn, further = _drawn(batch, wanted, rng)
        look.lost -= max(len(drawn) - usual, 0)
        look.batch(batch, drawn, further)
        if look.over:
            break
    return look.found()


def _drawn(batch: RequestBatch, wanted: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Indices of requests drawn at random, in random order, and of further ones of each kind."""
    order = rng.permutation(len(batch))
    drawn, left = order[:wanted], order[wanted:]
    odd, bare = unusual(batch)[left], batch.rows[left] == 0
    kinds = (odd, ~odd & ~bare, bare)
    return drawn, np.concatenate([left[kind][:_OF_A_KIND] for kind in kinds])


def unusual(batch: RequestBatch) -> Bools:
    """Which requests hold a NaN, an infinity or an empty text, shape (n,)."""
    rows: Bools = np.zeros(int(batch.rows.sum()), np.bool_)
    for tensor in batch.inputs.values():
        flat = flat_rows(tensor)
        if tensor.dtype == object:
            rows |= (flat == "").any(axis=1)
        elif tensor.dtype.kind not in "iub":
            rows |= ~np.isfinite(flat.astype(np.float32)).all(axis=1)
    owner = np.repeat(np.arange(len(batch)), batch.rows)
    return np.bincount(owner[rows], minlength=len(batch)).astype(np.bool_)


class _Look:
    """One version's sample so far."""

    def __init__(self, leg: Leg, most: float, *, steady: bool) -> None:
        self._leg = leg
        self._most = most
        self._steady = steady
        self._known = self._told()
        self._flaky = leg.counters().flaky
        self._differing = Differing()
        self._restarts = leg.counters().restarts
        self.lost = 0
        """Drawn at random from what failed, and not made up for by others yet."""
        self._requests = self._further = self._failures = 0
        self._failed: list[str] = []
        self._fails_alone = self._late = self._slow = False

    @property
    def over(self) -> bool:
        """Whether nothing more needs to be asked, or may be."""
        cost = min(self._failures, self._leg.counters().restarts - self._restarts)
        return self._fails_alone or cost >= _FAILURES

    def batch(self, batch: RequestBatch, drawn: Ints, further: Ints) -> None:
        """Answers a batch whole, and some of its requests alone.

        Args:
          batch: requests.
          drawn: indices of those that were drawn at random.
          further: indices of others.
        """
        chance = set(drawn.tolist())
        self.lost += len(chance)
        for start, stop, whole in self._whole(batch):
            part = rows_of(batch, start, stop)
            longest_s = _LONGEST_S * max(len(drawn) * _SPREAD / WANTED, 1.0)
            inside = [i for i in (*drawn.tolist(), *further.tolist()) if start <= i < stop]
            self.lost -= sum(i in chance for i in inside)
            singles = self._singles(batch, inside, longest_s * len(part) / len(batch))
            self._requests += sum(i in chance for i in singles)
            self._further += sum(i not in chance for i in singles)
            if singles:
                self._compare(part, whole, np.array(list(singles)) - start, [*singles.values()])

    def _singles(
        self, batch: RequestBatch, at: list[int], longest_s: float
    ) -> dict[int, Observations]:
        """What requests get by themselves, as far as there is time, up to the first that fails.

        One that is answered the second time proves nothing: the leg counts it, and no version that has
        such a one is promoted. Nor does one that the host gave no processor.
        """

        def wanted() -> Iterator[RequestBatch]:
            until = time.perf_counter() + longest_s
            for count, index in enumerate(at):
                until = self._in_time(until, longest_s)
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

    def _in_time(self, until: float, longest_s: float) -> float:
        """Until when requests are to be answered: anew the first time that it is too late, then the version is slow."""
        now = time.perf_counter()
        if self._slow or now <= until:
            return until
        self._slow, self._late = self._late, True
        return now + longest_s

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
        alone = [singles[i] for i in order.tolist()]
        requests, together = requests_at(batch, whole, at[order])
        if not same_answers(joined(alone), together):
            self._differing.add(requests, together, alone)

    def found(self) -> Alone:
        """What the sample shows."""
        return Alone(
            role=self._leg.name, requests=self._requests, further=self._further,
            differ=self._company(), failed=tuple(self._failed), fails_alone=self._fails_alone,
        )  # fmt: skip

    def _company(self) -> Company:
        if self._fails_alone:
            return Company.ANSWERS
        few = self._requests < _ENOUGH * WANTED and _escaping(self._requests) > self._most
        shown = self._requests >= _LEAST and not few
        if self._failures and not (shown or (self._steady and self._by_chance())):
            # So many batches hold requests that fail: what the others get alone was hardly compared.
            return Company.UNSHOWN
        return self._differing.company(self._leg, BY)

    def _by_chance(self) -> bool:
        """Whether each failure passed the second time: the leg has counted it, and holds the version for it."""
        passed = self._leg.counters().flaky - self._flaky
        return passed >= self._failures and not self._failed and self._told() == self._known

    def _told(self) -> tuple[int, int, str]:
        """What changes where a failure is not the version's chance."""
        counters = self._leg.counters()
        return len(self._leg.ledger.entries), counters.host_starved, self._leg.ended

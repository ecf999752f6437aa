"""What the candidate did not answer before or beside the replay, asked once more before the verdict.

A replay may end before it meets a request that a trial, the planning set or the latency sample has shown to
fail. Each such batch is asked again as it was, of both versions, in fresh processes and with the replay's
search: it ends as requests that only the candidate fails, as a batch that fails only as such, or as one that
failed once.

Tried and left: to search at once, where a trial fails. That spends the caps of the leg that replays, and most
of what trials show is found, and told, by the replay itself.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.findings import Finding, Severity
from harness.core.observations import Cause, Outcome, PairBatch
from harness.core.tensors import Ints
from harness.decide.facts import FailureCount
from harness.diff.signature import SignatureMatch
from harness.pipeline.candidate_failures import NAN, CandidateFailures
from harness.pipeline.evidence import under_baseline_names
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.asked import asked_by
from harness.replay.composition import rows_of
from harness.replay.leg_counters import LegCounters
from harness.replay.legs import Leg
from harness.replay.unanswered import Ledger, Unanswered
from harness.sandbox.pool import Pool
from harness.store.runs import RunFolder
from harness.store.windows import SealedWindow

_SHOWN = 3
"""Requests that a sentence names."""
_MOST = 20
"""Requests that one asker writes down one by one: a handful shows their kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTrial:
    """Requests that the baseline answers and the candidate does not."""

    by: str
    """Who asked first."""
    kind: str
    """crash, timeout, error, invalid or nan."""
    count: int
    """How many."""
    requests: str
    """The first of them, in words."""

    def to_text(self) -> str:
        """Which, who asked, and how they fail."""
        return f"{self.requests} ({self.by}: {self.kind})"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAgain:
    """What became of all that the candidate had not answered."""

    failed: tuple[FailedTrial, ...] = ()
    """It fails again. Of each asker the first batch that shows it; the others are not asked."""
    together: tuple[str, ...] = ()
    """Batches that fail only as such, in words: each request is answered in smaller ones."""
    flaky: int = 0
    """Batches that passed unchanged this time."""

    def counts(self) -> tuple[FailureCount, ...]:
        """The failures as the decision reads them."""
        return tuple(
            FailureCount(kind=f.kind, count=f.count, examples=(f.to_text(),)) for f in self.failed
        )

    def counted_in(self, counters: LegCounters) -> LegCounters:
        """The candidate's counters with what failed only once."""
        return replace(counters, flaky=counters.flaky + self.flaky)

    def findings(self) -> list[Finding]:
        """What is told of it."""
        found = []
        if self.failed:
            shown = "; ".join(f.to_text() for f in self.failed)
            found.append(
                Finding(
                    kind="candidate_fails_in_sample", severity=Severity.HARM, where="candidate",
                    what=f"the candidate does not answer what the baseline answers, asked beside the replay: {shown}",
                    remedy="Run these requests by themselves with `harness compare`, and look at what it says.",
                )
            )  # fmt: skip
        if self.together:
            found.append(
                Finding(
                    kind="fails_together", severity=Severity.WARNING, where="candidate",
                    what=f"the candidate fails on {'; '.join(self.together[:_SHOWN])} in one batch, and answers each "
                    "of them in smaller ones",
                    remedy="Where production makes batches, look at what the model does with so many rows.",
                )
            )  # fmt: skip
        return found


def ask_again(
    ledger: Ledger,
    recipes: tuple[LegRecipe, LegRecipe],
    match: SignatureMatch,
    window: SealedWindow,
    *,
    run: RunFolder | None = None,
    pool: Pool | None = None,
) -> AskedAgain:
    """Asks both versions what the candidate had not answered.

    What cannot be asked any more, as a leg has ended, stays a failure.

    Args:
      ledger: the candidate's.
      recipes: both versions.
      match: which outputs belong together.
      window: holds the requests.
      run: takes the requests that fail by themselves.
      pool: processes that wait already.

    Raises:
      As `open_legs`.
    """
    if not ledger.entries:
        return AskedAgain()
    failed: list[FailedTrial] = []
    passed: list[tuple[Unanswered, _Passed]] = []
    seen: set[tuple[int, ...]] = set()
    with open_legs(*recipes, pool=pool) as (baseline, candidate):
        for entry in ledger.entries:
            if entry.seq in seen or any(f.by == entry.by for f in failed):
                continue
            seen.add(entry.seq)
            before = candidate.counters()
            pair = _asked(entry, (baseline, candidate), window)
            shown = _failures(entry, under_baseline_names(pair, match))
            failed += shown
            if not shown and (pair.baseline.outcome == Outcome.OK).all():
                passed.append((entry, _passed(entry, before, candidate.counters())))
        for item in (*baseline.take_quarantined(), *candidate.take_quarantined()):
            if run is not None:
                run.quarantine(item)
    return AskedAgain(
        failed=tuple(failed),
        together=tuple(f"{e.to_text()} ({e.by})" for e, how in passed if how is _Passed.IN_PARTS),
        flaky=sum(how is _Passed.THIS_TIME for _, how in passed),
    )


class _Passed(enum.Enum):
    """How a batch was answered that was not before."""

    IN_PARTS = enum.auto()
    THIS_TIME = enum.auto()
    UNTRACED = enum.auto()


def _passed(entry: Unanswered, before: LegCounters, after: LegCounters) -> _Passed:
    """How an entry whose requests are all answered came to that, by its leg's counters."""
    # How many share a batch is the gate's choice; a request that was asked by itself had nothing beside it.
    short = entry.cause is Cause.MEMORY_LIMIT and len(entry.seq) > 1
    if after.assembled > before.assembled or short:
        return _Passed.IN_PARTS
    # What only the session that returns features fails is no failure of production's.
    return _Passed.UNTRACED if after.trace_faults > before.trace_faults else _Passed.THIS_TIME


def note_failures(
    ledger: Ledger, pair: PairBatch, failures: CandidateFailures, known: int, *, by: str
) -> None:
    """Writes requests down that a batch beside the replay has shown to fail, the first few.

    Args:
      ledger: the candidate's.
      pair: the batch.
      failures: after the batch; it lists the first ids.
      known: ids that it listed before.
      by: who asked.
    """
    new = set(failures.ids[known:])
    if not new:
        return
    messages = dict(pair.candidate.messages)
    for i, request_id in enumerate(pair.requests.request_id):
        if str(request_id) in new:
            ledger.add(
                rows_of(pair.requests, i, i + 1), Outcome(int(pair.candidate.outcome[i])),
                Cause.UNKNOWN, messages.get(i, ""), by=by,
            )  # fmt: skip


def note_repetition(ledger: Ledger, pair: PairBatch, again: PairBatch) -> None:
    """Writes requests down that the candidate answers, and fails when they are repeated."""
    by = "repetition"
    failed = (again.candidate.outcome != Outcome.OK) & (again.candidate.outcome != Outcome.NOT_RUN)
    answered = (pair.candidate.outcome == Outcome.OK) & (again.baseline.outcome == Outcome.OK)
    room = _MOST - sum(e.by == by for e in ledger.entries)
    messages = dict(again.candidate.messages)
    for i in np.flatnonzero(failed & answered)[: max(room, 0)].tolist():
        ledger.add(
            rows_of(pair.requests, i, i + 1), Outcome(int(again.candidate.outcome[i])),
            Cause.UNKNOWN, messages.get(i, ""), by=by,
        )  # fmt: skip


def _asked(entry: Unanswered, legs: tuple[Leg, Leg], window: SealedWindow) -> PairBatch:
    """The batch of an entry, answered by both versions."""
    requests = window.read(_positions(entry, window))
    asked = [asked_by(leg) for leg in legs]
    for leg in asked:
        leg.submit(requests, trace=entry.trace)
    baseline, candidate = (leg.collect() for leg in asked)
    return PairBatch(requests=requests, baseline=baseline, candidate=candidate)


def _positions(entry: Unanswered, window: SealedWindow) -> Ints:
    """Where the requests are stored, in the batch's order."""
    seq = window.index().seq()
    order = np.argsort(seq)
    found: Ints = order[np.searchsorted(seq, np.array(entry.seq, np.int64), sorter=order)]
    return found


def _failures(entry: Unanswered, pair: PairBatch) -> list[FailedTrial]:
    """What only the candidate fails of a batch, by kind; what it was not given any more as it failed first."""
    seen = CandidateFailures()
    seen.update(pair)
    found = [
        FailedTrial(by=entry.by, kind=kind.lower(), count=count, requests=_named(seen.ids, seen.count()))
        for kind, count in seen.kinds.items()
    ]  # fmt: skip
    first_kind = NAN if entry.kind is Outcome.OK else entry.kind.name
    unasked = (pair.candidate.outcome == Outcome.NOT_RUN) & np.isin(
        pair.baseline.outcome, (Outcome.OK, Outcome.NOT_RUN)
    )
    if not found and (unasked.any() or entry.kind is Outcome.OK):
        found.append(
            FailedTrial(by=entry.by, kind=first_kind.lower(), count=len(pair), requests=entry.to_text())
        )  # fmt: skip
    return found


def _named(ids: Sequence[str], count: int) -> str:
    more = f" and {count - _SHOWN:,} more" if count > _SHOWN else ""
    return f"{'request' if count == 1 else 'requests'} {', '.join(ids[:_SHOWN])}{more}"

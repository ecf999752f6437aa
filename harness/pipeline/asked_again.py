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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from harness.core.findings import Finding, Severity
from harness.core.observations import Cause, Outcome, PairBatch
from harness.core.tensors import Bools, Ints
from harness.decide.facts import FailureCount
from harness.diff.signature import SignatureMatch
from harness.pipeline.candidate_failures import NAN, CandidateFailures, failing
from harness.pipeline.evidence import under_baseline_names
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.asked import asked_by
from harness.replay.composition import rows_of
from harness.replay.forms import in_forms
from harness.replay.leg_counters import LegCounters
from harness.replay.legs import Leg
from harness.replay.looks import look_of, reshaped
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
    """Requests that the baseline answers and the candidate does not, as far as both could be asked."""

    by: str
    """Who asked first."""
    kind: str
    """crash, timeout, error, invalid or nan."""
    count: int
    """How many."""
    requests: str
    """The first of them, in words."""
    left: str = ""
    """Why it is not known whether they fail again, and only the candidate; "" = it is."""

    def to_text(self) -> str:
        """Which, who asked, and how they fail."""
        left = f"; not asked to its end again, as {self.left}" if self.left else ""
        return f"{self.requests} ({self.by}: {self.kind}{left})"


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
            FailureCount(kind=f.kind, count=f.count, examples=(f.to_text(),), left=bool(f.left))
            for f in self.failed
        )

    def counted_in(self, counters: LegCounters) -> LegCounters:
        """The candidate's counters with what failed only once."""
        return replace(counters, flaky=counters.flaky + self.flaky)

    def findings(self) -> list[Finding]:
        """What is told of it."""
        found = []
        for left, said in (
            (
                False,
                "the candidate does not answer what the baseline answers, asked beside the replay",
            ),
            (
                True,
                "what the candidate did not answer beside the replay could not be asked to its end again",
            ),
        ):
            shown = "; ".join(f.to_text() for f in self.failed if bool(f.left) is left)
            if not shown:
                continue
            found.append(
                Finding(
                    kind="candidate_fails_in_sample", severity=Severity.HARM, where="candidate",
                    what=f"{said}: {shown}",
                    remedy="Run these requests by themselves with `harness compare`, and look at what it says.",
                )
            )  # fmt: skip
        if self.together:
            rest = len(self.together) - _SHOWN
            more = f" and {rest:,} more" if rest > 0 else ""
            found.append(
                Finding(
                    kind="fails_together", severity=Severity.WARNING, where="candidate",
                    what=f"the candidate fails on {'; '.join(self.together[:_SHOWN])}{more}, each in one batch, and answers each "
                    "of them in smaller ones",
                    remedy="Where production makes batches, look at what the model does with so many rows.",
                )
            )  # fmt: skip
        return found


def ask_again(
    ledgers: tuple[Ledger, Ledger],
    recipes: tuple[LegRecipe, LegRecipe],
    match: SignatureMatch,
    window: SealedWindow,
    *,
    but: Collection[str] = (),
    singly: bool = False,
    run: RunFolder | None = None,
    pool: Pool | None = None,
) -> AskedAgain:
    """Asks both versions what the candidate had not answered.

    What cannot be asked any more, as a leg has ended, stays a failure.

    Args:
      ledgers: both versions'; what is in the candidate's is asked.
      recipes: both versions.
      match: which outputs belong together.
      window: holds the requests.
      but: outputs whose shape is expected to change.
      singly: each request was replayed by itself: an answer that only a batch gets is no failure.
      run: takes the requests that fail by themselves.
      pool: processes that wait already.

    Raises:
      As `open_legs`.
    """
    told, entries = failing_together(ledgers), ledgers[1].entries
    if not entries:
        return AskedAgain(together=told)
    failed: list[FailedTrial] = []
    together, flaky = list(told), 0
    seen: set[tuple[int, ...]] = set()
    with open_legs(*recipes, pool=pool) as (baseline, candidate):
        legs = baseline, candidate
        candidate.other = baseline.blamed

        def ask(entry: Unanswered) -> PairBatch:
            return under_baseline_names(_asked(entry, legs, window), match)

        for entry in entries:
            if entry.seq in seen or any(f.by == entry.by for f in failed):
                continue
            seen.add(entry.seq)
            shown, how = _became(entry, legs, partial(ask, entry), but, singly=singly)
            failed += shown
            together += [f"{entry.to_text()} ({entry.by})"] if how is _Passed.IN_PARTS else []
            flaky += how is _Passed.THIS_TIME
        for item in (*baseline.take_quarantined(), *candidate.take_quarantined()):
            if run is not None:
                run.quarantine(item)
    return AskedAgain(failed=tuple(failed), together=tuple(together), flaky=flaky)


def failing_together(ledgers: tuple[Ledger, Ledger]) -> tuple[str, ...]:
    """Batches that of (baseline, candidate) only the candidate fails as such, in words."""
    baseline, candidate = ledgers
    return tuple(words for words in candidate.together if words not in baseline.together)


def _became(
    entry: Unanswered,
    legs: tuple[Leg, Leg],
    ask: Callable[[], PairBatch],
    but: Collection[str],
    *,
    singly: bool,
) -> tuple[list[FailedTrial], _Passed | None]:
    """What an entry is once it is asked again: failures, or how it passed where that says something."""
    baseline, candidate = legs
    before = baseline.counters(), candidate.counters()
    batch = singly and entry.kind is Outcome.OK and len(entry.seq) > 1
    pair = ask()
    shown = _failures(entry, pair, but, proven=not batch, ended=_ended(legs))
    if shown and batch:
        # An answer to a batch that the replay does not make: what do its requests get?
        baseline.singly = candidate.singly = True
        shown = _failures(entry, ask(), but, proven=False, ended=_ended(legs))
        baseline.singly = candidate.singly = False
        return shown, None if shown else _Passed.IN_PARTS
    if shown or not _says_something(entry, pair):
        return shown, None
    how = _passed(entry, before[1], candidate.counters())
    # A batch that the baseline answers only in parts, too, says nothing about the candidate.
    alike = baseline.counters().assembled > before[0].assembled
    return [], None if alike and how is _Passed.IN_PARTS else how


def _ended(legs: tuple[Leg, Leg]) -> str:
    """Which legs answer no more, in words; "" = none."""
    return "; ".join(f"the {leg.name}'s leg has ended: {leg.ended}" for leg in legs if leg.ended)


def _says_something(entry: Unanswered, pair: PairBatch) -> bool:
    """Whether it counts that a batch passed this time.

    Not where the baseline fails. Where the candidate did answer: when what was seen is gone, unless that was its
    shape and the baseline's was not known, which may have been the same.
    """
    if not np.isin(pair.baseline.outcome, (Outcome.OK, Outcome.NOT_RUN)).all():
        return False
    if entry.kind is not Outcome.OK:
        return True
    if entry.message:
        return not entry.surmised and not _reshaped(pair, ())
    return not look_of(pair.candidate).nan


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
    ledger: Ledger, pair: PairBatch, *, by: str, but: Collection[str] = (), new: Bools | None = None
) -> None:
    """Writes requests down that a batch beside the replay has shown to fail, the first few.

    Args:
      ledger: the candidate's.
      pair: the batch, outputs under the baseline's names.
      by: who asked.
      but: outputs whose shape is expected to change.
      new: those that nobody else tells, shape (n,); None = all.
    """
    said = dict(pair.candidate.messages)
    found = [
        (which, Outcome.OK if kind == NAN else Outcome[kind], "")
        for kind, which in failing(pair).items()
    ]
    if words := _reshaped(pair, but):
        found.append((pair.both_answered(), Outcome.OK, words))
    for which, kind, message in found:
        room = _MOST - sum(e.by == by for e in ledger.entries)
        told = which if new is None else which & new
        for i in np.flatnonzero(told)[: max(room, 0)].tolist():
            ledger.add(
                rows_of(pair.requests, i, i + 1), kind, Cause.UNKNOWN, message or said.get(i, ""),
                by=by,
            )  # fmt: skip


def _reshaped(pair: PairBatch, but: Collection[str]) -> str:
    """Which outputs came in another shape than the baseline's, in words; "" = none."""
    found = [
        reshaped(look_of(part.baseline), look_of(part.candidate), but)
        for _, part, _ in in_forms(pair)
        if part.both_answered().any()
    ]
    return "; ".join(dict.fromkeys(text for text in found if text))


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


def _failures(
    entry: Unanswered, pair: PairBatch, but: Collection[str], *, proven: bool = True, ended: str = ""
) -> list[FailedTrial]:  # fmt: skip
    """What only the candidate fails of a batch, by kind; what nobody could be asked any more as it failed first.

    Args:
      entry: what is asked again.
      pair: how it was answered.
      but: outputs whose shape is expected to change.
      proven: that the candidate's answer was no number where the baseline's was one is enough.
      ended: which legs answer no more, in words.
    """
    seen = CandidateFailures()
    seen.update(pair)
    found = [
        FailedTrial(by=entry.by, kind=kind.lower(), count=count, requests=_named(seen.ids, seen.count()))
        for kind, count in seen.kinds.items()
    ]  # fmt: skip
    kind = NAN if entry.kind is Outcome.OK else entry.kind.name
    base, cand = pair.baseline.outcome, pair.candidate.outcome
    unasked = np.isin(base, (Outcome.OK, Outcome.NOT_RUN)) & (cand == Outcome.NOT_RUN)
    # Where the baseline gives no more answers, nothing excuses the candidate.
    unasked |= (base == Outcome.NOT_RUN) & (cand != Outcome.OK)
    reshaped_now = bool(_reshaped(pair, but))
    proven = proven and entry.kind is Outcome.OK and not (entry.message or entry.surmised)
    if not found and (reshaped_now or unasked.any() or proven):
        kind = Outcome.INVALID.name if reshaped_now else kind
        left = "" if reshaped_now or proven else ended
        count = int(unasked.sum()) if left else len(pair)
        found.append(
            FailedTrial(
                by=entry.by, kind=kind.lower(), count=count, requests=entry.to_text(), left=left
            )
        )
    return found


def _named(ids: Sequence[str], count: int) -> str:
    more = f" and {count - _SHOWN:,} more" if count > _SHOWN else ""
    return f"{'request' if count == 1 else 'requests'} {', '.join(ids[:_SHOWN])}{more}"

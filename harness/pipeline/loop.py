"""The replay loop: both versions batch by batch, evidence after each, checkpoints in between.

A checkpoint is a chunk of the pairs table and the state of the evidence after it; where chunks follow
each other within a second, some share one state. Ctrl-C and SIGTERM write one and leave; a kill loses at
most a second and what came after the last chunk. Going on from a checkpoint repeats nothing and gives the
verdict that an uninterrupted run gives, because the order, the batch borders and the looks are those of
the run folder.
"""

from __future__ import annotations

import importlib
import math
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

import numpy as np

from harness.core.interruption import interrupted
from harness.core.observations import Outcome, PairBatch
from harness.core.policies import Scope
from harness.core.tensors import Columns
from harness.core.traffic import RequestBatch
from harness.decide.baseline import enough_counted
from harness.decide.fitness import one_decides
from harness.pipeline.asked_again import note_failures
from harness.pipeline.evidence import (
    RunningEvidence,
    Terms,
    expected_changes,
    under_baseline_names,
)
from harness.pipeline.legs_of_run import keep_answered
from harness.pipeline.prepare import Prepared
from harness.pipeline.progress import Listener, Progress
from harness.pipeline.read_back import read_back
from harness.replay.leg_counters import LegCounters
from harness.replay.legs import Leg
from harness.replay.order import Batch
from harness.replay.pairs import replay_pairs
from harness.replay.pieces import repeated
from harness.replay.unanswered import Ledger
from harness.store.pairs import TableWriter

CHECKPOINT_BATCHES = 8
_CHECKPOINT_REQUESTS = 32_768
"""A chunk is in memory when it is read again."""
STATE_S = 1.0
"""A state is two megabytes, however few requests came since the last one: not worth its time more often."""
_ENOUGH_FAILURES = 20


class Interrupted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C, after the checkpoint was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """How the replay ended."""

    evidence: RunningEvidence
    finished: bool
    """All scheduled batches were judged."""
    ended_leg: str
    """ "baseline: why" or "candidate: why" when a leg gave up; "" otherwise."""
    baseline: LegCounters
    candidate: LegCounters
    """What failed now and then before an interruption is in it."""
    anchor: LegCounters | None = None
    """None where no guardrail asks for one."""


def replay(
    prepared: Prepared,
    terms: Terms,
    legs: tuple[Leg, Leg],
    listener: Listener,
    *,
    trace: bool,
    anchor: Leg | None = None,
    second: tuple[Leg, Leg] | None = None,
) -> LoopResult:
    """Judges batches until the decision is reached or the traffic is used up.

    Args:
      prepared: the run; goes on from its last checkpoint when it has one.
      terms: what the evidence is measured against.
      legs: opened legs (baseline, candidate).
      listener: hears progress.
      trace: also replay the features.
      anchor: leg of the version that some guardrails compare with; None where none does.
      second: opened legs of both versions for a repetition of every request, where asked for.

    Raises:
      Interrupted: SIGINT or SIGTERM; a checkpoint was written.
    """
    book = _Book(prepared, terms, (legs[1], *(() if second is None else second[1:])))
    evidence = book.evidence
    stop = _Stop(prepared, evidence)
    every = legs if anchor is None else (*legs, anchor)
    fit = [leg.answered.most_rows for leg in every]
    ahead = prepared.batches[book.next_batch :]
    total = sum(len(b) for b in prepared.batches)
    done = total - sum(len(b) for b in ahead)
    with _stoppable() as asked:
        if interrupted():
            raise Interrupted
        todo = () if stop.reached() else ahead
        for batch, pair in _pairs(prepared, legs, todo, trace=trace, anchor=anchor):
            again = None if second is None else repeated(second, pair.requests)
            if again is not None:
                _note_repetition(legs[1].ledger, pair, again, terms)
            label = prepared.label[batch.positions]
            ends = prepared.units.ends(batch) if prepared.units else None
            book.enter(batch, evidence.update(batch, pair, label, again, ends=ends))
            _save_quarantined(prepared, every)
            if fit != (fit := [leg.answered.most_rows for leg in every]):
                keep_answered(prepared.run, every)
            done += len(pair)
            # Before the next batch is read: it would be one more in memory.
            del pair, again
            listener(Progress(stage="replay", done=done, total=total, note=stop.note()))
            if asked:
                book.checkpoint()
                raise Interrupted
            if stop.reached():
                break
        book.checkpoint()
        _save_quarantined(prepared, every)
    return LoopResult(
        evidence=evidence,
        finished=book.next_batch == len(prepared.batches),
        ended_leg=_gave_up((*legs, *(() if anchor is None else (anchor,)), *(second or ()))),
        baseline=legs[0].counters(),
        candidate=replace(legs[1].counters(), flaky=book.flaky()),
        anchor=None if anchor is None else anchor.counters(),
    )


def _note_repetition(ledger: Ledger, pair: PairBatch, again: PairBatch, terms: Terms) -> None:
    """Writes down what the candidate answers, and fails when it is repeated."""
    note_failures(
        ledger,
        under_baseline_names(again, terms.match),
        by="repetition",
        but=expected_changes(terms.policy, Scope.OUTPUTS),
        new=np.asarray(pair.candidate.outcome == Outcome.OK),
    )


def import_mathematics() -> None:
    """What the judge's first look needs: while processes start, so that no version waits for it.

    Raises:
      Interrupted: SIGINT or SIGTERM meanwhile; Python's imports may swallow what a handler raises.
    """
    with _stoppable() as asked:
        importlib.import_module("scipy.special")
    if asked or interrupted():
        raise Interrupted


def _pairs(
    prepared: Prepared,
    legs: tuple[Leg, Leg],
    batches: Sequence[Batch],
    *,
    trace: bool,
    anchor: Leg | None,
) -> Iterator[tuple[Batch, PairBatch]]:
    """Pairs until a leg has given up and answers nothing any more."""
    for batch, pair in replay_pairs(*legs, _read(prepared, batches), trace=trace, anchor=anchor):
        if _gave_up(legs) and not _any_run(pair):
            return
        yield batch, pair
        del pair


def _save_quarantined(prepared: Prepared, legs: Sequence[Leg]) -> None:
    for leg in legs:
        for item in leg.take_quarantined():
            prepared.run.quarantine(item)


class _Book:
    """The run folder's side of the loop: rows that wait for a chunk, and where the run stands."""

    def __init__(self, prepared: Prepared, terms: Terms, candidate: Sequence[Leg]) -> None:
        self._run = prepared.run
        self._candidate = candidate
        self._flaky = 0
        self._chunk = 0
        self._writer: TableWriter | None = None
        self._batches = self._requests = 0
        self._saved_at = -math.inf
        self._saved_chunk = 0
        self.next_batch = 0
        self.evidence = RunningEvidence(terms)
        if prepared.carried is not None:
            self.evidence.carry(prepared.carried.judge, prepared.carried.judged)
        saved = self._run.load_state()
        if saved is not None:
            self._chunk, arrays, meta = saved
            self._saved_chunk = self._chunk
            with read_back(self._run.path, "saved evidence"):
                self.evidence = RunningEvidence.restored(terms, arrays, meta["evidence"])
                self.next_batch = int(meta["next_batch"])
                # What the legs know from before the replay is in what they count.
                self._flaky = max(0, int(meta["flaky"]) - self.flaky())

    def flaky(self) -> int:
        """Batches that the candidate passed only the second time, before an interruption as after it."""
        return self._flaky + sum(leg.counters().flaky for leg in self._candidate)

    def enter(self, batch: Batch, rows: Columns) -> None:
        """Takes one judged batch."""
        if self._writer is None:
            self._writer = self._run.pairs_writer(self._chunk)
        self._writer.add(rows)
        self.next_batch = batch.index + 1
        self._batches += 1
        self._requests += len(batch)
        if self._batches >= CHECKPOINT_BATCHES or self._requests >= _CHECKPOINT_REQUESTS:
            self._end_chunk()
            if time.perf_counter() - self._saved_at >= STATE_S:
                self.checkpoint()

    def checkpoint(self) -> None:
        """Ends the chunk, then writes the state after it; a kill in between repeats what has no state."""
        self._end_chunk()
        if self._saved_chunk == self._chunk:
            return
        self._saved_chunk = self._chunk
        self._saved_at = time.perf_counter()
        arrays, meta = self.evidence.state()
        state = {"evidence": meta, "next_batch": self.next_batch, "flaky": self.flaky()}
        self._run.save_state(self._chunk, arrays, state)

    def _end_chunk(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        self._batches = self._requests = 0
        self._chunk += 1


class _Stop:
    """Whether the evidence decides already, so that the legs may stop."""

    def __init__(self, prepared: Prepared, evidence: RunningEvidence) -> None:
        self._policy = prepared.policy
        self._evidence = evidence
        sizes = Counter(dict.fromkeys(prepared.counts, 0))
        for batch in prepared.batches:
            sizes[batch.window] += len(batch)
        if prepared.carried is not None:
            sizes.update(prepared.carried.judged)
        self._alone = any(batch.alone for batch in prepared.batches)
        least = prepared.policy.windows.min_requests
        self._need = {name: min(least, sizes[name]) for name in prepared.counts}

    def reached(self) -> bool:
        """Every window has its least number of requests, and the guardrails decide.

        Failures that decide by themselves end the run sooner, once a handful shows their kind: to find
        more of them costs a deadline or a new process each and changes nothing. So does an answer that
        is not production's where those of the other session are judged: no evidence after it counts. A promotion
        waits until it is known whether the baseline answers enough: near the share that may be missing, till the end.
        """
        if self._alone and self._evidence.probes.differ:
            return True
        failures = self._evidence.failures.kinds
        decisive = sum(n for kind, n in failures.items() if one_decides(self._policy, kind.lower()))
        if decisive >= _ENOUGH_FAILURES:
            return True
        judged = self._evidence.judged
        if any(judged.get(name, 0) < need for name, need in self._need.items()):
            return False
        status = self._evidence.status(replayed=True)
        return bool(decisive) or status.rollback or (status.promote_ready and self._counted())

    def _counted(self) -> bool:
        """Whether what the baseline fails would hold a promotion, or not, wherever the run stopped."""
        most, alpha = self._policy.most_baseline_failures, self._evidence.terms.alpha_promote
        return enough_counted(self._evidence.baseline.facts(), most, alpha)

    def note(self) -> str:
        """The state of the evidence in a few words."""
        if self._evidence.failures.count():
            return f"the candidate fails {self._evidence.failures.count()} requests"
        status = self._evidence.status(replayed=True)
        if status.rollback:
            return "harm proven"
        return "all within their margins" if status.promote_ready else "undecided"


def _read(prepared: Prepared, batches: Sequence[Batch]) -> Iterator[tuple[Batch, RequestBatch]]:
    window = prepared.window
    if window is None:
        return
    for batch in batches:
        # Its part of the order is in a file, and asked for again with the answers: read once.
        known = replace(batch, order=batch.positions)
        yield known, window.read(known.positions)


def _gave_up(legs: Sequence[Leg]) -> str:
    """Which leg ended and why; "" while both run."""
    return next((f"{leg.name}: {leg.ended}" for leg in legs if leg.ended), "")


def _any_run(pair: PairBatch) -> bool:
    """Whether both legs ran any request of a batch."""
    return bool(
        (
            (pair.baseline.outcome != Outcome.NOT_RUN) & (pair.candidate.outcome != Outcome.NOT_RUN)
        ).any()
    )


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying at once; a second one ends at once."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the program that embeds us owns the signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

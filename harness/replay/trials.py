"""Questions beside the replay: what a version answers where no verdict rests on the answer.

Nothing is searched or quarantined, and no cap is touched but that of restarts. What fails is in the leg's ledger,
which is looked into before the verdict.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from harness.core.observations import Observations, Outcome
from harness.core.traffic import RequestBatch
from harness.replay.blamed import Blamed
from harness.replay.composition import joined, rows_of
from harness.replay.flight import STARVED_TRIES, Flight, Pending, starved
from harness.replay.leg_counters import Tally
from harness.replay.recovered import is_flaky
from harness.replay.unanswered import Ledger
from harness.sandbox.answers import BatchAnswer, BatchFault

AHEAD = 16
"""Small batches given to a version before the first answer is awaited."""
FIRST_AHEAD = 4
"""As many until it is known how fast it is."""
_IN_VAIN = 3
"""Trials that may run out of time before anything is answered: each more would cost a deadline as well."""

_Told = tuple[Observations, int]
"""The answer to a batch, and how many rows may be asked at once by the largest part of it that was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """The trials of one leg."""

    flight: Flight
    """The leg's."""
    tally: Tally
    """The leg's."""
    blamed: Blamed
    """The leg's; requests that are in it are not asked."""
    ledger: Ledger
    """Takes what was not answered."""
    entry: Callable[[RequestBatch, bool], Pending]
    """Makes a batch, with features or without, ready for the version."""
    read: Callable[[Pending, BatchAnswer, bool], Observations]
    """Learns from an answer, of a batch as the replay has them or not, and makes observations of it."""

    @property
    def silent(self) -> bool:
        """Whether the version has answered nothing, and was asked often enough: nothing more is tried."""
        return not self.tally.answers and self.tally.in_vain >= _IN_VAIN

    def tried(self, batch: RequestBatch, *, trace: bool, usual: bool, by: str) -> Observations | None:  # fmt: skip
        """As `Leg.tried`."""
        told = self._told(self.entry(batch, trace), by, usual=usual)
        running = self.flight.processes.running
        if told is not None and running is not None and running.ran_short:
            self.flight.start_afresh()  # what filled it is not known
        return told[0] if told else None

    def tried_each(
        self, batches: Iterable[RequestBatch], submit: Callable[[RequestBatch], None], *, by: str
    ) -> Generator[Observations | None, None, None]:
        """As `Leg.tried_each`.

        Args:
          batches: requests.
          submit: puts one into flight.
          by: who asks.
        """
        ahead, pending = FIRST_AHEAD, self.flight.pending
        left = iter(batches)
        try:
            while True:
                for batch in itertools.islice(left, ahead - len(pending)):
                    submit(batch)
                if not pending:
                    return
                told = self._told(pending.popleft(), by, usual=False)
                ahead = min(ahead + 1, AHEAD)
                yield told[0] if told else None
        finally:
            while pending:
                left_over = pending.popleft()
                self._noted(left_over, self.flight.abandoned(left_over), by)

    def _told(
        self, entry: Pending, by: str, *, usual: bool, part: bool = False
    ) -> _Told | None:  # fmt: skip
        """What a batch, or a part of one, gets, the second time if its process ended or was short of memory."""
        if entry.held:
            self._note_known(entry, by)
        if entry.held or self._in_vain(entry, by):
            return None
        if self.flight.answered.too_large(entry.batch):
            return self._in_halves(entry, by, usual=usual)
        result = self._unstarved(entry)
        if isinstance(result, BatchFault) and not starved(result):
            if result.short_of_memory and len(entry.batch) > 1:
                self.flight.settle()
                if part:
                    return self._in_halves(entry, by, usual=usual)
                return self._told_in_halves(entry, result, by, usual=usual)
            if not (result.alive and result.of_its_own):
                return self._told_again(entry, result, by, usual=usual)
            self._blame(entry, result)
        self._timed(result)
        self._noted(entry, result, by)
        return self._answered(entry, result, usual) if isinstance(result, BatchAnswer) else None

    def _told_again(self, entry: Pending, first: BatchFault, by: str, *, usual: bool) -> _Told | None:  # fmt: skip
        """As `_told`, of a batch that failed once, in a fresh process."""
        self.flight.start_afresh()
        entry.anew()
        again = self._unstarved(entry)
        if isinstance(again, BatchAnswer):
            if not is_flaky(first, len(entry.batch)):
                self._noted(entry, again, by)
                return self._answered(entry, again, usual)
            self.tally.flaky += 1
            self.ledger.changed()
            return None
        if isinstance(again, BatchFault):
            if again.short_of_memory and len(entry.batch) > 1:
                return self._told_in_halves(entry, again, by, usual=usual)
            self._blame(entry, again)
        self._timed(again)
        self._noted(entry, first, by)
        return None

    def _in_vain(self, entry: Pending, by: str) -> bool:
        """Whether a batch is not worth its deadlines, as the version answers nothing whatever it is asked.

        The first that ran out of time may have been one of a few: single requests of this batch are asked before.
        """
        if self.tally.answers or not self.tally.in_vain:
            return False
        if entry.sent:
            # Nobody waits for its answer; what was given the process after it is sent again.
            self.flight.start_afresh()
            entry.anew()
        known = self.blamed.among(entry.batch)
        for index in [i for i in range(len(entry.batch)) if i not in known][:_IN_VAIN]:
            if self.silent or len(entry.batch) == 1:
                break
            one = self.entry(rows_of(entry.batch, index, index + 1), False)
            result = self.flight.awaited(one)
            if isinstance(result, BatchAnswer):
                self._answered(one, result, False)
                break
            self._timed(result)
            self._noted(one, result, by)
            if isinstance(result, BatchFault) and not starved(result):
                self._blame(one, result)
        return self.silent

    def _timed(self, result: BatchAnswer | BatchFault | None) -> None:
        """Counts a try that ran out of time, whoever is to blame, while nothing was answered."""
        if isinstance(result, BatchFault) and result.kind is Outcome.TIMEOUT:
            self.tally.in_vain += not self.tally.answers

    def _told_in_halves(self, entry: Pending, fault: BatchFault, by: str, *, usual: bool) -> _Told | None:  # fmt: skip
        """As `_told`, of a batch that ran out of memory; learns what fits where all of it is answered."""
        told = self._in_halves(entry, by, usual=usual)
        if told is None or fault.after_short:
            return told
        if not fault.of_its_own:
            # Perhaps it fits into a process that holds nothing else: half of it leaves room for that.
            self.flight.start_afresh()
            entry.anew()
            again = self._unstarved(entry)
            if isinstance(again, BatchAnswer):
                told = self._answered(entry, again, usual)
        self.flight.answered.fitted(told[1])
        return told

    def _in_halves(self, entry: Pending, by: str, *, usual: bool) -> _Told | None:
        """As `_told`, of a batch that does not fit into the memory as a whole."""
        count, told = len(entry.batch), []
        for start, stop in ((0, count // 2), (count // 2, count)):
            half = self.entry(rows_of(entry.batch, start, stop), entry.trace)
            answer = self._told(half, by, usual=usual, part=True)
            if answer is None:
                return None
            told.append(answer)
        return joined([answer for answer, _ in told]), max(rows for _, rows in told)

    def _answered(self, entry: Pending, answer: BatchAnswer, usual: bool) -> _Told:
        return self.read(entry, answer, usual), self.flight.room_after(answer)

    def _unstarved(self, entry: Pending) -> BatchAnswer | BatchFault | None:
        """A batch's answer; asked for more than once when the host is to blame.

        Of a version that has answered nothing yet, others are asked instead (`_in_vain`).
        """
        result = entry.result or self.flight.awaited(entry)
        for _ in range(STARVED_TRIES - 1 if self.tally.answers else 0):
            if not starved(result):
                return result
            self._starved_once()
            entry.anew()
            result = self.flight.awaited(entry)
        if starved(result):
            self._starved_once()
        return result

    def _starved_once(self) -> None:
        self.tally.host_starved += 1
        self.ledger.changed()

    def _blame(self, entry: Pending, fault: BatchFault) -> None:
        """Remembers a request that cost a process by itself, also where no trace was asked for."""
        if len(entry.batch) > 1 or not (fault.of_its_own and fault.costs_process):
            return
        shown = self._bare(entry) if entry.trace else fault
        if not isinstance(shown, BatchFault) or starved(shown) or not shown.of_its_own:
            return
        if self.blamed.add(entry.batch, 0, shown):
            self.ledger.changed()

    def _bare(self, entry: Pending) -> BatchAnswer | BatchFault | None:
        """What a batch gets in a fresh process without its trace."""
        self.flight.start_afresh()
        return self._unstarved(self.entry(entry.batch, False))

    def _note_known(self, entry: Pending, by: str) -> None:
        """Writes down each request of a batch that is not asked, as it is known to fail."""
        for index, fault in self.blamed.among(entry.batch).items():
            one = Pending(rows_of(entry.batch, index, index + 1), {}, entry.trace)
            self._noted(one, fault, by)

    def _noted(self, entry: Pending, result: BatchAnswer | BatchFault | None, by: str) -> None:
        """Writes down that a batch was not answered, or how it was."""
        if isinstance(result, BatchAnswer):
            self.ledger.saw(entry.batch, result, by=by, trace=entry.trace)
        elif isinstance(result, BatchFault):
            self.ledger.add(
                entry.batch, result.kind, result.cause, result.message, by=by, trace=entry.trace
            )

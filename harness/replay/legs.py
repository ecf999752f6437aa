"""One pass of batches through one version; whatever happens to its process, the pass goes on.

A batch that fails is handed to `recovery`, which answers what can be answered and finds the requests
that fail by themselves; they are quarantined with their inputs. All of it is bounded: past its caps the
leg ends, and the remaining requests are NOT_RUN, which is no answer about the model and never counts
as one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from types import TracebackType

from harness.core.errors import GateError
from harness.core.observations import Observations
from harness.core.quarantine import Quarantined
from harness.core.tensors import NESTED, Feeds
from harness.core.traffic import RequestBatch
from harness.replay.answered import Answered
from harness.replay.assembly import (
    Part,
    Shapes,
    observations_from_answer,
    observations_from_parts,
    shapes_from_signature,
)
from harness.replay.blamed import Blamed
from harness.replay.composition import rows_of
from harness.replay.flight import Flight, Pending
from harness.replay.inputs import inputs_for_version
from harness.replay.leg_counters import LegCaps, LegCounters, Tally
from harness.replay.processes import Ended, Processes
from harness.replay.recovered import Speed
from harness.replay.recovery import Recovery
from harness.replay.trials import Trials
from harness.replay.unanswered import Ledger
from harness.sandbox.answers import BatchAnswer, BatchFault, spoken
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox

TRIAL = "a trial before the replay"
"""Who asks, where nobody says."""


class Leg:
    """One version over batches of requests, answers in order.

    Args:
      open_sandbox: starts a process with the version loaded, or says why it cannot.
      name: for messages: baseline, candidate.
      input_names: (name in the traffic, this version's name) for inputs that are called otherwise.
      caps: when to give up.
    """

    def __init__(
        self,
        open_sandbox: Callable[[], Sandbox | LoadFailure],
        *,
        name: str,
        input_names: Sequence[tuple[str, str]] = (),
        caps: LegCaps | None = None,
    ) -> None:
        self.name = name
        self._singly = False
        self._caps = caps or LegCaps()
        self._tally = Tally()
        self._processes = Processes(open_sandbox, self._caps, self._tally)
        self._column = {own: traffic for traffic, own in input_names}
        self._flight = Flight(self._processes, Answered())
        self._pending = self._flight.pending
        self._speed = Speed()
        self.ledger = Ledger()
        """What it did not answer when it was tried."""
        self.blamed = Blamed()
        """Requests that by themselves cost a process; they are in no batch again."""
        self.other: Blamed | None = None
        """Of the version that it is compared with: what fails in both costs, and says nothing of this one."""
        self._trials = Trials(
            flight=self._flight, tally=self._tally, blamed=self.blamed, ledger=self.ledger,
            entry=self._entry, read=self._answered,
        )  # fmt: skip
        self.first = self._processes.running
        """The first process: its signature, isolation and versions stay readable after it ended."""
        self._shapes = (
            shapes_from_signature(self.first.signature) if self.first else Shapes(outputs={})
        )

    @property
    def answered(self) -> Answered:
        """How heavy the answers were, and how long they took, except of batches unlike the usual."""
        return self._flight.answered

    @answered.setter
    def answered(self, known: Answered) -> None:
        self._flight.answered = known

    @property
    def whole(self) -> bool:
        """Whether the version returns sequences or optionals: they are about a batch, not about its rows."""
        outputs = self.first.signature.outputs if self.first else ()
        return any(spec.datatype.startswith(NESTED) for spec in outputs)

    @property
    def apart(self) -> bool:
        """Whether no batch of several requests says what the version answers to one.

        So is a version of fixed batches: with others' rows a request may have the rows that it takes.
        """
        return self.whole or bool(self.first and self.first.fixed)

    @property
    def singly(self) -> bool:
        """Whether each request is to be run by itself; see `composition`."""
        return self._singly or self.apart

    @singly.setter
    def singly(self, by_itself: bool) -> None:
        self._singly = by_itself

    @property
    def ended(self) -> str:
        """Why the leg gives no more answers; "" while it does."""
        return self._processes.ended

    @property
    def silent(self) -> bool:
        """Whether trials ran out of time until they stopped, as nothing was ever answered: they show nothing."""
        return self._trials.silent

    @property
    def load_failure(self) -> LoadFailure | None:
        """Set when the version could not be loaded at the start."""
        return self._processes.load_failure

    def parts(self, batch: RequestBatch) -> list[tuple[int, int]]:
        """Where the parts of a batch begin and end that fit into the leg's memory: the whole, as far as is known.

        Args:
          batch: n ≥ 0 requests.
        """
        if not self.answered.too_large(batch):
            return [(0, len(batch))]
        most = self._tally.most_rows = self.answered.most_rows
        self._tally.smaller += 1
        edges, held = [0], 0
        for index, rows in enumerate(batch.rows.tolist()):
            if held + rows > most and index > edges[-1]:
                edges.append(index)
                held = 0
            held += rows
        return list(itertools.pairwise([*edges, len(batch)]))

    def submit(
        self, batch: RequestBatch, *, trace: bool, alone: bool = False, cut: bool = False
    ) -> None:
        """Gives the version a batch and returns without waiting.

        Args:
          batch: requests in test order.
          trace: also return feature tensors.
          alone: the session that returns them answers alone. What it cannot answer, and every batch
            that fails, is answered by production's.
          cut: it computes the features only, and no outputs.

        Raises:
          SignatureError: the traffic lacks an input of the version.
          GateError: several requests, of a version whose answers cannot be shared out among them.
        """
        if self.whole and len(batch) > 1:
            what = "returns sequences, which no batch of several requests can be told apart in"
            raise GateError(self.name, what, "Submit it through `asked.asked_by`.")
        entry = self._entry(batch, trace)
        entry.alone, entry.cut = alone, cut
        self._pending.append(entry)
        self._flight.send_waiting()

    def collect(self) -> Observations:
        """The observations of the oldest batch.

        Raises:
          GateError: no batch was submitted.
        """
        if not self._pending:
            raise GateError(self.name, "no batch is in flight", "Call submit first.")
        entry = self._pending.popleft()
        self._tally.batches += 1
        result = None if entry.held else entry.result or self._flight.awaited(entry)
        if isinstance(result, BatchAnswer):
            return self._answered(entry, result, usual=True)
        if self.ended and result is None:
            return self._observed(entry, [], {})
        return self._recovered(entry, result)

    def tried(
        self, batch: RequestBatch, *, trace: bool = False, usual: bool = True, by: str = TRIAL
    ) -> Observations | None:
        """Answers that no verdict rests on; None where the batch fails, twice if that ends the process.

        What fails is in the ledger; a batch that passes the second time is counted as flaky, and one that
        the host gave no processor as that. What does not fit into the memory as a whole is answered in
        halves; a request that costs a process by itself is remembered, and not asked again.

        Args:
          batch: requests; nothing else is in flight.
          trace: also return feature tensors.
          usual: a batch as the replay has them, whose time tells how long one takes.
          by: who asks, for the ledger.

        Raises:
          SignatureError: the traffic lacks an input of the version.
        """
        return self._trials.tried(batch, trace=trace, usual=usual, by=by)

    def tried_each(
        self, batches: Iterable[RequestBatch], *, by: str = TRIAL
    ) -> Generator[Observations | None, None, None]:
        """As `tried` of each batch, in order; several are in flight, and their time tells nothing.

        Few are taken ahead until as many were answered: who gives a slow version its batches one by one
        can stop. Whoever stops reading closes the iterator, which waits for what is in flight.

        Args:
          batches: requests; nothing else is in flight.
          by: who asks, for the ledger.

        Raises:
          SignatureError: the traffic lacks an input of the version.
        """
        return self._trials.tried_each(batches, lambda b: self.submit(b, trace=False), by=by)

    def same_as(self, other: Leg) -> None:
        """From now on remembers with another leg of the same version which requests cost a process."""
        self.blamed.faults = other.blamed.faults

    def recall(self, *, flaky: int, host_starved: int) -> None:
        """Goes on from what an interrupted run had counted of the same version, before anything is asked."""
        self._tally.flaky += flaky
        self._tally.host_starved += host_starved

    def counters(self) -> LegCounters:
        """What happened so far."""
        return self._tally.counters()

    def take_quarantined(self) -> list[Quarantined]:
        """Requests that failed by themselves, with their inputs, since the last call; the first few."""
        return self._tally.take()

    def close(self) -> None:
        """Ends the process; nothing more can be collected from it."""
        self._processes.discard()
        self._processes.ended = self.ended or "was closed"

    def __enter__(self) -> Leg:
        """The leg itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process."""
        self.close()

    def _inputs(self, batch: RequestBatch) -> Feeds:
        """The traffic's columns under this version's names; columns it does not take stay out."""
        if self.first is None or self.ended:
            return {}
        return inputs_for_version(batch, self.first.signature, self._column, self.name)

    def _entry(self, batch: RequestBatch, trace: bool) -> Pending:
        """A batch that is ready to be sent, unless it holds a request that is to be in no batch."""
        return Pending(batch, self._inputs(batch), trace, held=bool(self.blamed.among(batch)))

    def _answered(self, entry: Pending, answer: BatchAnswer, usual: bool) -> Observations:
        self._tally.hangs = 0
        self._tally.answers += 1
        self._shapes.learn(answer)
        if usual:
            self._speed.learn(answer)
            self.answered.learn(answer, len(entry.batch), trace=entry.trace)
        self._tally.contradictions(answer.undeclared)
        if usual and entry.trace and answer.trace_error:
            self._tally.untraced(answer.trace_error)
        return observations_from_answer(entry.batch, answer, self._shapes)

    def _observed(
        self, entry: Pending, parts: Sequence[Part], faults: dict[int, BatchFault]
    ) -> Observations:
        self._tally.answers += len(parts)
        for _, answer in parts:
            self._shapes.learn(answer)
            self._tally.contradictions(answer.undeclared)
        return observations_from_parts(entry.batch, parts, faults, self._shapes, trace=entry.trace)

    def _recovered(self, entry: Pending, fault: BatchFault | None) -> Observations:
        """Makes the most of a batch that failed, or was not sent, then sends again what lost its process."""
        recovery = Recovery(
            inputs=entry.inputs, rows=entry.batch.rows, trace=entry.trace, caps=self._caps,
            flight=self._flight, tally=self._tally, speed=self._speed,
            alike=self.other.among(entry.batch) if self.other else {},
            most_rows=self.answered.most_rows, traceable=bool(self.answered.traced.requests),
        )  # fmt: skip
        flaky = self._tally.flaky
        known = self.blamed.among(entry.batch)
        # What is known when a cap ends the search is kept; the rest was not run.
        with self._processes.fault(), contextlib.suppress(Ended):
            self._flight.settle()
            if fault is None or known:
                recovery.around(known)
            else:
                recovery.recover(fault)
        for index in recovery.result.passed:
            self.blamed.forget(entry.batch, index)
        faults = recovery.result.poison()
        for index, shown in sorted(faults.items()):
            self.blamed.add(entry.batch, index, shown)
            if self.blamed.to_tell(entry.batch, index):
                self._tally.quarantine(_quarantined(self.name, entry.batch, index, shown))
        if self._tally.flaky > flaky or known != self.blamed.among(entry.batch):
            # At once: a kill before the next checkpoint would forget it.
            self.ledger.changed()
        for start, stop in recovery.result.together:
            self.ledger.fails_together(rows_of(entry.batch, start, stop), "replay")
        self.answered.fitted(recovery.result.most_rows)
        self._tally.most_rows = self.answered.most_rows
        if any(not p.sent and p.result is None for p in self._pending):
            with contextlib.suppress(Ended):
                self._processes.live()
            self._flight.send_waiting()
        return self._observed(entry, recovery.result.parts(), faults)


def _quarantined(leg: str, batch: RequestBatch, index: int, fault: BatchFault) -> Quarantined:
    """A request of a batch with its inputs, copied out of it."""
    first = int(batch.rows[:index].sum())
    last = first + int(batch.rows[index])
    return Quarantined(
        leg=leg,
        request_id=str(batch.request_id[index]),
        kind=fault.kind,
        cause=fault.cause,
        message=fault.message,
        rows=last - first,
        last_words=spoken(fault.last_words),
        inputs={name: array[first:last].copy() for name, array in batch.inputs.items()},
    )

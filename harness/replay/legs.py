"""One pass of batches through one version; whatever happens to its process, the pass goes on.

A batch that fails is handed to `recovery`, which answers what can be answered and finds the requests
that fail by themselves; they are quarantined with their inputs. All of it is bounded: past its caps the
leg ends, and the remaining requests are NOT_RUN, which is no answer about the model and never counts
as one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from harness.core.errors import GateError
from harness.core.observations import Cause, Observations
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
from harness.replay.composition import joined, rows_of
from harness.replay.inputs import inputs_for_version
from harness.replay.leg_counters import LegCaps, LegCounters, Tally
from harness.replay.processes import Ended, Processes
from harness.replay.recovery import STARVED_TRIES, Recovery, Speed, is_flaky
from harness.replay.unanswered import Ledger
from harness.sandbox.answers import BatchAnswer, BatchFault, spoken
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox

AHEAD = 16
"""Small batches given to a version before the first answer is awaited."""
FIRST_AHEAD = 4
"""As many until it is known how fast it is."""
TRIAL = "a trial before the replay"
"""Who asks, where nobody says."""


@dataclass(slots=True)
class _Pending:
    """A batch between submit and collect."""

    batch: RequestBatch
    inputs: Feeds
    trace: bool
    alone: bool = False
    cut: bool = False
    sent: bool = False
    result: BatchAnswer | BatchFault | None = None


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
        self._pending: deque[_Pending] = deque()
        self._speed = Speed()
        self.answered = Answered()
        """How heavy the answers were, and how long they took, except of batches unlike the usual."""
        self.ledger = Ledger()
        """What it did not answer when it was tried."""
        self.first = self._processes.running
        """The first process: its signature, isolation and versions stay readable after it ended."""
        self._shapes = (
            shapes_from_signature(self.first.signature) if self.first else Shapes(outputs={})
        )

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
    def load_failure(self) -> LoadFailure | None:
        """Set when the version could not be loaded at the start."""
        return self._processes.load_failure

    def parts(self, batch: RequestBatch) -> list[tuple[int, int]]:
        """Where the parts of a batch begin and end that fit into the leg's memory: the whole, as far as is known.

        Args:
          batch: n ≥ 0 requests.
        """
        if not self._too_large(batch):
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
        if self.ended:
            self._pending.append(_Pending(batch, {}, trace, alone, cut))
            return
        entry = _Pending(batch, self._inputs(batch), trace, alone, cut)
        self._pending.append(entry)
        self._send_waiting()

    def collect(self) -> Observations:
        """The observations of the oldest batch.

        Raises:
          GateError: no batch was submitted.
        """
        if not self._pending:
            raise GateError(self.name, "no batch is in flight", "Call submit first.")
        entry = self._pending.popleft()
        self._tally.batches += 1
        result = entry.result or self._awaited(entry)
        if result is None:
            return self._observed(entry, [], {})
        if isinstance(result, BatchFault):
            return self._recovered(entry, result)
        return self._answered(entry, result)

    def tried(
        self, batch: RequestBatch, *, trace: bool = False, usual: bool = True, by: str = TRIAL
    ) -> Observations | None:
        """Answers that no verdict rests on; None where the batch fails, twice if that ends the process.

        Nothing is searched or quarantined and no cap is touched but that of restarts. What fails is in
        the ledger, which is looked into before the verdict; a batch that passes the second time is
        counted as flaky, and one that the host gave no processor as that. What does not fit into the
        memory as a whole is answered in halves.

        Args:
          batch: requests; nothing else is in flight.
          trace: also return feature tensors.
          usual: a batch as the replay has them, whose time tells how long one takes.
          by: who asks, for the ledger.

        Raises:
          SignatureError: the traffic lacks an input of the version.
        """
        entry = _Pending(batch, {} if self.ended else self._inputs(batch), trace)
        return self._told(entry, by, usual=usual)

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
        ahead = FIRST_AHEAD
        left = iter(batches)
        try:
            while True:
                for batch in itertools.islice(left, ahead - len(self._pending)):
                    self.submit(batch, trace=False)
                if not self._pending:
                    return
                answer = self._told(self._pending.popleft(), by, usual=False)
                ahead = min(ahead + 1, AHEAD)
                yield answer
        finally:
            while self._pending:
                left_over = self._pending.popleft()
                result, sandbox = left_over.result, self._processes.running
                if left_over.sent and result is None and sandbox is not None:
                    result = sandbox.collect()
                    self._drop_dead()
                self._noted(left_over, result, by)

    def _told(self, entry: _Pending, by: str, *, usual: bool) -> Observations | None:
        """What a batch that is tried gets, the second time if its process ended or was short of memory."""
        if self._too_large(entry.batch):
            return self._told_in_halves(entry, by, usual=usual)
        result = self._unstarved(entry)
        if isinstance(result, BatchFault) and not _starved(result):
            several, fresh = len(entry.batch) > 1, result.seq == 1
            if result.short_of_memory and several and fresh:
                self._make_room(result)
                return self._told_in_halves(entry, by, usual=usual)
            if result.short_of_memory or not result.alive:
                self._make_room(result)
                return self._told_again(entry, result, by, usual=usual)
        self._noted(entry, result, by)
        return self._answered(entry, result, usual) if isinstance(result, BatchAnswer) else None

    def _told_again(
        self, entry: _Pending, first: BatchFault, by: str, *, usual: bool
    ) -> Observations | None:
        """As `_told`, of a batch that failed once, in a fresh process."""
        entry.sent, entry.result = False, None
        again = self._unstarved(entry)
        if not isinstance(again, BatchAnswer):
            if isinstance(again, BatchFault):
                self._make_room(again)
                if again.short_of_memory and len(entry.batch) > 1:
                    return self._told_in_halves(entry, by, usual=usual)
            self._noted(entry, first, by)
            return None
        if is_flaky(first, len(entry.batch)):
            self._tally.flaky += 1
            self.ledger.changed()
            return None
        self._learn_fit(int(entry.batch.rows.sum()))
        return self._answered(entry, again, usual)

    def _told_in_halves(self, entry: _Pending, by: str, *, usual: bool) -> Observations | None:
        """As `_told`, of a batch that does not fit into the memory as a whole."""
        count = len(entry.batch)
        was_known, told = self._too_large(entry.batch), []
        parts = [rows_of(entry.batch, a, b) for a, b in ((0, count // 2), (count // 2, count))]
        for part in parts:
            half = _Pending(part, {} if self.ended else self._inputs(part), entry.trace)
            answer = self._told(half, by, usual=usual)
            if answer is None:
                return None
            told.append(answer)
        if not was_known:
            self._learn_fit(max(int(part.rows.sum()) for part in parts))
        return joined(told)

    def _learn_fit(self, rows: int) -> None:
        """Takes over that so many rows only just fit: half of them leave room for what a process keeps."""
        self.answered.fitted(max(rows // 2, 1))

    def _too_large(self, batch: RequestBatch) -> bool:
        """Whether it is known not to fit into the memory as a whole."""
        most = self.answered.most_rows
        return len(batch) > 1 and 0 < most < int(batch.rows.sum())

    def _unstarved(self, entry: _Pending) -> BatchAnswer | BatchFault | None:
        """As `_awaited`; more than once when the host is to blame."""
        result = entry.result or self._awaited(entry)
        for _ in range(STARVED_TRIES - 1):
            if not _starved(result):
                return result
            self._starved_once()
            entry.sent, entry.result = False, None
            result = self._awaited(entry)
        if _starved(result):
            self._starved_once()
        return result

    def _starved_once(self) -> None:
        self._tally.host_starved += 1
        self.ledger.changed()

    def _noted(self, entry: _Pending, result: BatchAnswer | BatchFault | None, by: str) -> None:
        """Writes down that a batch was not answered, where it was not."""
        if isinstance(result, BatchFault):
            self.ledger.add(
                entry.batch, result.kind, result.cause, result.message, by=by, trace=entry.trace
            )

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
        if self.first is None:
            return {}
        return inputs_for_version(batch, self.first.signature, self._column, self.name)

    def _send(self, entry: _Pending, sandbox: Sandbox) -> None:
        rows = int(entry.batch.rows.sum())
        sandbox.submit(entry.inputs, rows, trace=entry.trace, alone=entry.alone, cut=entry.cut)
        entry.sent = True

    def _awaited(self, entry: _Pending) -> BatchAnswer | BatchFault | None:
        """Waits for a batch's answer, sending it first when it has lost its process; None = not run."""
        try:
            sandbox = self._processes.live()
        except Ended:
            return None
        if not entry.sent:
            self._settle_in_flight()
            self._send(entry, sandbox)
            self._send_waiting()
        result = sandbox.collect()
        self._drop_dead()
        return self._as_asked(entry, result)

    def _as_asked(
        self, entry: _Pending, result: BatchAnswer | BatchFault
    ) -> BatchAnswer | BatchFault:
        """An answer without its trace is a fault where fewer requests at once may be traced."""
        one = len(entry.batch) == 1 or not self.answered.traced.requests
        return result if one or isinstance(result, BatchFault) else result.unless_traced()

    def _send_waiting(self) -> None:
        """Gives a running process every batch it does not have yet, in order."""
        for entry in self._pending:
            sandbox = self._processes.running
            if sandbox is not None and not entry.sent and entry.result is None:
                self._send(entry, sandbox)

    def _drop_dead(self) -> None:
        if self._processes.drop_dead():
            self._forget_sent()

    def _forget_sent(self) -> None:
        """What was in flight in a process that died must be sent again."""
        for entry in self._pending:
            entry.sent = entry.sent and entry.result is not None

    def _make_room(self, fault: BatchFault) -> None:
        """Before more is tried: a process without memory goes, of any other the answers in flight are taken."""
        if fault.short_of_memory:
            self._processes.discard()
            self._forget_sent()
        else:
            self._settle_in_flight()

    def _answered(self, entry: _Pending, answer: BatchAnswer, usual: bool = True) -> Observations:
        self._tally.hangs = 0
        self._shapes.learn(answer)
        if usual:
            self._speed.learn(answer)
            self.answered.learn(answer, len(entry.batch), trace=entry.trace)
        self._tally.contradictions(answer.undeclared)
        if entry.trace and answer.trace_error:
            self._tally.untraced(answer.trace_error)
        return observations_from_answer(entry.batch, answer, self._shapes)

    def _observed(
        self, entry: _Pending, parts: Sequence[Part], faults: dict[int, BatchFault]
    ) -> Observations:
        for _, answer in parts:
            self._shapes.learn(answer)
            self._tally.contradictions(answer.undeclared)
        return observations_from_parts(entry.batch, parts, faults, self._shapes, trace=entry.trace)

    def _recovered(self, entry: _Pending, fault: BatchFault) -> Observations:
        """Makes the most of a batch that failed, then sends again what lost its process."""
        recovery = Recovery(
            inputs=entry.inputs, rows=entry.batch.rows, trace=entry.trace, caps=self._caps,
            processes=self._processes, tally=self._tally, speed=self._speed, died=self._forget_sent,
            most_rows=self.answered.most_rows, traceable=bool(self.answered.traced.requests),
        )  # fmt: skip
        flaky = self._tally.flaky
        # What is known when a cap ends the search is kept; the rest was not run.
        with self._processes.fault(), contextlib.suppress(Ended):
            self._make_room(fault)
            recovery.recover(fault)
        if self._tally.flaky > flaky:
            # At once: a kill before the next checkpoint would forget it.
            self.ledger.changed()
        self.answered.fitted(recovery.result.most_rows)
        self._tally.most_rows = self.answered.most_rows
        faults = recovery.result.poison()
        for index, known in sorted(faults.items()):
            self._tally.quarantine(_quarantined(self.name, entry.batch, index, known))
        if any(not p.sent and p.result is None for p in self._pending):
            with contextlib.suppress(Ended):
                self._processes.live()
            self._send_waiting()
        return self._observed(entry, recovery.result.parts(), faults)

    def _settle_in_flight(self) -> None:
        """Collects what the process already has, so that tries do not queue up behind it."""
        for entry in self._pending:
            sandbox = self._processes.running
            if sandbox is None:
                return
            if entry.sent and entry.result is None:
                entry.result = self._as_asked(entry, sandbox.collect())
                self._drop_dead()


def _starved(result: BatchAnswer | BatchFault | None) -> bool:
    """Whether the host gave the process no processor: nothing is known of the version."""
    return isinstance(result, BatchFault) and result.cause is Cause.HOST_STARVED


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

"""What is in flight between a leg and its process: sent ahead, awaited, and sent again when a process is lost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from harness.core.observations import Cause
from harness.core.tensors import Feeds
from harness.core.traffic import RequestBatch
from harness.replay.answered import Answered
from harness.replay.processes import Ended, Processes
from harness.sandbox.answers import BatchAnswer, BatchFault
from harness.sandbox.process import Sandbox

STARVED_TRIES = 3
"""Tries of the same when the host gives no processor."""


@dataclass(slots=True)
class Pending:
    """A batch between submit and collect."""

    batch: RequestBatch
    inputs: Feeds
    trace: bool
    alone: bool = False
    cut: bool = False
    held: bool = False
    """It holds a request that is to be in no batch: it is not sent as it is."""
    sent: bool = False
    result: BatchAnswer | BatchFault | None = None

    def anew(self) -> None:
        """Forgets what became of it, so that it is sent again."""
        self.sent, self.result = False, None


@dataclass(slots=True)
class Flight:
    """The batches that a leg was given and has not answered yet, oldest first."""

    processes: Processes
    """Whom they are given to."""
    answered: Answered
    """What is known of the version's answers."""
    pending: deque[Pending] = field(default_factory=deque)
    """The batches."""

    def send_waiting(self) -> None:
        """Gives a running process every batch it does not have yet, in order."""
        for entry in self.pending:
            sandbox = self.processes.running
            waits = not (entry.held or entry.sent) and entry.result is None
            if sandbox is not None and waits:
                self._send(entry, sandbox)

    def awaited(self, entry: Pending) -> BatchAnswer | BatchFault | None:
        """Waits for a batch's answer, sending it first when it has lost its process; None = not run."""
        try:
            sandbox = self.processes.live()
        except Ended:
            return None
        if not entry.sent:
            self.settle()
            if (running := self.processes.running) is None:
                return self.awaited(entry)
            sandbox = running
            self._send(entry, sandbox)
            self.send_waiting()
        result = sandbox.collect()
        self.drop_dead()
        return self._as_asked(entry, result)

    def abandoned(self, entry: Pending) -> BatchAnswer | BatchFault | None:
        """What became of a batch that nobody waits for any more, where it was sent; nothing is sent for it."""
        sandbox = self.processes.running
        if entry.sent and entry.result is None and sandbox is not None:
            entry.result = sandbox.collect()
            self.drop_dead()
        return entry.result

    def drop_dead(self) -> None:
        """Lets go of a dead process."""
        if self.processes.drop_dead():
            self.forget_sent()

    def forget_sent(self) -> None:
        """What was in flight in a process that is gone must be sent again."""
        for entry in self.pending:
            entry.sent = entry.sent and entry.result is not None

    def room_after(self, answer: BatchAnswer) -> int:
        """Rows that may be asked at once, as these were just answered where more were too many.

        Half of them leave room for what a process keeps; all, where it was full.
        """
        running = self.processes.running
        full = running is not None and running.ran_short
        return max(answer.rows if full else answer.rows // 2, 1)

    def start_afresh(self) -> None:
        """Lets go of the process: whatever comes next is the first that another one is given."""
        self.processes.discard()
        self.forget_sent()

    def settle(self) -> None:
        """Takes what the process has answered, so that tries do not queue up behind it."""
        for entry in self.pending:
            sandbox = self.processes.running
            if sandbox is None:
                return
            if entry.sent and entry.result is None:
                entry.result = self._as_asked(entry, sandbox.collect())
                self.drop_dead()
                if isinstance(entry.result, BatchFault) and entry.result.after_short:
                    entry.anew()

    def _send(self, entry: Pending, sandbox: Sandbox) -> None:
        rows = int(entry.batch.rows.sum())
        sandbox.submit(entry.inputs, rows, trace=entry.trace, alone=entry.alone, cut=entry.cut)
        entry.sent = True

    def _as_asked(
        self, entry: Pending, result: BatchAnswer | BatchFault
    ) -> BatchAnswer | BatchFault:
        """An answer without its trace is a fault where fewer requests at once may be traced, or another process."""
        if isinstance(result, BatchFault):
            return result
        one = len(entry.batch) == 1 or not self.answered.traced.requests
        return result if one and result.of_its_own else result.unless_traced()


def starved(result: BatchAnswer | BatchFault | None) -> bool:
    """Whether the host gave the process no processor: nothing is known of the version."""
    return isinstance(result, BatchFault) and result.cause is Cause.HOST_STARVED

"""A deadline that counts only time in which the host let the child run.

A process that waits for a processor is not slow: the kernel's scheduler statistics say how long it
waited, and that much is added to its deadline, up to a cap. When the deadline has passed all the same,
the same figures tell three cases apart: it computed all the time, it waited for something that did not
come, or the host withheld the processor. The last says nothing about the model.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.core.errors import SandboxError
from harness.core.observations import Cause
from harness.sandbox.channel import ChannelTimeout
from harness.sandbox.child.frames import Frame
from harness.sandbox.child_process import ChildProcess

PATIENCE = 3.0
"""Waiting for a processor is forgiven up to this many times the deadline."""
LEAST_PATIENCE_S = 5.0
"""Or up to this: a busy machine's pauses do not become shorter with the deadline."""
_LEAST_S = 0.001
_GLANCE_S = 0.02
"""The kernel counts a wait when it ends: a child that could run is looked at again after so long."""
_WHOLE = 0.9
"""Part of its deadline that a child must have had to be called slow: the clocks are not the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """What a child did while its deadline passed."""

    cause: Cause
    """SPINNING, BLOCKED or HOST_STARVED."""
    words: str
    """The same for a person, with the figures."""


class Deadline:
    """One wait for a child; begins when it is made.

    Args:
      child: the process that is waited for.
      limit_s: time it may take, not counting time in which it could not get a processor.
    """

    def __init__(self, child: ChildProcess, limit_s: float) -> None:
        self.limit_s = limit_s
        self._most_s = max(PATIENCE * limit_s, LEAST_PATIENCE_S)
        self._child = child
        self._began = time.perf_counter()
        self._cpu_s, self._waited_s = child.cpu_times_s()
        self._granted_s = 0.0
        self._used_s = -1.0
        self._stood = False

    def owed_s(self) -> float:
        """Seconds to add now for what the child has waited for a processor since the last call."""
        cpu, waited = self._child.cpu_times_s()
        self._stood, first, self._used_s = self._used_s == cpu, self._used_s < 0, cpu
        owed = min(waited - self._waited_s, self._most_s) - self._granted_s
        if owed < _LEAST_S:
            # It may be waiting right now, which nobody has counted yet.
            patient = (first or self._stood) and self._granted_s < self._most_s
            glance = patient and self._child.could_run()
            owed = _GLANCE_S if glance else 0.0
        self._granted_s += owed
        return owed

    def overdue(self) -> Overdue:
        """What the child did; ask before it is ended."""
        cpu, waited = self._child.cpu_times_s()
        used, waited = max(cpu - self._cpu_s, 0.0), max(waited - self._waited_s, 0.0)
        elapsed = time.perf_counter() - self._began
        # A main thread that waits for the process's own threads is not starved by the host.
        others = self._child.cpu_of_other_threads_s()
        used, waited = used + others, max(waited - others, 0.0)
        if self._stood and self._child.could_run():
            waited = elapsed - used  # still, which nobody has counted
        figures = f"{used:.1f} s of processor time"
        if max(elapsed - waited, used) < _WHOLE * self.limit_s:
            words = f"the host gave it no processor for {waited:.1f} of {elapsed:.1f} s"
            return Overdue(cause=Cause.HOST_STARVED, words=f"{words}: {figures}")
        if used > self.limit_s / 2:
            return Overdue(cause=Cause.SPINNING, words=f"computing: {figures}")
        return Overdue(cause=Cause.BLOCKED, words=f"blocked: {figures}")


def received(child: ChildProcess, limit_s: float) -> Frame:
    """The next frame of a child that has not shown yet what its model is.

    Args:
      child: the process.
      limit_s: time it may take, not counting time in which it could not get a processor.

    Raises:
      SandboxError: the host gave the child no processor; the child was ended.
      As `Channel.receive`; a ChannelTimeout says what the child did meanwhile.
    """
    deadline = Deadline(child, limit_s)
    try:
        return child.channel.receive(limit_s, deadline.owed_s)
    except ChannelTimeout:
        overdue = deadline.overdue()
        if overdue.cause is not Cause.HOST_STARVED:
            raise ChannelTimeout(overdue.words) from None
        child.close()
        raise SandboxError(
            "sandbox",
            f"no process could be started in time: {overdue.words}",
            "Run it again when the machine is less busy, or on another one.",
        ) from None

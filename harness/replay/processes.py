"""The process that a leg talks to: the first one, the ones after it, and when there are no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.replay.leg_counters import LegCaps, Tally
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox


class Ended(Exception):  # noqa: N818 - ends a search, not an error
    """The leg gives no more answers: a cap was reached, or it had ended before."""


class Processes:
    """One process at a time, replaced when it dies, within the leg's caps.

    Args:
      open_sandbox: starts a process with the version loaded, or says why it cannot.
      caps: when to give up.
      tally: counts restarts and the time that faults take.
    """

    def __init__(
        self, open_sandbox: Callable[[], Sandbox | LoadFailure], caps: LegCaps, tally: Tally
    ) -> None:
        self.ended = ""
        """Why there are no more answers; "" while there are."""
        self.load_failure: LoadFailure | None = None
        """Set when the version could not be loaded at the start."""
        self.running: Sandbox | None = None
        """The process, when one runs."""
        self._open = open_sandbox
        self._caps = caps
        self._tally = tally
        self._fault_since: float | None = None
        opened = open_sandbox()
        if isinstance(opened, LoadFailure):
            self.load_failure = opened
            self.ended = f"does not load: {opened.message}"
        else:
            self.running = opened

    def live(self) -> Sandbox:
        """The running process; a new one when the last has died.

        Raises:
          Ended: the leg had ended, or ends now.
        """
        self._check_time()
        if self.ended:
            raise Ended
        if self.running is None:
            if self._tally.restarts - self._tally.asked_once_more >= self._caps.max_restarts:
                raise self.ending(
                    f"its process had to be restarted {self._caps.max_restarts} times"
                )
            self._tally.restarts += 1
            opened = self._open()
            if isinstance(opened, LoadFailure):
                raise self.ending(f"could not be started again: {opened.message}")
            self.running = opened
        return self.running

    def drop_dead(self) -> bool:
        """Lets go of a dead process; whether there was one."""
        if self.running is None or self.running.alive:
            return False
        self.running.close()
        self.running = None
        return True

    def discard(self) -> None:
        """Lets go of a process that lives: what it allocated is not to be in the way of what comes next."""
        if self.running is not None:
            self.running.close()
            self.running = None

    def ending(self, why: str) -> Ended:
        """Ends the leg.

        Returns:
          What to raise.
        """
        self.ended = self.ended or why
        self.discard()
        return Ended(why)

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Counts the time inside as spent on a fault."""
        self._fault_since = time.perf_counter()
        try:
            yield
        finally:
            self._tally.fault_s += time.perf_counter() - self._fault_since
            self._fault_since = None

    def _check_time(self) -> None:
        if self._fault_since is None or self.ended:
            return
        spent = self._tally.fault_s + time.perf_counter() - self._fault_since
        if spent > self._caps.max_fault_s:
            raise self.ending(f"failures have taken more than {self._caps.max_fault_s:g} s")

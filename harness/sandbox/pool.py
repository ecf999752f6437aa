"""Processes that wait for a model: their interpreter and imports are done before they are needed.

A process serves one model and is never used for a second: what a model did to its process must not
reach another one. What the pool saves is the wait: nine tenths of a start are the same for every model.
"""

from __future__ import annotations

import os
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from harness.sandbox.bundle import WORKER
from harness.sandbox.child.ring import Ring, ring_bytes
from harness.sandbox.child_process import ChildProcess
from harness.sandbox.memory_files import empty_mailbox, post, shared_of_size
from harness.sandbox.model_files import NOTHING

Kind = tuple[int, Path | None]
"""(memory, interpreter): processes of one kind are the same until they load."""


class Waiting:
    """One process on its way to its first model, or waiting for it.

    Start on the main thread: the kernel ties the parent-death signal to the thread.

    Args:
      memory_bytes: address space of the process beside the ring.
      python: interpreter of the version's own environment; None for the parent's.
      external_fd: external data, which go with the process from its start; NOTHING for none.

    Raises:
      SandboxError: the interpreter does not start at all.
    """

    def __init__(
        self, memory_bytes: int, *, python: Path | None = None, external_fd: int = NOTHING
    ) -> None:
        fds: list[int] = []
        self._finalize = weakref.finalize(self, _close, fds)
        try:
            fds.append(empty_mailbox("model"))
            fds.append(shared_of_size("ring", ring_bytes()))
            self.child = ChildProcess.started(
                WORKER,
                python=python,
                fds=[fds[1], fds[0], external_fd],
                config={"memory_bytes": memory_bytes + ring_bytes()},
                max_body=memory_bytes,
                memory_bytes=memory_bytes,
                ring=Ring(fds[1]),
            )
        except BaseException:
            self._finalize()
            raise
        os.close(fds.pop())
        self._mailbox = fds[0]

    def load(self, sources: Sequence[int], header: dict[str, object]) -> None:
        """Gives the process its model; to be called once.

        Args:
          sources: descriptors of the model, of its probed copy and of the cut one, as far as there are any.
          header: what else the process has to know.
        """
        sizes = post(self._mailbox, sources)
        self.child.channel.send({"kind": "load", "sizes": sizes, **header})
        self._finalize()

    def close(self) -> None:
        """Ends the process."""
        self._finalize()
        self.child.close()


class Pool:
    """Waiting processes by kind; leaving it ends those that nobody took."""

    def __init__(self) -> None:
        self._waiting: dict[Kind, deque[Waiting]] = defaultdict(deque)

    def begin(self, count: int, memory_bytes: int, *, python: Path | None = None) -> None:
        """Starts processes until so many of a kind are there, without waiting for them.

        Args:
          count: how many are to wait.
          memory_bytes: as for `Waiting`.
          python: as for `Waiting`.
        """
        waiting = self._waiting[memory_bytes, python]
        while len(waiting) < count:
            waiting.append(Waiting(memory_bytes, python=python))

    def take(self, memory_bytes: int, *, python: Path | None = None) -> Waiting:
        """The process of a kind that has waited longest; a new one when none is there."""
        waiting = self._waiting[memory_bytes, python]
        while waiting:
            oldest = waiting.popleft()
            if not oldest.child.has_exited():
                return oldest
            oldest.close()
        return Waiting(memory_bytes, python=python)

    def close(self) -> None:
        """Ends the processes that nobody took."""
        for waiting in self._waiting.values():
            while waiting:
                waiting.popleft().close()

    def __enter__(self) -> Pool:
        """The pool itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the processes that nobody took."""
        self.close()


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())

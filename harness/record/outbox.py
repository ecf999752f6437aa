"""The bounded queue between the proxy and the writer's process: it never blocks, it drops and says so."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from itertools import islice

_PARTS_AT_ONCE = 64
_GATHER_S = 0.005
"""Calls that come within this time leave in one system call."""


class Outbox:
    """Sends buffers over a socket, from the event loop, without ever waiting for the reader.

    Args:
      loop: the event loop that `put` is called on.
      to: a connected stream socket; made non-blocking.
      most_bytes: what may wait.
      most: how many entries may wait.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, to: socket.socket, *, most_bytes: int, most: int
    ) -> None:
        to.setblocking(False)
        self._loop = loop
        self._to = to
        self._most_bytes = most_bytes
        self._most = most
        self._parts: deque[bytes | memoryview] = deque()
        self._ends: deque[int] = deque()
        """Parts left of each entry, oldest first."""
        self._waiting: asyncio.TimerHandle | None = None
        self._blocked = False
        self.broken = False
        """Whether the reader has gone."""
        self.bytes = 0
        """That wait."""
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Entries that wait, the one that is being sent among them."""
        return len(self._ends)

    def put(self, parts: Sequence[bytes]) -> bool:
        """Takes an entry, or refuses it because too much waits or the reader has gone.

        Args:
          parts: buffers that are sent one after another; none of them empty.
        """
        size = sum(map(len, parts))
        if self.broken or self.bytes + size > self._most_bytes or len(self._ends) >= self._most:
            return False
        self._parts.extend(parts)
        self._ends.append(len(parts))
        self.bytes += size
        if self._waiting is None and not self._blocked:
            self._idle.clear()
            self._waiting = self._loop.call_later(_GATHER_S, self._send)
        return True

    async def drained(self, wait_s: float) -> bool:
        """Waits until nothing waits any more.

        Returns:
          Whether that was so in time.
        """
        try:
            await asyncio.wait_for(self._idle.wait(), wait_s)
        except TimeoutError:
            return False
        return not self._ends

    def close(self) -> int:
        """Sends nothing more.

        Returns:
          How many entries had not been sent whole.
        """
        if self._waiting is not None:
            self._waiting.cancel()
        if self._blocked:
            self._loop.remove_writer(self._to)
        left = len(self._ends)
        self._forget()
        return left

    def _send(self) -> None:
        self._waiting = None
        try:
            while self._parts:
                self._sent(self._to.sendmsg(list(islice(self._parts, _PARTS_AT_ONCE))))
        except BlockingIOError:
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(self._to, self._send)
            return
        except OSError:
            # The reader has gone. What waits was handed over and is lost; the counts will say so.
            self.broken = True
            self._forget()
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._to)
        self._idle.set()

    def _sent(self, count: int) -> None:
        self.bytes -= count
        while count:
            first = self._parts[0]
            if count < len(first):
                self._parts[0] = memoryview(first)[count:]
                return
            count -= len(first)
            self._parts.popleft()
            self._ends[0] -= 1
            if not self._ends[0]:
                self._ends.popleft()

    def _forget(self) -> None:
        self._parts.clear()
        self._ends.clear()
        self.bytes = 0

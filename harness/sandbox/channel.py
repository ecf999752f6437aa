"""The parent's end of a child's pipes: nothing here blocks longer than it was told to.

Both pipes are non-blocking. A frame that does not fit is written on while answers are awaited, so that
a full pipe in one direction never waits for a full pipe in the other.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Callable, Sequence

from harness.core.plain_text import printable
from harness.sandbox.child import frames
from harness.sandbox.child.ring import Ring, fill
from harness.sandbox.pace import LOOKS, exact_timers

PIPE_BYTES = 1 << 20
STDERR_TAIL = 4096
_LONGEST_POLL_MS = 86_400_000.0
"""poll takes no more than a C int; who waits longer asks again."""
_STDERR_READS = 16
"""Reads at a time, so that a child that floods its standard error holds nobody up."""


class ChannelClosed(Exception):  # noqa: N818 - an event of the pipe, not an error of the gate
    """The child's end is gone."""


class ChannelTimeout(Exception):  # noqa: N818
    """The deadline passed before the frame was complete."""


class ChannelFull(Exception):  # noqa: N818
    """This process has no memory for the frame that came; what is left of it stays in the pipe."""


def widened(fd: int) -> None:
    """Asks for a larger pipe; a system that refuses keeps the default, which only costs time."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        return


class Channel:
    """Sends and receives frames.

    Args:
      write_fd: pipe to the child; owned from now on.
      read_fd: pipe from the child; owned from now on.
      stderr_fd: the child's standard error; owned from now on.
      max_body: bytes a frame's body may have.
      ring: shared memory for the bodies of batches; owned from now on. None = all go through the pipes.
    """

    def __init__(
        self, write_fd: int, read_fd: int, stderr_fd: int, max_body: int, ring: Ring | None = None
    ) -> None:
        self._write_fd, self._read_fd, self._stderr_fd = write_fd, read_fd, stderr_fd
        self._max_body = max_body
        self._ring = ring
        self._reader = frames.Reader(read_fd, self._wait)
        self._poll = select.poll()
        self._poll.register(read_fd, select.POLLIN)
        self._poll.register(stderr_fd, select.POLLIN)
        self._outgoing: list[memoryview] = []
        self._tail = b""
        self._open = {write_fd, read_fd, stderr_fd}
        for fd in self._open:
            os.set_blocking(fd, False)
        widened(write_fd)
        widened(read_fd)
        exact_timers()

    def send(
        self,
        header: frames.Header | bytes,
        buffers: Sequence[memoryview] = (),
        *,
        number: int = 0,
        slot_free: bool = False,
    ) -> None:
        """Queues a frame and writes what the pipe takes now.

        Args:
          header: as a table or as JSON.
          buffers: the body; not to be changed before the answer.
          number: of the batch.
          slot_free: nobody needs what lies in the number's slots any more.
        """
        flags = in_slot = 0
        if slot_free and self._ring is not None:
            flags = frames.SLOT_FREE
            size = sum(b.nbytes for b in buffers)
            if size <= self._ring.slot_bytes:
                fill(self._ring.request(number, size), buffers)
                buffers, in_slot = (), size
        self._outgoing.extend(
            frames.packed(header, buffers, number=number, flags=flags, in_slot=in_slot)
        )
        self._write()

    def receive(
        self,
        timeout_s: float,
        extension_s: Callable[[], float] = float,
        *,
        max_body: int | None = None,
        nap_s: float = 0.0,
    ) -> frames.Frame:
        """Waits for one frame; its body is a copy that the child cannot reach.

        Args:
          timeout_s: from now until the frame is complete.
          extension_s: asked whenever the time is over; seconds to add, 0 = the deadline has passed.
          max_body: bytes that its body may have, where less than usual; more than usual changes nothing.
          nap_s: time between a few looks before it sleeps on the pipe, where a late look costs nothing.

        Raises:
          ChannelClosed: the child closed its end.
          ChannelTimeout: no complete frame in time.
          ChannelFull: there is no memory for it.
          frames.FrameError: what came is no frame.
        """
        self._deadline = time.perf_counter() + timeout_s
        self._extension_s: Callable[[], float] | None = extension_s
        self._nap_s, self._looks = nap_s, LOOKS if nap_s > 0 else 0
        try:
            most = self._max_body if max_body is None else min(max_body, self._max_body)
            frame = frames.read_frame(self._reader, most)
            return frame._replace(body=self._copied(frame.prefix)) if frame.prefix.flags else frame
        except EOFError:
            raise ChannelClosed from None
        except MemoryError:
            raise ChannelFull from None
        finally:
            # It holds the sandbox: kept, a dropped sandbox would wait for the garbage collector.
            self._extension_s = None

    def _copied(self, prefix: frames.Prefix) -> memoryview:
        """The body that lies in a slot."""
        if self._ring is None or prefix.flags != frames.IN_SLOT:
            msg = f"a frame has the flags {prefix.flags:#x}"
            raise frames.FrameError(msg)
        if prefix.body > self._ring.slot_bytes:
            msg = f"a body of {prefix.body} bytes in a slot of {self._ring.slot_bytes}"
            raise frames.FrameError(msg)
        return memoryview(bytearray(self._ring.answer(prefix.number, prefix.body)))

    def stderr_tail(self) -> str:
        """The last lines the child wrote to its standard error."""
        self._drain_stderr()
        return printable(self._tail.decode("utf-8", "replace")).strip()

    def close(self) -> None:
        """Closes all three descriptors and unmaps the ring."""
        self._outgoing.clear()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        for fd in list(self._open):
            self._forget(fd)

    def _wait(self) -> None:
        """Sleeps until a descriptor is ready; writes and drains what can be meanwhile."""
        left = self._deadline - time.perf_counter()
        if left <= 0:
            more = self._extension_s() if self._extension_s else 0.0
            if more <= 0:
                raise ChannelTimeout
            self._deadline += more
            return
        if self._looks and not self._outgoing:
            self._looks -= 1
            time.sleep(min(self._nap_s, left))
            return
        writing = bool(self._outgoing) and self._write_fd in self._open
        if writing:
            self._poll.register(self._write_fd, select.POLLOUT)
        ready = {fd for fd, _ in self._poll.poll(min(left * 1000, _LONGEST_POLL_MS))}
        if writing:
            self._poll.unregister(self._write_fd)
        if self._write_fd in ready:
            self._write()
        if self._stderr_fd in ready:
            self._drain_stderr()

    def _write(self) -> None:
        try:
            while self._outgoing:
                frames.write_some(self._write_fd, self._outgoing)
        except BlockingIOError:
            return
        except BrokenPipeError:
            # The child is dead or has closed its end; reading will say so.
            self._outgoing.clear()

    def _drain_stderr(self) -> None:
        for _ in range(_STDERR_READS):
            if self._stderr_fd not in self._open:
                return
            try:
                got = os.read(self._stderr_fd, 1 << 16)
            except BlockingIOError:
                return
            if not got:
                self._forget(self._stderr_fd)
            self._tail = (self._tail + got)[-STDERR_TAIL:]

    def _forget(self, fd: int) -> None:
        self._open.discard(fd)
        if fd != self._write_fd:
            self._poll.unregister(fd)
        os.close(fd)

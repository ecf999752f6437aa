"""A client's connection joined with one of its own to the upstream: bytes pass both ways as they are.

What a client sends is written first and heard after. An answer is heard first: whatever a client has got
is counted then, even if the next moment kills us. A side that does not take what it is sent stops the
reading of the other, so a slow peer costs memory of one buffer only.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress

from harness.record.following import ANY_STREAM, Following
from harness.record.h2frames import ACK, GOAWAY, HEAD_BYTES, SETTINGS, frame, head_of

_BUFFER_BYTES = 512 << 10
"""Waits for a side that takes nothing, before the other is no longer read."""
_FLUSH_S = 30.0
"""A side that has gone: how long the other may take what was sent before."""
_STAYS_S = 5.0
"""A client that got everything, and the end of it: how long it may take to close."""
_NOTHING_LEFT = struct.pack("i", 0)
_ON_THE_WAY_S = 0.1
"""What a client sends before it hears that no more is served."""
_LOOK_S = 0.05
_STILL_THERE_S = 1.0
"""A side that is not read is asked so often whether it has gone: nothing else would tell."""
_CHUNK_BYTES = 256 << 10
_TCP_CLOSED = 7
"""A connection's state in the first byte of Linux's TCP_INFO."""


class AckCut:
    """Takes the client's acknowledgement of settings that no upstream sent out of its bytes.

    Args:
      due: whether there is one to come.
    """

    def __init__(self, *, due: bool) -> None:
        self.done = not due
        self._left = 0
        self._head = b""

    def feed(self, chunk: bytes) -> bytes:
        """What the upstream gets of a chunk, which begins where the last one ended."""
        if self.done:
            return chunk
        if self._head:
            chunk, self._head = self._head + chunk, b""
        at, end = min(self._left, len(chunk)), len(chunk)
        self._left -= at
        while at < end:
            if end - at < HEAD_BYTES:
                self._head = chunk[at:]
                return chunk[:at]
            size, kind, flags, _ = head_of(chunk, at)
            if kind == SETTINGS and flags & ACK:
                self.done = True
                return chunk[:at] + chunk[at + HEAD_BYTES :]
            self._left = max(0, at + HEAD_BYTES + size - end)
            at = min(end, at + HEAD_BYTES + size)
        return chunk


class Link:
    """Two connections that are one.

    Args:
      client: towards the client, read by nobody else from now on.
      upstream: towards who serves it, likewise.
      following: hears what passes; None = nobody does.
      acks: cuts what the upstream must not get.
      ended: called once, when both have gone.
    """

    def __init__(
        self, client: asyncio.Transport, upstream: asyncio.Transport, following: Following | None,
        acks: AckCut, ended: Callable[[Link], None],
    ) -> None:  # fmt: skip
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._upstream = upstream
        self._following = following
        self._ended = ended
        self._left: list[asyncio.Transport] = []
        """Sides that send no more, the first to say so first."""
        self._lost = 0
        self._reset = False
        """The client went while it was not read."""
        self._looked_after: list[asyncio.Transport] = []
        """Sides that are not read, or were of late."""
        self._flushing: asyncio.TimerHandle | None = None
        self.going_away = b""
        """A frame that waits for a border in what the upstream sends."""
        sent = None if following is None else following.sent
        answered = None if following is None else following.answered
        for transport, protocol in (
            (client, _ClientEnd(self, client, upstream, sent, acks)),
            (upstream, _UpstreamEnd(self, upstream, client, answered)),
        ):
            transport.set_write_buffer_limits(high=_BUFFER_BYTES)
            transport.set_protocol(protocol)

    def begin(self, sent: bytes, answered: bytes, *, given: int = 0) -> None:
        """Passes what came before they were joined, and goes on.

        Args:
          sent: by the client, from its first byte; without what the upstream must not get.
          answered: by the upstream, from its first byte.
          given: bytes of `sent` that the upstream has.
        """
        for transport in (self._client, self._upstream):
            if not transport.is_closing():
                transport.resume_reading()
        _write(self._upstream, sent[given:])
        if self._following is not None:
            self._following.sent(sent)
            self._following.answered(answered)
        _write(self._client, answered)

    def half_closed(self, by: asyncio.Transport) -> None:
        """A side sends no more."""
        self._left.append(by)
        other = self._other(by)
        if by is self._upstream:
            # Nothing more is answered. What the client still sends is read: a write of its that fails
            # would make it give up what it has not read.
            self._tell(by_client=self._left[0] is self._client)
            self._flush(other)
        if other in self._left:
            self._close()
        elif other.can_write_eof() and not other.is_closing():
            other.write_eof()

    def lost(self, transport: asyncio.Transport, error: Exception | None) -> None:
        """A side has gone."""
        self._lost += 1
        first = self._left[0] if self._left else transport
        # Also the second time: a client may have begun calls since the first.
        self._tell(by_client=first is self._client)
        if self._lost > 1:
            if self._flushing is not None:
                self._flushing.cancel()
            if self._following is not None:
                self._following.ended()
            self._ended(self)
            return
        if transport is self._upstream:
            self._outlived()
        elif error is not None or self._reset:
            self._upstream.abort()  # nobody waits for an answer
        else:
            self._upstream.close()
            self._flush(self._upstream)

    def _outlived(self) -> None:
        """The upstream has gone. The client takes what was answered, and closes when it has."""
        client = self._client
        if self._upstream not in self._left:
            self.half_closed(self._upstream)
        if not client.can_write_eof():
            client.close()
            return
        if not client.is_closing() and not client.is_reading():
            client.resume_reading()
        self._close_when_taken(_STAYS_S)

    def unread(self, side: asyncio.Transport) -> None:
        """A side is not read for now."""
        if side not in self._looked_after:
            self._looked_after.append(side)
            self._loop.call_later(_STILL_THERE_S, self._look_after, side)

    def _look_after(self, side: asyncio.Transport) -> None:
        self._looked_after.remove(side)
        if side.is_closing() or side.is_reading():
            return
        connection = side.get_extra_info("socket")
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        if state[0] != _TCP_CLOSED:
            self.unread(side)
            return
        self._reset = side is self._client
        side.abort()

    def drain(self) -> None:
        """Asks the client for no more calls, and closes when those under way have ended."""
        following = self._following
        if following is None:
            return  # who serves it says so itself
        if self._upstream in self._left:
            self._close_when_taken(_ON_THE_WAY_S)
            return
        if self._lost:
            return  # it is ending
        if not following.blind:
            self._say_going_away(following, ANY_STREAM)
        self._loop.call_later(_ON_THE_WAY_S, self._close_when_idle)

    def cut(self) -> None:
        """Ends it, whatever is under way."""
        if self._following is not None:
            self._following.cut()
        self._upstream.abort()
        self._client.close()

    def with_going_away(self, chunk: bytes) -> bytes:
        """An upstream's chunk with the frame that waits, where it holds a border."""
        if self._following is None or self._following.blind:
            return chunk
        at = self._following.answers.border_in(chunk)
        if at < 0:
            return chunk
        said, self.going_away = self.going_away, b""
        return chunk[:at] + said + chunk[at:]

    def _flush(self, to: asyncio.Transport) -> None:
        """Gives a side some time to take what was sent to it."""
        if self._flushing is None:
            self._flushing = self._loop.call_later(_FLUSH_S, to.abort)

    def _other(self, of: asyncio.Transport) -> asyncio.Transport:
        return self._upstream if of is self._client else self._client

    def _tell(self, *, by_client: bool) -> None:
        if self._following is None:
            return
        if by_client:
            self._following.client_lost()
        else:
            self._following.upstream_lost()

    def _say_going_away(self, following: Following, last: int) -> None:
        if self._upstream in self._left:
            return  # the client has been told that nothing more comes
        # Once the upstream has named a stream, nobody may name a higher one.
        said = frame(GOAWAY, 0, 0, struct.pack(">II", min(last, following.served_to), 0))
        if following.answers.at_border:
            _write(self._client, said)
        else:
            self.going_away = said

    def _close_when_idle(self) -> None:
        following = self._following
        if self._upstream in self._left:
            self._close_when_taken(_ON_THE_WAY_S)
            return
        if self._lost or following is None:
            return
        if not following.idle or (self.going_away and following.answers.begun):
            self._loop.call_later(_LOOK_S, self._close_when_idle)
            return
        if not following.blind:
            # Nothing newer than this was passed on: clients may ask again elsewhere.
            self._say_going_away(following, following.last)
        self._close()

    def _close_when_taken(self, stays_s: float) -> None:
        """Closes so long after the client has taken what was answered: nothing more will be."""
        if self._lost > 1:
            return
        if not self._client.is_closing() and _waits_to_be_taken(self._client):
            self._loop.call_later(_LOOK_S, self._close_when_taken, stays_s)
            return
        self._loop.call_later(stays_s, self._close)

    def _close(self) -> None:
        self._upstream.close()
        self._client.close()


class _End(asyncio.Protocol):
    """Reads one side and writes to the other."""

    def __init__(
        self, link: Link, reads: asyncio.Transport, to: asyncio.Transport,
        heard: Callable[[bytes], None] | None,
    ) -> None:  # fmt: skip
        self._link = link
        self._reads = reads
        self._to = to
        self._heard = heard
        self._plain = reads.get_extra_info("ssl_object") is None

    def pause_writing(self) -> None:
        """Our side takes nothing: what would go to it is not read."""
        if not self._to.is_closing():
            self._to.pause_reading()
            self._link.unread(self._to)

    def resume_writing(self) -> None:
        """Our side takes what it is sent."""
        if not self._to.is_closing():
            self._to.resume_reading()

    def eof_received(self) -> bool:
        """Our side sends no more; TLS cannot stay half open."""
        self._link.half_closed(self._reads)
        return self._plain

    def connection_lost(self, exc: Exception | None) -> None:
        """Our side has gone."""
        self._link.lost(self._reads, exc)


class _ClientEnd(_End):
    def __init__(
        self, link: Link, reads: asyncio.Transport, to: asyncio.Transport,
        heard: Callable[[bytes], None] | None, acks: AckCut,
    ) -> None:  # fmt: skip
        super().__init__(link, reads, to, heard)
        self._acks = acks

    def data_received(self, data: bytes) -> None:
        if not self._acks.done:
            data = self._acks.feed(data)
        _write(self._to, data)
        if self._heard is not None:
            self._heard(data)


class _UpstreamEnd(_End):
    def data_received(self, data: bytes) -> None:
        # The border is looked for where the chunk begins, before it is heard.
        passed = self._link.with_going_away(data) if self._link.going_away else data
        if self._heard is not None:
            self._heard(data)
        _write(self._to, passed)

    def connection_lost(self, exc: Exception | None) -> None:
        """An upstream that closes fails our next write, with its last answers still unread."""
        try:
            if exc is not None and self._plain:
                for chunk in _unread_of(self._reads):
                    self.data_received(chunk)
        finally:
            super().connection_lost(exc)


def _waits_to_be_taken(side: asyncio.Transport) -> bool:
    """Whether anything written to a side has not arrived there, here or in the kernel."""
    if side.get_write_buffer_size():
        return True
    fd = side.get_extra_info("socket").fileno()
    return fd >= 0 and fcntl.ioctl(fd, termios.TIOCOUTQ, _NOTHING_LEFT) != _NOTHING_LEFT


def _unread_of(side: asyncio.Transport) -> Iterator[bytes]:
    """What lies in the socket of a side that has gone: uvloop reads nothing more after a failed write."""
    held = side.get_extra_info("socket")
    with suppress(OSError):  # there is no more
        while held is not None and (chunk := os.read(held.fileno(), _CHUNK_BYTES)):
            yield chunk


def _write(to: asyncio.Transport, data: bytes) -> None:
    """Writes, unless the side has gone: uvloop would raise."""
    if not to.is_closing():
        to.write(data)

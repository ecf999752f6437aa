"""The beginning of a connection: what both sides say is kept until it is chosen who serves the client.

gRPC's clients ask nothing before they have a server's SETTINGS. So the upstream is given what every
client sends first, and its own SETTINGS are waited for. If the client has not asked by then, it gets
settings that say no more than how many calls the upstream takes at a time; the upstream's own ones
follow with everything else it says. The client's acknowledgement of the former stays here.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

import hpack

from harness.record.h2frames import (
    HEAD_BYTES,
    PREFACE,
    SETTINGS,
    FrameScanner,
    NotFollowedError,
    frame,
    head_of,
)
from harness.record.headers import HeaderBlocks, request_head

_MOST_BYTES = 256 << 10
"""Kept of a side before it is chosen who serves."""
_SETTING = struct.Struct(">HI")
_MOST_CALLS = 0x3
"""SETTINGS_MAX_CONCURRENT_STREAMS."""


def settings_frame(most_calls: int | None) -> bytes:
    """Settings that say how many calls are taken at a time; None = any number."""
    said = b"" if most_calls is None else _SETTING.pack(_MOST_CALLS, most_calls)
    return frame(SETTINGS, 0, 0, said)


class ClientOpening(asyncio.Protocol):
    """Keeps what a client sends until it is chosen who serves it.

    Args:
      made: called when the connection is there.
      lost: called when it has gone before.
    """

    def __init__(
        self, made: Callable[[ClientOpening], None], lost: Callable[[ClientOpening], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._made = made
        self._lost = lost
        self._scanner = FrameScanner(self, PREFACE)
        self._blocks = HeaderBlocks(request_head)
        self.transport: asyncio.Transport
        self.received = bytearray()
        self.greeted: asyncio.Future[int] = loop.create_future()
        """How many bytes its greeting has: the preface and its settings; 0 = it speaks no HTTP/2."""
        self.asked: asyncio.Future[str] = loop.create_future()
        """The method of its first call; "" = it cannot be read."""
        self.dialled: UpstreamOpening | None = None
        """The connection that was made for it."""
        self.let_in = False
        """Whether it was given settings, so that it asks."""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)
        self._made(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.received += data
        if not self.asked.done():
            try:
                self._scanner.feed(data)
            except (NotFollowedError, hpack.HPACKError):
                self._settle("")
        if len(self.received) > _MOST_BYTES:
            self._settle("")
        if not self.greeted.done():
            self._look_for_greeting()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """See asyncio.Protocol."""
        self.lost = True
        self._lost(self)

    def let_in_with(self, settings: bytes) -> None:
        """Gives it settings: it may ask."""
        self.let_in = True
        self.transport.write(settings)

    def wait_no_more(self) -> None:
        """What it has not asked by now is not waited for."""
        self._settle("")

    def hang_up(self) -> None:
        """Ends the connection that was made for it."""
        if self.dialled is not None:
            self.dialled.transport.abort()
            self.dialled = None

    def headers(self, stream: int, block: bytes, *, last: bool) -> None:  # noqa: ARG002 - of the first call
        """See h2frames.Heard."""
        self._settle(self._blocks.read(block).method)

    def data(self, stream: int, chunk: bytes, at: int, end: int) -> None:
        """See h2frames.Heard."""

    def ended(self, stream: int) -> None:
        """See h2frames.Heard."""

    def reset(self, stream: int, code: int) -> None:
        """See h2frames.Heard."""

    def goaway(self, last: int) -> None:
        """See h2frames.Heard."""

    def _settle(self, method: str) -> None:
        if not self.asked.done():
            self.asked.set_result(method)
            self.transport.pause_reading()

    def _look_for_greeting(self) -> None:
        begins = len(PREFACE) + HEAD_BYTES
        if len(self.received) >= begins and self.received.startswith(PREFACE):
            ends = begins + head_of(self.received, len(PREFACE))[0]
            if len(self.received) >= ends:
                self.greeted.set_result(ends)
        if self.asked.done() and not self.greeted.done():
            self.greeted.set_result(0)


class UpstreamOpening(asyncio.Protocol):
    """Keeps what an upstream sends until it is chosen who serves."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = bytearray()
        self.most_calls: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """How many calls its settings allow at a time; None = any number."""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.received += data
        if len(self.received) > _MOST_BYTES:
            self.transport.pause_reading()
        if not self.most_calls.done():
            self._look_for_settings()

    def eof_received(self) -> None:
        """See asyncio.Protocol."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.lost = True
        if not self.most_calls.done():
            self._fail(exc or ConnectionResetError("closed the connection"))

    @property
    def failed(self) -> bool:
        """Whether it has gone, or speaks no HTTP/2."""
        return self.lost or (self.most_calls.done() and self.most_calls.exception() is not None)

    def _fail(self, error: Exception) -> None:
        self.most_calls.set_exception(error)
        self.most_calls.exception()  # whoever does not wait for it need not hear of it

    def _look_for_settings(self) -> None:
        if len(self.received) < HEAD_BYTES:
            return
        size, kind, _, stream = head_of(self.received)
        if kind != SETTINGS or stream:
            self._fail(ConnectionError("speaks no HTTP/2"))
        elif len(self.received) >= HEAD_BYTES + size:
            payload = self.received[HEAD_BYTES : HEAD_BYTES + size - size % _SETTING.size]
            said = dict(_SETTING.iter_unpack(payload))
            self.most_calls.set_result(said.get(_MOST_CALLS))

"""HTTP/2 frames out of the bytes of one direction of a connection, cut anywhere (RFC 9113, section 4).

Frames that say nothing about calls are skipped. Payloads of DATA are not put together: they are told as
places in the chunk that they came in.
"""

from __future__ import annotations

import struct
from typing import Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, GOAWAY, CONTINUATION = 0, 1, 3, 4, 5, 7, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
MOST_BLOCK_BYTES = 128 << 10
"""Of a block of headers; gRPC's servers refuse far smaller ones."""

_HEAD = struct.Struct(">HBBBI")
_STREAM_BITS = 0x7FFFFFFF
_PRIORITY_BYTES = 5
_PROMISED_BYTES = 4
_TOLD_WHOLE = frozenset({HEADERS, RST_STREAM, PUSH_PROMISE, GOAWAY, CONTINUATION})

_OF_HEADERS = frozenset({HEADERS, PUSH_PROMISE, CONTINUATION})


class NotFollowedError(ValueError):
    """The bytes are no HTTP/2, or more than will be kept of it. They pass all the same."""


class Heard(Protocol):
    """Who is told of frames."""

    def data(self, stream: int, chunk: bytes, at: int, end: int) -> None:
        """Bytes of a stream: chunk[at:end]."""

    def headers(self, stream: int, block: bytes, *, last: bool) -> None:
        """A whole block of headers; `last` = the stream ends with it."""

    def ended(self, stream: int) -> None:
        """The stream ends with the data told last."""

    def reset(self, stream: int, code: int) -> None:
        """The stream is broken off, with an error code of HTTP/2."""

    def goaway(self, last: int) -> None:
        """Streams above this one are not served."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame's bytes."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def head_of(buffer: bytes | bytearray, at: int = 0) -> tuple[int, int, int, int]:
    """(payload's size, kind, flags, stream) of the frame whose head begins there."""
    high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
    return high << 8 | low, kind, flags, stream & _STREAM_BITS


class FrameScanner:
    """Scans one direction.

    Args:
      heard: is told.
      preface: what comes before the first frame.
    """

    def __init__(self, heard: Heard, preface: bytes = b"") -> None:
        self._heard = heard
        self._preface = preface
        self._head = b""
        self._left = 0
        """Bytes of the present frame's payload that are still to come."""
        self._kind = self._flags = self._stream = 0
        self._padding = 0
        """Bytes at the end of the present DATA frame; -1 = its first byte will say."""
        self._payload: bytearray | None = None
        """Of the present frame, where it is told whole and was cut."""
        self._block = bytearray()
        self._block_of = 0
        """Stream of a block of headers that goes on in further frames; 0 = none does."""
        self._block_last = False
        self._begun = False
        self._unpack = _HEAD.unpack_from

    def feed(self, chunk: bytes) -> None:
        """Takes what came next.

        Raises:
          NotFollowedError: it is no HTTP/2.
          hpack.HPACKError: from who is told.
        """
        at, end = 0, len(chunk)
        if self._preface:
            at = self._past_preface(chunk)
        while at < end:
            if self._left:
                take = min(self._left, end - at)
                self._piece(chunk, at, at + take)
                at += take
            elif self._head or end - at < HEAD_BYTES:
                take = min(HEAD_BYTES - len(self._head), end - at)
                self._head += chunk[at : at + take]
                at += take
                if len(self._head) == HEAD_BYTES:
                    head, self._head = self._head, b""
                    self._begin(head, 0)
            else:
                self._begin(chunk, at)
                at += HEAD_BYTES

    @property
    def at_border(self) -> bool:
        """Whether a frame of somebody else's may be put in here: the first one is the side's own."""
        return self._begun and not (self._left or self._head or self._block_of)

    @property
    def begun(self) -> bool:
        """Whether a frame has come."""
        return self._begun

    @property
    def past_preface(self) -> bool:
        """Whether what comes before the first frame has come."""
        return not self._preface

    def border_in(self, chunk: bytes) -> int:
        """Where in the next chunk a frame of somebody else's may be put in.

        Returns:
          -1 where the chunk holds no border, or it cannot be said yet.
        """
        if self._preface:
            return -1
        within, at = bool(self._block_of) or not self._begun, self._left
        if at:
            within = _goes_on(self._kind, self._flags)
        elif self._head:
            needed = HEAD_BYTES - len(self._head)
            if needed > len(chunk):
                return -1
            size, kind, flags, _ = head_of(self._head + chunk[:needed])
            within, at = _goes_on(kind, flags), needed + size
        while within and at + HEAD_BYTES <= len(chunk):
            size, kind, flags, _ = head_of(chunk, at)
            within, at = _goes_on(kind, flags), at + HEAD_BYTES + size
        return -1 if within or at > len(chunk) else at

    def _past_preface(self, chunk: bytes) -> int:
        found = chunk[: len(self._preface)]
        if not self._preface.startswith(found):
            raise NotFollowedError
        self._preface = self._preface[len(found) :]
        return len(found)

    def _begin(self, buffer: bytes, at: int) -> None:
        high, low, kind, flags, stream = self._unpack(buffer, at)
        self._left = high << 8 | low
        self._kind, self._flags, self._stream = kind, flags, stream & _STREAM_BITS
        if not self._begun and (kind != SETTINGS or self._stream):
            raise NotFollowedError
        self._begun = True
        if self._block_of and (kind != CONTINUATION or self._stream != self._block_of):
            raise NotFollowedError
        if kind == DATA:
            self._padding = -1 if flags & PADDED else 0
        elif kind in _TOLD_WHOLE and self._left > MOST_BLOCK_BYTES:
            raise NotFollowedError
        if not self._left:
            self._piece(b"", 0, 0)

    def _piece(self, chunk: bytes, at: int, end: int) -> None:
        """A part of the present frame's payload, its end at the latest."""
        self._left -= end - at
        if self._kind == DATA:
            self._data(chunk, at, end)
        elif self._kind in _TOLD_WHOLE:
            if self._payload is not None:
                self._payload += chunk[at:end]
            elif self._left:
                self._payload = bytearray(chunk[at:end])
            if not self._left:
                payload = chunk[at:end] if self._payload is None else bytes(self._payload)
                self._payload = None
                self._whole(payload)

    def _data(self, chunk: bytes, at: int, end: int) -> None:
        left = self._left
        if self._padding < 0 and at < end:
            self._padding = chunk[at]
            at += 1
        end = min(end, end + left - max(self._padding, 0))
        if at < end:
            self._heard.data(self._stream, chunk, at, end)
        if not left and self._flags & END_STREAM:
            self._heard.ended(self._stream)

    def _whole(self, payload: bytes) -> None:
        kind, stream = self._kind, self._stream
        if kind == HEADERS:
            self._block_begins(self._unpadded(payload, self._flags & PRIORITY and _PRIORITY_BYTES))
        elif kind == CONTINUATION:
            self._block_goes_on(payload)
        elif kind == RST_STREAM:
            self._heard.reset(stream, int.from_bytes(payload[:4], "big"))
        elif kind == GOAWAY:
            self._heard.goaway(int.from_bytes(payload[:4], "big") & _STREAM_BITS)
        else:  # a promise's headers change the compression's state like any other
            self._block_begins(self._unpadded(payload, _PROMISED_BYTES))

    def _unpadded(self, payload: bytes, skip: int) -> bytes:
        if not self._flags & PADDED:
            return payload[skip:]
        return payload[1 + skip : len(payload) - payload[0]] if payload else b""

    def _block_begins(self, fragment: bytes) -> None:
        stream, promised = self._stream, self._kind == PUSH_PROMISE
        last = bool(self._flags & END_STREAM) and not promised
        if not stream:
            raise NotFollowedError
        if self._flags & END_HEADERS:
            self._heard.headers(stream, fragment, last=last)
            return
        self._block = bytearray(fragment)
        self._block_of, self._block_last = stream, last

    def _block_goes_on(self, fragment: bytes) -> None:
        if not self._block_of or len(self._block) + len(fragment) > MOST_BLOCK_BYTES:
            raise NotFollowedError
        self._block += fragment
        if self._flags & END_HEADERS:
            stream, self._block_of = self._block_of, 0
            self._heard.headers(stream, bytes(self._block), last=self._block_last)


def _goes_on(kind: int, flags: int) -> bool:
    """Whether the frame's block of headers goes on in the next one."""
    return kind in _OF_HEADERS and not flags & END_HEADERS

"""Frames on a pipe: a fixed prefix, a small JSON header, then raw buffers.

    magic (4 bytes) | header size (u32) | body size (u64) | number (u64) | flags (u32)
    header (JSON, UTF-8) | body

A body lies either behind its header or, when the flag IN_SLOT says so, in the shared memory of `ring`.
Sizes are checked before anything is allocated or parsed. Nothing is ever unpickled.

A frame's number is no part of its header: headers of batches of one size are the same text again and
again, so whatever is derived from a text can be kept (`memo`).
"""

from __future__ import annotations

import functools
import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

MAGIC = b"HRF2"
PREFIX = struct.Struct("<4sIQQI")
MAX_HEADER_BYTES = 4 << 20
IN_SLOT = 1
"""The body lies in the slot of the frame's number."""
SLOT_FREE = 2
"""Of a request: the answer may lie in the slot of the same number."""
_FLAGS = IN_SLOT | SLOT_FREE
_NOTHING = memoryview(b"")
_WRITEV_PARTS = 512
_READ_AHEAD = 1 << 14
_MEMO_TEXTS = 64
_MEMO_BYTES = 1 << 16

_ENCODER = json.JSONEncoder(separators=(",", ":"))

Header = dict[str, Any]
T = TypeVar("T")
Text = TypeVar("Text", str, bytes)


class FrameError(Exception):
    """Bytes that are no frame, or a frame that breaks a limit."""


class Prefix(NamedTuple):
    """What comes before a header."""

    header: int
    """Bytes of the header."""
    body: int
    """Bytes of the body."""
    number: int
    """Of the batch; 0 where there is none."""
    flags: int
    """IN_SLOT, SLOT_FREE."""


class Frame(NamedTuple):
    """One frame as it came."""

    text: bytes
    """The header as JSON."""
    body: memoryview
    """The bytes behind it; empty when they lie in a slot."""
    prefix: Prefix
    """As read."""

    @property
    def header(self) -> Header:
        """The header, parsed; raises FrameError when it is no JSON object."""
        return header_from_bytes(self.text)


def memo(derived: Callable[[Text], T]) -> Callable[[Text], T]:
    """Keeps what a function derives from the last short header texts; never what it raises."""
    kept = functools.lru_cache(_MEMO_TEXTS)(derived)

    @functools.wraps(derived)
    def looked_up(text: Text) -> T:
        return kept(text) if len(text) <= _MEMO_BYTES else derived(text)

    return looked_up


def header_text(header: Header, lists: Mapping[str, str] | None = None) -> bytes:
    """A header as JSON.

    Args:
      header: a table that is not empty.
      lists: further entries, which are JSON already.

    Raises:
      FrameError: it is too long for a frame.
    """
    more = "".join(f',"{name}":{text}' for name, text in (lists or {}).items())
    text = f"{_ENCODER.encode(header)[:-1]}{more}}}".encode()
    if len(text) > MAX_HEADER_BYTES:
        msg = f"a header of {len(text)} bytes is over the limit of {MAX_HEADER_BYTES}"
        raise FrameError(msg)
    return text


def packed(
    header: Header | bytes,
    buffers: Sequence[memoryview] = (),
    *,
    number: int = 0,
    flags: int = 0,
    in_slot: int = 0,
) -> list[memoryview]:
    """One frame as parts ready to be written, without copying the buffers.

    Args:
      header: as a table or as JSON.
      buffers: the body, when it is to lie behind the header.
      number: of the batch.
      flags: SLOT_FREE or nothing; IN_SLOT is set by itself.
      in_slot: bytes of the body that lie in the slot; 0 = none do.
    """
    text = header if isinstance(header, bytes) else header_text(header)
    if in_slot:
        return [memoryview(slot_frame(text, number, in_slot, flags))]
    body = sum(b.nbytes for b in buffers)
    parts = [memoryview(PREFIX.pack(MAGIC, len(text), body, number, flags) + text)]
    parts.extend(b for b in buffers if b.nbytes)
    return parts


def slot_frame(text: bytes, number: int, size: int, flags: int = 0) -> bytes:
    """A frame whose body of so many bytes lies in the slot of its number."""
    return PREFIX.pack(MAGIC, len(text), size, number, flags | IN_SLOT) + text


def prefix_from_bytes(given: bytes | memoryview, max_body: int) -> Prefix:
    """What follows, within its limits.

    Raises:
      FrameError: the magic is wrong, a size is over its limit or a flag is unknown.
    """
    magic, header, body, number, flags = PREFIX.unpack(given)
    if magic != MAGIC:
        msg = f"no frame begins with {bytes(magic)!r}"
        raise FrameError(msg)
    if header > MAX_HEADER_BYTES or body > max_body:
        msg = f"a frame of {header} + {body} bytes is over the limit of {MAX_HEADER_BYTES} + {max_body}"
        raise FrameError(msg)
    if flags & ~_FLAGS:
        msg = f"a frame has the unknown flags {flags:#x}"
        raise FrameError(msg)
    return Prefix(header, body, number, flags)


def header_from_bytes(text: bytes) -> Header:
    """Parses a header.

    Raises:
      FrameError: not a JSON object.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"the header is no JSON: {error}"
        raise FrameError(msg) from None
    if not isinstance(header, dict):
        msg = "the header is no JSON object"
        raise FrameError(msg)
    return header


def write_some(fd: int, parts: list[memoryview]) -> None:
    """One writev; drops what was written from the front of `parts`."""
    written = os.writev(fd, parts[:_WRITEV_PARTS])
    done = 0
    for part in parts:
        if written < part.nbytes:
            break
        written -= part.nbytes
        done += 1
    del parts[:done]
    if written:
        parts[0] = parts[0].cast("B")[written:]


def write_all(fd: int, parts: list[memoryview]) -> None:
    """Writes a whole frame to a blocking descriptor."""
    while parts:
        write_some(fd, parts)


def read_frame(reader: Reader, max_body: int) -> Frame:
    """Reads one frame.

    Raises:
      EOFError: the other end closed.
      FrameError: what came is no frame.
    """
    prefix, text = reader.begun(max_body)
    if prefix.flags & IN_SLOT:
        return Frame(text, _NOTHING, prefix)
    body = reader.take(prefix.body)
    if body.readonly:
        # Read ahead, so it begins anywhere: tensors need an aligned place.
        body = memoryview(bytearray(body))
    return Frame(text, body, prefix)


class Reader:
    """Reads a pipe a little ahead, so that a small frame costs one system call.

    Args:
      fd: the pipe; it stays the caller's.
      wait: called when a non-blocking pipe is empty; what it raises ends the read.
    """

    def __init__(self, fd: int, wait: Callable[[], None] | None = None) -> None:
        self._fd = fd
        self._wait = wait
        self._ahead = memoryview(b"")

    def begun(self, max_body: int) -> tuple[Prefix, bytes]:
        """The next frame's prefix and header; raises as `read_frame`.

        A frame that lies in one piece ahead is taken in one step: around a small model's run every call
        costs several times what it costs when it is repeated.
        """
        if not self._ahead.nbytes:
            self._ahead = self._read_more()
        ahead = self._ahead
        if ahead.nbytes < PREFIX.size:
            prefix = prefix_from_bytes(self.take(PREFIX.size), max_body)
            return prefix, bytes(self.take(prefix.header))
        prefix = prefix_from_bytes(ahead[: PREFIX.size], max_body)
        end = PREFIX.size + prefix.header
        if ahead.nbytes < end:
            self._ahead = ahead[PREFIX.size :]
            return prefix, bytes(self.take(prefix.header))
        self._ahead = ahead[end:]
        return prefix, bytes(ahead[PREFIX.size : end])

    def take(self, size: int) -> memoryview:
        """The next bytes, all of them.

        Raises:
          EOFError: the other end closed before they were there.
        """
        ahead = self._ahead
        if size <= ahead.nbytes:
            self._ahead = ahead[size:]
            return ahead[:size]
        buffer = memoryview(bytearray(size))
        done = ahead.nbytes
        buffer[:done] = ahead
        self._ahead = memoryview(b"")
        while done < size:
            left = size - done
            if left >= _READ_AHEAD:
                done += self._read_into(buffer[done:])
                continue
            more = self._read_more()
            used = min(left, more.nbytes)
            buffer[done : done + used] = more[:used]
            self._ahead = more[used:]
            done += used
        return buffer

    def _read_into(self, target: memoryview) -> int:
        while True:
            try:
                got = os.readv(self._fd, [target])
            except BlockingIOError:
                self._wait_for_more()
                continue
            if not got:
                raise EOFError
            return got

    def _read_more(self) -> memoryview:
        while True:
            try:
                got = os.read(self._fd, _READ_AHEAD)
            except BlockingIOError:
                self._wait_for_more()
                continue
            if not got:
                raise EOFError
            return memoryview(got)

    def _wait_for_more(self) -> None:
        if self._wait is None:
            msg = "a pipe that does not block was read without a way to wait"
            raise AssertionError(msg)
        self._wait()

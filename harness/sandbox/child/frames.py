"""Frames on a pipe: a fixed prefix, a small JSON header, then raw buffers.

    magic (4 bytes) | header size (u32) | body size (u64) | header (JSON, UTF-8) | body

Both sizes are checked before anything is allocated or parsed. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from typing import Any

MAGIC = b"HRF1"
PREFIX = struct.Struct("<4sIQ")
MAX_HEADER_BYTES = 4 << 20
_WRITEV_PARTS = 512

Header = dict[str, Any]


class FrameError(Exception):
    """Bytes that are no frame, or a frame that breaks a limit."""


def packed(header: Header, buffers: Sequence[memoryview]) -> list[memoryview]:
    """One frame as parts ready to be written, without copying the buffers."""
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_BYTES:
        msg = f"a header of {len(text)} bytes is over the limit of {MAX_HEADER_BYTES}"
        raise FrameError(msg)
    body = sum(b.nbytes for b in buffers)
    parts = [memoryview(PREFIX.pack(MAGIC, len(text), body) + text)]
    parts.extend(b for b in buffers if b.nbytes)
    return parts


def sizes_from_prefix(prefix: bytes, max_body: int) -> tuple[int, int]:
    """Header and body size of the frame that follows.

    Raises:
      FrameError: the magic is wrong or a size is over its limit.
    """
    magic, header, body = PREFIX.unpack(prefix)
    if magic != MAGIC:
        msg = f"no frame begins with {bytes(magic)!r}"
        raise FrameError(msg)
    if header > MAX_HEADER_BYTES or body > max_body:
        msg = f"a frame of {header} + {body} bytes is over the limit of {MAX_HEADER_BYTES} + {max_body}"
        raise FrameError(msg)
    return header, body


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


def read_exactly(fd: int, size: int) -> bytearray:
    """Reads from a blocking descriptor.

    Raises:
      EOFError: the other end closed.
    """
    buffer = bytearray(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        got = os.readv(fd, [view[done:]])
        if not got:
            raise EOFError
        done += got
    return buffer


def read_frame(fd: int, max_body: int) -> tuple[Header, bytearray]:
    """Reads one frame from a blocking descriptor.

    Raises:
      EOFError: the other end closed.
      FrameError: what came is no frame.
    """
    header, body = sizes_from_prefix(bytes(read_exactly(fd, PREFIX.size)), max_body)
    return header_from_bytes(bytes(read_exactly(fd, header))), read_exactly(fd, body)

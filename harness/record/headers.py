"""Blocks of headers, decompressed (RFC 7541) and read once: gRPC sends few different ones.

A block that leaves the dynamic table as it was says the same whenever it comes, as long as the table
stays. The table's size is what the blocks themselves say: whoever changes it after the peer's
SETTINGS_HEADER_TABLE_SIZE has to (section 4.2), so the settings need not be followed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote

import hpack

from harness.record.messages import Room

Fields = list[tuple[bytes, bytes]]
Pairs = tuple[tuple[str, str | bytes], ...]
T = TypeVar("T")

_MOST_LIST_BYTES = 256 << 10
_MOST_TABLE_BYTES = 1 << 20
_KNOWN = 64
_FIELD_BYTES = 200
"""What a field costs beside its text."""
_NOT_METADATA = frozenset({
    "user-agent", "te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding",
    "grpc-status", "grpc-message",
})  # fmt: skip
"""What gRPC itself writes, beside the names that begin with a colon."""
_TIMEOUT = re.compile(r"^(\d{1,8})([HMSmun])$")
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class HeaderBlocks(Generic[T]):
    """The blocks of one direction of a connection; each must be read, in order.

    Args:
      made: makes of the fields what is wanted of them.
      room: for the blocks that all connections remember; None = none are.
    """

    def __init__(self, made: Callable[[Fields], T], room: Room | None = None) -> None:
        self._made = made
        self._room = room or Room(0)
        self._held = 0
        self._decoder = hpack.Decoder(_MOST_LIST_BYTES)
        self._decoder.max_allowed_table_size = _MOST_TABLE_BYTES
        self._known: dict[bytes, T] = {}

    def read(self, block: bytes) -> T:
        """Reads the next block.

        Raises:
          hpack.HPACKError: it cannot be decompressed, nor can any after it.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._table()
        fields = [(bytes(f[0]), bytes(f[1])) for f in self._decoder.decode(block, raw=True)]
        found = self._made(fields)
        after = self._table()
        if after[0] is not before[0] or after[1:] != before[1:] or len(self._known) >= _KNOWN:
            self.ended()
        if after[0] is before[0] and after[1:] == before[1:]:
            self._remember(block, found, fields)
        return found

    def ended(self) -> None:
        """Forgets what it knows; blocks may come all the same."""
        self._known.clear()
        self._room.give(self._held)
        self._held = 0

    def _remember(self, block: bytes, found: T, fields: Fields) -> None:
        cost = len(block) + sum(len(name) + len(value) + _FIELD_BYTES for name, value in fields)
        if self._room.take(cost):
            self._held += cost
            self._known[block] = found

    def _table(self) -> tuple[object, int, int]:
        """Changes with every change: an entry that is added is a new object, and the first."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return entries[0] if entries else None, len(entries), table.maxsize


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a client says before its messages."""

    method: str
    """Full RPC name."""
    metadata: Pairs
    """Without what gRPC itself adds."""
    timeout_s: float | None
    """Until its deadline; None = it has none."""
    encoding: str
    """Of compressed messages."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What a server says before its messages, after them, or in their place."""

    http_status: int
    """0 where it was said before."""
    status: int | None
    """gRPC's status code; None = it comes later."""
    details: str
    """Of the status."""
    metadata: Pairs
    """Without what gRPC itself adds."""
    encoding: str
    """Of compressed messages."""


def request_head(fields: Fields) -> RequestHead:
    """Reads the headers of a call."""
    said = dict(fields)
    return RequestHead(
        method=_text(said.get(b":path", b"")), metadata=_metadata(fields),
        timeout_s=_seconds(_text(said.get(b"grpc-timeout", b""))),
        encoding=_text(said.get(b"grpc-encoding", b"")),
    )  # fmt: skip


def response_head(fields: Fields) -> ResponseHead:
    """Reads the headers or trailers of an answer."""
    said = dict(fields)
    status, http = said.get(b"grpc-status"), said.get(b":status", b"0")
    return ResponseHead(
        http_status=_number(http) or 0,
        status=None if status is None else _number(status),
        details=unquote(_text(said.get(b"grpc-message", b"")), errors="replace"),
        metadata=_metadata(fields), encoding=_text(said.get(b"grpc-encoding", b"")),
    )  # fmt: skip


def _metadata(fields: Fields) -> Pairs:
    found: list[tuple[str, str | bytes]] = []
    for raw_name, value in fields:
        name = _text(raw_name)
        if name.startswith(":") or name in _NOT_METADATA:
            continue
        if name.endswith("-bin"):
            found.extend((name, one) for one in _binaries(value))
        else:
            found.append((name, _text(value)))
    return tuple(found)


def _binaries(value: bytes) -> list[bytes]:
    """As text, several may be joined by commas; a null byte says that it is no text but the bytes."""
    return [value[1:]] if value[:1] == b"\0" else [_binary(part) for part in value.split(b",")]


def _binary(text: bytes) -> bytes:
    """Base64 with or without its padding; what is none stays as it is."""
    stripped = text.strip().rstrip(b"=")
    try:
        return base64.b64decode(stripped + b"=" * (-len(stripped) % 4), validate=True)
    except binascii.Error:
        return text


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _number(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) <= _LONGEST_NUMBER else None


_LONGEST_NUMBER = 9


def _seconds(timeout: str) -> float | None:
    found = _TIMEOUT.match(timeout)
    return float(found[1]) * _UNIT_S[found[2]] if found else None

"""Calls on their way to the writer's process: a frame each, on a byte stream.

    head   lengths, times, code, flags    fixed size
    text   method, details, metadata …    JSON; bytes as Latin-1 under names that end in -bin
    request, response                     verbatim

The messages are not copied into the frame: a frame is a few buffers that are sent one after another.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

from harness.core.calls import Call, Metadata

_HEAD = struct.Struct("<IIIqqii")
_CANCELLED, _KEPT_AS_FAILED = 1, 2
HEAD_BYTES = _HEAD.size


@dataclass(frozen=True, slots=True)
class Framed:
    """A call out of its frame."""

    call: Call
    """As it was offered."""
    kept_as_failed: bool
    """The sample would have left it out; it is recorded because it failed."""


def frame_from_call(call: Call, *, kept_as_failed: bool) -> list[bytes]:
    """The buffers of a frame."""
    text = json.dumps(
        (
            call.method, call.details, _texts(call.metadata), _texts(call.trailing), call.upstream,
            call.stream, call.packing,
        )
    ).encode()  # fmt: skip
    flags = _CANCELLED * call.cancelled | _KEPT_AS_FAILED * kept_as_failed
    head = _HEAD.pack(
        len(text), len(call.request), len(call.response), call.ts_ns, call.latency_ns, call.code, flags
    )  # fmt: skip
    return [part for part in (head + text, call.request, call.response) if part]


class FrameReader:
    """Cuts a byte stream into calls."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes | memoryview) -> list[Framed]:
        """The calls that are whole now.

        Args:
          received: what came next.
        """
        self._buffer += received
        found: list[Framed] = []
        at = 0
        with memoryview(self._buffer) as buffer:
            while len(buffer) - at >= HEAD_BYTES:
                head = _HEAD.unpack_from(buffer, at)
                end = at + HEAD_BYTES + head[0] + head[1] + head[2]
                if end > len(buffer):
                    break
                found.append(_framed(head, bytes(buffer[at + HEAD_BYTES : end])))
                at = end
        del self._buffer[:at]
        return found


def _framed(head: tuple[int, ...], body: bytes) -> Framed:
    text, request, _, ts_ns, latency_ns, code, flags = head
    method, details, metadata, trailing, upstream, stream, packing = json.loads(body[:text])
    call = Call(
        ts_ns=ts_ns, latency_ns=latency_ns, method=method, code=code, details=details,
        request=body[text : text + request], response=body[text + request :],
        metadata=_values(metadata), trailing=_values(trailing), upstream=upstream,
        cancelled=bool(flags & _CANCELLED), stream=stream, packing=(packing[0], packing[1]),
    )  # fmt: skip
    return Framed(call, bool(flags & _KEPT_AS_FAILED))


def _texts(metadata: Metadata) -> list[tuple[str, str]]:
    return [(k, v if isinstance(v, str) else v.decode("latin-1")) for k, v in metadata]


def _values(texts: list[list[str]]) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((k, v.encode("latin-1") if k.endswith("-bin") else v) for k, v in texts)

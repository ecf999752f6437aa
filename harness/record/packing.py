"""Compressed messages: the proxy looks at their beginning only, the writer's process inflates them.

A message of some KB can hold gigabytes: what is inflated is bounded by the caller.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from harness.core.calls import Call
from harness.core.recording import Recorded
from harness.wire.scan import STREAM_RESPONSE, bytes_field

BEGINNING_BYTES = 4096
"""Of a message that is not at hand whole: the id of a request stands before its tensors."""
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
ENCODINGS = frozenset(_WINDOW_BITS)
"""Compressions that can be undone."""


class PackingError(ValueError):
    """A message cannot be inflated.

    Args:
      why: the counter of such requests.
    """

    def __init__(self, why: Recorded) -> None:
        super().__init__(why.name)
        self.why = why


def beginning(content: bytes, encoding: str) -> bytes:
    """What a message begins with; less than BEGINNING_BYTES where it is compressed well or badly.

    Args:
      content: as it passed.
      encoding: one of ENCODINGS; "" = it is not compressed.
    """
    if not encoding:
        return content[:BEGINNING_BYTES]
    inflating = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        return inflating.decompress(content[:BEGINNING_BYTES], BEGINNING_BYTES)
    except zlib.error:
        return b""


def _inflated(content: bytes, encoding: str, most: int) -> bytes:
    """The message.

    Args:
      content: as it passed.
      encoding: one of ENCODINGS; "" = it is not compressed.
      most: bytes that it may have.

    Raises:
      PackingError: it has more, or is not what the encoding says.
    """
    if not encoding:
        return content
    inflating = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        found = inflating.decompress(content, most + 1)
    except zlib.error:
        raise PackingError(Recorded.NOT_INFLATED) from None
    if len(found) > most:
        raise PackingError(Recorded.INFLATED_TOO_LARGE)
    if not inflating.eof:
        raise PackingError(Recorded.NOT_INFLATED)
    return found


def unpacked(call: Call, most: int) -> Call:
    """The call with its messages as they were before they were compressed.

    Args:
      call: as it passed.
      most: bytes that a message may have.

    Raises:
      PackingError: that cannot be done.
    """
    of_request, of_response = call.packing
    if not of_request and not of_response:
        return call
    response = _inflated(call.response, of_response, most)
    if of_response and call.stream:
        response = bytes_field(response, STREAM_RESPONSE) or b""
    return replace(
        call, request=_inflated(call.request, of_request, most), response=response, packing=("", "")
    )

"""Compressed messages: the proxy looks at their beginning only, the writer's process inflates them.

A message of some KB can hold gigabytes: what is inflated is bounded by the caller.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from harness.core.calls import Call
from harness.core.recording import Recorded
from harness.core.traffic import UNKNOWN_CODE
from harness.wire.scan import STREAM_ERROR, STREAM_RESPONSE, bytes_field

BEGINNING_BYTES = 4096
"""Of a message that is not at hand whole: the id of a request stands before its tensors."""
ERROR_WITHIN_BYTES = 1 << 20
"""An error of a streamed answer is looked for so far on its way (half a millisecond); a writer of
protobuf may put it behind the tensors, and what is behind these bytes is found by the writer's process."""
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


def beginning(content: bytes, encoding: str, most: int = BEGINNING_BYTES) -> bytes:
    """What a message begins with; less than `most` bytes where it is compressed badly.

    Args:
      content: as it passed.
      encoding: one of ENCODINGS; "" = it is not compressed.
      most: bytes of it.
    """
    if not encoding:
        return content[:most]
    inflating = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        return inflating.decompress(content[:most], most)
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

    A streamed answer that holds an error is a failure; see ERROR_WITHIN_BYTES.

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
        error = bytes_field(response, STREAM_ERROR)
        if error:
            call = replace(call, code=UNKNOWN_CODE, details=error.decode("utf-8", "replace"))
        response = b"" if error else bytes_field(response, STREAM_RESPONSE) or b""
    return replace(
        call, request=_inflated(call.request, of_request, most), response=response, packing=("", "")
    )

"""Single fields of a serialized message, found without parsing the rest.

For the proxy's hot path: a request of 150 KB is a dozen skips. Only what is needed there: fields of
the wire type "length-delimited" at the top level. Where a field comes twice the last one counts, as
in protobuf.
"""

from __future__ import annotations

REQUEST_ID = 3
"""`id` of ModelInferRequest and of ModelInferResponse."""
MODEL_NAME, MODEL_VERSION = 1, 2
"""`model_name` and `model_version` of both."""
STREAM_ERROR, STREAM_RESPONSE = 1, 2
"""`error_message` and `infer_response` of ModelStreamInferResponse."""

_MORE = 0x80
"""Set in every byte of a varint but the last."""
_LONGEST_SHIFT = 63
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def bytes_field(message: bytes, number: int, *, cut: bool = False) -> bytes | None:
    """The content of a string, bytes or message field.

    Args:
      message: a serialized message, well formed or not.
      number: of the field.
      cut: whether the message may end anywhere. What stands before its end counts then; of a field
        that it ends in, there is the beginning.

    Returns:
      None when the field is not set, or the message is not well formed up to its end.
    """
    found: bytes | None = None
    at, end = 0, len(message)
    try:
        while at < end:
            tag, at = _varint(message, at)
            kind = tag & 7
            if kind == _BYTES:
                size, at = _varint(message, at)
                if at + size > end and not cut:
                    return None
                if tag >> 3 == number:
                    found = message[at : at + size]
                at += size
            elif kind == _VARINT:
                _, at = _varint(message, at)
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                return None
    except IndexError:
        return found if cut else None
    return found if at == end or cut else None


def _varint(message: bytes, at: int) -> tuple[int, int]:
    byte = message[at]
    if byte < _MORE:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = message[at]
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            return value, at + 1
        shift += 7
        if shift > _LONGEST_SHIFT:
            raise IndexError

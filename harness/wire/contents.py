"""One tensor's elements: raw bytes or typed lists ↔ numpy, both ways.

Raw contents are little-endian and row-major; a string is its length as u32 and then its UTF-8
bytes. Raw keeps every float bit, NaN payloads too; typed lists pass through Python floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.core.tensors import NUMPY_DTYPES, Array, Strings

_DATATYPES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}
_LENGTH_BYTES = 4
_MAX_STRING_BYTES = 2**32 - 1
_CONTENTS_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class MessageError(ValueError):
    """Bytes that are no usable Open Inference message, or tensors that cannot become one.

    Recorded traffic is data: the caller counts such messages by `reason` and goes on.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def datatype_from_array(name: str, array: Array) -> str:
    """The Open Inference datatype of a numpy array.

    Raises:
      MessageError: numpy type without an Open Inference counterpart.
    """
    if array.dtype.kind == "U":
        return "BYTES"
    found = _DATATYPES.get(array.dtype.newbyteorder("="))
    if found is None:
        msg = f"tensor '{name}': numpy type {array.dtype} has no Open Inference datatype"
        raise MessageError(msg)
    return found


def raw_from_array(name: str, array: Array) -> bytes:
    """Raw contents of an array, row-major.

    Raises:
      MessageError: an object array that holds something other than encodable str.
    """
    if array.dtype.kind in "OU":
        return raw_from_strings(name, array.ravel().tolist())
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def raw_from_strings(name: str, values: Sequence[object]) -> bytes:
    """Raw BYTES contents: u32 little-endian length and UTF-8 bytes of each string.

    Raises:
      MessageError: a value that is no str or has no UTF-8 form.
    """
    parts: list[bytes] = []
    for value in values:
        if not isinstance(value, str):
            msg = f"tensor '{name}': {type(value).__name__} among strings"
            raise MessageError(msg)
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            msg = f"tensor '{name}': a string has no UTF-8 form"
            raise MessageError(msg) from None
        if len(encoded) > _MAX_STRING_BYTES:
            msg = f"tensor '{name}': a string is longer than 4 GiB"
            raise MessageError(msg)
        parts += (len(encoded).to_bytes(_LENGTH_BYTES, "little"), encoded)
    return b"".join(parts)


def dtype_of(name: str, datatype: str) -> np.dtype[np.generic]:
    """The numpy dtype of an Open Inference datatype.

    Raises:
      MessageError: a datatype this product does not read (BF16 has no numpy type).
    """
    dtype = NUMPY_DTYPES.get(datatype)
    if dtype is None:
        msg = f"tensor '{name}': datatype '{datatype[:32]}' is not known"
        raise MessageError(msg)
    return dtype


def checked_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as a tuple, every dimension ≥ 0.

    Raises:
      MessageError: a negative dimension.
    """
    if any(d < 0 for d in shape):
        msg = f"tensor '{name}': shape {list(shape)} has a negative dimension"
        raise MessageError(msg)
    return tuple(shape)


def array_from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """Reads raw contents.

    Args:
      name: tensor's name, for messages.
      datatype: Open Inference datatype.
      shape: whole shape, batch axis first.
      raw: its bytes.

    Returns:
      Array of that shape; numeric arrays are read-only views of `raw`.

    Raises:
      MessageError: unknown datatype, negative dimension, or another number of bytes than the shape needs.
    """
    dtype = dtype_of(name, datatype)
    dims = checked_shape(name, shape)
    count = math.prod(dims)
    if datatype == "BYTES":
        return _shaped(name, objects_from_strings(strings_from_raw(name, count, raw)), dims)
    if len(raw) != count * dtype.itemsize:
        msg = (
            f"tensor '{name}': {len(raw)} raw bytes where {datatype}{list(dims)} needs "
            f"{count * dtype.itemsize}"
        )
        raise MessageError(msg)
    if datatype == "BOOL":
        # A byte other than 0 or 1 would be a bool with an undefined value.
        return _shaped(name, np.frombuffer(raw, np.uint8) != 0, dims)
    return _shaped(name, np.frombuffer(raw, dtype.newbyteorder("<")), dims)


def strings_from_raw(name: str, count: int, raw: bytes) -> tuple[str, ...]:
    """Reads exactly `count` length-prefixed strings.

    Raises:
      MessageError: another number of strings, cut off, or not UTF-8.
    """
    strings = strings_from_all_raw(name, raw)
    if len(strings) != count:
        msg = (
            f"tensor '{name}': {len(strings)} strings in raw contents where the shape needs {count}"
        )
        raise MessageError(msg)
    return strings


def strings_from_all_raw(name: str, raw: bytes) -> tuple[str, ...]:
    """Reads the length-prefixed strings that fill `raw` exactly.

    Raises:
      MessageError: cut off or not UTF-8.
    """
    strings: list[str] = []
    at, end = 0, len(raw)
    while at < end:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(raw[at:start], "little")
        if start > end or at > end:
            msg = f"tensor '{name}': a string is cut off in its {end} raw bytes"
            raise MessageError(msg)
        strings.append(_text(name, raw[start:at]))
    return tuple(strings)


def array_from_contents(
    name: str,
    datatype: str,
    shape: Sequence[int],
    contents: Any,  # noqa: ANN401 - InferTensorContents; generated classes carry no types here
) -> Array:
    """Reads typed contents.

    Raises:
      MessageError: unknown datatype, a list in another field, wrong count, or a value out of range.
    """
    dtype = dtype_of(name, datatype)
    dims = checked_shape(name, shape)
    field = _CONTENTS_FIELDS.get(datatype)
    if field is None:
        msg = f"tensor '{name}': {datatype} exists only as raw contents"
        raise MessageError(msg)
    values = list(getattr(contents, field))
    if len(values) != math.prod(dims):
        msg = f"tensor '{name}': {len(values)} values in {field} where {datatype}{list(dims)} needs {math.prod(dims)}"
        raise MessageError(msg)
    if datatype == "BYTES":
        return _shaped(name, objects_from_strings([_text(name, v) for v in values]), dims)
    try:
        return _shaped(name, np.array(values, dtype), dims)
    except OverflowError:
        msg = f"tensor '{name}': a value does not fit {datatype}"
        raise MessageError(msg) from None


def objects_from_strings(strings: Sequence[str]) -> Strings:
    """A one-dimensional object array of str."""
    objects = np.empty(len(strings), dtype=object)
    objects[:] = strings
    return objects


def _text(name: str, encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        msg = f"tensor '{name}': a string is not UTF-8"
        raise MessageError(msg) from None


def _shaped(name: str, flat: Array, dims: tuple[int, ...]) -> Array:
    try:
        return flat.reshape(dims)
    except ValueError:
        # More axes than numpy has, or an empty tensor whose other dimensions overflow.
        msg = f"tensor '{name}': shape {list(dims)[:8]} cannot be held"
        raise MessageError(msg) from None

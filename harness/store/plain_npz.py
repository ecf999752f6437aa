"""A .npz file from somebody else, read strictly: plain arrays, and no more memory than its bytes.

numpy believes a header: it allocates what a shape claims before it looks whether the values are there,
and parses the header as Python. Here each claim is compared with the bytes of its member first.
Layout: the .npy format 1.0 to 3.0 (numpy's own description, NEP 1) in a zip archive.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from harness.core.tensors import Array, Tensors

LIMIT_BYTES = 256 << 20
"""Of the file, and of all its arrays together."""
_MOST_MEMBERS = 10_000
_LONGEST_NAME = 10_000
_MOST_TEXTS = 1 << 22
_LONGEST_HEADER = 10_000
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_HARMLESS_FLAGS = 0x0006 | 0x0008 | 0x0800
"""Level of compression, sizes behind the data, names in UTF-8."""
_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}
_HEADER = re.compile(
    r"\{'descr': '([<>|=][a-zA-Z][0-9]{0,9})', 'fortran_order': (True|False),"
    r" 'shape': \(([0-9, ]{0,700})\), \} *\n?"
)
_LAST_CHARACTER = 0x10FFFF
_HALVES = (0xD800, 0xDFFF)


def read_plain_npz(path: Path) -> Tensors:
    """Every array of the file; numbers, truth values and text only.

    Args:
      path: the file.

    Raises:
      ValueError: it is damaged, too large, or holds something else; the text says what.
      OSError: it cannot be read.
    """
    if path.stat().st_size > LIMIT_BYTES:
        msg = f"it is larger than {LIMIT_BYTES >> 20} MiB"
        raise ValueError(msg)
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            _check_members(members)
            return {
                m.filename.removesuffix(_SUFFIX): _array(packed.read(m), m.filename)
                for m in members
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error) as error:
        raise ValueError(str(error) or "it is damaged") from None


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    """Raises ValueError unless each can be unpacked within the limit."""
    if len(members) > _MOST_MEMBERS:
        msg = f"it holds {len(members):,} arrays, more than {_MOST_MEMBERS:,}"
        raise ValueError(msg)
    if sum(m.file_size for m in members) > LIMIT_BYTES:
        msg = f"unpacked it is larger than {LIMIT_BYTES >> 20} MiB"
        raise ValueError(msg)
    names = {m.filename for m in members}
    if len(names) != len(members):
        msg = "two arrays have the same name"
        raise ValueError(msg)
    for member in members:
        name = member.filename
        shown = "".join(filter(str.isprintable, name))[:100]
        if not name.endswith(_SUFFIX) or len(name) > _LONGEST_NAME or shown != name[:100]:
            msg = f"'{shown}' is no name of an array"
            raise ValueError(msg)
        if member.compress_type not in _METHODS or member.flag_bits & ~_HARMLESS_FLAGS:
            msg = f"'{shown}' is encrypted or packed in a way that numpy does not use"
            raise ValueError(msg)


def _array(content: bytes, name: str) -> Array:
    """One member as an array; raises ValueError where its header claims what is not there."""
    shown = name.removesuffix(_SUFFIX)[:100]
    form = _LENGTHS.get(content[6:8])
    if content[:6] != _MAGIC or form is None:
        msg = f"'{shown}' is no array"
        raise ValueError(msg)
    (length,) = struct.unpack_from(form, content, 8)
    start = 8 + struct.calcsize(form)
    text = content[start : start + min(length, _LONGEST_HEADER)].decode("latin-1")
    header = _HEADER.fullmatch(text)
    if header is None or length > _LONGEST_HEADER:
        msg = f"the header of '{shown}' does not describe a plain array"
        raise ValueError(msg)
    try:
        dtype = np.dtype(header[1])
    except TypeError as error:
        raise ValueError(str(error)) from None
    if dtype.kind not in "biufU" or not dtype.itemsize:
        msg = f"array '{shown}' has type {dtype}"
        raise ValueError(msg)
    shape = tuple(int(size) for size in header[3].split(",") if size.strip())
    count, there = math.prod(shape), len(content) - start - length
    if count * dtype.itemsize != there:
        msg = f"array '{shown}' claims {count:,} values of {dtype} and has {there:,} bytes"
        raise ValueError(msg)
    values = np.frombuffer(content, dtype, count, start + length)
    _check_text(values, shown)
    return values.reshape(shape, order="F" if header[2] == "True" else "C")


def _check_text(values: Array, shown: str) -> None:
    """Raises ValueError for text that Python cannot hold or write."""
    if values.dtype.kind != "U" or not values.size:
        return
    if values.size > _MOST_TEXTS:
        msg = f"array '{shown}' holds {values.size:,} texts, more than {_MOST_TEXTS:,}"
        raise ValueError(msg)
    points = values.view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
    low, high = _HALVES
    if points.max() > _LAST_CHARACTER or ((points >= low) & (points <= high)).any():
        msg = f"array '{shown}' holds text that is no Unicode"
        raise ValueError(msg)

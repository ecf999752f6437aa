"""A .npz file from somebody else, read strictly: plain arrays, and no more memory than its bytes.

numpy believes a header: it allocates what a shape claims before it looks whether the values are there,
and parses the header as Python. Here each claim is compared with the bytes of its member first.
Layout: the .npy format 1.0 to 3.0 (numpy's own description, NEP 1) in a zip archive.
"""

from __future__ import annotations

import io
import math
import os
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
_MOST_DIRECTORY = 4 << 20
"""Bytes of the archive's directory: each entry takes twenty times its own as an object."""
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


def read_plain_npz(path: Path, *, own: bool = False) -> Tensors:
    """Every array of the file; numbers, truth values and text only.

    Args:
      path: the file.
      own: the user's own, which may be as large as the user likes.

    Raises:
      ValueError: it is damaged, too large, or holds something else; the text says what.
      OSError: it cannot be read.
    """
    if not own and path.stat().st_size > LIMIT_BYTES:
        msg = f"it is larger than {LIMIT_BYTES >> 20} MiB"
        raise ValueError(msg)
    try:
        with _Archive(path) as file, zipfile.ZipFile(file) as packed:
            file.opened = True
            members = packed.infolist()
            _check_members(members, own=own)
            return {
                m.filename.removesuffix(_SUFFIX): _array(packed.read(m), m.filename, own=own)
                for m in members
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error) as error:
        raise ValueError(str(error) or "it is damaged") from None


class _Archive(io.FileIO):
    """A file of which no more than a directory of usual size is read while the archive is being opened.

    `zipfile` reads as much of a directory as the archive's end record says, and makes an object an entry,
    before anybody can count them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.opened = False
        """The directory has been read."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As a file's; raises ValueError where that is more than a directory takes."""
        wanted = (
            size
            if size is not None and size >= 0
            else os.fstat(self.fileno()).st_size - self.tell()
        )
        if not self.opened and wanted > _MOST_DIRECTORY:
            msg = f"its directory takes {wanted:,} bytes, more than {_MOST_DIRECTORY:,}"
            raise ValueError(msg)
        return super().read(-1 if size is None else size) or b""


def _check_members(members: list[zipfile.ZipInfo], *, own: bool) -> None:
    """Raises ValueError unless each can be unpacked within the limit."""
    if len(members) > _MOST_MEMBERS:
        msg = f"it holds {len(members):,} arrays, more than {_MOST_MEMBERS:,}"
        raise ValueError(msg)
    if not own and sum(m.file_size for m in members) > LIMIT_BYTES:
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


def _array(content: bytes, name: str, *, own: bool) -> Array:
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
        msg = f"array '{shown}' has numpy type {dtype}"
        raise ValueError(msg)
    shape = tuple(int(size) for size in header[3].split(",") if size.strip())
    count, there = math.prod(shape), len(content) - start - length
    if count * dtype.itemsize != there:
        msg = f"array '{shown}' claims {count:,} values of {dtype} and has {there:,} bytes"
        raise ValueError(msg)
    values = np.frombuffer(content, dtype, count, start + length)
    _check_text(values, shown, own=own)
    return values.reshape(shape, order="F" if header[2] == "True" else "C")


def _check_text(values: Array, shown: str, *, own: bool) -> None:
    """Raises ValueError for text that Python cannot hold or write."""
    if values.dtype.kind != "U" or not values.size:
        return
    if not own and values.size > _MOST_TEXTS:
        msg = f"array '{shown}' holds {values.size:,} texts, more than {_MOST_TEXTS:,}"
        raise ValueError(msg)
    points = values.view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
    low, high = _HALVES
    if points.max() > _LAST_CHARACTER or ((points >= low) & (points <= high)).any():
        msg = f"array '{shown}' holds text that is no Unicode"
        raise ValueError(msg)

"""A run's drawn orders, in a file that is read a piece at a time: memory does not grow with them.

The file is what `numpy.savez` writes, members stored as they are, so anybody can read it with numpy.
An order is eight bytes a request: kept in memory it would be most of what a long gate holds.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from harness.core.errors import GateError
from harness.core.tensors import Array, Floats, Ints

_LABEL = "label"
_PIECE = 65_536
_LOCAL = struct.Struct("<26xHH")
"""Of a member's own header in the archive: lengths of its name and of what follows the name."""
_KINDS = {_LABEL: np.dtype("<f8")}
_POSITIONS = np.dtype("<i8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """An order while it is drawn."""

    count: int
    """Requests in it."""
    parts: Iterable[Ints]
    """Storage positions in test order, part after part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrder:
    """Some or all of an order in a file."""

    path: Path
    """The file."""
    offset: int
    """Its first byte there."""
    count: int
    """Requests."""

    def __len__(self) -> int:
        """Requests."""
        return self.count

    def __getitem__(self, part: slice) -> StoredOrder:
        """A part of it that follows without gaps; nothing is read."""
        start, stop, step = part.indices(self.count)
        if step != 1:
            raise GateError(str(self.path), f"asked for every {step}th position", "Report this.")
        offset = self.offset + start * _POSITIONS.itemsize
        return StoredOrder(path=self.path, offset=offset, count=max(stop - start, 0))

    def read(self) -> Ints:
        """Storage positions, shape (count,)."""
        found = np.fromfile(self.path, _POSITIONS, self.count, offset=self.offset)
        if len(found) != self.count:
            raise GateError(str(self.path), "ends too early", "The file was changed; run again.")
        return found.astype(np.int64, copy=False)


Order = Ints | StoredOrder
"""Storage positions in test order: an array, or a part of a file."""


def positions_in(order: Order) -> Ints:
    """All positions of an order, shape (n,)."""
    return order.read() if isinstance(order, StoredOrder) else order


def pieces(order: Order) -> Iterator[Ints]:
    """The positions of an order, some at a time."""
    for start in range(0, len(order), _PIECE):
        yield positions_in(order[start : start + _PIECE])


def write_orders(path: Path, label: Floats, orders: Mapping[str, Drawn]) -> dict[str, str]:
    """Writes the windows' orders as they are drawn, and the labels.

    Args:
      path: the file to write.
      label: label by storage position; empty where no window reads labels.
      orders: window → its order.

    Returns:
      Name → sha256 (hex) of its values' bytes.

    Raises:
      GateError: an order that is not as long as was said.
    """
    digests = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        digests[_LABEL] = _written(archive, _LABEL, len(label), [label])
        for name, drawn in orders.items():
            digests[name] = _written(archive, name, drawn.count, drawn.parts)
    return digests


def _written(archive: zipfile.ZipFile, name: str, count: int, parts: Iterable[Array]) -> str:
    kind = _KINDS.get(name, _POSITIONS)
    digest, done = hashlib.sha256(), 0
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": kind.str, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            data = np.ascontiguousarray(part, kind).tobytes()
            digest.update(data)
            member.write(data)
            done += len(part)
    if done != count:
        raise GateError(name, f"{done:,} requests were drawn of {count:,}", "Report this.")
    return digest.hexdigest()


def read_orders(path: Path) -> tuple[Floats, dict[str, StoredOrder], dict[str, str]]:
    """Opens what `write_orders` wrote.

    Returns:
      The labels; window → its order; name → sha256 (hex) of what the file holds now.

    Raises:
      OSError, ValueError, EOFError, zipfile.BadZipFile: it is no such file.
    """
    found: dict[str, StoredOrder] = {}
    digests: dict[str, str] = {}
    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            members = {m.filename.removesuffix(".npy"): m.header_offset for m in archive.infolist()}
        for name, at in members.items():
            count = _seek_values(file, at, _KINDS.get(name, _POSITIONS))
            found[name] = StoredOrder(path=path, offset=file.tell(), count=count)
            digests[name] = _digest(file, count * _POSITIONS.itemsize)
    stored = found.pop(_LABEL)
    label = np.fromfile(path, _KINDS[_LABEL], stored.count, offset=stored.offset)
    return label, found, digests


def _seek_values(file: IO[bytes], header_offset: int, kind: np.dtype[np.generic]) -> int:
    """Goes to a member's first value; how many there are."""
    file.seek(header_offset)
    name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    file.seek(name + extra, 1)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 1 or fortran or dtype != kind:
        msg = f"an array of {dtype} with shape {shape}"
        raise ValueError(msg)
    return int(shape[0])


def _digest(file: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size:
        data = file.read(min(size, 1 << 20))
        if not data:
            raise EOFError
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()

"""What a recorder has written and not yet published: an append-only file that survives a kill.

A Parquet file is worthless without its footer, which comes last. So exchanges wait here, a row group a
chunk; when the file is full it is read back and published as Parquet in one step (`traffic.TrafficWriter`).
A chunk is whole or not there: length and checksum stand before it, and what a kill or a full disk left
of one is cut off. The name of a spool says which published file it becomes, so that a kill between
publishing and removing the spool doubles nothing.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.core.traffic import Exchange
from harness.store.exchanges import SCHEMA, exchanges_from_batch

_HEAD = struct.Struct("<QI")
"""Bytes and CRC-32 of the chunk that follows."""
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class Spool:
    """Appends batches of exchanges to a new file.

    Args:
      path: the file; it must not exist.
      sync: whether each chunk reaches the disk before `append` returns, so that a power cut loses no
        more than a kill.

    Raises:
      OSError: the file cannot be made.
    """

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        self.path = path
        self._sync = sync
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self.size_bytes = 0
        self.rows = 0

    def append(self, batch: pa.RecordBatch) -> None:
        """Adds one chunk, or leaves the file as it was.

        Args:
          batch: of `exchanges.SCHEMA`.

        Raises:
          OSError: the disk is full or gone.
        """
        chunk = _serialized(batch)
        whole = memoryview(_HEAD.pack(len(chunk), zlib.crc32(chunk)) + chunk)
        try:
            done = 0
            while done < len(whole):
                done += os.write(self._handle, whole[done:])
            if self._sync:
                os.fdatasync(self._handle)
        except OSError:
            os.ftruncate(self._handle, self.size_bytes)
            os.lseek(self._handle, self.size_bytes, os.SEEK_SET)
            raise
        self.size_bytes += len(whole)
        self.rows += len(batch)

    def close(self) -> None:
        """Ends writing; the file stays."""
        os.close(self._handle)


def spooled(path: Path) -> Iterator[pa.RecordBatch]:
    """The whole chunks of a spool, in the order they were written.

    Args:
      path: a spool that nobody writes to; it may be cut off.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as opened:
        while len(head := opened.read(_HEAD.size)) == _HEAD.size:
            size, crc = _HEAD.unpack(head)
            if size > path.stat().st_size:
                return
            chunk = opened.read(size)
            if len(chunk) != size or zlib.crc32(chunk) != crc:
                return
            with pa.ipc.open_stream(chunk) as stream:
                yield from stream


def spooled_exchanges(path: Path) -> Iterator[Exchange]:
    """The same as values."""
    for batch in spooled(path):
        yield from exchanges_from_batch(batch)


def _serialized(batch: pa.RecordBatch) -> bytes:
    sink: Any = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=_OPTIONS) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())

"""A uniform shuffle of more rows than fit in memory.

Every row draws a bucket, each bucket is shuffled in memory, buckets follow one another. That is
sorting by independent uniform keys whose first digits are the bucket, hence exactly uniform.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

BUCKET_ROWS = 8192
BUCKET_BYTES = 32 << 20
MOST_BUCKETS = 256
"""Open files while rows are dealt out; beyond 8 GiB of rows the buckets grow instead."""

_DEALT_ROWS = 8192
_DEALT_BYTES = 16 << 20


class Shuffle:
    """Rows dealt into bucket files.

    Args:
      folder: an existing folder for the bucket files.
      schema: of the rows.
      rows: how many there will be, about.
      size_bytes: how many bytes they will take, about.
      rng: draws buckets and orders.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, rows: int, size_bytes: int, rng: np.random.Generator
    ) -> None:
        wanted = max(-(-rows // BUCKET_ROWS), -(-size_bytes // BUCKET_BYTES), 1)
        self._paths = [folder / f"{i}.arrows" for i in range(min(wanted, MOST_BUCKETS))]
        self._schema = schema
        self._rng = rng

    def deal(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Writes every row into a bucket it draws."""
        writers = [pa.ipc.new_stream(str(path), self._schema) for path in self._paths]
        try:
            for batch in _larger(batches):
                drawn = self._rng.integers(len(writers), size=len(batch))
                by_bucket = batch.take(pa.array(np.argsort(drawn, kind="stable")))
                counts = np.bincount(drawn, minlength=len(writers))
                starts = np.cumsum(counts) - counts
                for k in np.flatnonzero(counts).tolist():
                    writers[k].write_batch(by_bucket.slice(starts[k], counts[k]))
        finally:
            for writer in writers:
                writer.close()

    def buckets(self) -> Iterator[pa.Table]:
        """The rows of each bucket in the order they were dealt; for a look ahead."""
        for path in self._paths:
            yield _read(path)

    def drain(self) -> Iterator[pa.Table]:
        """The shuffled rows, bucket by bucket; each bucket file is removed once read."""
        for path in self._paths:
            table = _read(path)
            path.unlink()
            yield table.take(pa.array(self._rng.permutation(len(table))))


def _read(path: Path) -> pa.Table:
    # Plain reads: mapped pages of every bucket would count as this process's memory.
    with pa.OSFile(str(path)) as opened, pa.ipc.open_stream(opened) as reader:
        return reader.read_all()


def _larger(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Joins small batches, so that a bucket gets more than a few rows at a time."""
    waiting: list[Any] = []
    rows = size = 0
    for batch in batches:
        waiting.append(batch)
        rows += len(batch)
        size += batch.nbytes
        if rows >= _DEALT_ROWS or size >= _DEALT_BYTES:
            yield pa.concat_batches(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_batches(waiting)

"""The rows of a Parquet file, read a batch at a time; half a file is named and left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.record.importers.guarding import Guard
from harness.record.importers.parts import Refused, Trouble
from harness.record.importers.sources import (
    BEGINNING,
    Record,
    Row,
    SourceFile,
    check_columns,
    empty,
    unreadable,
)
from harness.store.places import opened

_BATCH_ROWS = 256


class TimestampNs(int):
    """A Parquet timestamp, in nanoseconds since the epoch; any other integer has a unit that must be told."""


def parquet_rows(file: SourceFile, limit: int, needed: Sequence[str]) -> Iterator[Record | Refused]:
    """The rows of a Parquet file; damage ends the reading and is named.

    Raises:
      TrafficError: a needed column is not there.
    """
    if not file.size_bytes:
        yield empty(f"{file.name}:1")
        return
    number, rows = 0, None
    try:
        with (
            opened(file.place) as content,
            pq.ParquetFile(content, page_checksum_verification=True) as parquet,
        ):
            rows = parquet.metadata.num_rows
            check_columns(str(file.place), parquet.schema_arrow.names, needed, rows)
            for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                yield from _records(file.name, number, batch, limit)
                number += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        left = None if rows is None else rows - number
        yield unreadable(f"{file.name}:{number + 1}", str(error).split("\n", 1)[0], left)


def _records(
    name: str, before: int, batch: pa.RecordBatch, limit: int
) -> Iterator[Record | Refused]:
    rows = Guard("", b"")(partial(_python_rows, batch))
    for i in range(len(batch)):
        guard = Guard(f"{name}:{before + i + 1}", b"")
        # One value that Python has no form for costs its own row.
        found = (
            guard(partial(_python_rows, batch.slice(i, 1)))
            if isinstance(rows, Refused)
            else rows[i : i + 1]
        )
        if isinstance(found, Refused):
            yield found
        else:
            yield guard(partial(_parquet_record, guard.place, found[0], limit))


def _python_rows(batch: pa.RecordBatch) -> list[Row]:
    # Times stay numbers: Python's have no nanoseconds.
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_timestamp(column.type):
            # In Python's integers: a time beyond 2262 is its own row's trouble.
            unit = _UNITS[column.type.unit]
            columns[name] = [
                None if v is None else TimestampNs(v * unit)
                for v in column.cast(pa.int64()).to_pylist()
            ]
        else:
            columns[name] = column.to_pylist(**_MAPS)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


_MAPS: dict[str, Any] = {"maps_as_pydicts": "lossy"}


def _parquet_record(place: str, row: Row, limit: int) -> Record | Refused:
    size = sum(len(v) for v in row.values() if isinstance(v, str | bytes))
    raw = json.dumps(row, default=_shown, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if size > limit:
        return Refused(
            place=place, trouble=Trouble.OVERSIZED,
            why=f"a record of {size:,} bytes, over the limit of {limit:,}", raw=raw[:BEGINNING],
        )  # fmt: skip
    return Record(place=place, raw=raw, row=row)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)

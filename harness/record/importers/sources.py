"""Files of logs, read record by record with flat memory: lines, CSV rows, Parquet rows.

A line longer than the limit is passed over, not held; half a Parquet file is named and left out; the
rest is read. `.gz` files are unpacked on the way.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import TrafficError, nearest
from harness.core.places import Place, absolute
from harness.record.importers.guarding import Guard
from harness.record.importers.parts import Refused, Trouble
from harness.store.objects import filesystem
from harness.store.places import check_readable, files_below, is_file, opened, stream

_PIECE = 1 << 20
_BEGINNING = 4096
_BATCH_ROWS = 256

CUT = "the file is damaged or cut off"
_MOST_ROW_LINES = 1000
"""A CSV row of more lines has a quote that is not closed."""

Row = dict[str, Any]


class TimestampNs(int):
    """A Parquet timestamp, in nanoseconds since the epoch; any other integer has a unit that must be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source."""

    place: Place
    """Where it lies."""
    name: str
    """As reports call it: the path below the source."""
    key: str
    """As it is remembered over runs: the whole, absolute place."""
    stamp: str
    """Changes when its content does: size and time of change."""
    changed_ns: int
    """When it was last changed, nanoseconds since the epoch."""
    missing: str = ""
    """Why there is nothing to read where a table's log names it, and what to do; "" = it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a file."""

    place: str
    """file:number"""
    raw: bytes
    """As it was read."""
    row: Row
    """Its fields."""


def source_files(source: Place, suffixes: Sequence[str]) -> list[SourceFile]:
    """The files of a source, by name.

    Args:
      source: a file, or a folder of them, here or in an object store.
      suffixes: endings that count, e.g. .jsonl; each may have .gz behind it.

    Raises:
      TrafficError: nothing there, nothing with such an ending, or it cannot be listed.
    """
    if is_file(source):
        return [_source_file(source, source.name)]
    if isinstance(source, Path) and not source.exists():
        raise TrafficError(str(source), "no such file or folder", "Check the path.")
    names = sorted(
        {p for s in suffixes for end in (s, f"{s}.gz") for p in files_below(source, end)}
    )
    if not names:
        raise TrafficError(
            str(source), f"no file that ends in {' or '.join(suffixes)} below it",
            "Give the folder or file that the logs lie in.",
        )  # fmt: skip
    return [_source_file(source / str(name), str(name)) for name in names]


def missing_file(source: Place, name: str) -> SourceFile:
    """A file that a table's log names and that is not below its folder; reading it says so."""
    what = "lies outside of the folder;" if _leads_out(name) else "is not there;"
    return SourceFile(
        place=source, name=name, key=str(absolute(source / name)), stamp="missing", changed_ns=0,
        missing=f"the table's log names it, and it {what} copy the whole table, then import again",
    )  # fmt: skip


def _leads_out(name: str) -> bool:
    return name.startswith("/") or "://" in name or ".." in name.split("/")


def _source_file(place: Place, name: str) -> SourceFile:
    if isinstance(place, Path):
        check_readable(place)
        found = place.stat()
        size, changed_ns = found.st_size, found.st_mtime_ns
    else:
        info = filesystem(place).get_file_info(place.path)
        size, changed_ns = info.size, info.mtime_ns or 0
    return SourceFile(
        place=place, name=name, key=str(absolute(place)), stamp=f"{size} {changed_ns}",
        changed_ns=changed_ns,
    )  # fmt: skip


def lines(file: SourceFile, limit: int) -> Iterator[tuple[int, bytes | Refused]]:
    """(number from 1, line without its end) of each line; a longer one than `limit` bytes is refused."""
    with stream(file.place) as content:
        source: Any = gzip.GzipFile(fileobj=content) if file.name.endswith(".gz") else content
        try:
            yield from _split(file.name, source, limit)
        except (OSError, EOFError) as error:  # a .gz that is cut off, or none
            yield 0, _unreadable(file.name, str(error))


def _split(name: str, source: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | Refused]]:
    held, passed, number = bytearray(), 0, 1
    # What was unpacked before the cut counts: read() would throw it away.
    read = getattr(source, "read1", source.read)
    while piece := read(_PIECE):
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            held += piece[start:end]
            yield number, _line(name, number, held, passed, limit)
            held, passed, number, start = bytearray(), 0, number + 1, end + 1
        held += piece[start:]
        if len(held) > limit:
            passed += len(held) - _BEGINNING if not passed else max(0, len(held) - _BEGINNING)
            del held[_BEGINNING:]
    if held:
        yield number, _line(name, number, held, passed, limit)


def _line(name: str, number: int, held: bytearray, passed: int, limit: int) -> bytes | Refused:
    size = len(held) + passed
    if size <= limit:
        return bytes(held)
    return Refused(
        place=f"{name}:{number}", trouble=Trouble.OVERSIZED,
        why=f"a record of {size:,} bytes, over the limit of {limit:,}", raw=bytes(held[:_BEGINNING]),
    )  # fmt: skip


def json_lines(file: SourceFile, limit: int) -> Iterator[Record | Refused]:
    """The objects of a file with one JSON document a line."""
    for number, line in lines(file, limit):
        place = f"{file.name}:{number}"
        if isinstance(line, Refused):
            yield line
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            yield _undecodable(place, f"not UTF-8 at byte {error.start}", line)
        except (ValueError, RecursionError) as error:
            yield _undecodable(place, f"no JSON: {error}", line)
        else:
            if isinstance(row, dict):
                yield Record(place=place, raw=line, row=row)
            else:
                yield _undecodable(place, "no JSON object", line)


def csv_rows(file: SourceFile, limit: int, needed: Sequence[str]) -> Iterator[Record | Refused]:
    """The rows of a CSV file with a header, as text.

    Raises:
      TrafficError: a needed column is not there.
    """
    csv.field_size_limit(max(limit, csv.field_size_limit()))
    source = _CsvLines(file, limit)
    reader = csv.reader(source)
    header: list[str] | None = None
    while True:
        found = _csv_cells(file, source, reader, header)
        yield from source.refused
        source.refused.clear()
        if found is None:
            return
        if isinstance(found, Refused):
            yield found
        elif header is None:
            header = found
            check_columns(str(file.place), header, needed)
        elif found:
            yield _csv_record(f"{file.name}:{source.number}", header, found)


def _csv_cells(
    file: SourceFile, source: _CsvLines, reader: Iterator[list[str]], header: list[str] | None
) -> list[str] | Refused | None:
    """The cells of the next row; None at the end. A quote that is not closed costs its own line only."""
    source.begin()
    try:
        cells = next(reader, None)
    except _OpenQuoteError:
        cells = []
    except csv.Error as error:
        return _undecodable(f"{file.name}:{source.number}", f"no CSV: {error}", source.raw())
    else:
        if not (cells and header and len(source.taken) > 1 and len(cells) != len(header)):
            return cells
    place, raw = f"{file.name}:{source.taken[0][0]}", source.raw(1)
    source.put_back()
    return _undecodable(place, "a quote that is not closed; the line is left out", raw)


class _OpenQuoteError(Exception):
    """A row that goes on over too many lines, or over the end of the file."""


class _CsvLines:
    """The lines of a CSV file, some of which can be read again.

    Args:
      file: the file.
      limit: longest line, and longest row, bytes.
    """

    def __init__(self, file: SourceFile, limit: int) -> None:
        self._lines, self._limit = lines(file, limit), limit
        self._again: deque[tuple[int, str]] = deque()
        self._size = 0
        self.taken: list[tuple[int, str]] = []
        self.refused: list[Refused] = []
        self.number = 0

    def begin(self) -> None:
        """A row begins with the next line."""
        self.taken.clear()
        self._size = 0

    def put_back(self) -> None:
        """All lines of the row but its first are read again, as rows of their own."""
        self._again.extendleft(reversed(self.taken[1:]))

    def raw(self, most: int | None = None) -> bytes:
        """The row's lines as they were read."""
        return "".join(t for _, t in self.taken[:most]).encode("utf-8", "surrogateescape")

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= _MOST_ROW_LINES or self._size > self._limit:
            raise _OpenQuoteError
        if not self._again:
            self._read()
        if not self._again:
            if self.taken:
                raise _OpenQuoteError
            raise StopIteration
        self.number, text = self._again.popleft()
        self.taken.append((self.number, text))
        self._size += len(text)
        return text

    def _read(self) -> None:
        for number, line in self._lines:
            if not isinstance(line, Refused):
                text = line.decode("utf-8", "surrogateescape")
                self._again.append(
                    (number, (text.removeprefix("\ufeff") if number == 1 else text) + "\n")
                )
                return
            self.refused.append(line)


def _csv_record(place: str, header: list[str], cells: list[str]) -> Record | Refused:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    raw = text.getvalue().encode("utf-8", "surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return _undecodable(place, f"not UTF-8 at byte {error.start}", raw)
    if len(cells) != len(header):
        return _undecodable(place, f"{len(cells)} cells for {len(header)} columns", raw)
    return Record(place=place, raw=raw, row=dict(zip(header, cells, strict=True)))


def parquet_rows(file: SourceFile, limit: int, needed: Sequence[str]) -> Iterator[Record | Refused]:
    """The rows of a Parquet file; damage ends the reading and is named.

    Raises:
      TrafficError: a needed column is not there.
    """
    number = 0
    try:
        with (
            opened(file.place) as content,
            pq.ParquetFile(content, page_checksum_verification=True) as parquet,
        ):
            check_columns(str(file.place), parquet.schema_arrow.names, needed)
            for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                yield from _records(file.name, number, batch, limit)
                number += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        yield _unreadable(f"{file.name}:{number + 1}", str(error).split("\n", 1)[0])


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
            why=f"a record of {size:,} bytes, over the limit of {limit:,}", raw=raw[:_BEGINNING],
        )  # fmt: skip
    return Record(place=place, raw=raw, row=row)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def table_rows(file: SourceFile, limit: int, needed: Sequence[str]) -> Iterator[Record | Refused]:
    """The rows of a Parquet, CSV or JSON-lines file, by its ending."""
    name = file.name.removesuffix(".gz")
    if file.missing:
        return iter([_undecodable(f"{name}:1", f"{CUT}: {file.missing}", b"")])
    if name.endswith(".parquet"):
        return parquet_rows(file, limit, needed)
    if name.endswith(".csv"):
        return csv_rows(file, limit, needed)
    return json_lines(file, limit)


def check_columns(where: str, names: Sequence[str], needed: Sequence[str]) -> None:
    """Refuses a table without the columns that its format has.

    Raises:
      TrafficError: names the column and the nearest one.
    """
    for name in needed:
        if names.count(name) > 1:
            raise TrafficError(
                where, f"two columns '{name}'", "Leave one of them out, or name them apart."
            )
        if name not in names:
            raise TrafficError(
                where, f"no column '{name}' ({nearest(name, names)})",
                "Check that the file is of the format named, or that the mapping names its columns.",
            )  # fmt: skip


def _undecodable(place: str, why: str, raw: bytes) -> Refused:
    return Refused(place=place, trouble=Trouble.UNDECODABLE, why=why, raw=raw)


def _unreadable(place: str, why: str) -> Refused:
    return _undecodable(place, f"{CUT} from here: {why}", b"")

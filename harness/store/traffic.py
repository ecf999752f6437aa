"""Recorded traffic as Parquet files: writing exchanges, reading them back as a stream.

A traffic source is a folder, a file or several of both. Hive path segments (model=…/date=…) are
only there for people and other tools; everything the gate needs is in the columns. Files carry
page checksums, so that a damaged file is an error and never a different request.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import TrafficError, nearest
from harness.core.traffic import Exchange

LABELS_FOLDER = "labels"
"""Folder of delayed labels inside a traffic folder; its Parquet files are no exchanges."""

_STRING_MAP = pa.map_(pa.string(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("ts_ns", pa.int64(), nullable=False),
        pa.field("latency_ns", pa.int64(), nullable=False),
        pa.field("code", pa.int32(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("request", pa.large_binary(), nullable=False),
        pa.field("response", pa.large_binary(), nullable=False),
        pa.field("metadata", _STRING_MAP, nullable=False),
        pa.field("context", _STRING_MAP, nullable=False),
        pa.field("trace_id", pa.string(), nullable=False),
    ]
)
"""One row an exchange; fields as in `core.traffic.Exchange`."""

_OPTIONAL = ("metadata", "context", "trace_id")
_ROW_GROUP_ROWS = 2048
_ROW_GROUP_BYTES = 32 << 20
_BATCH_ROWS = 1024


class TrafficWriter:
    """Writes exchanges into a folder as complete Parquet files.

    A file appears under its name only when it is whole: it is written under a hidden temporary
    name and renamed. Use as a context manager; when the body raises, the file begun is dropped.

    Args:
      folder: where the files go; made when missing.
      name: prefix of the file names, one per concurrent writer: <name>-00000.parquet and so on.
        Files already there are kept and numbering goes on after them.
      rows_per_file: a file is closed when it holds that many exchanges,
      bytes_per_file: or that many request and response bytes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "part",
        rows_per_file: int = 65_536,
        bytes_per_file: int = 256 << 20,
    ) -> None:
        self._folder = folder
        self._name = name
        self._rows_per_file = rows_per_file
        self._bytes_per_file = bytes_per_file
        self._files: list[Path] = []
        self._rows: list[Exchange] = []
        self._row_bytes = 0
        self._file_rows = 0
        self._file_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._number = _next_number(folder, name)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files published so far."""
        return tuple(self._files)

    def write(self, exchanges: Iterable[Exchange]) -> None:
        """Appends exchanges, in the order given."""
        for exchange in exchanges:
            self._rows.append(exchange)
            self._row_bytes += len(exchange.request) + len(exchange.response)
            full_file = (
                self._file_rows + len(self._rows) >= self._rows_per_file
                or self._file_bytes + self._row_bytes >= self._bytes_per_file
            )
            if full_file:
                self.rotate()
            elif len(self._rows) >= _ROW_GROUP_ROWS or self._row_bytes >= _ROW_GROUP_BYTES:
                self._flush()

    def rotate(self) -> None:
        """Publishes what was written so far as one whole file; nothing written = no file."""
        self._flush()
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        final = self._folder / f"{self._name}-{self._number:05d}.parquet"
        with self._temporary().open("rb") as written:
            os.fsync(written.fileno())
        self._temporary().rename(final)
        self._files.append(final)
        self._number += 1
        self._file_rows = self._file_bytes = 0

    def close(self) -> None:
        """Publishes the last file."""
        self.rotate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._writer.close()
            self._writer = None
            self._temporary().unlink()

    def _temporary(self) -> Path:
        return self._folder / f".{self._name}-{self._number:05d}.{os.getpid()}.tmp"

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._temporary(),
                SCHEMA,
                compression="zstd",
                compression_level=1,
                write_page_checksum=True,
            )
        self._writer.write_batch(batch_from_exchanges(self._rows))
        self._file_rows += len(self._rows)
        self._file_bytes += self._row_bytes
        self._rows = []
        self._row_bytes = 0


def batch_from_exchanges(exchanges: Sequence[Exchange]) -> pa.RecordBatch:
    """Exchanges as one Arrow batch of `SCHEMA`."""
    columns = []
    for f in SCHEMA:
        values = [getattr(e, f.name) for e in exchanges]
        if f.type == _STRING_MAP:
            values = [list(v.items()) for v in values]
        columns.append(pa.array(values, f.type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def exchanges_from_batch(batch: pa.RecordBatch) -> list[Exchange]:
    """The rows of an Arrow batch of `SCHEMA` as values."""
    columns = [
        [dict(v) for v in column.to_pylist()] if f.type == _STRING_MAP else column.to_pylist()
        for f, column in zip(SCHEMA, batch.columns, strict=True)
    ]
    return [
        Exchange(**dict(zip(SCHEMA.names, row, strict=True))) for row in zip(*columns, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficFile:
    """One Parquet file of exchanges."""

    path: Path
    """Where it lies."""
    name: str
    """As errors and manifests call it: the path below the folder that was given."""
    rows: int
    """Exchanges in it."""


class TrafficSource:
    """Recorded exchanges in a fixed order: by file name, then by row.

    Nothing is read but footers until `batches` is used; then one batch at a time.
    """

    def __init__(self, files: Sequence[TrafficFile]) -> None:
        self._files = tuple(files)
        self._hashes: tuple[tuple[str, str], ...] | None = None

    @classmethod
    def open(cls, paths: Sequence[Path]) -> TrafficSource:
        """Finds the files and checks their columns.

        Args:
          paths: folders (every .parquet below them except below labels/) and files.

        Raises:
          TrafficError: missing path, folder without Parquet files, damaged file, wrong columns.
        """
        found: dict[Path, str] = {}
        for path in paths:
            for file, name in _files_below(path):
                found.setdefault(file.resolve(), name)
        return cls([_checked_file(path, name) for path, name in found.items()])

    def __len__(self) -> int:
        """Exchanges in all files."""
        return sum(f.rows for f in self._files)

    @property
    def traffic_files(self) -> tuple[TrafficFile, ...]:
        """The files, in reading order."""
        return self._files

    def files(self) -> tuple[tuple[str, str], ...]:
        """(name, sha256 hex of the bytes) of each file, in reading order."""
        if self._hashes is None:
            self._hashes = tuple((f.name, sha256_of_file(f.path)) for f in self._files)
        return self._hashes

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Streams the exchanges.

        Args:
          columns: only these columns of `SCHEMA`, in the schema's order; None for all.

        Yields:
          Batches of at most about a thousand rows, cast to `SCHEMA`, nulls replaced.

        Raises:
          TrafficError: a file turns out to be damaged.
        """
        fields = [f for f in SCHEMA if columns is None or f.name in columns]
        for file in self._files:
            with (
                _damage_is_a_traffic_error(file.name),
                pq.ParquetFile(file.path, page_checksum_verification=True) as parquet,
            ):
                present = set(parquet.schema_arrow.names)
                wanted = [f.name for f in fields if f.name in present]
                for batch in parquet.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
                    yield _conformed(batch, fields)

    def exchanges(self) -> Iterator[Exchange]:
        """Streams the exchanges as values; slow, for few or for tests."""
        for batch in self.batches():
            yield from exchanges_from_batch(batch)


def sha256_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _next_number(folder: Path, name: str) -> int:
    taken = [
        int(number)
        for p in folder.glob(f"{name}-*.parquet")
        if (number := p.stem.removeprefix(f"{name}-")).isdecimal()
    ]
    return max(taken, default=-1) + 1


def _files_below(path: Path) -> list[tuple[Path, str]]:
    if path.is_file():
        return [(path, path.name)]
    if not path.is_dir():
        raise TrafficError(str(path), "no such file or folder", "Check the path of the traffic.")
    found = sorted(
        relative
        for p in path.rglob("*.parquet")
        if LABELS_FOLDER not in (relative := p.relative_to(path)).parts[:-1]
        and not any(part.startswith(".") for part in relative.parts)
    )
    if not found:
        raise TrafficError(
            str(path),
            "no .parquet file of recorded exchanges below this folder",
            "Give the folder that a recorder or an importer wrote.",
        )
    return [(path / relative, relative.as_posix()) for relative in found]


def _checked_file(path: Path, name: str) -> TrafficFile:
    with _damage_is_a_traffic_error(name), pq.ParquetFile(path) as parquet:
        schema: Any = parquet.schema_arrow
        rows = int(parquet.metadata.num_rows)
    for f in SCHEMA:
        if f.name in schema.names:
            given = schema.field(f.name).type
            if not _castable(given, f.type):
                raise TrafficError(
                    name,
                    f"column '{f.name}' holds {given} where traffic holds {f.type}",
                    "Write it with harness.store.traffic.TrafficWriter or cast the column.",
                )
        elif f.name not in _OPTIONAL:
            raise TrafficError(
                name,
                f"no column '{f.name}' ({nearest(f.name, schema.names)})",
                "Recorded traffic needs "
                + ", ".join(n for n in SCHEMA.names if n not in _OPTIONAL)
                + "; a plain table of inputs must be given as a single file.",
            )
    return TrafficFile(path=path, name=name, rows=rows)


def _castable(given: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_dictionary(given):
        given = given.value_type
    if given == wanted:
        return True
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(given))
    if pa.types.is_string(wanted):
        return bool(pa.types.is_large_string(given) or pa.types.is_string_view(given))
    if pa.types.is_large_binary(wanted):
        return bool(pa.types.is_binary(given) or pa.types.is_binary_view(given))
    return bool(pa.types.is_map(given)) and all(
        _castable(part, pa.string()) for part in (given.key_type, given.item_type)
    )


def _conformed(batch: pa.RecordBatch, fields: Sequence[pa.Field]) -> pa.RecordBatch:
    columns = []
    for f in fields:
        if f.name in batch.schema.names:
            column = batch.column(f.name)
            if column.type != f.type:
                column = column.cast(f.type)
            if column.null_count:
                column = _without_nulls(column)
        else:
            column = _defaults(f.type, len(batch))
        columns.append(column)
    conformed = pa.RecordBatch.from_arrays(columns, schema=pa.schema(list(fields)))
    conformed.validate(full=True)  # Parquet does not promise that strings are UTF-8
    return conformed


def _without_nulls(column: pa.Array) -> pa.Array:
    defaults = _defaults(column.type, 1)[0].as_py()
    return pa.array([defaults if v is None else v for v in column.to_pylist()], column.type)


def _defaults(kind: pa.DataType, count: int) -> pa.Array:
    value: Any = 0
    if pa.types.is_string(kind):
        value = ""
    elif pa.types.is_large_binary(kind):
        value = b""
    elif pa.types.is_map(kind):
        value = []
    return pa.array([value] * count, kind)


@contextmanager
def _damage_is_a_traffic_error(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).split("\n", 1)[0].rstrip(".")
        raise TrafficError(
            name,
            f"cannot be read as Parquet: {first_line}",
            "The file is damaged or cut off; restore it or leave it out.",
        ) from None

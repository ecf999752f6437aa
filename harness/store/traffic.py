"""Recorded traffic as Parquet files: writing exchanges, reading them back as a stream.

A traffic source is a folder, a file or several of both, here or in an object store. Hive path
segments (model=…/date=…, `partitions`) let files be passed over unread; everything the gate needs is
in the columns. Files carry page checksums, so that a damaged file is an error and never a different
request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import TrafficError, nearest
from harness.core.places import Place
from harness.core.recording import RecordingTotals
from harness.core.traffic import Exchange
from harness.store.exchanges import (
    OPTIONAL,
    SCHEMA,
    batch_from_exchanges,
    castable,
    conformed_batch,
    exchanges_from_batch,
)
from harness.store.files import COLUMNS_FILE, damage_is_a_traffic_error, publish
from harness.store.label_rows import LABELS_FOLDER, label_paths
from harness.store.labels import read_labels
from harness.store.places import files_below, is_file, opened, sha256_of
from harness.store.summary import SUMMARY_COLUMNS, TrafficSummary, summarize
from harness.store.totals import not_recorded, read_totals

__all__ = ["SCHEMA", "TrafficFile", "TrafficSource", "TrafficWriter"]

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
      first_number: numbering starts there or later.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "part",
        rows_per_file: int = 65_536,
        bytes_per_file: int = 256 << 20,
        first_number: int = 0,
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
        self._number = max(_next_number(folder, name), first_number)

    @property
    def next_number(self) -> int:
        """Number of the next file."""
        return self._number

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
        publish(self._temporary(), final)
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
        else:
            self.discard()

    def discard(self) -> None:
        """Removes the file that is not finished."""
        if self._writer is not None:
            with suppress(OSError):  # a full disk takes no footer either
                self._writer.close()
            self._writer = None
            self._temporary().unlink(missing_ok=True)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficFile:
    """One Parquet file of exchanges."""

    path: Place
    """Where it lies."""
    name: str
    """As manifests call it: the path below the folder that was given."""
    rows: int
    """Exchanges in it."""
    size_bytes: int
    """Their columns before compression, as the file's footer says."""


class Selection(Protocol):
    """Which exchanges are read; `partitions.TrafficSelection` is one."""

    def may_hold(self, name: PurePosixPath) -> bool:
        """Whether a file, by its path below the folder given, may hold chosen exchanges."""

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The chosen rows of a batch that has the columns model and ts_ns."""


class TrafficSource:
    """Recorded exchanges by file name, then by row: only footers are read before `batches`, which reads one at a time."""

    together = 0
    """They are as they were recorded (`sealing.ExchangeSource`)."""

    def __init__(
        self,
        files: Sequence[TrafficFile],
        labels: Sequence[Place] = (),
        selection: Selection | None = None,
        totals: Sequence[RecordingTotals] = (),
    ) -> None:
        self.totals = tuple(totals)
        """Of the recorders that wrote the traffic."""
        self._files = tuple(files)
        self._labels = tuple(labels)
        self._selection = selection
        self._hashes: tuple[tuple[str, str], ...] | None = None

    @classmethod
    def open(cls, paths: Sequence[Place], selection: Selection | None = None) -> TrafficSource:
        """Finds the files and checks their columns.

        Args:
          paths: folders (every .parquet below them except below labels/) and files.
          selection: read only these exchanges; files whose folders say that they hold none are not
            opened. None for all.

        Raises:
          TrafficError: missing path, folder without Parquet files, damaged file, wrong columns, nothing
            selected, or an object store that cannot be read.
        """
        found: dict[Place, str] = {}
        for path in paths:
            for file, name in _files_below(path):
                if selection is None or selection.may_hold(PurePosixPath(name)):
                    found.setdefault(_real(file), name)
        if not found:
            raise TrafficError(
                ", ".join(str(p) for p in paths),
                "no file may hold the model and the time asked for",
                "Ask for another model or time.",
            )
        return cls(
            [_checked_file(path, name) for path, name in found.items()],
            [label for path in paths for label in label_paths(path)],
            selection,
            read_totals(paths),
        )

    def __len__(self) -> int:
        """Exchanges in all files; with a selection at most so many are read."""
        return sum(f.rows for f in self._files)

    @property
    def size_bytes(self) -> int:
        """All columns before compression, about."""
        return sum(f.size_bytes for f in self._files)

    @property
    def labels(self) -> tuple[Place, ...]:
        """Label files that lie in the folders given."""
        return self._labels

    @property
    def traffic_files(self) -> tuple[TrafficFile, ...]:
        """The files, in reading order."""
        return self._files

    def files(self) -> tuple[tuple[str, str], ...]:
        """(name, sha256 hex of the bytes) of each file, in reading order."""
        if self._hashes is None:
            self._hashes = tuple((f.name, sha256_of(f.path)) for f in self._files)
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
        chosen_by = () if self._selection is None else ("model", "ts_ns")
        read = [f for f in SCHEMA if f in fields or f.name in chosen_by]
        for file in self._files:
            with (
                damage_is_a_traffic_error(str(file.path), "Parquet"),
                opened(file.path) as content,
                pq.ParquetFile(content, page_checksum_verification=True) as parquet,
            ):
                present = set(parquet.schema_arrow.names)
                wanted = [f.name for f in read if f.name in present]
                for batch in parquet.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
                    conformed = conformed_batch(batch, read)
                    if self._selection is not None:
                        conformed = self._selection.of(conformed)
                    yield conformed.select([f.name for f in fields])

    def summary(self) -> TrafficSummary:
        """Counts what the source holds, labels of the folder included; one pass.

        Raises:
          TrafficError: a file turns out to be damaged.
        """
        counted = summarize(self.batches(SUMMARY_COLUMNS), len(self._files))
        labels = read_labels(self._labels, None)
        labelled = unknown = 0
        if len(labels):
            known: set[int] = set()
            for batch in self.batches(["request_id"]):
                at = labels.ids.lookup(batch.column("request_id").to_numpy(zero_copy_only=False))
                labelled += int((at >= 0).sum())
                known.update(at[at >= 0].tolist())
            unknown = len(labels) - len(known)
        return replace(
            counted,
            label_files=len(self._labels),
            labels=labels.read,
            labelled=labelled,
            labels_unknown=unknown,
            recorders=self.totals,
        )

    def not_recorded(self) -> tuple[tuple[str, int], ...]:
        """(reason, count) of requests that its recorders saw and did not record."""
        return not_recorded(self.totals)

    def exchanges(self) -> Iterator[Exchange]:
        """Streams the exchanges as values; slow, for few or for tests."""
        for batch in self.batches():
            yield from exchanges_from_batch(batch)


def _next_number(folder: Path, name: str) -> int:
    taken = [
        int(number)
        for p in folder.glob(f"{name}-*.parquet")
        if (number := p.stem.removeprefix(f"{name}-")).isdecimal()
    ]
    return max(taken, default=-1) + 1


def _real(file: Place) -> Place:
    """One name for each file; a link that leads nowhere is told when it is read."""
    return Path(os.path.realpath(file)) if isinstance(file, Path) else file


def _files_below(path: Place) -> list[tuple[Place, str]]:
    if is_file(path):
        return [(path, path.name)]
    if isinstance(path, Path) and is_file(path / COLUMNS_FILE):
        raise TrafficError(
            str(path), "is a sealed window and no recorded traffic", "Give it to a gate as it is."
        )
    if isinstance(path, Path) and not path.is_dir():
        raise TrafficError(str(path), "no such file or folder", "Check the path of the traffic.")
    found = [
        relative
        for relative in files_below(path, ".parquet")
        if LABELS_FOLDER not in relative.parts[:-1]
        # a sealed window's verbatim bytes; windows lie on this machine only
        and not (isinstance(path, Path) and is_file(path / relative.parent / COLUMNS_FILE))
    ]
    if not found:
        raise TrafficError(
            str(path),
            "no .parquet file of recorded exchanges below this folder",
            "Give the folder that a recorder or an importer wrote.",
        )
    return [(path / str(relative), str(relative)) for relative in found]


def _checked_file(path: Place, name: str) -> TrafficFile:
    with (
        damage_is_a_traffic_error(str(path), "Parquet"),
        opened(path) as content,
        pq.ParquetFile(content) as parquet,
    ):
        schema: Any = parquet.schema_arrow
        rows = int(parquet.metadata.num_rows)
        groups = range(parquet.metadata.num_row_groups)
        size = sum(int(parquet.metadata.row_group(g).total_byte_size) for g in groups)
    for f in SCHEMA:
        if f.name in schema.names:
            given = schema.field(f.name).type
            if not castable(given, f.type):
                raise TrafficError(
                    str(path),
                    f"column '{f.name}' holds {given} where traffic holds {f.type}",
                    "Write it with harness.store.traffic.TrafficWriter or cast the column.",
                )
        elif f.name not in OPTIONAL:
            raise TrafficError(
                str(path),
                f"no column '{f.name}' ({nearest(f.name, schema.names)})",
                "Recorded traffic needs "
                + ", ".join(n for n in SCHEMA.names if n not in OPTIONAL)
                + "; a plain table of inputs must be given as a single file.",
            )
    return TrafficFile(path=path, name=name, rows=rows, size_bytes=size)

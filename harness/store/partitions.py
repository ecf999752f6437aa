"""Recorded traffic in folders by model and hour: `model=…/date=…/hour=…/<writer>-<n>.parquet`.

Hours have two digits, so that names stand in the order of time; those of one digit are read as well.
The folders let other tools and `TrafficSelection` pass over files unread; what an exchange is, its
columns alone say. Files for an object store are written into a local spool, uploaded when they are
whole, and removed there; a spool that a killed writer left is uploaded by the next one of that name.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from harness.core.places import ObjectPlace, Place
from harness.core.traffic import Exchange
from harness.store.places import files_below, move
from harness.store.traffic import TrafficWriter

HOUR_NS = 3_600_000_000_000

PARTITION_SCHEMA = pa.schema(
    [pa.field("model", pa.string()), pa.field("date", pa.date32()), pa.field("hour", pa.int8())]
)
"""What the folder names mean; readers that guess take a model called 7 for a number."""

_HOURS = range(24)
_NO_MODEL = "__HIVE_DEFAULT_PARTITION__"
_MOST_OPEN = 16
_LONGEST_NAME = 160
"""Longer folder names end in a digest of the model's name: a file system takes 255 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSelection:
    """Which exchanges of a source are read."""

    model: str | None = None
    """Only those that asked for this model; None = any."""
    since_ns: int | None = None
    """Only those that arrived then or later; None = no limit."""
    until_ns: int | None = None
    """Only those that arrived before; None = no limit."""

    def may_hold(self, name: PurePosixPath) -> bool:
        """Whether a file, by the folders it lies in, may hold chosen exchanges."""
        found = partition_of(name)
        model, start = found.get("model", ""), found.get("date")
        if (
            self.model is not None
            and "model" in found
            and (model or _NO_MODEL) != unquote(_folder_name(self.model))
        ):
            return False
        if not isinstance(start, date):
            return True
        hour = found.get("hour")
        if hour is not None and hour not in _HOURS:
            return True  # somebody else's folders, which say nothing here
        first = int(datetime(start.year, start.month, start.day, hour or 0, tzinfo=UTC).timestamp())
        first_ns = first * 1_000_000_000
        length_ns = 24 * HOUR_NS if hour is None else HOUR_NS
        return not (
            (self.since_ns is not None and first_ns + length_ns <= self.since_ns)
            or (self.until_ns is not None and first_ns >= self.until_ns)
        )

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The chosen rows of a batch that has the columns model and ts_ns."""
        tests = []
        if self.model is not None:
            tests.append(pc.equal(batch.column("model"), self.model))
        if self.since_ns is not None:
            tests.append(pc.greater_equal(batch.column("ts_ns"), self.since_ns))
        if self.until_ns is not None:
            tests.append(pc.less(batch.column("ts_ns"), self.until_ns))
        return batch.filter(functools.reduce(pc.and_, tests)) if tests else batch


def partition_folder(model: str, ts_ns: int) -> PurePosixPath:
    """The folder of an exchange, below the traffic's.

    Args:
      model: its name; any text, percent-encoded where a path cannot hold it, cut where it is too long.
      ts_ns: when the request arrived, nanoseconds since the epoch.
    """
    at = datetime.fromtimestamp(ts_ns // 1_000_000_000, UTC)
    return PurePosixPath(f"model={_folder_name(model)}/date={at:%Y-%m-%d}/hour={at:%H}")


@functools.lru_cache(maxsize=256)
def _folder_name(model: str) -> str:
    named = quote(model, safe="", errors="surrogatepass") or _NO_MODEL
    if len(named) <= _LONGEST_NAME:
        return named
    digest = hashlib.sha256(model.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    # Whole characters: half an escape would be read as another name.
    kept = model[:_LONGEST_NAME]
    while len(start := quote(kept, safe="", errors="surrogatepass")) + len(digest) >= _LONGEST_NAME:
        kept = kept[:-1]
    return f"{start}~{digest}"


def partition_of(name: PurePosixPath) -> dict[str, Any]:
    """What a file's folders say: model (None = unnamed), date, hour; keys that they do not say are left out."""
    from pyarrow import dataset

    scheme = dataset.HivePartitioning(PARTITION_SCHEMA, null_fallback=_NO_MODEL)
    try:
        return dict(dataset.get_partition_keys(scheme.parse(str(name.parent) + "/")))
    except (pa.ArrowInvalid, ValueError):
        return {}  # date=yesterday: somebody else's folders, which say nothing here


class PartitionedWriter:
    """Writes exchanges into the hive layout, on this machine or in an object store.

    Use as a context manager or call `close`. Files appear whole or not at all.

    Args:
      out: the traffic's folder or prefix.
      name: prefix of the file names, one per concurrent writer.
      spool: local folder where files for an object store are made; needed for one only.
      rows_per_file: a file is closed when it holds that many exchanges,
      bytes_per_file: or that many request and response bytes.

    Raises:
      TrafficError: the store cannot be reached or refuses.
    """

    def __init__(
        self,
        out: Place,
        *,
        name: str = "part",
        spool: Path | None = None,
        rows_per_file: int = 65_536,
        bytes_per_file: int = 256 << 20,
    ) -> None:
        if isinstance(out, ObjectPlace) and spool is None:
            msg = "an object store needs a spool"
            raise ValueError(msg)
        self._out = out
        self._root = out if isinstance(out, Path) else (spool or Path())
        self._name = name
        self._limits = (rows_per_file, bytes_per_file)
        self._open: OrderedDict[PurePosixPath, TrafficWriter] = OrderedDict()
        self._files: list[Place] = []
        self._root.mkdir(parents=True, exist_ok=True)
        self._numbers: dict[PurePosixPath, int] = {}
        if isinstance(out, ObjectPlace):
            for waiting in files_below(self._root, ".parquet"):
                self._publish(waiting)
            self._numbers = _next_numbers(out, name)

    @property
    def files(self) -> tuple[Place, ...]:
        """Files published so far."""
        return tuple(self._files)

    def write(self, exchanges: Iterable[Exchange]) -> None:
        """Appends exchanges, in the order given."""
        for exchange in exchanges:
            folder = partition_folder(exchange.model, exchange.ts_ns)
            self._writer(folder).write([exchange])
            if len(self._open) > _MOST_OPEN:
                self._close(next(iter(self._open)))

    def rotate(self) -> None:
        """Publishes what was written so far."""
        for folder in list(self._open):
            self._close(folder)

    def close(self) -> None:
        """Publishes the last files."""
        self.rotate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            for writer in self._open.values():
                writer.discard()

    def _writer(self, folder: PurePosixPath) -> TrafficWriter:
        writer = self._open.get(folder)
        if writer is None:
            rows, size = self._limits
            writer = self._open[folder] = TrafficWriter(
                self._root / folder, name=self._name, rows_per_file=rows, bytes_per_file=size,
                first_number=self._numbers.get(folder, 0),
            )  # fmt: skip
        self._open.move_to_end(folder)
        return writer

    def _close(self, folder: PurePosixPath) -> None:
        writer = self._open[folder]
        writer.close()
        del self._open[folder]
        for file in writer.files:
            self._publish(folder / file.name)
        self._numbers[folder] = writer.next_number

    def _publish(self, name: PurePosixPath) -> None:
        """Gives a whole file its place; on this machine it lies there already."""
        if isinstance(self._out, ObjectPlace):
            move(self._root / name, self._out / str(name))
        self._files.append(self._out / str(name))


def _next_numbers(out: Place, name: str) -> dict[PurePosixPath, int]:
    """Per folder the number after the last file of that writer's."""
    found: dict[PurePosixPath, int] = {}
    for file in files_below(out, ".parquet"):
        number = file.stem.removeprefix(f"{name}-")
        if file.stem != number and number.isdecimal():
            found[file.parent] = max(found.get(file.parent, 0), int(number) + 1)
    return found

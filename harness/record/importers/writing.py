"""Staged exchanges → Parquet files in the hive layout, each exchange in exactly one file.

A file's rows are noted for good before it is written, and it has the same name and rows however often
that is tried: a kill between any two steps leaves nothing lost and nothing twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.core.places import Place
from harness.record.importers.staging import Staging
from harness.store.partitions import HOUR_NS, partition_folder
from harness.store.places import move
from harness.store.traffic import TrafficWriter

_FILE_ROWS = 16_384
_FILE_BYTES = 64 << 20


def write_staged(
    staging: Staging, to: Place, *, writer: str, spool: Path, one_sided_until_ns: int
) -> None:
    """Writes what is whole, and requests that have waited long enough for their answer.

    Args:
      staging: the staged exchanges.
      to: the traffic's folder or prefix.
      writer: prefix of the file names.
      spool: local folder for files that are being made; emptied.
      one_sided_until_ns: requests without an answer are written when they are older than this; see
        `Staging.waiting`.

    Raises:
      TrafficError: the store refuses.
    """
    for number, folder, name in staging.begun_files():
        _write(staging, number, to, folder, name, spool)
    for folder, rows in _groups(staging, one_sided_until_ns):
        name = f"{writer}-{{number:05d}}.parquet"
        number = staging.begin_file(folder, name, rows)
        _write(staging, number, to, folder, name.format(number=number), spool)


def _groups(staging: Staging, one_sided_until_ns: int) -> Iterator[tuple[str, list[int]]]:
    """(folder, row ids) of the next file, until nothing waits."""
    while True:
        own, size = ("", 0), 0
        rows: list[int] = []
        for row, model, ts_ns, length in staging.waiting(one_sided_until_ns):
            found = (model, ts_ns // HOUR_NS)
            if rows and (found != own or len(rows) >= _FILE_ROWS or size + length > _FILE_BYTES):
                break
            own = found
            rows.append(row)
            size += length
        if not rows:
            return
        yield str(partition_folder(own[0], own[1] * HOUR_NS)), rows


def _write(staging: Staging, number: int, to: Place, folder: str, name: str, spool: Path) -> None:
    shutil.rmtree(spool, ignore_errors=True)
    with TrafficWriter(
        spool, name="file", rows_per_file=_FILE_ROWS + 1, bytes_per_file=1 << 40
    ) as writer:
        writer.write(staging.exchanges_of(number))
    (file,) = spool.glob("*.parquet")
    move(file, to / folder / name)
    staging.end_file(number)

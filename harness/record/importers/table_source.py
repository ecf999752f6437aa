"""The rows of a file by its ending: Parquet, CSV or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.record.importers.csv_source import csv_rows
from harness.record.importers.parquet_source import parquet_rows
from harness.record.importers.parts import Refused
from harness.record.importers.sources import CUT, Record, SourceFile, json_lines, the_rest


def table_rows(file: SourceFile, limit: int, needed: Sequence[str]) -> Iterator[Record | Refused]:
    """The rows of a Parquet, CSV or JSON-lines file, by its ending."""
    name = file.name.removesuffix(".gz")
    if file.missing:
        return iter([the_rest(f"{name}:1", f"{CUT}: {file.missing}", None)])
    if name.endswith(".parquet"):
        return parquet_rows(file, limit, needed)
    if name.endswith(".csv"):
        return csv_rows(file, limit, needed)
    return json_lines(file, limit)

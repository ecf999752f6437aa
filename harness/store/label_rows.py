"""Label files: their columns, where they lie, writing one, and reading its rows a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.core.errors import TrafficError, nearest
from harness.core.places import Place
from harness.core.tensors import Floats, Ints, Strings
from harness.store.files import damage_is_a_traffic_error, publish
from harness.store.places import files_below, is_file, opened, sha256_of

LABELS_FOLDER = "labels"
"""Folder of delayed labels inside a traffic folder; its Parquet files are no exchanges."""

NEVER_NS = 2**63 - 1
"""Ingestion time of a request without a label: later than any `as_of`."""

SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("label", pa.float64(), nullable=False),
        pa.field("event_ts_ns", pa.int64(), nullable=False),
        pa.field("label_event_ts_ns", pa.int64(), nullable=False),
        pa.field("ingestion_ts_ns", pa.int64(), nullable=False),
    ]
)
"""One row a label: the request, its label, when the request was made, when the labelled event
happened, when the label arrived; times in nanoseconds since the epoch, UTC."""

LABEL_EVENT = "label_event_ts_ns"
_NEEDED = ("request_id", "label", "ingestion_ts_ns")


def label_paths(traffic_path: Place) -> tuple[Place, ...]:
    """Label files that lie in a traffic folder; none for a single file."""
    if isinstance(traffic_path, Path) and not traffic_path.is_dir():
        return ()
    return tuple(
        traffic_path / str(p)
        for p in files_below(traffic_path, ".parquet")
        if LABELS_FOLDER in p.parts[:-1]
    )


def write_labels(
    path: Path,
    *,
    request_id: Strings,
    label: Floats,
    event_ts_ns: Ints,
    label_event_ts_ns: Ints,
    ingestion_ts_ns: Ints,
) -> None:
    """Writes one label file, whole or not at all; the columns are those of `SCHEMA`, shape (n,)."""
    table = pa.table(
        {
            "request_id": pa.array(request_id, pa.string()),
            "label": pa.array(label, pa.float64()),
            "event_ts_ns": event_ts_ns,
            "label_event_ts_ns": label_event_ts_ns,
            "ingestion_ts_ns": ingestion_ts_ns,
        },
        schema=SCHEMA,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    publish(temporary, path)


def label_rows(file: Place, more: str = "") -> Iterator[pa.Table]:
    """The needed columns of a label file, a batch at a time.

    Args:
      file: Parquet.
      more: one more column; a file without it gives nothing.
    """
    with (
        damage_is_a_traffic_error(str(file), "Parquet"),
        opened(file) as content,
        pq.ParquetFile(content, page_checksum_verification=True) as parquet,
    ):
        _check_columns(file, parquet.schema_arrow)
        if more and more not in parquet.schema_arrow.names:
            return
        columns = [*_NEEDED, *([more] if more else [])]
        for batch in parquet.iter_batches(columns=columns, use_threads=False):
            yield _cast(file, batch)


def hashed(files: Sequence[Place]) -> tuple[tuple[str, str], ...]:
    """(file name, sha256 hex) of each file."""
    return tuple((file.name, sha256_of(file)) for file in files)


def files_of(path: Place) -> list[Place]:
    """The label files that a path means.

    Raises:
      TrafficError: there is none.
    """
    if is_file(path):
        return [path]
    folder = not isinstance(path, Path) or path.is_dir()
    found: list[Place] = [path / str(p) for p in files_below(path, ".parquet")] if folder else []
    if not found:
        raise TrafficError(
            str(path), "no label file here", "Give a .parquet file or a folder of them."
        )
    return found


def _check_columns(file: Place, schema: pa.Schema) -> None:
    for name in _NEEDED:
        if name not in schema.names:
            raise TrafficError(
                str(file),
                f"no column '{name}' ({nearest(name, schema.names)})",
                f"A label file has the columns {', '.join(SCHEMA.names)}.",
            )


def _cast(file: Place, batch: pa.RecordBatch) -> pa.Table:
    columns = {}
    for name in batch.schema.names:
        wanted = SCHEMA.field(name).type
        found = batch.column(name)
        try:
            columns[name] = found.cast(pa.large_string() if name == "request_id" else wanted)
        except pa.ArrowException:
            raise TrafficError(
                str(file),
                f"column '{name}' holds {found.type} where label files hold {wanted}",
                "Cast the column, or import the labels: see harness labels import --help.",
            ) from None
    try:
        columns["request_id"].validate(full=True)  # not every writer checks its text
    except pa.ArrowInvalid:
        raise TrafficError(
            str(file), "column 'request_id' holds what is no UTF-8 text", "Write the ids as text."
        ) from None
    return pa.table(columns)


def is_valid(table: pa.Table) -> pa.ChunkedArray:
    """Which rows have a finite label, a request id and an arrival time."""
    number = pc.and_(pc.is_valid(table["label"]), pc.is_finite(table["label"]))
    named = pc.and_(pc.is_valid(table["request_id"]), pc.is_valid(table["ingestion_ts_ns"]))
    return pc.fill_null(pc.and_(number, named), False)

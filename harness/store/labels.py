"""Delayed labels: a table of their own beside the traffic, joined by request id.

A label has three times: the request's, the labelled event's, and when the label arrived. Only the
last says what the gate could have known: `as_of` cuts on it. Labels that were corrected later
appear again.

`read_labels` keeps the last label of each request that arrived by one instant. A gate needs another
one, `join_labels`: the last that arrived within the maturity after its request. The last of all was
tried there and left: the same labels delivered a second time, after the maturity, emptied the cohort,
and a verdict depended on when one looked.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.core.errors import TrafficError, nearest
from harness.core.places import Place
from harness.core.tensors import Bools, Floats, Ints, Strings
from harness.store.files import damage_is_a_traffic_error, publish
from harness.store.ids import IdIndex
from harness.store.places import files_below, is_file, opened, sha256_of

LABELS_FOLDER = "labels"
"""Folder of delayed labels inside a traffic folder; its Parquet files are no exchanges."""

NEVER_NS = 2**63 - 1
"""Ingestion time of a request without a label: later than any `as_of`."""

_NOT_YET_NS = -(2**63)

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

_EVENT = "label_event_ts_ns"
_NEEDED = ("request_id", "label", "ingestion_ts_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """One label a request, as known at one instant."""

    ids: IdIndex
    """The labelled requests, sorted by id."""
    label: Floats
    """Label of each, never NaN, shape (n,)."""
    ingestion_ns: Ints
    """When each arrived, shape (n,)."""
    read: int
    """Rows in the label files."""
    after_as_of: int
    """Of these: arrived after `as_of`, not used."""
    duplicates: int
    """Of these: another label of the same request arrived later, still by `as_of`."""
    invalid: int
    """Of these: no finite number, no request id or no arrival time."""
    files: tuple[tuple[str, str], ...]
    """(file name, sha256 hex)."""

    def __len__(self) -> int:
        """Labelled requests."""
        return len(self.label)

    def join(self, request_ids: Strings) -> tuple[Floats, Ints]:
        """Labels of these requests.

        Args:
          request_ids: shape (m,).

        Returns:
          Labels, NaN where there is none, and ingestion times, NEVER_NS where there is none; both (m,).
        """
        at = self.ids.lookup(request_ids)
        known = at >= 0
        label = np.full(len(at), np.nan)
        ingestion = np.full(len(at), NEVER_NS, np.int64)
        label[known] = self.label[at[known]]
        ingestion[known] = self.ingestion_ns[at[known]]
        return label, ingestion

    def unknown(self, request_ids: Strings) -> int:
        """How many labels belong to none of these requests."""
        at = self.ids.lookup(request_ids)
        return len(self) - len(np.unique(at[at >= 0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedLabels:
    """At most one label for each of n requests; every row of the files is counted exactly once."""

    label: Floats
    """The last label that arrived in time, NaN where none did, shape (n,)."""
    late: Bools
    """No label arrived in time, but one did later, by `as_of`, shape (n,)."""
    corrected: Bools
    """A label arrived in time, and the last one that arrived later, by `as_of`, says otherwise, shape (n,)."""
    file: Ints
    """Index in `files` of the file that holds the label, −1 without one, shape (n,)."""
    read: int
    """Rows in the label files = labelled requests + the five counts below."""
    superseded: int
    """Rows in time whose request has a label that arrived later, still in time."""
    late_rows: int
    """Rows that arrived after the maturity, by `as_of`: corrections that come too late and deliveries again."""
    after_as_of: int
    """Rows that arrived after `as_of`."""
    unknown: int
    """Rows of none of these requests, by `as_of`."""
    invalid: int
    """Rows without a finite number, a request id or an arrival time."""
    files: tuple[tuple[str, str], ...]
    """(file name, sha256 hex)."""
    paths: tuple[Place, ...]
    """Where each of `files` lies."""


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


def read_labels(paths: Sequence[Place], as_of_ns: int | None) -> Labels:
    """Reads label files as they were known at one instant.

    Args:
      paths: label files, or folders of them; may be empty.
      as_of_ns: labels that arrived later are not used; None for no limit.

    Raises:
      TrafficError: missing path, damaged file, wrong columns.
    """
    read = after = invalid = 0
    parts: list[pa.Table] = []
    files = [file for path in paths for file in _files_of(path)]
    for file in files:
        for table in _rows(file):
            read += len(table)
            valid = table.filter(_is_valid(table))
            invalid += len(table) - len(valid)
            known = valid
            if as_of_ns is not None:
                known = valid.filter(pc.less_equal(valid["ingestion_ts_ns"], as_of_ns))
            after += len(valid) - len(known)
            parts.append(known)
    last = _last_of_each(pa.concat_tables(parts) if parts else SCHEMA.empty_table())
    return Labels(
        ids=IdIndex(last["request_id"].combine_chunks()),
        label=last["label"].to_numpy(),
        ingestion_ns=last["ingestion_ts_ns"].to_numpy(),
        read=read,
        after_as_of=after,
        duplicates=read - after - invalid - len(last),
        invalid=invalid,
        files=_hashed(files),
    )


def join_labels(
    paths: Sequence[Place], ids: IdIndex, ts_ns: Ints, *, maturity_ns: int, as_of_ns: int
) -> JoinedLabels:
    """For each request the last label that arrived by min(as_of, request time + maturity).

    Labels are streamed: memory grows with the requests, by 49 bytes each, and not with the labels.

    Args:
      paths: label files, or folders of them; may be empty.
      ids: the n requests.
      ts_ns: when each was made, by its position in `ids`, shape (n,).
      maturity_ns: age at which a label counts, ≥ 0.
      as_of_ns: the instant whose knowledge counts.

    Raises:
      TrafficError: missing path, damaged file, wrong columns.
    """
    label = np.full(len(ids), np.nan)
    arrived = np.full(len(ids), _NOT_YET_NS, np.int64)
    from_file = np.full(len(ids), -1, np.int64)
    late_label, late_arrived = np.full(len(ids), np.nan), np.full(len(ids), _NOT_YET_NS, np.int64)
    counts: Counter[str] = Counter()
    # A request made so late that its maturity has no number any more is never old enough.
    maturity_ns = min(maturity_ns, NEVER_NS)
    in_time_until = np.minimum(ts_ns, NEVER_NS - maturity_ns) + maturity_ns
    files = [file for path in paths for file in _files_of(path)]
    for number, file in enumerate(files):
        for table in _rows(file):
            counts["read"] += len(table)
            valid = table.filter(_is_valid(table))
            known = valid.filter(pc.less_equal(valid["ingestion_ts_ns"], as_of_ns))
            counts["invalid"] += len(table) - len(valid)
            counts["after"] += len(valid) - len(known)
            at = ids.lookup(known["request_id"].to_numpy())
            counts["unknown"] += int((at < 0).sum())
            y, ingested = (
                known["label"].to_numpy()[at >= 0],
                known["ingestion_ts_ns"].to_numpy()[at >= 0],
            )
            at = at[at >= 0]
            timely = ingested <= in_time_until[at]
            counts["late"] += int((~timely).sum())
            _keep_last(late_label, late_arrived, at[~timely], y[~timely], ingested[~timely])
            used = _keep_last(label, arrived, at[timely], y[timely], ingested[timely])
            from_file[used] = number
    labelled = from_file >= 0
    late = ~np.isnan(late_label)
    spent = counts["late"] + counts["after"] + counts["unknown"] + counts["invalid"]
    return JoinedLabels(
        label=label,
        late=late & ~labelled,
        corrected=late & labelled & (late_label != label),
        file=from_file,
        read=counts["read"],
        superseded=counts["read"] - spent - int(labelled.sum()),
        late_rows=counts["late"],
        after_as_of=counts["after"],
        unknown=counts["unknown"],
        invalid=counts["invalid"],
        files=_hashed(files),
        paths=tuple(files),
    )


def first_arrivals(paths: Sequence[Place], ids: IdIndex, as_of_ns: int) -> Ints:
    """When the first label of each request arrived.

    Args:
      paths: label files, or folders of them; may be empty.
      ids: the n requests.
      as_of_ns: labels that arrived later are not known.

    Returns:
      Nanoseconds since the epoch, NEVER_NS where none arrived, shape (n,).

    Raises:
      TrafficError: missing path, damaged file, wrong columns.
    """
    first = np.full(len(ids), NEVER_NS, np.int64)
    for file in (f for path in paths for f in _files_of(path)):
        for table in _rows(file):
            valid = table.filter(_is_valid(table))
            known = valid.filter(pc.less_equal(valid["ingestion_ts_ns"], as_of_ns))
            at = ids.lookup(known["request_id"].to_numpy())
            np.minimum.at(first, at[at >= 0], known["ingestion_ts_ns"].to_numpy()[at >= 0])
    return first


def label_events(paths: Sequence[Place], ids: IdIndex, first: Ints) -> Ints:
    """When what the first label of each request is about happened.

    Args:
      paths: as for `first_arrivals`.
      ids: the n requests.
      first: from `first_arrivals`, shape (n,).

    Returns:
      Nanoseconds since the epoch, NEVER_NS where the files do not say, shape (n,).

    Raises:
      TrafficError: missing path, damaged file, wrong columns.
    """
    event = np.full(len(ids), NEVER_NS, np.int64)
    for file in (f for path in paths for f in _files_of(path)):
        for table in _rows(file, _EVENT):
            known = table.filter(pc.and_(_is_valid(table), pc.is_valid(table[_EVENT])))
            at = ids.lookup(known["request_id"].to_numpy())
            arrived = known["ingestion_ts_ns"].to_numpy()
            its = np.flatnonzero((at >= 0) & (arrived == first[at]))
            np.minimum.at(event, at[its], known[_EVENT].to_numpy()[its])
    return event


def _rows(file: Place, more: str = "") -> Iterator[pa.Table]:
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


def _hashed(files: Sequence[Place]) -> tuple[tuple[str, str], ...]:
    return tuple((file.name, sha256_of(file)) for file in files)


def _keep_last(label: Floats, arrived: Ints, at: Ints, y: Floats, ingested: Ints) -> Ints:
    """Puts labels in place of those that arrived before them.

    Args:
      label: the label so far by position, shape (n,); changed.
      arrived: when it arrived, shape (n,); changed.
      at: positions of new labels, shape (m,).
      y: the new labels, shape (m,).
      ingested: when each arrived, shape (m,).

    Returns:
      The positions whose label is now a new one.
    """
    last = _last_by_position(at, ingested)
    at, y, ingested = at[last], y[last], ingested[last]
    newer = ingested >= arrived[at]
    at = at[newer]
    label[at], arrived[at] = y[newer], ingested[newer]
    return at


def _last_by_position(at: Ints, ingested: Ints) -> Ints:
    """Indices of the row of each position that arrived last; of equal times the one read last."""
    order = np.lexsort((np.arange(len(at)), ingested, at))
    ends = np.flatnonzero(np.diff(at[order], append=-1))
    found: Ints = order[ends]
    return found


def _files_of(path: Place) -> list[Place]:
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
    return pa.table(columns)


def _is_valid(table: pa.Table) -> pa.ChunkedArray:
    number = pc.and_(pc.is_valid(table["label"]), pc.is_finite(table["label"]))
    named = pc.and_(pc.is_valid(table["request_id"]), pc.is_valid(table["ingestion_ts_ns"]))
    return pc.fill_null(pc.and_(number, named), False)


def _last_of_each(table: pa.Table) -> pa.Table:
    """The row of each request that arrived last; of equal times the one read last."""
    order = pa.array(np.arange(len(table)))
    by_id = table.append_column("order", order).sort_by(
        [("request_id", "ascending"), ("ingestion_ts_ns", "ascending"), ("order", "ascending")]
    )
    if len(by_id) == 0:
        return by_id
    ids = by_id["request_id"].combine_chunks()
    changes = pc.not_equal(ids[:-1], ids[1:]).to_numpy(zero_copy_only=False)
    return by_id.filter(pa.array(np.append(changes, True)))

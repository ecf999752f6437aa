"""What a traffic source holds, counted in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.core.recording import RecordingTotals
from harness.core.tensors import Ints
from harness.store.exchanges import context_columns
from harness.store.ids import hashes

SUMMARY_COLUMNS = (
    "ts_ns",
    "code",
    "model",
    "version",
    "request_id",
    "request",
    "response",
    "context",
)
"""Columns of `exchanges.SCHEMA` that a summary reads."""

_VALUES_SHOWN = 20
_VALUES_COUNTED = 10_000
Counts = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSummary:
    """One context column."""

    column: str
    """Its name."""
    values: Counts
    """The most frequent values, most frequent first."""
    distinct: int
    """Different values; counting ends at 10,000."""
    missing: int
    """Exchanges without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSummary:
    """Counts over all exchanges of a source."""

    count: int
    """Exchanges."""
    first_ts_ns: int
    """Earliest request; 0 when empty."""
    last_ts_ns: int
    """Latest request; 0 when empty."""
    models: Counts
    """(model name, count), most frequent first."""
    versions: Counts
    """(version that answered, count)."""
    codes: Counts
    """(gRPC status code, count)."""
    context: tuple[ContextSummary, ...]
    """By column name."""
    request_bytes: int
    """Serialized requests together."""
    response_bytes: int
    """Serialized responses together."""
    files: int
    """Parquet files of exchanges."""
    duplicates: int
    """Exchanges whose request id an earlier one has; the first is the one that counts."""
    without_id: int
    """Exchanges with an empty request id; they cannot be replayed or labelled."""
    label_files: int = 0
    """Label files in the folder."""
    labels: int = 0
    """Rows in them."""
    labelled: int = 0
    """Exchanges with a label, whenever it arrived."""
    labels_unknown: int = 0
    """Labels of requests that are not in the traffic."""
    recorders: tuple[RecordingTotals, ...] = ()
    """What the recorders that wrote it say of themselves."""


@dataclass(slots=True)
class _Running:
    spans: list[tuple[int, int]] = field(default_factory=list)
    words: dict[str, Counter[str]] = field(default_factory=dict)
    context: dict[str, Counter[str]] = field(default_factory=dict)
    present: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    hashes: list[Ints] = field(default_factory=list)
    without_id: int = 0


def summarize(batches: Iterable[pa.RecordBatch], files: int) -> TrafficSummary:
    """Counts exchanges.

    Args:
      batches: `SUMMARY_COLUMNS` of `exchanges.SCHEMA`.
      files: how many files they come from.
    """
    running = _Running()
    for batch in batches:
        _add(running, batch)
    keys = np.concatenate(running.hashes) if running.hashes else np.empty(0, np.int64)
    count = len(keys) + running.without_id
    return TrafficSummary(
        count=count,
        first_ts_ns=min((first for first, _ in running.spans), default=0),
        last_ts_ns=max((last for _, last in running.spans), default=0),
        models=_most_common(running.words.get("model", Counter())),
        versions=_most_common(running.words.get("version", Counter())),
        codes=_most_common(running.words.get("code", Counter())),
        context=tuple(
            ContextSummary(
                column=column,
                values=_most_common(values),
                distinct=len(values),
                missing=count - running.present[column],
            )
            for column, values in sorted(running.context.items())
        ),
        request_bytes=running.sizes["request"],
        response_bytes=running.sizes["response"],
        files=files,
        duplicates=len(keys) - len(np.unique(keys)),
        without_id=running.without_id,
    )


def _add(running: _Running, batch: pa.RecordBatch) -> None:
    if len(batch) == 0:
        return
    ts = batch.column("ts_ns").to_numpy()
    running.spans = [
        (
            min([int(ts.min()), *(first for first, _ in running.spans)]),
            max([int(ts.max()), *(last for _, last in running.spans)]),
        )
    ]
    for column in ("model", "version", "code"):
        words = running.words.setdefault(column, Counter())
        for entry in pc.value_counts(batch.column(column)).to_pylist():
            words[str(entry["values"])] += entry["counts"]
    for column in ("request", "response"):
        running.sizes[column] += pc.sum(pc.binary_length(batch.column(column))).as_py()
    ids = [i for i in batch.column("request_id").to_pylist() if i]
    running.without_id += len(batch) - len(ids)
    running.hashes.append(hashes(ids))
    for column, values in context_columns(batch.column("context")).items():
        seen = running.context.setdefault(column, Counter())
        counted = Counter(values.tolist())
        running.present[column] += len(values) - counted.pop("", 0)
        for value, times in counted.items():
            if value in seen or len(seen) < _VALUES_COUNTED:
                seen[value] += times


def _most_common(counts: Counter[str]) -> Counts:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(ranked[:_VALUES_SHOWN])

"""Files of labels as other systems write them: a table with a mapping, or SageMaker's ground truth."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from harness.record.importers.guarding import Guard
from harness.record.importers.parts import PayloadError, Refused, text_of
from harness.record.importers.sources import Record, SourceFile, check_columns, json_lines
from harness.record.importers.table_source import table_rows
from harness.record.importers.tables import Timed

SUFFIXES = (".parquet", ".csv", ".jsonl")
GROUND_TRUTH_SUFFIXES = (".jsonl", ".json")
_HOUR = re.compile(r"(\d{4})/(\d{2})/(\d{2})/(\d{2})/[^/]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label of one request."""

    place: str
    """Where it stands."""
    raw: bytes
    """As it was read."""
    request_id: str
    """Whose."""
    label: float
    """Finite."""
    event_ns: int | None
    """When the request was made; None = as the traffic says."""
    label_event_ns: int | None
    """When what it says happened; None = when it arrived."""
    ingestion_ns: int
    """When it arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMapping:
    """What the columns of a table of labels are."""

    request_id: str = "request_id"
    """Column of the ids."""
    label: str = "label"
    """Column of the labels."""
    values: dict[str, float] = field(default_factory=dict)
    """Words → labels; empty = the labels are numbers."""
    event: Timed | None = None
    """None = the traffic's request time."""
    label_event: Timed | None = None
    """None = the same as the arrival."""
    ingestion: Timed | None = None
    """None = when the file was last changed."""


OWN = LabelMapping(
    event=Timed(column="event_ts_ns", unit="ns"),
    label_event=Timed(column="label_event_ts_ns", unit="ns"),
    ingestion=Timed(column="ingestion_ts_ns", unit="ns"),
)
"""A table with the columns that label files have here."""


def read_table(file: SourceFile, limit: int, mapping: LabelMapping) -> Iterator[Label | Refused]:
    """The labels of a table.

    Raises:
      TrafficError: a column of the mapping is not there.
    """
    timed = (mapping.event, mapping.label_event, mapping.ingestion)
    needed = (mapping.request_id, mapping.label, *(t.column for t in timed if t))
    lines = file.name.removesuffix(".gz").endswith(".jsonl")
    for number, record in enumerate(table_rows(file, limit, () if lines else needed)):
        if isinstance(record, Refused):
            yield record
            continue
        if lines and number == 0:
            check_columns(str(file.place), list(record.row), needed)
        yield _label_or_refused(record, mapping, file)


def _label_or_refused(record: Record, mapping: LabelMapping, file: SourceFile) -> Label | Refused:
    return Guard(record.place, record.raw)(partial(_of_row, record, mapping, file))


def _of_row(record: Record, mapping: LabelMapping, file: SourceFile) -> Label:
    row = record.row
    ingestion = mapping.ingestion
    return Label(
        place=record.place, raw=record.raw, request_id=_id(row.get(mapping.request_id), mapping.request_id),
        label=_number(row.get(mapping.label), mapping.values),
        event_ns=mapping.event.ns(row.get(mapping.event.column)) if mapping.event else None,
        label_event_ns=mapping.label_event.ns(row.get(mapping.label_event.column))
        if mapping.label_event else None,
        ingestion_ns=ingestion.ns(row.get(ingestion.column)) if ingestion else file.changed_ns,
    )  # fmt: skip


def _number(value: Any, words: dict[str, float]) -> float:  # noqa: ANN401 - a cell
    if words:
        if str(value) not in words:
            raise PayloadError(f"the label '{str(value)[:60]}' is none of {', '.join(words)}")
        return words[str(value)]
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise PayloadError(f"the label '{str(value)[:60]}' is no finite number")
    return found


def read_ground_truth(file: SourceFile, limit: int) -> Iterator[Label | Refused]:
    """SageMaker's ground truth; below yyyy/mm/dd/hh, which is when the label was collected.

    The end of that hour counts as its arrival: a label is never known too early.
    """
    arrived = _end_of_hour(file)
    for record in json_lines(file, limit):
        if isinstance(record, Refused):
            yield record
            continue
        yield Guard(record.place, record.raw)(partial(_of_ground_truth, record, arrived))


def _of_ground_truth(record: Record, arrived: int) -> Label:
    truth, event = record.row.get("groundTruthData"), record.row.get("eventMetadata")
    if not isinstance(truth, dict) or not isinstance(event, dict):
        raise PayloadError("no groundTruthData or no eventMetadata")
    return Label(
        place=record.place, raw=record.raw, request_id=_id(event.get("eventId"), "eventId"),
        label=_number(truth.get("data"), {}), event_ns=None, label_event_ns=None, ingestion_ns=arrived,
    )  # fmt: skip


def _id(value: object, name: str) -> str:
    found = text_of(value, name)
    found.encode()  # half a surrogate has no UTF-8 form: the record's failure, not the database's
    return found


def _end_of_hour(file: SourceFile) -> int:
    """The end of the hour that a file's folders name; its time of change where they name none."""
    found = _HOUR.search(f"/{file.name}")
    try:
        hour = datetime.strptime(" ".join(found.groups()) if found else "", "%Y %m %d %H")  # noqa: DTZ007 - UTC is set below
    except ValueError:
        return file.changed_ns
    return (int(hour.replace(tzinfo=UTC).timestamp()) + 3600) * 1_000_000_000

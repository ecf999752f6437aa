"""Labels of other systems → label files beside the traffic, and how well they join it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harness.core.clock import now_ns
from harness.core.errors import TrafficError
from harness.core.jsonable import jsonable
from harness.core.places import Place
from harness.core.tensors import Ints
from harness.record.importers.ledger import Ledger, writing
from harness.record.importers.parts import Refused
from harness.record.importers.run import (
    REPORTS_FOLDER,
    STAGING_FILE,
    ImportTarget,
    quarantine_name,
    write_quarantine,
)
from harness.record.importers.sources import SourceFile
from harness.record.label_files import Label
from harness.record.label_staging import LabelStaging
from harness.store.ids import IdIndex
from harness.store.label_rows import LABELS_FOLDER, write_labels
from harness.store.places import move, write_whole
from harness.store.traffic import TrafficSource

_COMMIT_RECORDS = 5000
_BATCH_ROWS = 65_536
_EXAMPLES = 5

LabelReader = Callable[[SourceFile], Iterator[Label | Refused]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """What an import of labels found, over all its runs into this traffic; join counts are of the labels kept.

    records = labels + duplicates + conflicting + undecodable + oversized.
    """

    to: str
    """The traffic."""
    records: int
    """Records read."""
    labels: int
    """Labels kept, in label files."""
    matched: int
    """Of these: their request is in the traffic."""
    unmatched: int
    """Of these: it is not."""
    requests: int
    """Requests of the traffic."""
    labelled: int
    """Of these: with at least one label, whenever it arrived."""
    duplicates: int
    """The same label with the same arrival again: not kept."""
    conflicting: int
    """Another label with the same arrival: the first is kept, this one is in the quarantine file."""
    corrections: int
    """Labels kept that arrived after another one of their request and differ from it."""
    delivered_again: int
    """Labels kept that arrived after an equal one of their request."""
    in_the_future: int
    """Labels kept that arrive, or whose event lies, after the instant of the report."""
    before_event: int
    """Labels kept whose labelled event lies before their request."""
    before_label_event: int
    """Labels kept that arrived before the labelled event."""
    undecodable: int
    """Records without an id, a finite label or a time."""
    oversized: int
    """Records over the size limit."""
    quarantine: str
    """File of the records that were not kept; "" = none."""
    examples: tuple[str, ...]
    """Some of them: place and reason."""

    def to_json(self) -> str:
        """All counts as JSON."""
        return json.dumps(jsonable(self), indent=2)

    def to_text(self) -> str:
        """A short page."""
        lines = [
            f"{self.to}: {self.labels:,} labels of {self.records:,} records",
            (
                f"  joined     {self.matched:,} matched, {self.unmatched:,} of unknown requests; "
                f"{self.labelled:,} of {self.requests:,} requests labelled"
            ),
            (
                f"  repeated   {self.duplicates:,} duplicate, {self.conflicting:,} conflicting, "
                f"{self.corrections:,} corrections, {self.delivered_again:,} delivered again"
            ),
            (
                f"  times      {self.in_the_future:,} in the future, {self.before_event:,} before their request, "
                f"{self.before_label_event:,} arrived before what they say happened"
            ),
            f"  not used   {self.undecodable:,} undecodable, {self.oversized:,} oversized",
        ]
        lines += [f"  e.g. {example}" for example in self.examples]
        if self.quarantine:
            lines.append(f"  quarantine {self.quarantine}")
        return "\n".join(lines)


def import_labels(
    files: Sequence[SourceFile],
    read: LabelReader,
    target: ImportTarget,
    *,
    how: str = "",
    as_of_ns: int | None = None,
) -> LabelReport:
    """Reads labels that were not read before, writes them beside the traffic and joins them.

    Args:
      files: the source.
      read: the reader of its format.
      target: the traffic's folder; it must hold traffic.
      how: the terms of reading; a file that was read under others is read again.
      as_of_ns: the report's instant, for what lies in the future; None = now.

    Raises:
      TrafficError: no traffic there, a file without the columns, no usable label, or a store that refuses.
    """
    traffic = TrafficSource.open([target.to])
    with writing(target.to), LabelStaging(target.state / STAGING_FILE) as staging:
        for file in files:
            _read_file(staging, file, read, how)
        ids, ts_ns = _requests(traffic)
        _write(staging, target, ids, ts_ns)
        report = _report(staging, target, ids, ts_ns, now_ns() if as_of_ns is None else as_of_ns)
        reports = target.to / REPORTS_FOLDER
        write_whole(
            reports / f"{target.name}-{staging.token}.json", report.to_json().encode() + b"\n"
        )
        if report.quarantine:
            write_quarantine(staging, target)
    if not report.records:
        where = ", ".join(str(file.place) for file in files[:_EXAMPLES])
        raise TrafficError(
            where, "no record in it", "Name the file or folder that holds the labels."
        )
    if not report.labels:
        raise TrafficError(
            str(target.to), f"none of the {report.records:,} records is a label"
            + (f", e.g. {report.examples[0].rstrip('.')}" if report.examples else ""),
            "Check the format and the mapping.",
        )  # fmt: skip
    return report


def _read_file(staging: LabelStaging, file: SourceFile, read: LabelReader, how: str) -> None:
    done = staging.begin_source(file.key, file.stamp, how)
    if done is None:
        return
    number = 0
    for found in read(file):
        number += 1
        if number <= done:
            continue
        staging.count("records", found.counted if isinstance(found, Refused) else 1)
        if isinstance(found, Refused):
            staging.refuse(found)
        else:
            staging.add(found)
        if number % _COMMIT_RECORDS == 0:
            staging.reach(number)
    staging.end_source(file.name, number)


def _requests(traffic: TrafficSource) -> tuple[IdIndex, Ints]:
    """The traffic's requests, each id once (its first), and when they were made."""
    ids: list[pa.Array] = []
    times: list[Ints] = []
    for batch in traffic.batches(["request_id", "ts_ns"]):
        ids.append(batch.column("request_id").cast(pa.large_string()))
        times.append(batch.column("ts_ns").to_numpy())
    joined = pa.concat_arrays(ids) if ids else pa.array([], pa.large_string())
    ts_ns = np.concatenate(times) if times else np.empty(0, np.int64)
    encoded = joined.dictionary_encode()
    codes = encoded.indices.to_numpy()
    first = np.zeros(len(encoded.dictionary), np.int64)
    first[codes[::-1]] = ts_ns[::-1]
    return IdIndex(encoded.dictionary), first


def _write(staging: LabelStaging, target: ImportTarget, ids: IdIndex, ts_ns: Ints) -> None:
    """Label files that are not there yet, each label in exactly one."""
    for number, folder, name in staging.begun_files():
        _write_file(staging, number, target, target.to / folder / name, ids, ts_ns)
    name = f"{target.name}-{staging.run}-{{number:05d}}.parquet"
    while (begun := staging.begin_file(name)) is not None:
        place = target.to / LABELS_FOLDER / name.format(number=begun)
        _write_file(staging, begun, target, place, ids, ts_ns)


def _write_file(
    staging: LabelStaging,
    number: int,
    target: ImportTarget,
    place: Place,
    ids: IdIndex,
    ts_ns: Ints,
) -> None:
    rows = staging.labels_of(number)
    request_id, ingestion, label, event, label_event = (list(c) for c in zip(*rows, strict=True))
    names = np.array(request_id, object)
    at = ids.lookup(names)
    asked = np.where(at >= 0, ts_ns[np.maximum(at, 0)] if len(ts_ns) else 0, label_event)
    spool = target.state / "labels.parquet"
    write_labels(
        spool, request_id=names, label=np.array(label, np.float64),
        event_ts_ns=np.array([a if e is None else e for e, a in zip(event, asked.tolist(), strict=True)], np.int64),
        label_event_ts_ns=np.array(label_event, np.int64),
        ingestion_ts_ns=np.array(ingestion, np.int64),
    )  # fmt: skip
    move(spool, place)
    staging.end_file(number)


def _report(
    staging: LabelStaging, target: ImportTarget, ids: IdIndex, ts_ns: Ints, as_of_ns: int
) -> LabelReport:
    joined: Counter[str] = Counter()
    labelled = np.zeros(len(ids), np.bool_)
    for rows in staging.batches(_BATCH_ROWS):
        joined.update(_joined(rows, ids, ts_ns, as_of_ns, labelled))
    counts = staging.counts()
    corrections, again = staging.repeated()
    return LabelReport(
        to=str(target.to), records=counts["records"], labels=joined["labels"], matched=joined["matched"],
        unmatched=joined["labels"] - joined["matched"], requests=len(ids), labelled=int(labelled.sum()),
        duplicates=counts["duplicates"], conflicting=counts["conflicting"], corrections=corrections,
        delivered_again=again, in_the_future=joined["future"], before_event=joined["before"],
        before_label_event=joined["early"], undecodable=counts["undecodable"], oversized=counts["oversized"],
        quarantine=_quarantine(staging, target),
        examples=tuple(f"{place}: {why}" for place, _, why, _, _ in staging.refusals().fetchmany(_EXAMPLES)),
    )  # fmt: skip


def _quarantine(staging: Ledger, target: ImportTarget) -> str:
    if not staging.refusals().fetchone():
        return ""
    return str(target.to / REPORTS_FOLDER / quarantine_name(target, staging))


def _joined(
    rows: Sequence[tuple[str, int, float, int | None, int]],
    ids: IdIndex,
    ts_ns: Ints,
    as_of_ns: int,
    labelled: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> Counter[str]:
    """Counts of some labels; marks the requests that they belong to."""
    at = ids.lookup(np.array([r[0] for r in rows], object))
    known = at >= 0
    labelled[at[known]] = True
    arrived = np.array([r[1] for r in rows], np.int64)
    happened = np.array([r[4] for r in rows], np.int64)
    asked = np.array([happened[i] if r[3] is None else r[3] for i, r in enumerate(rows)], np.int64)
    missing = np.array([r[3] is None for r in rows])
    asked[known & missing] = ts_ns[at[known & missing]]
    return Counter(
        labels=len(rows), matched=int(known.sum()), before=int((happened < asked).sum()),
        early=int((arrived < happened).sum()),
        future=int(((arrived > as_of_ns) | (happened > as_of_ns)).sum()),
    )  # fmt: skip

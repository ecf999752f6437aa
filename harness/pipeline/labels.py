"""Labels into traffic, and how long they take: what `harness labels` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from harness.core.clock import iso, now_ns, ts_ns_from_iso
from harness.core.errors import TrafficError, UsageError, nearest
from harness.core.jsonable import jsonable
from harness.core.places import Place, absolute
from harness.core.tensors import Bools, Ints, Strings
from harness.core.words import word_counts
from harness.pipeline.imports import MOST_RECORD_BYTES, state_of
from harness.pipeline.mappings import document_of, timed
from harness.record.importers.run import ImportTarget
from harness.record.importers.sources import source_files
from harness.record.label_delays import (
    DelayCurve,
    DelayShift,
    IngestionShift,
    delay_curve,
    delay_shift,
    ingestion_shift,
)
from harness.record.label_files import (
    GROUND_TRUTH_SUFFIXES,
    OWN,
    SUFFIXES,
    LabelMapping,
    read_ground_truth,
    read_table,
)
from harness.record.labels import LabelReader, LabelReport
from harness.record.labels import import_labels as run_import_labels
from harness.report.delay_chart import DrawnCurve, delay_svg
from harness.store.exchanges import context_columns
from harness.store.ids import IdIndex
from harness.store.label_arrivals import first_arrivals, label_events
from harness.store.label_rows import NEVER_NS, label_paths
from harness.store.places import write_whole
from harness.store.traffic import TrafficSource

_MAPPING_KEYS = ("version", "request_id", "label", "event_time", "label_time", "ingestion_time")
_OF_EXCHANGES = ("model", "version")
FORMATS = ("table", "sagemaker")
"""What `import_labels` reads: tables, and SageMaker's ground truth."""
MOST_GROUPS = 6


def import_labels(
    source: Place,
    to: Place,
    *,
    kind: str = "table",
    mapping: Path | None = None,
    as_of: str | None = None,
    whole: bool = False,
    state_dir: Path | None = None,
) -> LabelReport:
    """Imports labels beside traffic; the same call again goes on, and takes only what is new.

    Args:
      source: file or folder of labels.
      to: the traffic's folder or prefix.
      kind: one of FORMATS.
      mapping: YAML file that says what a table's columns are; None = those of label files here.
      as_of: ISO 8601 instant of the report, for what lies in the future; None = now.
      whole: the last line of a CSV file counts also where it has no end of line.
      state_dir: where an import into an object store is remembered; None = the user's state folder.

    Raises:
      UsageError: unknown format, no traffic there, wrong columns, nothing usable.
    """
    if kind not in FORMATS:
        raise UsageError(kind, f"is no format ({nearest(kind, FORMATS)})", "Name one of them.")
    suffixes: tuple[str, ...] = SUFFIXES
    columns = OWN if mapping is None else label_mapping(mapping)
    reader: LabelReader = partial(read_table, limit=MOST_RECORD_BYTES, mapping=columns)
    if kind == "sagemaker":
        if mapping:
            raise UsageError("--mapping", "sagemaker takes no mapping", "Leave it out.")
        suffixes, reader = (
            GROUND_TRUTH_SUFFIXES,
            partial(read_ground_truth, limit=MOST_RECORD_BYTES),
        )
    target = ImportTarget(to=absolute(to), state=state_of(to, "labels", state_dir), name="labels")
    at = None if as_of is None else ts_ns_from_iso(as_of, "--as-of")
    return run_import_labels(
        source_files(source, suffixes, whole=whole),
        reader,
        target,
        how=repr((kind, columns)),
        as_of_ns=at,
    )


def label_mapping(path: Path) -> LabelMapping:
    """Reads a mapping of a table of labels; `harness labels import --help` shows one.

    Raises:
      UsageError: names the line, the key and what would have been right.
    """
    section = document_of(path)
    section.only(_MAPPING_KEYS)
    if "label" not in section:
        raise section.error("label", "is missing", "Write label: {column: NAME}.")
    label = section.section("label")
    label.only(("column", "values"))
    values: dict[str, float] = {}
    if "values" in label:
        words = label.section("values")
        values = {word: words.number(word) for word in words.names()}
    times = {
        name: timed(section, key) if key in section else None
        for name, key in (("event", "event_time"), ("label_event", "label_time"), ("ingestion", "ingestion_time"))
    }  # fmt: skip
    return LabelMapping(
        request_id=section.text("request_id"), label=label.text("column"), values=values, **times
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDelays:
    """How long labels took, as known at one instant."""

    traffic: str
    """Whose labels."""
    as_of: str
    """ISO 8601."""
    requests: int
    """Requests made by then."""
    later: int
    """Requests made after it: left out."""
    negative: int
    """Labels that arrived before their request: counted as delays of 0."""
    curves: tuple[DelayCurve, ...]
    """All requests, then each group."""
    shift: DelayShift | None
    """Whether the groups differ; None = no two groups with labels."""
    ingestion: IngestionShift | None
    """Whether they differ from the label's event to its arrival; None = no two groups of which that is known."""

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(jsonable(self), indent=2)

    def to_svg(self) -> str:
        """The curves as a drawing."""
        return delay_svg(
            f"Labels of {self.traffic} as of {self.as_of}",
            [
                DrawnCurve(name=f"{c.group or 'all'} ({c.arrived:,} of {c.n:,})", delay_s=c.delay_s,
                           share=c.share, error=c.error)
                for c in self.curves
            ],
        )  # fmt: skip

    def to_text(self) -> str:
        """A short page."""
        lines = [f"{self.traffic} as of {self.as_of}: {self.requests:,} requests"]
        for c in self.curves:
            reached = ", ".join(f"{q:.0%} {_shown(d)}" for q, d in c.quantiles)
            lines.append(f"  {c.group or 'all'}: {c.arrived:,} of {c.n:,} labelled; {reached}")
        if self.shift:
            lines.append(
                f"  log-rank test of {', '.join(self.shift.groups)}: chi2 {self.shift.chi2:.2f}, "
                f"p = {self.shift.p_value:.2g}"
            )
        if self.ingestion:
            found = self.ingestion
            sides = " and ".join(
                f"{name} (median {_shown(median)} of {n:,})"
                for name, median, n in zip(found.groups, found.median_s, found.n, strict=True)
            )
            lines.append(
                f"  from the label's event to its arrival, {sides}: Kolmogorov-Smirnov distance "
                f"{found.distance:.2g}, p = {found.p_value:.2g}"
            )
        if self.later:
            lines.append(f"  left out: {self.later:,} requests made later")
        if self.negative:
            lines.append(f"  {self.negative:,} labels arrived before their request")
        return "\n".join(lines)


def _shown(seconds: float | None) -> str:
    if seconds is None:
        return "not reached"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"


def label_delays(
    traffic: Sequence[Place],
    *,
    labels: Sequence[Place] = (),
    as_of: str | None = None,
    by: str | None = None,
    split: str | None = None,
    svg: Path | None = None,
) -> LabelDelays:
    """Estimates how long labels take, censored at `as_of`, and whether groups differ.

    Args:
      traffic: traffic folders, with their labels.
      labels: label files besides.
      as_of: ISO 8601 instant whose knowledge counts; None = now.
      by: groups: `version`, `model` or a context column.
      split: groups: before and from this instant.
      svg: where the drawing goes; None = nowhere.

    Raises:
      UsageError: nothing can be read, no request by then, or groups that are none.
    """
    if by and split:
        raise UsageError("--by", "stands beside --split", "Give one of them.")
    as_of_ns = now_ns() if as_of is None else ts_ns_from_iso(as_of, "--as-of")
    ids, ts_ns, group = _requests(TrafficSource.open(traffic), by)
    if split:
        at = ts_ns_from_iso(split, "--split")
        group = np.where(ts_ns < at, f"before {iso(at)}", f"from {iso(at)}").astype(object)
    paths = [p for t in traffic for p in label_paths(t)] + list(labels)
    first = first_arrivals(paths, ids, as_of_ns)
    old = ts_ns <= as_of_ns
    if not old.any():
        shown = ", ".join(map(str, traffic))
        raise TrafficError(
            shown, f"holds no request made by {iso(as_of_ns)}", "Give another --as-of."
        )
    arrived = (first[old] != NEVER_NS).astype(np.int64)
    delay = (np.minimum(first[old], as_of_ns) - ts_ns[old]) / 1e9
    groups = group[old]
    named = _largest(groups) if by or split else []
    # A delay of exactly 0 takes no part in the first risk set of the estimator; a nanosecond does.
    seconds = np.maximum(delay, 1e-9)
    found = LabelDelays(
        traffic=", ".join(map(str, traffic)), as_of=iso(as_of_ns), requests=int(old.sum()),
        later=int((~old).sum()), negative=int((delay < 0).sum()),
        curves=(
            delay_curve(seconds, arrived),
            *(delay_curve(seconds[groups == g], arrived[groups == g], g or "(none)") for g in named),
        ),
        shift=delay_shift(seconds, arrived, groups) if named else None,
        ingestion=_ingestion(paths, ids, first, (old, group), as_of_ns) if named else None,
    )  # fmt: skip
    if svg is not None:
        try:
            write_whole(svg, found.to_svg().encode())
        except OSError as error:
            raise UsageError(
                str(svg), f"cannot be written: {error.strerror}", "Make room, or name another file."
            ) from error
    return found


def _ingestion(
    paths: Sequence[Place], ids: IdIndex, first: Ints, of: tuple[Bools, Strings], as_of_ns: int
) -> IngestionShift | None:
    """The labels' own way, of requests that are old enough, group by group."""
    event = label_events(paths, ids, first)
    known = of[0] & (first != NEVER_NS) & (event != NEVER_NS)
    return ingestion_shift(event[known], first[known], of[1][known], as_of_ns)


def _largest(groups: Strings) -> list[str]:
    counts = word_counts(groups)
    if len(counts) > MOST_GROUPS:
        raise UsageError(
            "--by",
            f"gives {len(counts)} groups",
            f"Choose a column of at most {MOST_GROUPS} values.",
        )
    return sorted(counts, key=lambda name: -counts[name])


def _requests(source: TrafficSource, by: str | None) -> tuple[IdIndex, Ints, Strings]:
    """Ids, times and groups of the requests, each id once."""
    column = by if by in _OF_EXCHANGES else "context"
    ids, times, groups = [], [], []
    known: set[str] = set()
    for batch in source.batches(["request_id", "ts_ns", *([column] if by else [])]):
        ids.append(batch.column("request_id").cast(pa.large_string()))
        times.append(batch.column("ts_ns").to_numpy())
        if by and column == "context":
            context = context_columns(batch.column("context"))
            known |= set(context)
            groups.append(context.get(by, np.full(len(batch), "", object)))
        elif by:
            groups.append(batch.column(column).to_numpy(zero_copy_only=False))
    if by and column == "context" and by not in known:
        where = f"--by {by}"
        raise UsageError(
            where,
            f"is no column ({nearest(by, {*known, *_OF_EXCHANGES})})",
            "Name one of the traffic's.",
        )
    if not ids:
        raise TrafficError(
            ", ".join(f.name for f in source.traffic_files),
            "no request in it",
            "Name other traffic.",
        )
    encoded = pa.chunked_array(ids, pa.large_string()).combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    every = np.concatenate(groups)[first] if by else np.full(len(first), "", object)
    return IdIndex(encoded.dictionary), np.concatenate(times)[first], every

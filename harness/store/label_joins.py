"""The last label of each request that arrived within the maturity after it.

The last of all was tried and left: the same labels delivered a second time, after the maturity, emptied
the cohort, and a verdict depended on when one looked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from harness.core.places import Place
from harness.core.tensors import Bools, Floats, Ints
from harness.store.ids import IdIndex
from harness.store.label_rows import NEVER_NS, files_of, hashed, is_valid, label_rows

_NOT_YET_NS = -(2**63)


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
    files = [file for path in paths for file in files_of(path)]
    for number, file in enumerate(files):
        for table in label_rows(file):
            counts["read"] += len(table)
            valid = table.filter(is_valid(table))
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
        files=hashed(files),
        paths=tuple(files),
    )


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

"""Delayed labels: a table of their own beside the traffic, joined by request id.

A label has three times: the request's, the labelled event's, and when the label arrived. Only the
last says what the gate could have known: `as_of` cuts on it. Labels that were corrected later
appear again.

`read_labels` keeps the last label of each request that arrived by one instant. A gate needs another
one, `label_joins.join_labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.core.places import Place
from harness.core.tensors import Floats, Ints, Strings
from harness.store.ids import IdIndex
from harness.store.label_rows import NEVER_NS, SCHEMA, files_of, hashed, is_valid, label_rows


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
    files = [file for path in paths for file in files_of(path)]
    for file in files:
        for table in label_rows(file):
            read += len(table)
            valid = table.filter(is_valid(table))
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
        files=hashed(files),
    )


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

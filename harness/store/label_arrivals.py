"""When labels arrived, and when what they are about happened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from harness.core.places import Place
from harness.core.tensors import Ints
from harness.store.ids import IdIndex
from harness.store.label_rows import LABEL_EVENT, NEVER_NS, files_of, is_valid, label_rows


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
    for file in (f for path in paths for f in files_of(path)):
        for table in label_rows(file):
            valid = table.filter(is_valid(table))
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
    for file in (f for path in paths for f in files_of(path)):
        for table in label_rows(file, LABEL_EVENT):
            known = table.filter(pc.and_(is_valid(table), pc.is_valid(table[LABEL_EVENT])))
            at = ids.lookup(known["request_id"].to_numpy())
            arrived = known["ingestion_ts_ns"].to_numpy()
            its = np.flatnonzero((at >= 0) & (arrived == first[at]))
            np.minimum.at(event, at[its], known[LABEL_EVENT].to_numpy()[its])
    return event

"""A live batch as its sender wrote it → the columns that the judge computes with.

Lists, pandas columns, whole numbers of any width and datetime64 have one plain meaning and are
taken. What has two is refused: a float cannot hold nanoseconds since 1970, an arm of 2 or "b" names
neither version, a masked value would silently become the number under its mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.core.errors import TrafficError
from harness.core.tensors import Array, Bools, Floats, Ints
from harness.judge.exposures import Requests
from harness.judge.live_plan import Labels, LiveBatch

_LATEST_NS = 2**62
"""Farther from 1970 (before 1824, after 2116) an age could no longer be added."""

_NUMBERS = "biuf"


def read_batch(batch: LiveBatch) -> LiveBatch:
    """The batch with columns of the declared types.

    Args:
      batch: as it came.

    Raises:
      TrafficError: a number, an instant or a column that has no plain meaning.
    """
    number: Any = batch.number
    requests: Any = batch.requests
    labels: Any = batch.labels
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 0:
        what = f"number {number!r} is no count from 0"
        raise TrafficError("live batch", what, "Number batches 0, 1, 2 and so on.")
    where = f"batch {number}"
    if not (isinstance(requests, Requests) and _is_mapping(requests.values)):
        what = "its requests are no Requests with a mapping of values"
        raise TrafficError(where, what, "Give columns as harness.judge.exposures.Requests.")
    if not _is_mapping(labels):
        what = "its labels are no mapping"
        raise TrafficError(where, what, "Give guardrail → Labels, or leave them out.")
    return LiveBatch(
        number=int(number),
        until_ns=_until(where, batch.until_ns),
        requests=_requests(where, requests),
        labels={str(name): _labels(where, name, found) for name, found in labels.items()},
    )


def _requests(where: str, requests: Requests) -> Requests:
    return dataclasses.replace(
        requests,
        ts_ns=_times(where, "ts_ns", requests.ts_ns),
        unit=_names(where, "unit", requests.unit),
        candidate=_arms(where, requests.candidate),
        propensity=_numbers(where, "propensity", requests.propensity),
        values={
            name: _numbers(where, f"values of '{name}'", column)
            for name, column in requests.values.items()
        },
    )


def _labels(where: str, name: str, labels: Any) -> Labels:  # noqa: ANN401 - whatever was sent
    if not isinstance(labels, Labels):
        what = f"labels of '{name}' are no Labels"
        raise TrafficError(where, what, "Give columns as harness.judge.live_plan.Labels.")
    return Labels(
        unit=_names(where, f"label units of '{name}'", labels.unit),
        value=_numbers(where, f"labels of '{name}'", labels.value),
        ts_ns=_times(where, f"label times of '{name}'", labels.ts_ns),
    )


def _is_mapping(given: Any) -> bool:  # noqa: ANN401 - whatever was sent
    return isinstance(given, Mapping)


def _column(where: str, name: str, given: Any) -> Array:  # noqa: ANN401 - whatever was sent
    """One value a row.

    Raises:
      TrafficError: a table, a single value, rows of different shapes, or masked values.
    """
    try:
        column = np.asarray(given)
    except ValueError:
        column = np.zeros(())
    if column.ndim != 1 or isinstance(given, np.ma.MaskedArray):
        what = f"{name} is not one plain value a row"
        raise TrafficError(where, what, "Give one column, without a mask.")
    return column


def _numbers(where: str, name: str, given: Any) -> Floats:  # noqa: ANN401 - whatever was sent
    column = _column(where, name, given)
    if len(column) and column.dtype.kind not in _NUMBERS:
        what = f"{name} holds {_kind(column)} instead of numbers"
        raise TrafficError(where, what, "Give numbers; NaN where a request failed.")
    return column.astype(np.float64)


def _arms(where: str, given: Any) -> Bools:  # noqa: ANN401 - whatever was sent
    column = _column(where, "candidate", given)
    plain = column.dtype.kind in _NUMBERS
    if not plain:
        plain = all(isinstance(arm, int | np.bool_) for arm in column.tolist())
    odd = np.flatnonzero((column != 0) & (column != 1)) if plain else range(len(column))
    if len(odd):
        what = f"candidate is {column.tolist()[odd[0]]!r} in row {odd[0]}"
        raise TrafficError(where, what, "Write 1 where the candidate answered, else 0.")
    return column.astype(np.bool_)


def _names(where: str, name: str, given: Any) -> Array:  # noqa: ANN401 - whatever was sent
    """Units as objects; that each is a name is checked with the batch."""
    return _column(where, name, given).astype(object)


def _times(where: str, name: str, given: Any) -> Ints:  # noqa: ANN401 - whatever was sent
    column = _column(where, name, given)
    if not len(column):
        return np.zeros(0, np.int64)
    if column.dtype.kind == "M":
        return _nanoseconds(where, name, column)
    if column.dtype.kind not in "iu":
        what = f"{name} holds {_kind(column)} instead of instants"
        remedy = "Give whole nanoseconds since 1970, or datetime64; a float cannot hold them."
        raise TrafficError(where, what, remedy)
    if int(column.max()) >= _LATEST_NS or int(column.min()) <= -_LATEST_NS:
        what = f"{name} holds an instant beyond the years 1824 to 2116"
        raise TrafficError(where, what, "Give nanoseconds since 1970.")
    return column.astype(np.int64)


def _nanoseconds(where: str, name: str, column: Array) -> Ints:
    fine = column.astype("datetime64[ns]")
    whole = fine.astype(np.int64)
    # A coarse unit reaches further than nanoseconds do: what wraps round does not come back.
    wrong = np.isnat(column) | (fine.astype(column.dtype) != column) | (abs(whole) >= _LATEST_NS)
    if wrong.any():
        what = f"{name} holds an instant that is missing or beyond the years 1824 to 2116"
        raise TrafficError(where, what, "Give the time of each.")
    return np.asarray(whole, np.int64)


def _until(where: str, given: Any) -> int:  # noqa: ANN401 - whatever was sent
    if isinstance(given, bool):
        raise TrafficError(where, f"until_ns is {given}", "Give the instant at which it ends.")
    return int(_times(where, "until_ns", [given])[0])


def _kind(column: Array) -> str:
    kinds = {"f": "floats", "U": "text", "S": "bytes", "O": "objects", "b": "truth values"}
    return kinds.get(column.dtype.kind, column.dtype.name)

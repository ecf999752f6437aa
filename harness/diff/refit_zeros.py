"""Zeros in a fitted column that a clean fit leaves: a category that became too rare, a column without spread.

An encoder drops the column of a category that is below its minimum in the new data, and a scaler takes a
column that is all one value there to 0. Both are zeros where the baseline has others, and no forgotten fill.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.tensors import Array, Bools, Floats
from harness.diff.pairs import ENOUGH
from harness.diff.tally import TensorTally

_RARE = 0.05
"""Part of the rows that dropped categories may have together."""
_MINOR = 0.5
"""Part of the categories seen that may be dropped."""


def dropped_categories(tally: TensorTally) -> list[int]:
    """Columns of rare flags of a fitted tensor that are 0 in all of the candidate's rows, while others live on.

    Args:
      tally: of a fitted tensor, of at least one row.
    """
    before, after = tally.sample.beginning()
    if object in (before.dtype, after.dtype) or before.shape != after.shape or not len(before):
        return []
    hit = before == 1
    flags = (hit | (before == 0)).all(axis=0) & hit.any(axis=0)
    gone = flags & (after == 0).all(axis=0)
    if not gone.any() or gone.sum() > _MINOR * flags.sum():
        return []
    rows = hit[:, gone].any(axis=1)
    return np.flatnonzero(gone).tolist() if rows.mean() <= _RARE else []


def is_of_no_spread(tally: TensorTally, index: int, raw: Sequence[TensorTally]) -> bool:
    """Whether a column that the candidate takes to 0 is hardly ever anything but one value, and is no fill.

    Args:
      tally: of a fitted tensor.
      index: the column, of zeros where it differs.
      raw: features and inputs; one that is missing where the column has its value is filled by it.
    """
    before, after = (_floats(side) for side in tally.prefix(index))
    if not len(before):
        return False
    usual = nearly_all(before)
    if usual is None or float((after[usual] == 0).mean()) < ENOUGH:
        return False
    return not any(_missing(tally, feature, usual) for feature in raw)


def nearly_all(values: Floats) -> Bools | None:
    """The rows of the one value that nearly all rows have, shape (n,); None = they have no such value."""
    if not len(values):
        return None
    found, counts = np.unique(values, return_counts=True)
    rows = values == found[counts.argmax()]
    return rows if rows.mean() >= ENOUGH else None


def _missing(tally: TensorTally, feature: TensorTally, rows: Bools) -> bool:
    shared = tally.rows_shared(feature)
    values, _ = feature.sample.beginning()
    if not shared or values.dtype == object:
        return False
    asked = np.isnan(_floats(values)[:shared])[rows[:shared]]
    return bool(len(asked)) and bool((asked.mean(axis=0) >= ENOUGH).any())


def _floats(values: Array) -> Floats:
    return values.astype(np.float64)

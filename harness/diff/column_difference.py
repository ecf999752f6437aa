"""How many columns differ at once: every column by its own measures, whatever the width.

Only columns in which a bit differs are compared, and in blocks of rows: what is computed on the way takes
several times the tensors' own memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Bools, Floats, Ints
from harness.diff.distance import Comparison, RowDifference, compare_rows, comparison

_CELLS = 1 << 18
"""Compared at a time."""
_NARROW = 8
"""Columns that are compared without asking first which of them differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDifference:
    """How k columns of R rows differ, summed up by column but for the mismatches."""

    mismatch: Bools
    """As `RowDifference.mismatch`, shape (R, k)."""
    masked: Ints
    """Rows that are NaN or infinite on one side only, shape (k,)."""
    absolute: Floats
    """Largest |candidate − baseline|, shape (k,)."""
    relative: Floats
    """Largest difference relative to the scale, shape (k,)."""
    small: Ints
    """Rows with a `RowDifference.small`, shape (k,)."""
    lent: Ints
    """Rows with a `RowDifference.lent`, shape (k,)."""


def compare_columns(
    baseline: Array,
    candidate: Array,
    tolerance: Floats,
    scale: Floats,
    *,
    typical: Floats,
    noise: Floats,
    own: Floats | None = None,
) -> ColumnDifference:
    """As `distance.compare_rows`, of any number of columns.

    Args:
      baseline: shape (R, k).
      candidate: shape (R, k).
      tolerance: relative, shape (k,), as all that follow.
      scale: as for `compare_rows`.
      typical: the same.
      noise: the same.
      own: the same.
    """
    rows, width = baseline.shape
    found = nothing_differs(rows, width)
    if not baseline.size:
        return found
    columns = unequal_columns(baseline, candidate)
    step = max(_CELLS // max(len(columns), 1), 1)
    everything = len(columns) == width
    for at in range(0, rows if len(columns) else 0, step):
        part = slice(at, at + step)
        ours, theirs = baseline[part], candidate[part]
        if not everything:
            ours, theirs = ours[:, columns], theirs[:, columns]
        _add(
            found,
            (part, slice(None) if everything else columns),
            compare_rows(
                ours,
                theirs,
                tolerance[columns],
                scale[columns],
                typical=typical[columns],
                noise=noise[columns],
                own=None if own is None else own[columns],
            ),
        )
    return found


def nothing_differs(rows: int, columns: int) -> ColumnDifference:
    """Of columns that are equal."""
    return ColumnDifference(
        mismatch=np.zeros((rows, columns), dtype=np.bool_),
        masked=np.zeros(columns, dtype=np.int64),
        absolute=np.zeros(columns),
        relative=np.zeros(columns),
        small=np.zeros(columns, dtype=np.int64),
        lent=np.zeros(columns, dtype=np.int64),
    )


def everything_differs(rows: int, columns: int) -> ColumnDifference:
    """Of what cannot be compared: no column of it is known to be equal."""
    found = nothing_differs(rows, columns)
    found.mismatch[:] = True
    return found


def padded(found: ColumnDifference, more: int) -> ColumnDifference:
    """With columns that these rows do not have, in which nothing differs."""
    if not more:
        return found
    return ColumnDifference(
        mismatch=np.pad(found.mismatch, ((0, 0), (0, more))),
        masked=np.pad(found.masked, (0, more)),
        absolute=np.pad(found.absolute, (0, more)),
        relative=np.pad(found.relative, (0, more)),
        small=np.pad(found.small, (0, more)),
        lent=np.pad(found.lent, (0, more)),
    )


def unequal_columns(baseline: Array, candidate: Array) -> Ints:
    """Which columns have a value that is not the other side's."""
    width = baseline.shape[1]
    how = comparison(baseline.dtype, candidate.dtype)
    if width <= _NARROW or how is Comparison.IMPOSSIBLE:
        return np.arange(width)
    unequal = np.zeros(width, dtype=np.bool_)
    step = max(_CELLS // width, 1)
    for at in range(0, len(baseline), step):
        unequal |= np.asarray(baseline[at : at + step] != candidate[at : at + step]).any(axis=0)
    return np.flatnonzero(unequal)


def _add(found: ColumnDifference, place: tuple[slice, slice | Ints], part: RowDifference) -> None:
    """Enters the differences of a block."""
    rows, columns = place
    found.mismatch[rows, columns] = part.mismatch
    found.masked[columns] += part.masked.sum(axis=0)
    found.small[columns] += part.small.sum(axis=0)
    found.lent[columns] += part.lent.sum(axis=0)
    found.absolute[columns] = np.maximum(found.absolute[columns], part.absolute.max(axis=0))
    found.relative[columns] = np.maximum(found.relative[columns], part.relative.max(axis=0))

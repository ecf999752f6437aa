"""The rows in which two tensors differ most, with what was asked, as short texts for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.tensors import Array, Floats, flat_rows
from harness.core.traffic import RequestBatch
from harness.diff.graph_report import WorstRow
from harness.diff.whole import apart

MOST_ROWS = 5
"""Rows shown of one tensor."""
_MOST_VALUES = 6
_LONGEST = 60


def worst_rows(
    baseline: Array,
    candidate: Array,
    used: Sequence[RequestBatch],
    *,
    tolerance: float | Floats,
    fine: bool = False,
    exact: bool = False,
    moved: bool = False,
) -> tuple[WorstRow, ...]:
    """Picks the rows that differ most.

    Args:
      baseline: values of all batches, shape (R, …).
      candidate: the same number of values.
      used: the batches, R rows in all.
      tolerance: relative; rows within it are none.
      fine: as for `diff.whole.apart`.
      exact: the same.
      moved: the same.
    """
    rows = len(baseline)
    after = candidate.reshape(baseline.shape)
    differ = apart(
        baseline, after, rows=rows, tolerance=tolerance, fine=fine, exact=exact, moved=moved
    ).rows
    far = _distances(flat_rows(baseline), flat_rows(after))
    order = np.argsort(-far, kind="stable")
    chosen = [int(row) for row in order if differ[row]][:MOST_ROWS]
    ends = np.cumsum([int(batch.rows.sum()) for batch in used])
    found = []
    for row in chosen:
        place = int(np.searchsorted(ends, row, side="right"))
        batch = used[place]
        inside = row - int(ends[place] - batch.rows.sum())
        owner = int(np.searchsorted(np.cumsum(batch.rows), inside, side="right"))
        found.append(
            WorstRow(
                request=str(batch.request_id[owner]),
                inputs=tuple(
                    (n, _shown(_row(column, inside, int(batch.rows.sum()))))
                    for n, column in batch.inputs.items()
                ),
                baseline=_shown(baseline[row]),
                candidate=_shown(after[row]),
            )
        )
    return tuple(found)


def _distances(before: Array, after: Array) -> Floats:
    """Largest difference of each row; inf for NaN, infinity or a word on one side only, shape (R,)."""
    if object in (before.dtype, after.dtype):
        return np.asarray((before != after).sum(axis=1), dtype=np.float64)
    left, right = before.astype(np.float64), after.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        far = np.where(same, 0.0, np.abs(left - right))
    far[np.isnan(far)] = np.inf
    largest: Floats = far.max(axis=1, initial=0.0)
    return largest


def _row(column: Array, row: int, rows: int) -> Array:
    """One row of an input; all of an input that has no rows, such as a scalar."""
    whole = np.asarray(column)
    if whole.ndim and len(whole) == rows:
        return np.asarray(whole[row])
    return whole


def _shown(value: object) -> str:
    """One value, or the first few of many."""
    values = np.asarray(value).reshape(-1)
    texts = [f"{v:.6g}" if isinstance(v, float) else str(v) for v in values[:_MOST_VALUES].tolist()]
    text = ", ".join(texts) + (", …" if values.size > _MOST_VALUES else "")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"

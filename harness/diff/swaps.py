"""A feature that carries another feature's values: swapped columns, a wrong join key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.tensors import Array
from harness.diff.distance import Comparison, compare_rows, comparison
from harness.diff.pairs import ENOUGH, Relation, RelationKind
from harness.diff.tally import TensorTally

_ROWS = 30
_DISTINCT = 4


def other_column(tally: TensorTally, others: Sequence[TensorTally]) -> Relation | None:
    """Looks for another baseline feature whose values the candidate's feature holds.

    Only the sampled beginning is used: its rows are the same for every tensor.

    Args:
      tally: a flat feature that differs without a simple relation.
      others: flat features of the same stream.
    """
    before, after = tally.sample.prefix(0)
    tolerance, scale = tally.measure()
    if comparison(before.dtype, after.dtype) is Comparison.IMPOSSIBLE or len(before) == 0:
        return None
    differs = compare_rows(before[:, None], after[:, None], tolerance, scale).mismatch[:, 0]
    if differs.sum() < _ROWS or _distinct(after[differs]) < _DISTINCT:
        return None
    for other in others:
        if other is tally or not other.flat:
            continue
        values, _ = other.sample.prefix(0)
        if len(values) != len(after) or comparison(values.dtype, after.dtype) in _UNLIKE:
            continue
        missed = compare_rows(values[:, None], after[:, None], tolerance, scale).mismatch[:, 0]
        share = 1.0 - float(missed[differs].mean())
        if share >= ENOUGH:
            whose = "input" if other.kind == "input" else "baseline's"
            text = f"candidate = the {whose} {other.name} (columns swapped?)"
            return Relation(kind=RelationKind.OTHER_COLUMN, value=None, share=share, text=text)
    return None


_UNLIKE = (Comparison.IMPOSSIBLE,)


def _distinct(values: Array) -> int:
    if values.dtype == object:
        return len(set(values.tolist()))
    return len(np.unique(values[~np.isnan(values.astype(np.float64))]))

"""A feature that carries another feature's values: swapped columns, a wrong join key, columns in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.core.counted import counted
from harness.core.tensors import Array, Bools, Ints
from harness.diff.columns import column_name
from harness.diff.distance import Comparison, compare_rows, comparison
from harness.diff.pairs import ENOUGH, Relation, RelationKind
from harness.diff.reports import ParityVerdict, TensorReport
from harness.diff.tally import TensorTally
from harness.diff.whole import permuted_columns

_ROWS = 30
_DISTINCT = 4
"""Distinct values of the differing rows, and so their least number."""
_SELDOM = 1e-6
"""Chance, of all columns asked together, below which fewer than `_ROWS` rows show whose values they are."""
_FIRST = 64
"""Differing rows that rule out most columns, of a whole tensor at once."""
_LOOSE = 4.0
"""Times the tolerance that these rows may miss by."""
_MOST = 0.9
"""Share of them that must not."""
_MANY = 3
"""Moved columns from which on the order is told once for the tensor."""
_CLEAR = 16
"""Moved columns that are enough where others that differ are constant in the rows that are kept."""
_SHOWN = 4


def other_column(tally: TensorTally, index: int, others: Sequence[TensorTally]) -> Relation | None:
    """Looks for another baseline column whose values the candidate's column holds.

    Only the sampled beginning is used: its rows are the same for every tensor.

    Args:
      tally: of a feature; this column of it differs without a simple relation.
      index: the column.
      others: features of the same stream, with any number of columns, the tally's own, too.
    """
    before, after = tally.prefix(index)
    tolerance, scale = tally.measure(index)
    if comparison(before.dtype, after.dtype) is Comparison.IMPOSSIBLE or len(before) == 0:
        return None
    differs = compare_rows(before[:, None], after[:, None], tolerance, scale).mismatch[:, 0]
    if _distinct(after[differs]) < _DISTINCT:
        return None
    columns = sum(len(other.labels) for other in others)
    for other in others:
        rows = tally.rows_shared(other)
        own, asked = after[:rows], differs[:rows]
        for place in _possible(other, own, asked, _LOOSE * tolerance, scale):
            values = other.prefix(place)[0][:rows]
            missed = compare_rows(values[:, None], own[:, None], tolerance, scale).mismatch[:, 0]
            share = 1.0 - float(missed[asked].mean())
            if share < ENOUGH or (other is tally and place == index):
                continue
            few = asked.sum() < _ROWS
            if not few or columns * _chance(values, own[asked], tolerance, scale) <= _SELDOM:
                return _as(other, place, share)
    return None


def in_another_order(tally: TensorTally, reports: list[TensorReport]) -> list[TensorReport]:
    """One report for all columns that differ, where the candidate holds the baseline's in another order.

    Args:
      tally: of a tensor of several columns.
      reports: of it.
    """
    differing = [r for r in reports if r.mismatched_requests]
    columns = sum(r.columns for r in differing)
    plain = any(r.relation == RelationKind.OTHER for r in differing)
    if columns < (_MANY - 1 if plain else _MANY) or tally.unlike:
        return reports
    before, after = tally.sample.beginning()
    if any(r.verdict is not ParityVerdict.DIFFERS for r in differing) or len(before) < _ROWS:
        return reports
    order = permuted_columns(before, after, tolerance=max(map(_tolerance, differing)))
    # Columns that are constant in these rows stand for each other by chance: they are no evidence.
    moved = [(i, j) for i, j in enumerate(order) if i != j and (after[:, i] != after[0, i]).any()]
    # A class of one version only has no values on the other side that could stand elsewhere.
    alone = [tally.labels[i] in tally.one_sided_labels for i in range(len(tally.labels))]
    if any(alone[i] or alone[j] for i, j in moved):
        return reports
    if not moved or len(moved) < min(columns, _CLEAR):
        return reports
    some = ", ".join(f"{tally.labels[i]} is {tally.labels[j]}" for i, j in moved[:_SHOWN])
    more = f" and {counted(columns - _SHOWN, 'more column')}" if columns > _SHOWN else ""
    flags = after.dtype != object and bool(np.isin(after, (0, 1)).all())
    together = replace(
        differing[0],
        name=column_name(tally.name, counted(columns, "column")),
        columns=columns,
        mismatched_requests=tally.mismatched,
        max_abs=max(r.max_abs for r in differing),
        max_rel=max(r.max_rel for r in differing),
        relation=(RelationKind.PERMUTED if flags else RelationKind.OTHER_COLUMN).value,
        value=None,
        text=f"candidate holds the baseline's columns in another order: {some}{more}"
        + (f", as {counted(len(before), 'row')} show" if len(moved) < columns else ""),
    )
    return [together, *(r for r in reports if not r.mismatched_requests)]


def _tolerance(report: TensorReport) -> float:
    return report.tolerance


def _as(other: TensorTally, place: int, share: float) -> Relation:
    whose = "input" if other.kind == "input" else "baseline's"
    name = other.name if other.flat else column_name(other.name, other.labels[place])
    text = f"candidate = the {whose} {name} (columns swapped?)"
    return Relation(kind=RelationKind.OTHER_COLUMN, value=None, share=share, text=text)


def _possible(
    other: TensorTally, after: Array, asked: Bools, tolerance: float, scale: float
) -> list[int]:
    """Columns of which the first differing rows may be the candidate's; `tolerance` is a loose one."""
    values, _ = other.sample.beginning()
    if asked.sum() < _DISTINCT or not len(values):
        return []
    if comparison(values.dtype, after.dtype) is Comparison.IMPOSSIBLE:
        return []
    rows: Ints = np.flatnonzero(asked)[:_FIRST]
    own = after[rows, None]
    if values.dtype == object:
        near = np.asarray(values[rows] == own, dtype=np.bool_)
    else:
        there, wanted = values[rows].astype(np.float64), own.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            near = np.abs(there - wanted) <= tolerance * np.fmax(np.abs(wanted), scale)
        near |= (there == wanted) | (np.isnan(there) & np.isnan(wanted))
    return [int(i) for i in np.flatnonzero(near.mean(axis=0) >= _MOST)]


def _chance(values: Array, own: Array, tolerance: float, scale: float) -> float:
    """How often rows of a column that are drawn by chance hold these values, shape (n,), one after the other."""
    shares = []
    for value in own:
        same = np.full(len(values), value, dtype=own.dtype)[:, None]
        missed = compare_rows(values[:, None], same, tolerance, scale).mismatch
        shares.append(1.0 - float(missed.mean()))
    return float(np.prod(shares))


def _distinct(values: Array) -> int:
    if values.dtype == object:
        return len(set(values.tolist()))
    return len(np.unique(values[~np.isnan(values.astype(np.float64))]))

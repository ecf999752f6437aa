"""The reports of a wide tensor: the columns that differ most one by one, all others together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from harness.core.counted import counted
from harness.core.tensors import Bools, Ints
from harness.diff.column_figures import ColumnFigures
from harness.diff.columns import Keys, column_name
from harness.diff.pairs import RelationKind
from harness.diff.reports import TensorReport, within_words
from harness.diff.wide_sample import WANTED, worst_columns

_FEW = 3
"""Columns shown one by one where more than `WANTED` differ, each in its own way."""
_SAME = 1e-4
"""Constants of relations that are nearer than this, relative to the larger, are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WideTensor:
    """A wide tensor of k columns at the end of a stream."""

    name: str
    """As shown."""
    labels: Keys
    """The columns' names."""
    figures: ColumnFigures
    """What the stream has shown of them."""
    counted: Bools
    """Whether a difference counts, shape (k,)."""
    mismatched: int
    """Requests that differ in any column."""
    unlike: bool
    """The two sides have other shapes: all columns differ for one reason."""


def wide_reports(
    tensor: WideTensor, report: Callable[[int], TensorReport]
) -> list[tuple[int, TensorReport]]:
    """(column, or the worst of several; report), what differs first.

    Args:
      tensor: with its columns.
      report: makes the report of one column.
    """
    found: list[tuple[int, TensorReport]] = []
    for same in (tensor.counted, ~tensor.counted):
        found += _differing(tensor, np.where(same, tensor.figures.differing, 0), report)
    equal = tensor.figures.differing == 0
    small = worst_columns(
        np.where(
            equal & tensor.figures.unproven,
            np.maximum(tensor.figures.small, tensor.figures.lent),
            0,
        ),
        tensor.figures.relative,
        len(equal),
    )
    found += _each(tensor, small, WANTED, report, "more small columns")
    left = np.flatnonzero(equal & ~tensor.figures.unproven)
    if len(left):
        label = "" if len(left) == len(equal) else f"{counted(len(left), 'equal column')}"
        together = _together(tensor, left, label, report)
        text = together.text.split("; ")[0]
        if together.small_rows:
            text += f"; {within_words(together.small_rows)}"
        found.append((int(left[0]), replace(together, text=text)))
    return found


def _differing(
    tensor: WideTensor, differing: Ints, report: Callable[[int], TensorReport]
) -> list[tuple[int, TensorReport]]:
    columns = worst_columns(differing, tensor.figures.relative, len(differing))
    if len(columns) <= WANTED:
        return _each(tensor, columns, WANTED, report, "")
    if tensor.unlike:
        label = "" if len(columns) == len(differing) else counted(len(columns), "column")
        together = _together(tensor, columns, label, report)
        if len(columns) == np.count_nonzero(tensor.figures.differing):
            together = replace(together, mismatched_requests=tensor.mismatched)
        return [(int(columns[0]), together)]
    asked, others = columns[:WANTED], columns[WANTED:]
    if _alike([report(i) for i in asked.tolist()]):
        # Nobody has looked how the others follow: they are told apart.
        together = _together(tensor, asked, counted(len(asked), "column"), report)
        rest = _each(tensor, others, 0, report, "more columns")
        return [(int(asked[0]), together), *rest]
    return _each(tensor, columns, _FEW, report, "more columns")


def _each(
    tensor: WideTensor,
    columns: Ints,
    most: int,
    report: Callable[[int], TensorReport],
    rest: str,
) -> list[tuple[int, TensorReport]]:
    """The first columns one by one, and the others as one report, in the words of their worst."""
    found = [(i, report(i)) for i in columns[:most].tolist()]
    left = columns[most:]
    if len(left) == 1:
        found.append((int(left[0]), report(int(left[0]))))
    elif len(left):
        label = f"{len(left):,} {rest}"
        together = _together(tensor, left, label, report)
        worst = column_name(tensor.name, tensor.labels[left[0]])
        text = f"they differ, too, {worst} the most: {together.text}"
        plain = RelationKind.OTHER.value
        found.append((int(left[0]), replace(together, text=text, relation=plain, value=None)))
    return found


def _together(
    tensor: WideTensor, columns: Ints, label: str, report: Callable[[int], TensorReport]
) -> TensorReport:
    """One report for several columns, the worst of them first."""
    return replace(
        report(int(columns[0])),
        name=column_name(tensor.name, label),
        columns=len(columns),
        max_abs=float(tensor.figures.absolute[columns].max()),
        max_rel=float(tensor.figures.relative[columns].max()),
        small_rows=int(tensor.figures.small[columns].sum()),
    )


def _alike(reports: list[TensorReport]) -> bool:
    """Whether all follow from the baseline in the same way."""
    first = reports[0]
    if first.relation == RelationKind.OTHER:
        return False
    return all(
        r.relation == first.relation
        and (
            r.value == first.value
            if r.value is None or first.value is None
            else math.isclose(r.value, first.value, rel_tol=_SAME)
        )
        for r in reports
    )

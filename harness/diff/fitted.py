"""Columns of fitted matrices: which raw feature each one holds, and what fills its gaps.

`imputed[9]` says little to a person. Where a baseline column equals a raw feature wherever that
one has a value, the column is about that feature; where the feature is missing, it is the fill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.core.tensors import Array, Floats
from harness.diff.lost_digits import moved_in_line
from harness.diff.pairs import RelationKind, shown
from harness.diff.refit_doubts import UNTOLD, has_fitted_bound, is_marked
from harness.diff.refit_zeros import dropped_categories, is_of_no_spread
from harness.diff.reports import TensorReport
from harness.diff.tally import TensorTally
from harness.diff.upstream import differing_columns, upstream_of

_ROWS = 30
_DISTINCT = 3
_ANEW = "the baseline at another bound"
_IN_LINE = f"candidate is a line of the baseline, as constants fitted anew leave it; {UNTOLD}"
_FILLS = (RelationKind.FILLED_WITH_ZERO, RelationKind.FILLED_WITH_CONSTANT)


def explained_columns(
    fitted: Sequence[TensorTally],
    raw: Sequence[TensorTally],
    differing: Mapping[str, frozenset[str]],
    inputs: Sequence[TensorTally] = (),
) -> list[TensorReport]:
    """Reports of fitted tensors, with the raw feature each differing column is about.

    Args:
      fitted: the tensors.
      raw: features.
      differing: of these the names of those that differ, with what their columns are called.
      inputs: beside the features.
    """
    causes = {t.name: (t, differing[t.name]) for t in raw if t.name in differing}
    found = []
    for tally in fitted:
        dropped = dropped_categories(tally)
        for i, report in _in_line(tally, _bounded_anew(tally)):
            if not report.mismatched_requests:
                found.append(report)
                continue
            told = _follows(tally, i, report, causes)
            if told is report:
                told = _fitted_zero(tally, i, report, dropped, (*raw, *inputs))
            found.append(_explained(tally, i, told, raw) if told.columns == 1 else told)
    return found


def _follows(
    tally: TensorTally,
    index: int,
    report: TensorReport,
    causes: Mapping[str, tuple[TensorTally, frozenset[str]]],
) -> TensorReport:
    """What a fault upstream leaves here has no name of its own: it is told where it is."""
    if not causes or not is_marked(report):
        return report
    columns = [index] if report.columns == 1 else differing_columns(tally)
    names = upstream_of(tally, columns, report.relation, causes)
    if not names:
        return report
    other = RelationKind.OTHER.value
    return replace(report, relation=other, value=None, text=f"follows from {names}")


def _fitted_zero(
    tally: TensorTally,
    index: int,
    report: TensorReport,
    dropped: Sequence[int],
    others: Sequence[TensorTally],
) -> TensorReport:
    """Zeros that a clean fit leaves are no forgotten fill."""
    if report.relation != RelationKind.FILLED_WITH_ZERO:
        return report
    if index in dropped:
        why = "a category that is too rare in the candidate's data"
    elif report.columns == 1 and is_of_no_spread(tally, index, others):
        why = "hardly ever another value, so that a fit of other rows takes it to 0"
    else:
        return report
    return replace(
        report, relation=RelationKind.OTHER.value, value=None, text=f"{report.text}: {why}"
    )


def _bounded_anew(tally: TensorTally) -> list[tuple[int, TensorReport]]:
    """Reports by column: another bound of a column that had one is a fit, and no clipping."""
    return [
        (i, replace(r, relation=RelationKind.OTHER.value, value=None, text=f"{r.text}, {_ANEW}"))
        if r.relation == RelationKind.CLIPPED and has_fitted_bound(tally, i)
        else (i, r)
        for i, r in tally.reports_by_column()
    ]


def _in_line(
    tally: TensorTally, reports: Sequence[tuple[int, TensorReport]]
) -> list[tuple[int, TensorReport]]:
    """Reports by column: few digits that another scale leaves by chance are no lost ones.

    Where other columns of the tensor lost digits in the same way, they are.
    """
    few = [(i, r) for i, r in reports if r.relation == RelationKind.PRECISION]
    chance = {
        i
        for i, r in few
        # A decimal is met by chance where values are few; eleven binary digits, and eight, are not.
        if r.columns == 1
        and "float16" not in r.text
        and moved_in_line(*_numbers(tally, i), said=r.text)
    }
    lost = {r.text for i, r in few if i not in chance}
    return [
        (i, replace(r, relation=RelationKind.OTHER.value, value=None, text=_IN_LINE))
        if i in chance and r.text not in lost
        else (i, r)
        for i, r in reports
    ]


def _numbers(tally: TensorTally, index: int) -> tuple[Floats, Floats]:
    before, after = tally.longest_prefix(index)
    return before.astype(np.float64), after.astype(np.float64)


def _explained(
    tally: TensorTally, index: int, report: TensorReport, raw: Sequence[TensorTally]
) -> TensorReport:
    held, now = tally.prefix(index)
    if held.dtype == object:
        return report
    for feature in raw:
        values = feature.sample.prefix(0)[0][: tally.sample.limit]
        if not feature.flat or not _holds(values, held):
            continue
        report = replace(report, about=feature.name)
        if report.relation in _FILLS and _only_missing(values, held, now):
            return replace(report, text=_fill_text(feature.name, report))
        return report
    return report


def _holds(values: Array, held: Array) -> bool:
    if values.dtype == object or len(values) != len(held):
        return False
    known = np.isfinite(values.astype(np.float64))
    if known.sum() < _ROWS or len(np.unique(values[known])) < _DISTINCT:
        return False
    return bool((values[known].astype(np.float64) == held[known].astype(np.float64)).all())


def _only_missing(values: Array, held: Array, now: Array) -> bool:
    """Whether the column differs only where the raw feature has no value."""
    missing = np.isnan(values.astype(np.float64))
    return bool((held == now)[~missing].all()) and bool((held != now)[missing].any())


def _fill_text(name: str, report: TensorReport) -> str:
    own = None if report.example is None else report.example.baseline
    before = shown(float(own)) if isinstance(own, int | float) else "its own fill"
    after = shown(report.value or 0.0)
    return f"missing {name} becomes {after} in the candidate, {before} in the baseline"

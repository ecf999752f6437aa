"""Columns of fitted matrices: which raw feature each one holds, and what fills its gaps.

`imputed[9]` says little to a person. Where a baseline column equals a raw feature wherever that
one has a value, the column is about that feature; where the feature is missing, it is the fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.core.tensors import Array
from harness.diff.pairs import RelationKind, shown
from harness.diff.refit_doubts import has_fitted_bound
from harness.diff.reports import TensorReport
from harness.diff.tally import TensorTally

_ROWS = 30
_DISTINCT = 3
_ANEW = "the baseline at another bound"
_FILLS = (RelationKind.FILLED_WITH_ZERO, RelationKind.FILLED_WITH_CONSTANT)


def explained_columns(
    fitted: Sequence[TensorTally], raw: Sequence[TensorTally]
) -> list[TensorReport]:
    """Reports of fitted tensors, with the raw feature each differing column is about."""
    return [
        _explained(tally, i, report, raw)
        if report.mismatched_requests and report.columns == 1
        else report
        for tally in fitted
        for i, report in _bounded_anew(tally)
    ]


def _bounded_anew(tally: TensorTally) -> list[tuple[int, TensorReport]]:
    """Reports by column: another bound of a column that had one is a fit, and no clipping."""
    return [
        (i, replace(r, relation=RelationKind.OTHER.value, value=None, text=f"{r.text}, {_ANEW}"))
        if r.relation == RelationKind.CLIPPED and has_fitted_bound(tally, i)
        else (i, r)
        for i, r in tally.reports_by_column()
    ]


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

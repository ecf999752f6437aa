"""A table's column → observations that a test may stake its validity on.

A bound is a bound: a test of a mean is valid only if no observation can lie outside the range it
bets on. Where a policy merely declares a range, values are cut to it, which makes the range true and
makes the clipped mean the subject of the verdict (2 % of rows at +1 under a declared ±0.25 gave 39 %
false promotion of the mean itself). Where a metric's mathematics gives the bounds, a value outside
them is not that metric, and cutting it would hide the mistake.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.errors import GateError, TrafficError
from harness.core.policies import Guardrail, Metric
from harness.core.tensors import Bools, Floats
from harness.judge.exceedance import exceedance_cut, exceedances
from harness.judge.excess import excess_flips, ratio_values
from harness.judge.latency import log_ratios
from harness.judge.metrics import Values

_ROUNDING = 1e-9
"""Share of the range by which a sum in float64 may leave a mathematical bound."""

_FIRST_LOOK = 50
_LOOK_GROWTH = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnValues:
    """One guardrail's observations of a table's n rows, and what was done to them."""

    values: Values
    """x in the guardrail's bounds, shape (n,); NaN rows failed."""
    n_missing: int
    """Rows without a number that can be used (empty, NaN, infinite, a ratio's row outside both
    ranges): they count as the worst value for whatever is to be proven."""
    n_clipped: tuple[int, int]
    """Rows (below, above) the range, cut to its ends."""


def column_values(guardrail: Guardrail, x: Floats) -> ColumnValues:
    """Makes a guardrail's observations from its column.

    Args:
      guardrail: its bounds; a declared range clips.
      x: the column in arrival order, shape (n,), n ≥ 0; NaN = missing. In a declared range ±inf is
        a computation that failed: cut to the range it could speak for the candidate.

    Returns:
      Values in the bounds, with counts of what was missing and what was cut.

    Raises:
      TrafficError: a value outside the mathematical bounds of the guardrail's metric.
    """
    lo, hi = guardrail.bounds()
    x = np.asarray(x, np.float64)
    missing = np.isnan(x) if guardrail.range is None else ~np.isfinite(x)
    below, above = (x < lo) & ~missing, (x > hi) & ~missing
    if guardrail.range is None:
        slack = _ROUNDING * (hi - lo)
        odd = np.flatnonzero((x < lo - slack) | (x > hi + slack))
        if len(odd):
            raise TrafficError(
                f"column '{guardrail.column}', row {odd[0]}",
                f"{x[odd[0]]:g} is no value of {guardrail.metric.value}, "
                f"which lies in [{lo:g}, {hi:g}]; {_outside(len(odd))}",
                "Correct the column, or declare a `range` instead of a metric: that clips.",
            )
    return ColumnValues(
        values=Values(x=np.where(missing, np.nan, np.clip(x, lo, hi)), failed=missing),
        n_missing=int(np.count_nonzero(missing)),
        n_clipped=(
            (int(np.count_nonzero(below)), int(np.count_nonzero(above)))
            if guardrail.range is not None
            else (0, 0)
        ),
    )


def table_values(
    guardrail: Guardrail, columns: Sequence[Floats], *, planning: int = 0
) -> ColumnValues:
    """Makes a guardrail's observations from all the columns that it reads.

    Args:
      guardrail: names its columns (`reads`).
      columns: in that order, each in arrival order, shape (n,); NaN = missing.
      planning: first rows, which no test sees; they fix a cut-off that the policy leaves open.

    Returns:
      Values in the guardrail's bounds, with counts of what was missing and what was cut.

    Raises:
      TrafficError: a value that the metric cannot have, or planning rows that fix no cut-off.
    """
    match guardrail.metric:
        case Metric.EXCESS_FLIP:
            for column, x in zip(guardrail.columns, columns, strict=True):
                _within(guardrail, column, x, (0.0, 1.0))
            return _counted(as_values(excess_flips(*columns)), (0, 0))
        case Metric.CALIBRATION_SHIFT:
            return _calibration(guardrail, *columns)
        case Metric.LATENCY_RATIO | Metric.LATENCY_P99:
            return _latency(guardrail, *columns, planning=planning)
        case Metric.RATIO:
            return _ratio(guardrail, *columns)
        case _:
            (only,) = columns
            return column_values(guardrail, only)


def _counted(values: Values, clipped: tuple[int, int]) -> ColumnValues:
    """Rows that do not enter count as missing: in a table nothing is left out in silence."""
    missing: Bools = np.isnan(values.x)
    return ColumnValues(
        values=replace(values, failed=values.failed | missing, left_out=()),
        n_missing=int(np.count_nonzero(missing)),
        n_clipped=clipped,
    )


def _calibration(guardrail: Guardrail, label: Floats, old: Floats, new: Floats) -> ColumnValues:
    """The outcome minus the candidate's score, with the baseline's score to sort it by."""
    odd = np.flatnonzero(~np.isnan(label) & (label != 0.0) & (label != 1.0))
    if len(odd):
        raise TrafficError(
            f"column '{guardrail.columns[0]}', row {odd[0]}",
            f"label {label[odd[0]]:g} is neither 0 nor 1",
            "Calibration is about outcomes of two kinds.",
        )
    for column, x in zip(guardrail.columns[1:], (old, new), strict=True):
        _within(guardrail, column, x, (0.0, 1.0))
    residual = np.where(np.isnan(old), np.nan, label - new)
    return _counted(replace(as_values(residual), score=old), (0, 0))


def _latency(
    guardrail: Guardrail, baseline_s: Floats, candidate_s: Floats, *, planning: int
) -> ColumnValues:
    """Log-ratios, or exceedances of a cut-off; an empty cell is the worst for either answer."""
    for column, x in zip(guardrail.columns, (baseline_s, candidate_s), strict=True):
        odd = np.flatnonzero(~(np.isnan(x) | ((x > 0.0) & np.isfinite(x))))
        if len(odd):
            what = f"{x[odd[0]]:g} is no time in seconds"
            raise TrafficError(f"column '{column}', row {odd[0]}", what, "Correct the column.")
    nobody: Bools = np.zeros(len(baseline_s), np.bool_)
    if guardrail.metric is Metric.LATENCY_RATIO:
        bare = np.log(candidate_s / baseline_s)
        lo, hi = guardrail.bounds()
        cut = int(np.count_nonzero(bare < lo)), int(np.count_nonzero(bare > hi))
        return _counted(log_ratios(baseline_s, candidate_s, nobody), cut)
    cut_s = guardrail.cutoff_s or _cutoff(guardrail, baseline_s[:planning])
    found = exceedances(baseline_s, candidate_s, nobody, cut_s=cut_s, ratio=guardrail.margin)
    return _counted(found, (0, 0))


def _cutoff(guardrail: Guardrail, earlier_s: Floats) -> float:
    try:
        return exceedance_cut(earlier_s[~np.isnan(earlier_s)], guardrail.margin)
    except GateError as error:
        raise TrafficError(
            f"guardrail {guardrail.name}, windows.planning",
            f"the planning rows fix no cut-off: {error.what}",
            "Add `cutoff:` in seconds, or plan with more rows.",
        ) from None


def _ratio(guardrail: Guardrail, numerator: Floats, denominator: Floats) -> ColumnValues:
    """Y − r·W, both cut to their declared ranges.

    A number that is infinite, a denominator below 0, or a row outside both ranges is no observation
    that cutting could repair: the two cuts may cancel in the candidate's favour.
    """
    top, bottom = guardrail.range, guardrail.denominator_range
    if top is None or bottom is None:
        where = f"guardrail {guardrail.name}"
        raise GateError(where, "a ratio without ranges", "Report this: policies are checked.")
    lo, hi = guardrail.bounds()
    odd_top = (numerator < top[0]) | (numerator > top[1])
    odd_bottom = (denominator < bottom[0]) | (denominator > bottom[1])
    broken = ~np.isfinite(numerator) | ~np.isfinite(denominator) | (denominator < 0.0)
    broken |= odd_top & odd_bottom
    made = ratio_values(np.clip(numerator, *top), np.clip(denominator, *bottom), guardrail.ratio)
    below = ~broken & ((numerator < top[0]) | (denominator < bottom[0]))
    above = ~broken & ((numerator > top[1]) | (denominator > bottom[1]))
    cut = int(np.count_nonzero(below)), int(np.count_nonzero(above))
    return _counted(as_values(np.where(broken, np.nan, np.clip(made, lo, hi))), cut)


def as_values(x: Floats) -> Values:
    """Observations of which NaN ones failed."""
    return Values(x=x, failed=np.isnan(x))


def _within(guardrail: Guardrail, column: str, x: Floats, bounds: tuple[float, float]) -> None:
    odd = np.flatnonzero((x < bounds[0]) | (x > bounds[1]))
    if len(odd):
        raise TrafficError(
            f"column '{column}', row {odd[0]}",
            f"{x[odd[0]]:g} is outside [{bounds[0]:g}, {bounds[1]:g}], between which "
            f"{guardrail.metric.value} needs it; {_outside(len(odd))}",
            "Correct the column.",
        )


def _outside(count: int) -> str:
    return "1 row is outside" if count == 1 else f"{count:,} rows are outside"


def looks(n: int) -> list[tuple[int, int]]:
    """Where a table in arrival order is cut into looks: steps that grow with what was seen.

    Looks cost no error rate; between two of them the rows grow by a quarter, so that more of them
    would show little else.

    Args:
      n: rows, ≥ 0.
    """
    edges = [0]
    step = float(_FIRST_LOOK)
    while edges[-1] < n:
        edges.append(min(n, max(edges[-1] + 1, round(step))))
        step *= _LOOK_GROWTH
    return list(itertools.pairwise(edges))

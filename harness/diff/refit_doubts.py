"""Why a fitted constant that changed looks like a fault: no retrain fits such a one."""

from __future__ import annotations

import math

import numpy as np

from harness.core.tensors import Floats
from harness.diff.pairs import RelationKind, shown
from harness.diff.refit_lines import Line
from harness.diff.reports import ParityVerdict, TensorReport
from harness.diff.tally import TensorTally
from harness.diff.units import AFFINE, FACTORS, known_factor

EXACT = 1e-5
"""Constants nearer than this, relative to the larger, are the same: the fit carries float32's noise."""
_UNSCALED = 1e-3
"""How far from 1 a scale is that was one."""
_FAR = 20.0
"""A factor that no retrain changes a scale by: it has its name without being exact."""
_ABOUT = 0.03
"""How far from such a factor the scale may be that is fitted anew, too."""
_TAKEN = 0.1
"""Part of the scale that an offset is, at least, to be missed."""
_ZEROS = 0.01
"""Part of the values that are 0, at most, where no fit gives an offset of 0."""
_BOUND = 0.2
"""Share of the differing rows at one end of the baseline that make this end a fitted bound."""
_KNOWN = {known.value for known in FACTORS}
_SLOPES = {slope for slope, _, _ in AFFINE}


UNTOLD = "fewer digits leave the same"
"""How the words end that are said of a line whose values a way of rounding leaves, too."""


def doubted_fill(before: float, after: float) -> str:
    """Why the fill of a missing value looks like a fault; "" = it does not."""
    if before != 0 and abs(after) <= EXACT * abs(before):
        return f"0 stands for a missing value, {shown(before)} did before: fitted, or forgotten?"
    return ""


def doubted_offset(before: float, after: float, scale: float, raw: Floats) -> str:
    """Why what is taken away from a value looks like a fault; "" = it does not.

    0 is a least or a middle value of many columns, so that a fit may give it: not where whole numbers have a mean
    with fractions, nor where hardly any value is 0.

    Args:
      before: the baseline's, in the raw unit.
      after: the candidate's.
      scale: what the candidate divides by.
      raw: the candidate's raw values, shape (n,).
    """
    if abs(after) > EXACT * abs(scale) or abs(before) < _TAKEN * abs(scale):
        return ""
    values = raw[np.isfinite(raw)]
    whole = bool((values == np.rint(values)).all())
    twice = 2.0 * before
    picked = math.isfinite(twice) and abs(twice - round(twice)) <= _UNSCALED
    if picked if whole else (values == 0).mean() > _ZEROS:
        return ""
    return f"nothing is taken away, {shown(before)} was before: fitted, or forgotten?"


def doubted_form(before: str, after: str) -> str:
    """Why a column that was a line of one form of a feature, and is one of another, looks like a fault."""
    return f"the scaler acts on {after} now, no fit makes that of {before}: a step forgotten?"


def doubted_scale(old: Line, new: Line, *, spread: bool = True) -> str:
    """Why a scaler looks like a fault; "" = it does not.

    Args:
      old: what the baseline makes of the raw values.
      new: what the candidate makes of them.
      spread: the raw values have some; one that hardly ever moves is scaled by 1 where a fit met no other.
    """
    before, after = 1 / old[0], 1 / new[0]
    if spread and abs(after - 1) <= EXACT and abs(before - 1) > _UNSCALED:
        return "the candidate does not scale it"
    factor = new[0] / old[0]
    if factor < 0:
        return "the candidate's values have the other sign"
    return _unit(factor, new[1] - factor * old[1], abs(new[1]) + abs(1 / factor), spread=spread)


def _unit(factor: float, rest: float, size: float, *, spread: bool) -> str:
    """The unit that candidate = factor × baseline + rest may be; `size` is what the rest is measured by."""
    for slope, intercept, meaning in AFFINE:
        if _near(factor, slope) and abs(rest - intercept) <= EXACT * (size + abs(intercept)):
            return f"the candidate's values are another unit ({meaning}?)"
    known = known_factor(factor)
    if known is not None and _near(factor, known.value) and abs(rest) <= EXACT * size:
        return f"the candidate's values are × {shown(known.value)} ({known.meaning}?)"
    for k in (k for k in FACTORS if max(k.value, 1 / k.value) >= _FAR):
        if spread and abs(factor / k.value - 1) <= _ABOUT:
            return f"the candidate's values are about × {shown(k.value)} ({k.meaning}?)"
    return ""


def _near(one: float, other: float) -> bool:
    return abs(one / other - 1) <= EXACT


def is_marked(report: TensorReport) -> bool:
    """Whether a fitted column's relation makes a finding: a refit's, a smaller number type's, or zeros'."""
    marks = (RelationKind.PRECISION, RelationKind.FILLED_WITH_ZERO)
    return is_no_fit(report) or report.relation in marks


def is_no_fit(report: TensorReport) -> bool:
    """Whether a fitted column follows from the baseline's in a way that no fit explains."""
    if report.verdict is not ParityVerdict.REFITTED:
        return False
    named = report.text.endswith("?)")
    return (
        report.relation in (RelationKind.SIGN, RelationKind.CLIPPED)
        or (report.relation == RelationKind.SCALED and report.value in _KNOWN)
        or (report.relation == RelationKind.AFFINE and report.value in _SLOPES and named)
    )


def has_fitted_bound(tally: TensorTally, index: int) -> bool:
    """Whether the baseline's column stops at a bound itself, so that the candidate's may be a fit of that."""
    before, after = (side.astype(np.float64) for side in tally.longest_prefix(index))
    differs = np.isfinite(before) & np.isfinite(after) & (before != after)
    moved = before[differs]
    if not len(moved):
        return False
    low, high = np.nanmin(before), np.nanmax(before)
    return bool(max((moved == low).mean(), (moved == high).mean()) >= _BOUND)

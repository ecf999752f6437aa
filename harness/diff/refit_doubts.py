"""Why a fitted constant that changed looks like a fault: no retrain fits such a one."""

from __future__ import annotations

import numpy as np

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
_BOUND = 0.2
"""Share of the differing rows at one end of the baseline that make this end a fitted bound."""
_KNOWN = {known.value for known in FACTORS}
_SLOPES = {slope for slope, _, _ in AFFINE}


def doubted_fill(before: float, after: float) -> str:
    """Why the fill of a missing value looks like a fault; "" = it does not."""
    if before != 0 and abs(after) <= EXACT * abs(before):
        return f"0 stands for a missing value, {shown(before)} did before: fitted, or forgotten?"
    return ""


def doubted_scale(old: Line, new: Line) -> str:
    """Why a scaler looks like a fault; "" = it does not.

    Args:
      old: what the baseline makes of the raw values.
      new: what the candidate makes of them.
    """
    before, after = 1 / old[0], 1 / new[0]
    if abs(after - 1) <= EXACT and abs(before - 1) > _UNSCALED:
        return "the candidate does not scale it"
    factor = new[0] / old[0]
    if factor < 0:
        return "the candidate's values have the other sign"
    return _unit(factor, new[1] - factor * old[1], abs(new[1]) + abs(1 / factor))


def _unit(factor: float, rest: float, size: float) -> str:
    """The unit that candidate = factor × baseline + rest may be; `size` is what the rest is measured by."""
    for slope, intercept, meaning in AFFINE:
        if _near(factor, slope) and abs(rest - intercept) <= EXACT * (size + abs(intercept)):
            return f"the candidate's values are another unit ({meaning}?)"
    known = known_factor(factor)
    if known is not None and _near(factor, known.value) and abs(rest) <= EXACT * size:
        return f"the candidate's values are × {shown(known.value)} ({known.meaning}?)"
    for k in (k for k in FACTORS if max(k.value, 1 / k.value) >= _FAR):
        if abs(factor / k.value - 1) <= _ABOUT:
            return f"the candidate's values are about × {shown(k.value)} ({k.meaning}?)"
    return ""


def _near(one: float, other: float) -> bool:
    return abs(one / other - 1) <= EXACT


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

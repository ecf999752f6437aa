"""Fitted columns that are no straight line of a raw one any more: no fit rounds values or cuts them off.

A scaler is a line of the raw values, whatever rows it was fitted to. Where the baseline's column is such a line
and the candidate's is not, its own values say why: all of them have few digits, or those beyond a bound are one
value while the others are a line. A constant fitted anew does neither, so that this is told although it changed.
"""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Bools, Floats
from harness.diff.any_size import SQUARABLE
from harness.diff.pairs import shown
from harness.diff.refit_lines import line_of

_ROWS = 30
_DISTINCT = 16
"""Distinct raw values of which a line is known well enough to say that something is none."""
_NEAR = 0.02
"""Part of its own range by which a column of a smaller number type misses its line, at most."""
_OFF = 1e-5
"""Part of its range by which a bound leads away from the line, at least: as `refit_lines` allows a line."""
_MOST = 0.9
"""Part of the values that are near the line."""
_ALL = 0.999
"""Part of the values that have few digits where all are meant to."""
_BEYOND = 0.01
"""Part of the rows that are cut off, at least."""
_MOST_BEYOND = 0.6
_DECIMALS = 4


def distorted(x: Floats, y: Floats) -> str:
    """What became of a column that is no line of a raw one, in words; "" = nothing that can be told.

    Args:
      x: raw values of the candidate, shape (n,).
      y: its fitted column, the same rows.
    """
    known = (np.abs(x) < SQUARABLE) & (np.abs(y) < SQUARABLE)
    x, y = x[known], y[known]
    if len(x) < _ROWS or len(np.unique(x)) < _DISTINCT or np.ptp(y) == 0:
        return ""
    return _cut_off(x, y) or _rounded(x, y)


def _cut_off(x: Floats, y: Floats) -> str:
    """A line between two bounds, of which one at least is reached by other raw values, too."""
    ends = [y == y.max(), y == y.min()]
    held = [bool(end.mean() >= _BEYOND and len(np.unique(x[end])) > 1) for end in ends]
    if not any(held):
        return ""
    free = np.ones(len(x), dtype=np.bool_)
    for end, is_bound in zip(ends, held, strict=True):
        free &= ~(end & is_bound)
    line = line_of(x[free], y[free]) if free.mean() >= 1.0 - _MOST_BEYOND else None
    if line is None or len(np.unique(x[free])) < _DISTINCT:
        return ""
    there = line[0] * x + line[1]
    size = _OFF * float(np.ptp(y[free]))
    for end, is_bound, side in zip(ends, held, (1.0, -1.0), strict=True):
        if is_bound and not _is_beyond(side * (there - y)[end], size):
            return ""
    bounds = [shown(float(y[end][0])) for end, is_bound in zip(ends, held, strict=True) if is_bound]
    return f"cut off at {' and '.join(bounds)}"


def _is_beyond(over: Floats, size: float) -> bool:
    """Whether the line would lead values on from a bound, and none of them back."""
    return bool((over >= -size).all() and (over > size).mean() > 1.0 / 2.0)


def _rounded(x: Floats, y: Floats) -> str:
    """Values near a line, all of them with few digits, which are missing from it."""
    slope, start = np.polyfit(x - x.mean(), y, 1)
    missed = float(np.quantile(np.abs(y - slope * (x - x.mean()) - start), _MOST))
    for words, few, lost in _few_digits(y):
        if few.mean() >= _ALL and missed <= max(lost, _NEAR * float(np.ptp(y))):
            return f"rounded to {words}"
    return ""


def _few_digits(y: Floats) -> list[tuple[str, Bools, float]]:
    """Number types and decimals, which values need no more, and how much of a value is lost at most."""
    near = np.abs(y) * 2.0**-23
    with np.errstate(over="ignore"):
        half = y.astype(np.float16).astype(np.float64)
    bits = y.astype(np.float32).view(np.uint32)
    found = [
        (f"{k} decimals" if k else "whole numbers", np.abs(np.round(y, k) - y) <= near, 10.0**-k)
        for k in range(_DECIMALS + 1)
    ]
    return [*found, ("bfloat16", (bits & 0xFFFF) == 0, 0.0), ("float16", half == y, 0.0)]

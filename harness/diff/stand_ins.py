"""Values that stand for "none" (999999, 1e9, −999) in many rows of a column.

They say nothing about how the other rows follow from each other, so that these are named by themselves.
A stand-in is far from all other values, or far more frequent than any.
"""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Bools, Floats
from harness.diff.pairs import ENOUGH, Pairs, Relation, RelationKind, shown

_TIMES = 3
"""Rows that hold a value exactly, for it to stand for something: the tail of a column rarely repeats."""
_OTHERS = 4
"""Distinct values besides: fewer are codes, of which one may be far from the others."""
_MOST = 4
"""Stand-ins of one side."""
_MANY = 20
"""Distinct values of a column in which a frequent one stands out."""
_OFTEN = 5
"""Times that a frequent value has more rows than the next."""
_SHARE = 0.005
"""Least share of the rows that have a frequent value."""


def far_rows(pairs: Pairs) -> Bools:
    """Rows where either side holds a value far from the side's others, shape (r,)."""
    return _far(pairs.baseline, pairs.candidate) | _far(pairs.candidate, pairs.baseline)


def frequent_rows(pairs: Pairs) -> Bools:
    """Rows where either side holds the one value that is far more frequent than others, shape (r,)."""
    return _frequent(pairs.baseline) | _frequent(pairs.candidate)


def unfilled(pairs: Pairs) -> Relation | None:
    """A constant of the baseline that is other values now: what became of a stand-in."""
    own = _constant(pairs.baseline[pairs.differs])
    if not own:
        return None
    text = f"candidate has other values wherever the baseline is {own}"
    return Relation(kind=RelationKind.OTHER, value=None, share=1.0, text=text)


def _constant(values: Floats) -> str:
    """The one value of nearly all of these, in words; "" where there is none."""
    found, times = np.unique(values, return_counts=True)
    most = int(times.argmax())
    return shown(float(found[most])) if times[most] >= ENOUGH * len(values) else ""


def _far(values: Floats, others: Floats) -> Bools:
    """Rows whose value is as far beyond the side's ends as these are apart, shape (r,).

    Args:
      values: of one side, shape (r,).
      others: of the other side: what is far from a few values must be far on its scale, too.
    """
    found, times = np.unique(values[np.isfinite(values)], return_counts=True)
    theirs = np.unique(others[np.isfinite(others)])
    rows: Bools = np.zeros(len(values), dtype=np.bool_)
    for _ in range(_MOST):
        codes = len(found) <= _OTHERS
        if len(found) <= 1 or (codes and len(theirs) < _MANY):
            break
        low, high = found[1] - found[0], found[-1] - found[-2]
        last = high > low or (high == low and abs(found[-1]) >= abs(found[0]))
        at, rest = (-1, found[:-1]) if last else (0, found[1:])
        span = max(rest[-1] - rest[0], float(np.ptp(theirs)) if codes else 0.0)
        if times[at] < _TIMES or max(low, high) < span:
            break
        rows |= values == found[at]
        found, times = np.delete(found, at), np.delete(times, at)
    return rows


def _frequent(values: Floats) -> Bools:
    found, times = np.unique(values[np.isfinite(values)], return_counts=True)
    none: Bools = np.zeros(len(values), dtype=np.bool_)
    if len(found) < _MANY:
        return none
    most, next_most = times.argmax(), int(np.partition(times, -2)[-2])
    if times[most] < max(_OFTEN * next_most, _SHARE * len(values)):
        return none
    return np.asarray(values == found[most], dtype=np.bool_)

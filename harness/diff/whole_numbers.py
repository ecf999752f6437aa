"""Columns of large whole numbers: identifiers, cents, seconds. One more or less is no rounding of these.

A relative tolerance of 1e-6 is some units of a number of millions. What was only moved and picked is not
rounded, whatever its size, and its whole numbers are counted one by one, beside others that are not whole. Where
arithmetic is before a column, or nobody knows, its values must show that they were not rounded to whole numbers:
below 2^23 float32 has others between them, float64 below 2^52.
(What both versions hand on needs none of this, see `handed_on`. Where the baseline alone does, the candidate may
have computed it: beyond what its type holds exactly, it may have rounded it a few times.)
"""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Array, Bools, Floats

_SINGLE_BITS, _DOUBLE_BITS = 23, 52
"""Binary places of the fraction: numbers of 2 to this power and more are whole, all of them."""
_HELD = 2.0**24
"""Whole numbers below it are held exactly by float32."""
_HELD_BY_DOUBLE = 2.0**53
_SUMMED_BY_DOUBLE = 2.0**50
"""Whole numbers below it are far from what float64's arithmetic rounds."""
_ANY_SIZE = np.inf
_ROUNDED = 4.0
"""Units in the last place by which a candidate that computes a number may miss it."""
_HELD_BY = {np.dtype(np.float32): _HELD, np.dtype(np.float64): _HELD_BY_DOUBLE}
_LARGE = 1e5
"""Columns of smaller scales need none of this: their tolerance is below 1 by far."""
_ENOUGH = 20.0
"""Bits by which distinct values, taken together, are no whole numbers by chance."""
_MOST = 0.9
"""Part of the values that are whole, at least, where they are to show that all are meant to be."""


def counted_below(
    values: Array, scale: Floats, *, exact: bool = False, coarse: bool = False
) -> Floats:
    """The limit below which a column's whole numbers are compared as such, shape (k,); 0 = they are not, inf = all.

    Args:
      values: the baseline's first rows, shape (n, k).
      scale: their `robust_scale`, shape (k,).
      exact: nothing rounds them, as `ModelGraph.exact` has it.
      coarse: float32 arithmetic is before them, as `ModelGraph.coarse` has it.
    """
    found = np.zeros(values.shape[1])
    if values.dtype.kind != "f":
        return found
    if exact and values.dtype in _HELD_BY:
        return np.where(scale > 0, _ANY_SIZE, 0.0)
    # What is not known to come of float32 is taken for float64 where the values are of that type.
    double = values.dtype == np.float64 and not coarse
    for i in np.flatnonzero(scale >= _LARGE).tolist():
        if _not_by_chance(values[:, i], _DOUBLE_BITS if double else _SINGLE_BITS):
            found[i] = _SUMMED_BY_DOUBLE if double else _HELD
    return found


def _not_by_chance(column: Array, bits: int) -> bool:
    """Whether values that might have fractions have none."""
    own = np.abs(column[np.isfinite(column)].astype(np.float64))
    own = np.unique(own[(own > 0) & (own < 2.0**bits)])
    whole = own == np.rint(own)
    if not len(own) or whole.mean() < _MOST:
        return False
    # A number of [2^e, 2^(e+1)) is whole once in 2^(bits − e).
    return bool((bits - np.floor(np.log2(np.fmax(own[whole], 1.0)))).sum() >= _ENOUGH)


def other_numbers(baseline: Array, candidate: Array, least: float, below: float) -> Bools:
    """Rows in which both numbers are whole, and at least so far apart, shape (n,).

    Args:
      baseline: numbers of one column, shape (n,).
      candidate: the same, or words.
      least: the smallest difference that no noise explains.
      below: the column's `counted_below`.
    """
    if object in (baseline.dtype, candidate.dtype):
        return np.zeros(len(baseline), dtype=np.bool_)
    before, after = baseline.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = np.abs(after - before) >= least
        for side in (before, after):
            found &= (side == np.rint(side)) & (np.abs(side) < below)
        if below == _ANY_SIZE and found.any():
            size = np.fmax(np.abs(before), np.abs(after))
            beyond = size >= _HELD_BY[baseline.dtype]
            unit = np.spacing(size.astype(baseline.dtype)).astype(np.float64)
            found &= ~beyond | (np.abs(after - before) >= _ROUNDED * unit)
    return np.asarray(found, dtype=np.bool_)

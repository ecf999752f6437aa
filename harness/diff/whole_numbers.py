"""Columns of large whole numbers: identifiers, cents, seconds. One more or less is no rounding of these.

A relative tolerance of 1e-6 is some units of a number of millions. float32 that had rounded them would
leave fractions in some of the values below 2^23; float64 has room for fractions in all.
"""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Array, Bools, Floats

_HELD = 2.0**24
"""Whole numbers below it are held exactly by float32."""
_FRACTIONS = 2.0**23
"""Below it float32 has numbers that are not whole."""
_LARGE = 1e5
"""Columns of smaller scales need none of this: their tolerance is below 1 by far."""
_ENOUGH = 20
"""Distinct values below `_FRACTIONS` that are no whole numbers by chance."""


def counted_columns(values: Array, scale: Floats) -> Bools:
    """Columns whose finite values all are whole, and not by float32's rounding, shape (k,).

    Args:
      values: the baseline's first rows, shape (n, k).
      scale: their `robust_scale`, shape (k,).
    """
    found = np.zeros(values.shape[1], dtype=np.bool_)
    if values.dtype.kind != "f":
        return found
    for i in np.flatnonzero(scale >= _LARGE).tolist():
        own = values[:, i]
        own = own[np.isfinite(own)]
        if bool((own == np.rint(own)).all()):
            below = np.unique(own[(np.abs(own) < _FRACTIONS) & (own != 0)])
            found[i] = values.dtype == np.float64 or len(below) >= _ENOUGH
    return found


def other_numbers(baseline: Array, candidate: Array, least: float) -> Bools:
    """Rows in which both numbers are whole, and at least so far apart, shape (n,).

    Args:
      baseline: numbers of one column, shape (n,).
      candidate: the same, or words.
      least: the smallest difference that no noise explains.
    """
    if object in (baseline.dtype, candidate.dtype):
        return np.zeros(len(baseline), dtype=np.bool_)
    before, after = baseline.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = np.abs(after - before) >= least
        for side in (before, after):
            found &= (side == np.rint(side)) & (np.abs(side) < _HELD)
    return np.asarray(found, dtype=np.bool_)

"""How far two tensors are apart, row by row.

Floats: a row differs when |Δ| > tolerance × max(S, min(|b|, |c|)), S being the column's scale. The
smaller of the two magnitudes keeps the measure symmetric and never lets a runaway value excuse
itself; S keeps the rounding of values near zero from counting. S comes from the A/A prefix
(`diff.floor`), so a row's verdict never depends on rows that come later.

S is what the column's large values are like, however large its outliers: of the distinct |values|
that are neither 0 nor infinite, ascending, the one at the quantile 0.999 (the largest is always left
out), or the last before the first jump of more than 1,000 times above the median; and never more
than 1,000 times the quantile 0.9. So neither a few outliers nor many far ones set it, while a column
that really spans decades keeps its large values. Tried and left: the largest |value| (one request
with a distance of 1e10 made every later distance equal); the median, and 1,000 medians (float32
rounding of a sigmoid or softmax is relative to its large values: with the sums in another order, up
to 94 and 85 % of the rows of a sharp softmax differed, 5 % with the largest |value|); all values
instead of the distinct ones (a stand-in such as −2⁶³ in most rows became the scale of the others);
units in the last place (useless near zero).
Integers, booleans and strings: equal or not. NaN and ±inf must stand in the same places.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Bools, Floats

FLOAT_TOLERANCE = 1e-6
"""Smallest relative tolerance of float columns: about eight float32 roundings."""
DOUBLE_TOLERANCE = 1e-12
"""The same of what is float64 on both sides, about 4,500 float64 roundings. An hour is 2e-6 of a time in
seconds since 1970, so that float32's tolerance would hide it. What comes of float32 arithmetic keeps
`FLOAT_TOLERANCE`, and so do two values that float32 holds exactly, as they may."""
HALF_TOLERANCE = 2.0 * float(np.finfo(np.float16).eps)
"""Smallest relative tolerance where both sides are float16: two float16 roundings at the scale."""
FLOOR_FACTOR = 8.0
"""A difference up to this many times the baseline's own A/A difference is noise."""
_BULK = 0.999
"""Quantile of a column's distinct magnitudes that stands for its large values."""
_HIGH = 0.9
"""Quantile of them that is taken for granted: rarer large values may be outliers."""
_FAR = 1000.0
"""Times that a magnitude is larger than the one before it, or than `_HIGH`, and is an outlier."""


class Comparison(enum.Enum):
    """How two dtypes are compared."""

    FLOAT = "float"
    """At least one side is a float: distance against a tolerance."""
    EXACT = "exact"
    """Integers and booleans: equal or not."""
    WORDS = "words"
    """Strings: equal or not."""
    IMPOSSIBLE = "impossible"
    """Strings against numbers: every row differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDifference:
    """How R rows of k columns differ."""

    mismatch: Bools
    """Beyond tolerance, or NaN/inf on one side only, shape (R, k)."""
    masked: Bools
    """Of these: NaN or ±inf on one side only (or another sign of inf), shape (R, k)."""
    absolute: Floats
    """|candidate − baseline|, shape (R, k); 0 where masked, 1 for unequal words."""
    relative: Floats
    """`absolute` relative to the scale, shape (R, k); inf when both scale and row are 0."""


def comparison(baseline: np.dtype[np.generic], candidate: np.dtype[np.generic]) -> Comparison:
    """Says how two dtypes are compared."""
    words = (baseline.kind in "OUS", candidate.kind in "OUS")
    if all(words):
        return Comparison.WORDS
    if any(words):
        return Comparison.IMPOSSIBLE
    if "f" in (baseline.kind, candidate.kind):
        return Comparison.FLOAT
    return Comparison.EXACT


def base_tolerance(baseline: np.dtype[np.generic], candidate: np.dtype[np.generic]) -> float:
    """Smallest relative tolerance for a pair of dtypes; 0 for what is compared exactly.

    A float16 candidate against a float32 baseline is held to the float32 tolerance: losing the
    digits is a change.
    """
    if comparison(baseline, candidate) is not Comparison.FLOAT:
        return 0.0
    half = np.dtype(np.float16)
    return HALF_TOLERANCE if baseline == half and candidate == half else FLOAT_TOLERANCE


def computed_tolerance(
    baseline: np.dtype[np.generic], candidate: np.dtype[np.generic], *, coarse: bool = False
) -> float:
    """`base_tolerance` of what a graph computes: `DOUBLE_TOLERANCE` where both sides are float64.

    Args:
      baseline: its type.
      candidate: the same.
      coarse: the baseline's comes of float32 arithmetic, so that sums in another order change its last
        float32 digits. The candidate's is not asked: digits that it loses are a change.
    """
    if _doubles(baseline, candidate) and not coarse:
        return DOUBLE_TOLERANCE
    return base_tolerance(baseline, candidate)


def single_precision(baseline: Array, candidate: Array) -> Bools:
    """Cells whose two values float32 holds exactly; both arrays of one shape, which is the result's."""
    exact = np.ones(baseline.shape, dtype=np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):
        for side in (baseline, candidate):
            exact &= side.astype(np.float32) == side
    return exact


def _doubles(baseline: np.dtype[np.generic], candidate: np.dtype[np.generic]) -> bool:
    return baseline == candidate == np.dtype(np.float64)


def robust_scale(values: Array) -> float:
    """The scale S of a column: see the module's comment.

    Args:
      values: of one column, any shape and dtype.

    Returns:
      ≥ 0; 0 for words and for columns without a finite value besides 0.
    """
    if values.dtype == object:
        return 0.0
    size = np.abs(values.astype(np.float64))
    size = np.unique(size[np.isfinite(size) & (size > 0)])
    if not len(size):
        return 0.0
    last = len(size) - 1
    with np.errstate(over="ignore"):
        jumps = np.flatnonzero(size[1:] > _FAR * size[:-1])
    above = jumps[jumps >= last // 2]
    end = int(above[0]) if len(above) else last
    return min(float(size[min(int(_BULK * last), end)]), _FAR * float(size[int(_HIGH * last)]))


def compare_rows(
    baseline: Array, candidate: Array, tolerance: Floats | float, scale: Floats | float
) -> RowDifference:
    """Compares two matrices cell by cell.

    Args:
      baseline: shape (R, k).
      candidate: shape (R, k).
      tolerance: relative, ≥ 0, scalar or shape (k,); only used for floats; float64 cells that
        float32 holds exactly get at least `FLOAT_TOLERANCE`.
      scale: the columns' `robust_scale`, ≥ 0, scalar or shape (k,).

    Returns:
      Mismatches, NaN masks and distances, each of shape (R, k).
    """
    match comparison(baseline.dtype, candidate.dtype):
        case Comparison.FLOAT:
            return _floats(baseline, candidate, tolerance, scale)
        case Comparison.EXACT:
            return _exact(baseline, candidate, scale)
        case Comparison.WORDS:
            return _all_or_nothing(np.asarray(baseline != candidate, dtype=np.bool_))
        case Comparison.IMPOSSIBLE:
            return _all_or_nothing(np.ones(baseline.shape, dtype=np.bool_))


def _floats(
    baseline: Array, candidate: Array, tolerance: Floats | float, scale: Floats | float
) -> RowDifference:
    before = baseline.astype(np.float64)
    after = candidate.astype(np.float64)
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    finite = np.isfinite(before) & np.isfinite(after)
    with np.errstate(over="ignore", invalid="ignore"):
        absolute = np.where(finite & ~same, np.abs(after - before), 0.0)
    relative = _relative(absolute, before, after, scale)
    masked = ~finite & ~same
    beyond = relative > tolerance
    if _doubles(baseline.dtype, candidate.dtype) and beyond.any():
        beyond &= ~((relative <= FLOAT_TOLERANCE) & single_precision(before, after))
    return RowDifference(
        mismatch=masked | beyond,
        masked=masked,
        absolute=absolute,
        relative=relative,
    )


def _exact(baseline: Array, candidate: Array, scale: Floats | float) -> RowDifference:
    mismatch = np.asarray(baseline != candidate, dtype=np.bool_)
    before = baseline.astype(np.float64)
    after = candidate.astype(np.float64)
    absolute = np.abs(after - before)
    # Large neighbouring integers are one float64; they still differ.
    absolute = np.where(mismatch, np.maximum(absolute, 1.0), 0.0)
    return RowDifference(
        mismatch=mismatch,
        masked=np.zeros(mismatch.shape, dtype=np.bool_),
        absolute=absolute,
        relative=_relative(absolute, before, after, scale),
    )


def _all_or_nothing(mismatch: Bools) -> RowDifference:
    cost = mismatch.astype(np.float64)
    return RowDifference(
        mismatch=mismatch,
        masked=np.zeros(mismatch.shape, dtype=np.bool_),
        absolute=cost,
        relative=cost,
    )


def _relative(absolute: Floats, before: Floats, after: Floats, scale: Floats | float) -> Floats:
    reach = np.fmax(scale, np.fmin(np.abs(before), np.abs(after)))
    relative = np.zeros(absolute.shape)
    moved = absolute > 0
    with np.errstate(divide="ignore", over="ignore"):
        np.divide(absolute, reach, out=relative, where=moved)
    return relative

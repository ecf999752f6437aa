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

Where a column spans decades, S alone would let its small values become anything. So a row differs, too,
when |Δ| is beyond a part of max(|b|, |c|) that rounding does not reach (`_LARGE`) and beyond
tolerance × T, T being `typical_scale`: S, but at most 100 medians; of a value that becomes exactly 0, or
was, at most one median. Rounding of a softmax or an exponential is a small part of each value, so that T may
be far below S for these alone. What is below that too, and yet a large part of the value, is counted
as `small`: nothing says whether it is rounding (1 − p is rounded by 6e-8, whatever p is) or another model.
Integers, booleans and strings: equal or not. NaN and ±inf must stand in the same places.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Bools, Floats, Ints
from harness.diff.scales import MEDIANS

FLOAT_TOLERANCE = 1e-6
"""Smallest relative tolerance of float columns: about eight float32 roundings."""
DOUBLE_TOLERANCE = 1e-12
"""The same of what is float64 on both sides, about 4,500 float64 roundings. An hour is 2e-6 of a time in
seconds since 1970, so that float32's tolerance would hide it. What comes of float32 arithmetic keeps
`FLOAT_TOLERANCE`, and so do two values that float32 holds exactly, as they may; but not whole numbers."""
HALF_TOLERANCE = 2.0 * float(np.finfo(np.float16).eps)
"""Smallest relative tolerance where both sides are float16: two float16 roundings at the scale."""
FLOOR_FACTOR = 8.0
"""A difference up to this many times the baseline's own A/A difference is noise."""
_HELD = 2.0**24
"""Whole numbers below it are held exactly by float32."""
_SKIPPED = 4.0
"""Units of float32 in the last place that a few roundings stay below."""
_LARGE = 1e-3
"""Part of a value that is large: a thousand float32 tolerances."""
_TOLERANCES = 100.0
"""Tolerances that are large, too: float16 and noise leave fewer digits."""
_TINY = float(np.finfo(np.float32).tiny)
"""Below, float32 has no normal numbers, and processors may make them 0."""
_NEAR = 2.0**62
"""Integers that are nearer are subtracted exactly."""
SMALL_SHARE = 0.01
"""Share of rows with `small` differences beyond which a column is not comparable. Sums in another order
have them in about 1e-4 of the rows: the values that happen to be near zero."""


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
    small: Bools
    """No mismatch, and yet a large part of the value, beyond the noise, shape (R, k)."""
    lent: Bools
    """No mismatch, and yet beyond the noise and the tolerance of the scale `own`, shape (R, k)."""


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
    """Cells whose two float64 values may have come of float32; both of one shape, which is the result's.

    float32 holds them exactly, and they are no two whole numbers among which it has others, or so many that
    no rounding skips them: a count, an identifier or a second that is another one is no rounding.
    """
    exact = np.ones(baseline.shape, dtype=np.bool_)
    whole = exact.copy()
    held = exact.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for side in (baseline, candidate):
            exact &= side.astype(np.float32) == side
            whole &= side == np.rint(side)
            held &= np.abs(side) < _HELD
        unit = np.spacing(np.abs(baseline).astype(np.float32))
        apart = np.abs(np.subtract(candidate, baseline, dtype=np.float64))
        counted = whole & (held | (apart >= _SKIPPED * unit))
        single: Bools = exact & ~(counted & (baseline != candidate))
    return single


def _doubles(baseline: np.dtype[np.generic], candidate: np.dtype[np.generic]) -> bool:
    return baseline == candidate == np.dtype(np.float64)


def compare_rows(
    baseline: Array,
    candidate: Array,
    tolerance: Floats | float,
    scale: Floats | float,
    *,
    typical: Floats | float = np.inf,
    noise: Floats | float = 0.0,
    own: Floats | float | None = None,
) -> RowDifference:
    """Compares two matrices cell by cell.

    Args:
      baseline: shape (R, k).
      candidate: shape (R, k).
      tolerance: relative, ≥ 0, scalar or shape (k,); only used for floats; 0 = bit by bit; above it, float64
        cells that float32 holds exactly get at least `FLOAT_TOLERANCE`.
      scale: the columns' `robust_scale`, ≥ 0, scalar or shape (k,).
      typical: the columns' `typical_scale`, the same; what is above the scale is the scale.
      noise: relative to the scale: what the baseline's own noise explains, the same.
      own: the columns' scales as far as rounding takes up what they are lent, the same; None = all.

    Returns:
      Mismatches, NaN masks and distances, each of shape (R, k).
    """
    match comparison(baseline.dtype, candidate.dtype):
        case Comparison.FLOAT:
            lender = scale if own is None else own
            return _floats(baseline, candidate, tolerance, (scale, typical, noise), lender)
        case Comparison.EXACT:
            return _exact(baseline, candidate, scale)
        case Comparison.WORDS:
            return _all_or_nothing(np.asarray(baseline != candidate, dtype=np.bool_))
        case Comparison.IMPOSSIBLE:
            return _all_or_nothing(np.ones(baseline.shape, dtype=np.bool_))


_Measures = tuple[Floats | float, Floats | float, Floats | float]
"""(scale, typical scale, noise) of the columns."""


def _floats(
    baseline: Array,
    candidate: Array,
    tolerance: Floats | float,
    measures: _Measures,
    own: Floats | float,
) -> RowDifference:
    before = baseline.astype(np.float64)
    after = candidate.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        absolute = np.abs(after - before)
    masked = np.zeros(absolute.shape, dtype=np.bool_)
    # Only of two finite numbers the difference is finite.
    if not np.isfinite(absolute).all():
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        finite = np.isfinite(before) & np.isfinite(after)
        absolute = np.where(finite & ~same, absolute, 0.0)
        masked = ~finite & ~same
    relative = _relative(absolute, before, after, measures[0])
    allowed = tolerance
    if _doubles(baseline.dtype, candidate.dtype) and (relative > tolerance).any():
        single = single_precision(before, after)
        single &= np.greater(tolerance, 0.0)
        allowed = np.where(single, np.fmax(tolerance, FLOAT_TOLERANCE), tolerance)
    beyond = relative > allowed
    small = np.zeros(beyond.shape, dtype=np.bool_)
    lent = small
    within = (absolute > 0) & ~beyond
    if within.any():
        small, changed = _large_parts(within, (before, after, absolute), allowed, measures)
        beyond |= changed
        if own is not measures[0]:
            strict = _relative(absolute, before, after, own) > allowed
            lent = within & ~changed & strict & (relative > measures[2])
    return RowDifference(
        mismatch=masked | beyond,
        masked=masked,
        absolute=absolute,
        relative=relative,
        small=small,
        lent=lent,
    )


def _large_parts(
    within: Bools,
    cells: tuple[Floats, Floats, Floats],
    tolerance: Floats | float,
    measures: _Measures,
) -> tuple[Bools, Bools]:
    """(differences too small to judge, differences all the same) of what is within the tolerance.

    Args:
      within: cells that differ, within the tolerance, shape (R, k).
      cells: baseline, candidate and |Δ|, of that shape.
      tolerance: relative, scalar or of a shape that fits.
      measures: of the columns.
    """
    before, after, absolute = cells
    own = np.fmax(np.abs(before), np.abs(after))
    scale, typical, noise = measures
    with np.errstate(over="ignore", invalid="ignore"):
        large = (
            within & (own >= _TINY) & (absolute > np.fmax(_LARGE, _TOLERANCES * tolerance) * own)
        )
        if not large.any():
            return large, large
        large &= absolute > np.fmax(scale, np.fmin(np.abs(before), np.abs(after))) * noise
        part = np.where((before == 0) | (after == 0), 1.0 / MEDIANS, 1.0)
        heavy = np.less(typical, scale)
        changed = large & heavy & (absolute > part * tolerance * np.fmin(typical, scale))
    return large & ~changed, changed


def integer_delta(baseline: Array, candidate: Array) -> Ints:
    """Candidate − baseline of integers and booleans, where float64 would lose the last digits.

    Modulo 2⁶⁴: exact for all that are less than 2⁶³ apart, unsigned ones too.
    """
    delta: Ints = candidate.astype(np.int64) - baseline.astype(np.int64)
    return delta


def _exact(baseline: Array, candidate: Array, scale: Floats | float) -> RowDifference:
    mismatch = np.asarray(baseline != candidate, dtype=np.bool_)
    if not mismatch.any():
        return _all_or_nothing(mismatch)
    before = baseline.astype(np.float64)
    after = candidate.astype(np.float64)
    delta = np.abs(after - before)
    absolute = np.where(
        delta < _NEAR, np.abs(integer_delta(baseline, candidate)).astype(np.float64), delta
    )
    # An unequal pair is at least 1 apart, whatever float64 makes of it.
    absolute = np.where(mismatch, np.maximum(absolute, 1.0), 0.0)
    return RowDifference(
        mismatch=mismatch,
        masked=np.zeros(mismatch.shape, dtype=np.bool_),
        absolute=absolute,
        relative=_relative(absolute, before, after, scale),
        small=np.zeros(mismatch.shape, dtype=np.bool_),
        lent=np.zeros(mismatch.shape, dtype=np.bool_),
    )


def _all_or_nothing(mismatch: Bools) -> RowDifference:
    cost = mismatch.astype(np.float64)
    return RowDifference(
        mismatch=mismatch,
        masked=np.zeros(mismatch.shape, dtype=np.bool_),
        absolute=cost,
        relative=cost,
        small=np.zeros(mismatch.shape, dtype=np.bool_),
        lent=np.zeros(mismatch.shape, dtype=np.bool_),
    )


def _relative(absolute: Floats, before: Floats, after: Floats, scale: Floats | float) -> Floats:
    reach = np.fmax(scale, np.fmin(np.abs(before), np.abs(after)))
    relative = np.zeros(absolute.shape)
    moved = absolute > 0
    with np.errstate(divide="ignore", over="ignore"):
        np.divide(absolute, reach, out=relative, where=moved)
    return relative

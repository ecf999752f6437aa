"""Rules about lost digits: rounding that has a name, and differences as it leaves them: scattered, whatever the value.

A constant that is another one, as a retrain fits it, moves near values alike: the differences follow a line of
the values, in each part of their range. Rounding moves the one up and its neighbour down. (Only asking how small
the differences are took a scaler fitted to other rows for a smaller number type, once in fifty.)
"""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Array, Floats
from harness.diff.distance import FLOAT_TOLERANCE
from harness.diff.pairs import ENOUGH, SLACK, Pairs, Relation, RelationKind

_PARTS = 4
"""Parts of the range that have a line each: a curve is nearly straight in them."""
_IN_A_PART = 8
"""Distinct values of a part, at least."""
_LEFT = 0.2
"""Part of the differences that a line leaves of scattered ones: of values cut off about a half, of rounded ones all."""
_DECIMALS = 5
_STEPS = {10.0: "tens", 100.0: "hundreds", 1000.0: "thousands"}
_HALF = 2.0 * float(np.finfo(np.float16).eps)
_BEYOND_FLOAT16 = 0x1FFF
"""Of a float32, the bits that float16 has no place for; nor has bfloat16, which has fewer."""
_ROUNDINGS = 10.0
"""Float32 tolerances of a column's large values that sums in another order may be apart."""
_CONFIRMED = 3
"""Distinct values that confirm a way of rounding."""
_EXACTLY = 2
"""Distinct values that confirm a smaller number type, where they are its neighbours of the baseline's bit by bit:
another scale leaves such once in some ten thousand, and a decimal far more often."""
_SAYS = "candidate = baseline "


def rounded(pairs: Pairs) -> Relation | None:
    """The baseline's value with fewer digits."""
    if not pairs.whole and pairs.explained(pairs.baseline, pairs.near) >= ENOUGH:
        text = "candidate = baseline within twice the tolerance (rounding)"
        return Relation(kind=RelationKind.ROUNDING, value=None, share=1.0, text=text)
    before, distinct = pairs.baseline, pairs.distinct()
    if _EXACTLY <= distinct < _CONFIRMED and not pairs.whole:
        return _in_smaller_type(pairs)
    if distinct < _CONFIRMED:
        return None
    for words, predicted in (() if pairs.whole else _fewer_digits(before)) + _in_steps(pairs):
        share = pairs.explained(predicted)
        # Of values that have no more digits as it is, their rounding says nothing.
        if share >= ENOUGH and (predicted != before)[pairs.differs].any():
            return _lost(words, share)
    return None


def _in_smaller_type(pairs: Pairs) -> Relation | None:
    """A smaller number type, of values too few to say more."""
    for words, predicted in _smaller_types(pairs.baseline):
        same = (predicted == pairs.candidate)[pairs.differs]
        if same.all() and (predicted != pairs.baseline)[pairs.differs].all():
            return _lost(words, 1.0)
    return None


def _lost(words: str, share: float) -> Relation:
    return Relation(kind=RelationKind.PRECISION, value=None, share=share, text=f"{_SAYS}{words}")


def loosely_equal(pairs: Pairs) -> Relation | None:
    """Equal to about three digits, by no rounding rule that has a name.

    A smaller number type changes large values by as large a part as small ones. Where all are within
    `_ROUNDINGS` tolerances of the large values, it is none: the small ones alone lost digits, as in sums.
    Nor is it where the differences follow the values: another constant moves near values alike, lost digits do not.
    Scattered differences alone are no rounding either: a slightly different weight moves a sum of several inputs just
    so. What was rounded shows it in its bits, the candidate's or the baseline's, and the other side's do not.
    """
    if pairs.whole:
        return None
    near = _ROUNDINGS / SLACK * pairs.near
    if pairs.relative <= SLACK * FLOAT_TOLERANCE and pairs.explained(pairs.baseline, near) == 1.0:
        text = "candidate = baseline within ten times the tolerance (sums in another order?)"
        return Relation(kind=RelationKind.ROUNDING, value=None, share=1.0, text=text)
    share = pairs.explained(pairs.baseline, _HALF * np.abs(pairs.baseline))
    if share < ENOUGH or not scattered(pairs.baseline, pairs.candidate):
        return None
    kept = [_has_few_digits(side[pairs.differs]) for side in (pairs.baseline, pairs.candidate)]
    if kept[0] == kept[1]:
        return None
    whose = "lower precision" if kept[1] else "higher precision"
    text = f"candidate = baseline to about three digits ({whose}?)"
    return Relation(kind=RelationKind.PRECISION, value=None, share=share, text=text)


def _has_few_digits(values: Floats) -> bool:
    """Whether nearly all are written with as few significant bits as float16 has, or fewer."""
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    bits = short.view(np.uint32) & np.uint32(_BEYOND_FLOAT16)
    return bool(((bits == 0) & (short == values)).mean() >= ENOUGH)


def scattered(baseline: Floats, candidate: Floats) -> bool:
    """Whether no line of the values explains how they differ.

    Args:
      baseline: shape (r,).
      candidate: the same rows.

    Returns:
      False also for fewer than three distinct values: a line explains these, whatever became of them.
    """
    known = np.isfinite(baseline) & np.isfinite(candidate)
    values, place, rows = np.unique(baseline[known], return_inverse=True, return_counts=True)
    if not len(values):
        return False
    moved = np.bincount(place, candidate[known] - baseline[known]) / rows
    parts = min(max(len(values) // _IN_A_PART, 1), _PARTS)
    left = np.concatenate(
        [
            _off_line(x, y)
            for x, y in zip(
                np.array_split(values, parts), np.array_split(moved, parts), strict=True
            )
        ]
    )
    return bool(np.median(np.abs(left)) > _LEFT * np.median(np.abs(moved)))


def moved_in_line(baseline: Floats, candidate: Floats, *, said: str = "") -> bool:
    """Whether the candidate is another straight line of the same values, and no digit of it is lost.

    Small whole numbers that are divided by 10 now and were by 9 are what one decimal leaves, too: of few values,
    each way of rounding holds by chance. Lost digits leave no line but by chance. Of rows that the line leaves
    out, as those of a fill, and the rounding does not, rounding is the reason.

    Args:
      baseline: shape (r,).
      candidate: the same rows.
      said: what `rounded` says of them; "" = nothing.
    """
    known = np.isfinite(baseline) & np.isfinite(candidate)
    before, after = baseline[known], candidate[known]
    values, place, rows = np.unique(before, return_inverse=True, return_counts=True)
    moved = after - before
    if len(values) < _CONFIRMED or not moved.any():
        return False
    slope, start = _line(values, np.bincount(place, moved) / rows)
    allowed = min(
        _LEFT * float(np.median(np.abs(moved[moved != 0]))),
        FLOAT_TOLERANCE * float(np.ptp(after)),
    )
    near = np.abs(moved - slope * before - start) <= allowed
    if not allowed > 0 or near.mean() < ENOUGH:
        return False
    ways = {f"{_SAYS}{words}": predicted for words, predicted in _fewer_digits(before)}
    if said not in ways or near.all():
        return True
    return bool((np.abs(ways[said] - after) <= allowed)[~near].mean() <= 1.0 / 2.0)


def _off_line(x: Floats, y: Floats) -> Floats:
    """What is left of y without its line of x; x ascending, both of shape (n,)."""
    slope, start = _line(x, y)
    return np.asarray(y - slope * x - start)


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """(slope, intercept) by medians of far-apart pairs; x ascending, both of shape (n,)."""
    half = len(x) // 2
    slope = 0.0
    if half:
        slope = float(np.median((y[half:] - y[: len(y) - half]) / (x[half:] - x[: len(x) - half])))
    return slope, float(np.median(y - slope * x))


def _fewer_digits(before: Floats) -> tuple[tuple[str, Floats], ...]:
    """Ways to round numbers that are not whole, and what comes of it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (
            ("rounded to float32", before.astype(np.float32).astype(np.float64)),
            *_smaller_types(before),
            ("cut off to whole numbers", np.trunc(before)),
            ("rounded down to whole numbers", np.floor(before)),
            ("rounded up to whole numbers", np.ceil(before)),
            ("rounded to whole numbers", np.round(before)),
            *((f"rounded to {k} decimals", np.round(before, k)) for k in range(1, _DECIMALS)),
            *(
                (f"cut off to {k} decimals", np.trunc(before * 10.0**k) / 10.0**k)
                for k in range(1, _DECIMALS)
            ),
        )


def _smaller_types(before: Floats) -> tuple[tuple[str, Floats], ...]:
    """Number types below float32, and what comes of it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (
            ("rounded to float16", before.astype(np.float16).astype(np.float64)),
            ("rounded to bfloat16", _bfloat16(before)),
            ("cut off to bfloat16", _bfloat16(before, up=0)),
        )


def _in_steps(pairs: Pairs) -> tuple[tuple[str, Floats], ...]:
    """Rounding to tens and more, down or to the nearest; of whole numbers, too. What the slack hides is left out."""
    found, before = [], pairs.baseline
    for step, words in ((k, w) for k, w in _STEPS.items() if k > pairs.width):
        found.append((f"rounded to {words}", np.round(before / step) * step))
        found.append((f"rounded down to {words}", np.floor(before / step) * step))
    return tuple(found)


def _bfloat16(values: Floats, *, up: int = 1) -> Floats:
    """Rounds to the 8 significant bits of bfloat16, ties to even; cuts them off where nothing is added, up = 0."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = ((bits + up * (0x7FFF + ((bits >> 16) & 1))) >> 16) << 16
    wide: Array = kept.astype(np.uint32).view(np.float32)
    return wide.astype(np.float64)

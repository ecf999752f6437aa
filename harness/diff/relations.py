"""Names the relation between two columns: the bug's signature, in words a person can act on.

The simplest relation that explains at least 99 % of the rows that differ is named; a rule that
needs n constants must be confirmed by more than n distinct values, so that a nearly constant
column gets no fanciful name. Two different faults in one column (scaled, and zero where a value
was missing) are named one by one. What was left: least squares for the affine fit (a few
wrap-around rows wreck it) and relations over more than one column (see `diff.roots`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from harness.core.tensors import Array, Bools, Floats, Ints
from harness.core.words import coded
from harness.diff.any_size import any_size
from harness.diff.bounded import bounded
from harness.diff.codes import name_words, permuted
from harness.diff.distance import (
    Comparison,
    compare_rows,
    comparison,
    computed_tolerance,
    integer_delta,
)
from harness.diff.fills import clipped, filled
from harness.diff.holds import held, stale
from harness.diff.lost_digits import loosely_equal, rounded
from harness.diff.numeric import (
    affine,
    cyclic,
    scaled,
    shifted,
    sign,
    two_shifts,
)
from harness.diff.pairs import ENOUGH, Pairs, Relation, RelationKind, Vocabularies
from harness.diff.scales import robust_scale, typical_scale
from harness.diff.stand_ins import far_rows, frequent_rows, unfilled
from harness.diff.units import known_offset

Rule = Callable[[Pairs], Relation | None]
RULES: tuple[Rule, ...] = (
    filled,
    rounded,
    sign,
    cyclic,
    shifted,
    scaled,
    affine,
    clipped,
    permuted,
    two_shifts,
    bounded,
    held,
    stale,
    loosely_equal,
)
"""Tried in this order: the first that explains enough is the name."""

WHOLE = (sign, clipped, stale)
"""Rules that may hold for infinities, missing values and numbers alike: tried before the two are told apart."""

_OF_ALL = (RelationKind.PERMUTED, RelationKind.STALE, RelationKind.CYCLIC_SHIFT)
"""Names that hold for stand-ins as for other values."""
_FEW = 3
_LOST = 1e-9
"""Differences of large integers that are nearer than this part of them are rounding to most rules."""
_TOO_LARGE = "no simple relation: integers beyond 2^53, which no rule reckons with exactly"
_EXACT = 2.0**53
"""Largest magnitude up to which float64 holds every integer."""
_MANY = 50


@any_size
def name_relation(
    baseline: Array,
    candidate: Array,
    *,
    tolerance: float | None = None,
    scale: float | None = None,
    vocabularies: Vocabularies = (None, None),
    order: Ints | None = None,
) -> Relation:
    """Names how a candidate's column follows from the baseline's.

    Args:
      baseline: shape (r,), any dtype.
      candidate: shape (r,), the same rows.
      tolerance: relative; differences within are none; None = `computed_tolerance` of the types.
      scale: reference magnitude of the column; None = its `robust_scale`.
      vocabularies: words in code order, baseline's and candidate's, for columns of codes.
      order: position in time of each row, shape (r,); None = unknown, then staleness is not tried.

    Returns:
      The simplest relation that explains at least 99 % of the rows that differ, or "other".
    """
    # Rules try their formula on every row, also where the values are infinite or enormous.
    if len(baseline) == 0:
        return Relation(kind=RelationKind.EQUAL, value=None, share=1.0, text="no rows")
    if tolerance is None:
        tolerance = computed_tolerance(baseline.dtype, candidate.dtype)
    match comparison(baseline.dtype, candidate.dtype):
        case Comparison.WORDS:
            return _name_words(baseline, candidate, order)
        case Comparison.IMPOSSIBLE:
            text = f"numbers on one side, words on the other ({baseline.dtype} → {candidate.dtype})"
            return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
        case Comparison.FLOAT | Comparison.EXACT:
            return _name_numbers(baseline, candidate, tolerance, scale, vocabularies, order)


def _name_words(baseline: Array, candidate: Array, order: Ints | None) -> Relation:
    """As numbers where no rule of words fits: only whether two are the same word counts then."""
    found = name_words(baseline, candidate)
    if found.kind is not RelationKind.OTHER or order is None:
        return found
    words, codes = coded(np.concatenate([baseline, candidate]))
    before, after = np.split(codes, 2)
    pairs = Pairs.of(
        before,
        after,
        before != after,
        (0.0, float(len(words))),
        vocabularies=(None, None),
        order=order,
    )
    pairs = dataclasses.replace(pairs, slack=np.zeros(len(before)), gap=0.0)
    return next((r for rule in (held, stale) if (r := rule(pairs)) is not None), found)


def _name_numbers(
    baseline: Array,
    candidate: Array,
    tolerance: float,
    scale: float | None,
    vocabularies: Vocabularies,
    order: Ints | None,
) -> Relation:
    if scale is None:
        scale = robust_scale(baseline)
    if comparison(baseline.dtype, candidate.dtype) is Comparison.EXACT:
        tolerance = 0.0
    large = _beyond_float64(baseline, candidate)
    if large and (shift := _large_shift(baseline, candidate)) is not None:
        return shift
    typical = typical_scale(baseline)
    difference = compare_rows(
        baseline[:, None], candidate[:, None], tolerance, scale, typical=typical
    )
    differs, masked = difference.mismatch[:, 0], difference.masked[:, 0]
    if not differs.any():
        return Relation(kind=RelationKind.EQUAL, value=None, share=1.0, text="candidate = baseline")
    pairs = Pairs.of(
        baseline,
        candidate,
        differs,
        (tolerance, scale),
        vocabularies=vocabularies,
        order=order,
        typical=typical,
    )
    if large:
        return _of_large_integers(pairs)
    share = float(masked[differs].mean())
    if 1.0 - ENOUGH < share < ENOUGH:
        whole = first_named(pairs, WHOLE)
        if whole.kind is not RelationKind.OTHER:
            return whole
        numbers, missing = (pairs.restricted(differs & m) for m in (~masked, masked))
        found = _or_unfilled(_beside_stand_ins(numbers), numbers)
        return _both(found, first_named(missing), share)
    return _beside_stand_ins(pairs)


def _beside_stand_ins(pairs: Pairs) -> Relation:
    """The name of the rows without stand-ins, and, where these differ by another rule, theirs."""
    found = _beside(pairs, far_rows(pairs))
    if found.kind is not RelationKind.OTHER:
        return found
    frequent = _beside(pairs, frequent_rows(pairs))
    return found if frequent.kind is RelationKind.OTHER else frequent


def _beside(pairs: Pairs, stand_ins: Bools) -> Relation:
    whole = first_named(pairs)
    apart, rest = pairs.differs & stand_ins, pairs.differs & ~stand_ins
    if rest.sum() < _FEW or not stand_ins.any():
        return whole
    name = first_named(pairs.kept(~stand_ins, rest))
    share = float(apart.sum() / pairs.count)
    if name.kind is RelationKind.OTHER or whole.kind in _OF_ALL or whole.text == name.text:
        return whole
    if share <= 1.0 - ENOUGH:
        return dataclasses.replace(name, share=(1.0 - share) * name.share)
    others = pairs.restricted(apart)
    return _both(name, _or_unfilled(first_named(others), others), share)


def _or_unfilled(found: Relation, pairs: Pairs) -> Relation:
    """The name of rows that are a part of those to explain."""
    return (found.kind is RelationKind.OTHER and unfilled(pairs)) or found


def _beyond_float64(baseline: Array, candidate: Array) -> bool:
    """Two columns of integers of which float64 holds not every one."""
    columns = (baseline, candidate)
    if any(values.dtype.kind not in "iu" for values in columns):
        return False
    return any(bool((np.abs(values.astype(np.float64)) > _EXACT).any()) for values in columns)


def _of_large_integers(pairs: Pairs) -> Relation:
    """What float64 can tell of them: nothing about their last digits."""
    found = first_named(pairs)
    near = np.abs(pairs.delta).max() <= _LOST * np.abs(pairs.baseline).max()
    return _other(pairs, _TOO_LARGE) if near or found.kind is RelationKind.PRECISION else found


def _large_shift(baseline: Array, candidate: Array) -> Relation | None:
    """One shift, subtracted as integers: float64 would name its own rounding."""
    differs = np.asarray(baseline != candidate)
    count = int(differs.sum())
    if count < _FEW:
        return None
    delta = integer_delta(baseline[differs], candidate[differs])
    found, times = np.unique(delta, return_counts=True)
    shift, share = int(found[times.argmax()]), float(times.max() / count)
    if share < ENOUGH:
        return None
    meaning = known_offset(float(shift))
    text = f"candidate = baseline {'+' if shift > 0 else '−'} {abs(shift)}"
    return Relation(
        kind=RelationKind.SHIFTED,
        value=float(shift),
        share=share,
        text=f"{text} ({meaning}?)" if meaning else text,
    )


def first_named(pairs: Pairs, rules: Sequence[Rule] = RULES) -> Relation:
    """The first rule that explains enough, else "other"."""
    if pairs.count < _FEW:
        return _other(pairs, f"only {pairs.count} sampled rows differ; too few to name a relation")
    for rule in rules:
        relation = rule(pairs)
        if relation is not None:
            return relation
    return _other(pairs, "no simple relation")


def _both(numbers: Relation, others: Relation, share: float) -> Relation:
    """Two faults in one column: of its numbers, and of what is missing or a stand-in on one side.

    Args:
      numbers: what the rows with numbers are called.
      others: what the others are called.
      share: part of the differing rows that the others are.
    """
    parts = (numbers, others)
    major, minor = parts if share <= 1.0 - share else (parts[1], parts[0])
    text = f"{major.text}; elsewhere {minor.text}"
    if not (major.share and minor.share):
        return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
    named = minor if major.kind is RelationKind.OTHER else major
    return Relation(
        kind=named.kind, value=named.value, share=min(major.share, minor.share), text=text
    )


def _other(pairs: Pairs, why: str) -> Relation:
    """What can be said without a name: correlation and mean difference."""
    both = np.isfinite(pairs.baseline) & np.isfinite(pairs.candidate)
    lines: Sequence[str] = (why, *_figures(pairs.baseline, pairs.candidate, both, pairs.differs))
    return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text="; ".join(lines))


def _figures(baseline: Floats, candidate: Floats, both: Bools, differs: Bools) -> list[str]:
    lines = []
    before, after = baseline[both], candidate[both]
    if len(before) >= _MANY and np.ptp(before) > 0 and np.ptp(after) > 0:
        correlation = float(np.corrcoef(before, after)[0, 1])
        lines += [f"correlation {correlation:.3f}"] if np.isfinite(correlation) else []
    moved = both & differs
    if moved.any():
        mean = float((candidate[moved] - baseline[moved]).mean())
        lines += [f"mean difference {mean:.4g} where they differ"] if np.isfinite(mean) else []
    one_sided = int((differs & (np.isfinite(baseline) ^ np.isfinite(candidate))).sum())
    if one_sided:
        lines.append(f"{one_sided} sampled rows are NaN or infinite on one side only")
    neither = int((differs & ~np.isfinite(baseline) & ~np.isfinite(candidate)).sum())
    if neither:
        lines.append(
            f"{neither} sampled rows are NaN or infinite on both sides, and not the same (as NaN and −inf)"
        )
    return lines

"""A scaled, shifted or fitted line that stops at a bound: two changes in one column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from harness.core.tensors import Bools, Floats
from harness.diff.numeric import affine, scaled, shifted
from harness.diff.pairs import ENOUGH, Pairs, Relation, RelationKind, shown

_LEAST = 10
"""Rows at a bound, and rows between the bounds, that show it."""
_LINES: Sequence[Callable[[Pairs], Relation | None]] = (shifted, scaled, affine)


def bounded(pairs: Pairs) -> Relation | None:
    """The rows between the candidate's ends follow a line, and those at an end would pass it."""
    after = pairs.candidate
    if not np.isfinite(after[pairs.differs]).all() or not pairs.differs.any():
        return None
    low, high = float(np.nanmin(after)), float(np.nanmax(after))
    at_low, at_high = after <= low + pairs.slack, after >= high - pairs.slack
    ends: list[tuple[Bools, Bools]] = [
        (at_low & False, at_high),
        (at_low, at_high & False),
        (at_low, at_high),
    ]
    for below, above in ends:
        inside = pairs.differs & ~below & ~above
        if inside.sum() < _LEAST or (pairs.differs & (below | above)).sum() < _LEAST:
            continue
        found = _stopped(pairs, pairs.restricted(inside), (below, above), (low, high))
        if found is not None:
            return found
    return None


def _stopped(
    pairs: Pairs, inside: Pairs, ends: tuple[Bools, Bools], bounds: tuple[float, float]
) -> Relation | None:
    """The line of the rows inside, where it goes on beyond the ends that the candidate stops at."""
    below, above = ends
    for rule in _LINES:
        line = rule(inside)
        if line is None:
            continue
        predicted = _continued(pairs, line, inside)
        at_low = below & (predicted <= bounds[0] + pairs.slack)
        at_high = above & (predicted >= bounds[1] - pairs.slack)
        met = np.abs(pairs.candidate - predicted) <= pairs.slack
        share = float((at_low | at_high | met)[pairs.differs].mean())
        passed = pairs.differs & ~met & (at_low | at_high)
        if share < ENOUGH or passed.sum() < _LEAST:
            continue
        return replace(line, share=share, text=f"{line.text}, {_words(below, above, bounds)}")
    return None


def _continued(pairs: Pairs, line: Relation, inside: Pairs) -> Floats:
    """The line's value in every row."""
    before, value = pairs.baseline, line.value or 0.0
    if line.kind is RelationKind.SHIFTED:
        return before + value
    if line.kind is RelationKind.SCALED:
        return before * value
    rest = (inside.candidate - value * inside.baseline)[inside.differs]
    return before * value + float(np.median(rest))


def _words(below: Bools, above: Bools, bounds: tuple[float, float]) -> str:
    if below.any() and above.any():
        return f"clipped to [{shown(bounds[0])}, {shown(bounds[1])}]"
    if above.any():
        return f"clipped at {shown(bounds[1])}"
    return f"clipped below at {shown(bounds[0])}"

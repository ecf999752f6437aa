"""One constant in place of values: filled, zeroed, clipped, or gone missing."""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Array, Floats, Ints
from harness.diff.pairs import ENOUGH, Pairs, Relation, RelationKind, middle, shown

_PARTLY = 0.1
"""Above this share of equal rows, "wherever the baseline is u" would be a lie."""
_MOST = 64
"""Columns of a wide tensor that are asked one by one whether they are filled with zero."""


def filled(pairs: Pairs) -> Relation | None:
    """The candidate is one constant where they differ; the baseline is missing, one value, or any."""
    before, after = pairs.baseline[pairs.differs], pairs.candidate[pairs.differs]
    gone = float((np.isnan(after) & ~np.isnan(before)).mean())
    if gone >= ENOUGH:
        text = "candidate is missing (NaN) where the baseline has a value"
        return Relation(kind=RelationKind.MISSING, value=None, share=gone, text=text)
    fill, share = _dominant(after, pairs)
    if fill is None:
        return None
    kind = RelationKind.FILLED_WITH_CONSTANT if fill else RelationKind.FILLED_WITH_ZERO
    unknown = float(np.isnan(before).mean())
    if unknown >= ENOUGH:
        text = f"candidate is {shown(fill)} where the baseline has no value"
        return Relation(kind=kind, value=fill, share=min(share, unknown), text=text)
    own, own_share = _dominant(before, pairs)
    if own is not None:
        return _refilled(pairs, own, fill, min(share, own_share))
    if clipped(pairs) is not None:
        return None
    text = f"candidate is {shown(fill)} where the baseline has other values"
    return Relation(kind=kind, value=fill, share=share, text=text)


def zero_filled_columns(baseline: Array, candidate: Array) -> Ints:
    """Columns whose values differ only where the candidate has 0, the most rows first; at most `_MOST`.

    Args:
      baseline: shape (n, k).
      candidate: the same.
    """
    if object in (baseline.dtype, candidate.dtype) or not candidate.size:
        return np.zeros(0, dtype=np.int64)
    differs = baseline != candidate
    if candidate.dtype.kind == "f":
        differs &= ~(np.isnan(baseline) & np.isnan(candidate))
    rows = differs.sum(axis=0)
    zero = (differs & (candidate == 0)).sum(axis=0)
    found = np.flatnonzero((zero > 0) & (zero >= ENOUGH * rows))
    return np.asarray(found[np.argsort(-rows[found], kind="stable")][:_MOST], dtype=np.int64)


def clipped(pairs: Pairs) -> Relation | None:
    """The candidate stops at its smallest or largest value where the baseline goes on."""
    finite = pairs.candidate[np.isfinite(pairs.candidate)]
    before, after = pairs.baseline[pairs.differs], pairs.candidate[pairs.differs]
    endless = bool(np.isinf(before).any())
    if len(finite) == 0 or not (endless or pairs.distinct() > 1):  # one finite value is a fill
        return None
    low, high = float(finite.min()), float(finite.max())
    slack = pairs.slack[pairs.differs]
    if high - low <= pairs.gap:
        return None
    above = (np.abs(after - high) <= slack) & (before > high)
    below = (np.abs(after - low) <= slack) & (before < low)
    share = float((above | below).mean())
    if share < ENOUGH:
        return None
    if above.any() and below.any():
        text, value = f"candidate is clipped to [{shown(low)}, {shown(high)}]", high
    elif above.any():
        text, value = f"candidate is clipped at {shown(high)}", high
    else:
        text, value = f"candidate is clipped below at {shown(low)}", low
    return Relation(kind=RelationKind.CLIPPED, value=value, share=share, text=text)


def _refilled(pairs: Pairs, own: float, fill: float, share: float) -> Relation:
    """One baseline value became one candidate value."""
    near = np.abs(pairs.baseline - own) <= pairs.gap
    kept = int((near & ~pairs.differs).sum())
    if kept > _PARTLY * pairs.count:
        text = f"{shown(own)} became {shown(fill)} in these rows and stayed in others"
        return Relation(kind=RelationKind.OTHER, value=None, share=share, text=text)
    kind = RelationKind.FILLED_WITH_CONSTANT if fill else RelationKind.FILLED_WITH_ZERO
    text = f"candidate is {shown(fill)} wherever the baseline is {shown(own)}"
    return Relation(kind=kind, value=fill, share=share, text=text)


def _dominant(values: Floats, pairs: Pairs) -> tuple[float | None, float]:
    """The value that at least 99 % of these rows have within the gap, and its share."""
    finite = values[np.isfinite(values)]
    if len(finite) < ENOUGH * len(values):
        return None, 0.0
    value = middle(finite)
    allowed = max(pairs.gap, pairs.relative * abs(value))
    share = float((np.abs(values - value) <= allowed).mean())
    if share < ENOUGH:
        return None, share
    return (0.0 if abs(value) <= pairs.gap else value), share

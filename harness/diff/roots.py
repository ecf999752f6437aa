"""Which differing features are causes, and which merely follow from them.

Graph edges are not at hand here. Instead: a later feature follows from an earlier one if it is
the same function of it on both sides (hour_sin = sin(hour) before and after the fault), which the
sampled values can show. Where they cannot, a later feature without a simple relation of its own
"may follow" from the first that differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Floats
from harness.diff.pairs import ENOUGH, RelationKind
from harness.diff.reports import Follow

_CLOSE = 0.02
"""An interpolated value may miss by this share of the feature's range."""
_GAP = 0.02
"""A root value counts as met in the baseline's sample if one lies this close, as a share of its range."""
_COVERED = 0.3
"""Share of sampled rows whose root value the baseline's sample must have met."""
_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """A feature that differs, with the sampled rows that all features share."""

    name: str
    """Feature."""
    baseline: Array
    """Shape (r,)."""
    candidate: Array
    """Shape (r,)."""
    relation: str
    """What its own values say."""


def follows(differing: Sequence[Differing]) -> tuple[Follow, ...]:
    """Finds the features that earlier ones account for.

    Args:
      differing: in the graph's order, causes before effects.
    """
    found: dict[str, Follow] = {}
    for i, feature in enumerate(differing):
        roots = [other for other in differing[:i] if other.name not in found]
        proof = next((root for root in roots if same_function(root, feature)), None)
        if proof is not None:
            found[feature.name] = Follow(name=feature.name, root=proof.name, proven=True)
        elif roots and feature.relation == RelationKind.OTHER:
            likely = next((r for r in roots if feature.name.startswith(r.name)), roots[0])
            found[feature.name] = Follow(name=feature.name, root=likely.name, proven=False)
    return tuple(found.values())


def same_function(root: Differing, feature: Differing) -> bool:
    """Whether one function of the root gives the feature, on both sides.

    The function is read off the baseline's pairs and tried on the candidate's. It must change
    where the root changed: a feature that ignores the root is no function of it worth naming.
    """
    columns = (root.baseline, root.candidate, feature.baseline, feature.candidate)
    if any(column.dtype == object for column in columns) or len({len(c) for c in columns}) > 1:
        return False
    x0, x1, y0, y1 = (column.astype(np.float64) for column in columns)
    known = np.isfinite(x0) & np.isfinite(y0)
    tried = np.isfinite(x1) & np.isfinite(y1)
    if known.sum() < _ROWS or tried.sum() < _ROWS:
        return False
    xs, ys, clean = _table(x0[known], y0[known])
    reach = _CLOSE * float(np.ptp(ys))
    if not clean or reach <= 0 or len(xs) < 3:  # noqa: PLR2004 - two points make any line
        return False
    # Between known values only: beyond the ends interpolation knows nothing.
    inside = (x1[tried] >= xs[0]) & (x1[tried] <= xs[-1])
    met = inside & (_distance(x1[tried], xs) <= _GAP * float(np.ptp(xs)))
    moved = np.abs(y1[tried] - y0[tried]) > reach
    if met.mean() < _COVERED or not (met & moved).any():
        return False
    miss = np.abs(np.interp(x1[tried], xs, ys) - y1[tried])
    return float((miss[met] <= reach).mean()) >= ENOUGH


def _table(x: Floats, y: Floats) -> tuple[Floats, Floats, bool]:
    """(distinct x ascending, mean y, whether y is one value per x)."""
    xs, at = np.unique(x, return_inverse=True)
    counts = np.bincount(at)
    ys = np.bincount(at, weights=y) / counts
    off = np.abs(y - ys[at]) > _CLOSE * float(np.ptp(y))
    # Without repeated values nothing shows that it is a function: smooth neighbours must.
    rough = np.abs(np.diff(ys)) > np.maximum(10 * _CLOSE * float(np.ptp(ys)), 0)
    clean = float(off.mean()) <= 1 - ENOUGH and (
        len(xs) < len(x) // 2 or float(rough.mean()) <= 1 - ENOUGH
    )
    return xs, ys, clean


def _distance(x: Floats, xs: Floats) -> Floats:
    """Distance of each x to the nearest of xs, which ascend."""
    at = np.clip(np.searchsorted(xs, x), 1, len(xs) - 1)
    return np.minimum(np.abs(x - xs[at - 1]), np.abs(x - xs[at]))

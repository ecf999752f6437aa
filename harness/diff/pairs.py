"""The sampled pairs of one column, as the naming rules see them."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Bools, Floats, Ints
from harness.diff.distance import FLOAT_TOLERANCE, integer_delta, single_precision
from harness.diff.scales import robust_scale

ENOUGH = 0.99
"""Share of the differing rows that a relation must explain."""
SLACK = 2.0
"""A fitted relation may miss by this many tolerances: the fitted constant carries noise too."""
_LEAST = 1e-12
"""Smallest relative tolerance of a fitted relation: fits are not exact to float64's last digits. (1e-9
was more than a second of a time since 1970, so that a shift by one was told as rounding.)"""
_WRITTEN = 2.0**-24
"""Relative difference between a number and the nearest one of float32."""
_DISTINCT = 1e-9
"""Values nearer than this, relative to the larger, confirm a relation only once."""
_SPAN = 100.0
"""Where a column spans decades, the part of its typical scale to which rules are held."""
MANY = 16
"""More distinct values than any rule asks for."""
_LARGEST = float(np.finfo(np.float64).max) / SLACK
"""Of a value: what it may miss by stays finite."""
Vocabularies = tuple[tuple[str, ...] | None, tuple[str, ...] | None]


class RelationKind(enum.StrEnum):
    """How a candidate's column follows from the baseline's."""

    EQUAL = "equal"
    """Within tolerance."""
    SCALED = "scaled"
    """Times a constant."""
    SHIFTED = "shifted"
    """Plus a constant."""
    AFFINE = "affine"
    """Times a constant plus a constant."""
    CYCLIC_SHIFT = "cyclic_shift"
    """Plus a constant, wrapped round a period."""
    PERMUTED = "permuted"
    """The same categories under other codes."""
    FILLED_WITH_ZERO = "filled_with_zero"
    """0 where the baseline has nothing, its own fill, or a value."""
    FILLED_WITH_CONSTANT = "filled_with_constant"
    """The same with another constant."""
    MISSING = "missing"
    """NaN where the baseline has a value."""
    SIGN = "sign"
    """Negated, or the sign lost."""
    CLIPPED = "clipped"
    """Cut off at a bound."""
    PRECISION = "precision"
    """Rounded."""
    STALE = "stale"
    """The value of an earlier row."""
    ROUNDING = "rounding"
    """Apart by a few tolerances of the large values, as sums in another order are."""
    OTHER_COLUMN = "other_column"
    """Another feature's values."""
    OTHER = "other"
    """None of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A named relation."""

    kind: RelationKind
    """Its name."""
    value: float | None
    """Its constant, when it has one: factor, shift, slope, fill, bound."""
    share: float
    """Share of the sampled differing rows it explains; 0 for "other"."""
    text: str
    """In words: candidate = baseline + 4 modulo 24."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Sampled numeric pairs of one column."""

    baseline: Floats
    """Shape (r,)."""
    candidate: Floats
    """Shape (r,)."""
    delta: Floats
    """candidate − baseline, exact for integers before rounding to float64, shape (r,)."""
    differs: Bools
    """Rows whose difference is to be explained, shape (r,)."""
    slack: Floats
    """How far a fitted relation may miss, shape (r,)."""
    near: Floats
    """How far apart two values may be and still be the same but for rounding, shape (r,)."""
    gap: float
    """Baseline values no further apart count as one."""
    relative: float
    """How far apart two values may be and count as one, as a part of them."""
    whole: bool
    """Both sides have integer types."""
    vocabularies: Vocabularies
    """Words in code order, if the column holds codes."""
    order: Ints | None
    """Position in time of each row, when known."""

    @classmethod
    def of(
        cls,
        baseline: Array,
        candidate: Array,
        differs: Bools,
        measure: tuple[float, float],
        *,
        vocabularies: Vocabularies,
        order: Ints | None,
        typical: float = np.inf,
    ) -> Pairs:
        """Prepares two numeric columns of shape (r,); `measure` = (relative tolerance, scale).

        Where `typical` (a `typical_scale`) is below the scale, the column spans decades, and its large
        values say nothing about how far small ones may miss.
        """
        tolerance, scale = measure
        before, after = baseline.astype(np.float64), candidate.astype(np.float64)
        whole = baseline.dtype.kind in "iub" and candidate.dtype.kind in "iub"
        with np.errstate(over="ignore", invalid="ignore"):
            delta = (
                integer_delta(baseline, candidate).astype(np.float64) if whole else after - before
            )
        full = max(scale, _reach(after[differs]))
        reach = typical / _SPAN if typical < scale else full
        own = np.fmax(np.abs(before), np.abs(after))
        relative = np.full(len(before), tolerance)
        near = apart = relative
        if tolerance < FLOAT_TOLERANCE and not whole:
            if baseline.dtype == candidate.dtype == before.dtype:
                most = FLOAT_TOLERANCE if tolerance else _WRITTEN
                relative[single_precision(before, after)] = most
            else:
                # Whole numbers and what nothing rounds: a relation is rounded as float32 writes it down.
                relative = np.maximum(relative, _WRITTEN)
        if tolerance == 0:
            near = apart = np.zeros(len(before))
        # Values that nothing rounds confirm a relation one by one, however near float32 would write them.
        distinct = np.maximum(apart, _DISTINCT)
        size = SLACK * np.fmin(np.fmax(reach, np.where(np.isfinite(own), own, 0.0)), _LARGEST)
        return cls(
            baseline=before,
            candidate=after,
            delta=delta,
            differs=differs,
            slack=np.maximum(relative, _LEAST) * size,
            near=near * size,
            gap=middle((distinct * np.fmin(size, SLACK * scale))[differs]),
            relative=SLACK * middle(distinct[differs]),
            whole=whole,
            vocabularies=vocabularies,
            order=order,
        )

    @property
    def width(self) -> float:
        """The slack of a typical differing row."""
        return middle(self.slack[self.differs])

    @property
    def count(self) -> int:
        """Rows to explain."""
        return int(self.differs.sum())

    def restricted(self, differs: Bools) -> Pairs:
        """The same rows with fewer differences to explain; the others are left out."""
        return self.kept(differs | ~self.differs, differs)

    def kept(self, keep: Bools, differs: Bools) -> Pairs:
        """Some of the rows, with these differences to explain; both of shape (r,)."""
        return dataclasses.replace(
            self,
            baseline=self.baseline[keep],
            candidate=self.candidate[keep],
            delta=self.delta[keep],
            differs=differs[keep],
            slack=self.slack[keep],
            near=self.near[keep],
            order=None if self.order is None else self.order[keep],
        )

    def explained(self, predicted: Floats, allowed: Floats | float | None = None) -> float:
        """Share of the differing rows that a prediction, shape (r,), hits within the slack.

        An infinity is hit by itself alone, a NaN by a NaN.
        """
        slack = self.slack if allowed is None else allowed
        finite = np.isfinite(self.candidate) & np.isfinite(predicted)
        with np.errstate(invalid="ignore"):
            near = finite & (np.abs(self.candidate - predicted) <= slack)
        hit = (
            near | (self.candidate == predicted) | (np.isnan(self.candidate) & np.isnan(predicted))
        )
        return float(hit[self.differs].mean())

    def distinct(self) -> int:
        """Baseline values more than the gap apart among the differing rows, at most MANY."""
        values = self.baseline[self.differs]
        values = np.sort(values[np.isfinite(values)])
        found, at = 0, 0
        while at < len(values) and found < MANY:
            found += 1
            at = int(np.searchsorted(values, values[at] + self.gap, side="right"))
        return found


def _reach(candidate: Floats) -> float:
    """How large a candidate's values are, whatever stands for "none" in some rows."""
    size = np.abs(candidate[np.isfinite(candidate)])
    return min(robust_scale(size), _SPAN * middle(size))


def middle(values: Floats) -> float:
    """The median, also of values whose sum no float holds; 0 of none."""
    found = float(np.median(values)) if len(values) else 0.0
    return 2.0 * float(np.median(values / 2.0)) if np.isinf(found) else found


def shown(value: float) -> str:
    """A number as text, at most seven digits."""
    return f"{value:.7g}"


def plus(value: float) -> str:
    """The sign apart from the size: `+ 4` or `− 4`."""
    return f"+ {shown(value)}" if value >= 0 else f"− {shown(-value)}"

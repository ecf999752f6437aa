"""The noise floor of one tensor's columns: their scales, and how far the A/A legs are apart in them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from harness.core.tensors import Array, Bools, Floats, Ints
from harness.diff.column_difference import compare_columns, padded
from harness.diff.columns import WIDE, Aligned, Keys, begins_with, column_name, numbered
from harness.diff.distance import FLOOR_FACTOR, base_tolerance
from harness.diff.floor import SWALLOWED, ColumnFloor, WideFloor
from harness.diff.sample import LIMIT
from harness.diff.scales import USUAL, column_scales, is_lent, lent_scales
from harness.diff.whole_numbers import counted_below

_CELLS = 1 << 22
"""Values that the scales of a wide tensor are made of."""
_LEAST_ROWS = 256
"""Rows of them at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """The scales of one tensor's columns, fixed before the first row."""

    labels: Keys = ()
    """Its columns."""
    scale: Floats = field(default_factory=lambda: np.zeros(0))
    """S of each, shape (k,)."""
    typical: Floats = field(default_factory=lambda: np.zeros(0))
    """T of each, shape (k,)."""
    own: Floats = field(default_factory=lambda: np.zeros(0))
    """S of each with what rounding takes up of the loan, shape (k,)."""
    whole: Floats = field(default_factory=lambda: np.zeros(0))
    """As `ColumnFloor.whole` of each, shape (k,)."""

    def of(self, labels: Keys) -> Floats:
        """(S, T, own S, whole) of these columns, shape (4, c); 0 for a class that was met later."""
        found = np.stack([self.scale, self.typical, self.own, self.whole])
        if begins_with(self.labels, labels):
            return found[:, : len(labels)]
        place = {label: i for i, label in enumerate(self.labels)}
        found = np.pad(found, ((0, 0), (0, 1)))
        return found[:, [place.get(label, -1) for label in labels]]


class ColumnSums:
    """Running figures of one tensor's columns.

    Args:
      tensor: the baseline's name.
      scales: of its columns.
      uncounted: tensor and column names that do not make a request differ.
    """

    def __init__(self, tensor: str, scales: Scales, uncounted: Collection[str]) -> None:
        self.labels: Keys = ()
        self._tensor = tensor
        self._scales = scales
        self._uncounted = uncounted
        self._rows = 0
        self._unlike_rows = 0
        self._unequal_rows = 0
        self._base = 0.0
        self._scale: Floats = np.zeros(0)
        self._own: Floats = np.zeros(0)
        self._typical: Floats = np.zeros(0)
        self._whole: Floats = np.zeros(0)
        self._counted: Bools = np.zeros(0, dtype=np.bool_)
        self._largest: Floats = np.zeros(0)
        self._relative: Floats = np.zeros(0)
        self._unequal: Ints = np.zeros(0, dtype=np.int64)

    def add(self, pair: Aligned) -> Bools:
        """Adds rows; returns which of them count as different, shape (R,)."""
        self._grow(pair)
        rows, width = pair.baseline.shape
        self._rows += rows
        if pair.unlike:
            self._unequal = self._unequal + rows
            self._unlike_rows += rows
            self._unequal_rows += rows
            return np.full(rows, bool(self._counted.any()))
        self._base = base_tolerance(pair.baseline.dtype, pair.candidate.dtype)
        found = compare_columns(
            pair.baseline,
            pair.candidate,
            np.full(width, self._base),
            self._scale[:width],
            typical=self._typical[:width],
            noise=np.zeros(width),
        )
        # A later batch may have fewer columns.
        found = padded(found, len(self.labels) - width)
        self._largest = np.maximum(self._largest, found.absolute)
        self._relative = np.maximum(self._relative, found.relative)
        self._unequal = self._unequal + found.mismatch.sum(axis=0, dtype=np.int64)
        differs = np.asarray(found.mismatch.any(axis=1), dtype=np.bool_)
        self._unequal_rows += int(differs.sum())
        if self._counted.all() or not differs.any():
            return differs
        return np.asarray(found.mismatch[:, self._counted].any(axis=1), dtype=np.bool_)

    def _grow(self, pair: Aligned) -> None:
        labels, more = pair.labels, len(pair.labels) - len(self.labels)
        if self.labels and more <= 0:
            return
        self.labels = labels
        self._scale, self._typical, self._own, self._whole = self._scales.of(labels)
        self._counted = np.full(len(labels), self._tensor not in self._uncounted)
        if self._uncounted:
            names = (column_name(self._tensor, label) for label in labels)
            self._counted &= np.array([name not in self._uncounted for name in names])
        self._largest = np.pad(self._largest, (0, more))
        self._relative = np.pad(self._relative, (0, more))
        self._unequal = np.pad(self._unequal, (0, more), constant_values=self._unlike_rows)

    def floors(self) -> list[ColumnFloor]:
        """The figures as values: of a wide tensor one, which has those of its columns."""
        if len(self.labels) > WIDE:
            return [self._wide_floor()]
        return [self._floor(i, label) for i, label in enumerate(self.labels)]

    def _floor(self, index: int, label: str) -> ColumnFloor:
        noisy = bool(self._unequal[index] > 0)
        relative = float(self._relative[index])
        return ColumnFloor(
            name=column_name(self._tensor, label),
            tensor=self._tensor,
            column=label,
            largest=float(self._largest[index]),
            relative=relative,
            scale=float(self._scale[index]),
            typical=float(self._typical[index]),
            whole=float(self._whole[index]),
            own=float(self._own[index]),
            rows=self._rows,
            mismatch_share=float(self._unequal[index]) / max(self._rows, 1),
            nondeterministic=noisy,
            # What is compared exactly gets no tolerance: its noise counts by its share alone.
            unprovable=noisy and self._base > 0 and FLOOR_FACTOR * relative > SWALLOWED,
        )

    def _wide_floor(self) -> ColumnFloor:
        swallowed = (self._unequal > 0) & (FLOOR_FACTOR * self._relative > SWALLOWED)
        return ColumnFloor(
            name=self._tensor,
            tensor=self._tensor,
            column="",
            largest=float(self._largest.max()),
            relative=float(self._relative.max()),
            scale=float(self._scale.max()),
            typical=float(self._typical.max()),
            own=float(self._own.max()),
            rows=self._rows,
            mismatch_share=self._unequal_rows / max(self._rows, 1),
            nondeterministic=bool(self._unequal.any()),
            unprovable=self._base > 0 and bool((swallowed & self._counted).any()),
            wide=WideFloor(
                scale=tuple(self._scale.tolist()),
                typical=tuple(self._typical.tolist()),
                relative=tuple(self._relative.tolist()),
                own=tuple(self._own.tolist()),
                labels=() if self.labels == numbered(len(self.labels)) else self.labels,
                whole=tuple(self._whole.tolist()) if self._whole.any() else (),
            ),
        )


def scales_of(
    parts: list[tuple[Keys, Array]], *, lent: bool, exact: bool = False, coarse: bool = False
) -> Scales:
    """The scales of one tensor's columns, from its first rows: fewer of a very wide one.

    Args:
      parts: (labels, values of shape (R, k)), batch by batch.
      lent: as for `scales.lent_scales`, where it is wide.
      exact: nothing rounds it, as `ModelGraph.exact` has it.
      coarse: as `ModelGraph.coarse` has it.
    """
    labels = _all_labels([own for own, _ in parts])
    if any(values.dtype == object for _, values in parts):
        return Scales()
    most = min(LIMIT, max(_CELLS // max(len(labels), 1), _LEAST_ROWS))
    matrix = _first_rows(parts, labels, most)
    own = column_scales(matrix)
    lent = is_lent(exact=exact, wide=lent and len(labels) > WIDE)
    scales = lent_scales(matrix, own) if lent else own
    usual = np.minimum(scales[0], USUAL * own[0])
    return Scales(
        labels=labels,
        scale=scales[0],
        typical=scales[1],
        own=usual,
        whole=counted_below(matrix, own[0], exact=exact, coarse=coarse),
    )


def _all_labels(found: list[Keys]) -> Keys:
    """The labels of a tensor whose batches have these, in the order in which they came."""
    longest = max(found, key=len, default=())
    if all(begins_with(longest, own) for own in found):
        return longest
    return tuple(dict.fromkeys(label for own in found for label in own))


def _first_rows(parts: list[tuple[Keys, Array]], labels: Keys, most: int) -> Array:
    """As many rows of the parts under all labels, shape (≤ most, k)."""
    taken, left = [], most
    for own, values in parts:
        taken.append(_placed(own, values[:left], labels))
        left -= len(taken[-1])
        if not left:
            break
    return np.concatenate(taken)


def _placed(own: Keys, values: Array, labels: Keys) -> Array:
    """The values under all labels of the tensor; NaN, which no scale is made of, where it has none."""
    if own == labels:
        return values
    held = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    placed = np.full((len(values), len(labels)), np.nan, held)
    if begins_with(labels, own):
        placed[:, : len(own)] = values
        return placed
    place = {label: i for i, label in enumerate(labels)}
    placed[:, [place[label] for label in own]] = values
    return placed

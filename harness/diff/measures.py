"""What a tensor's columns are measured by: fixed by the floor, before any row is seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Bools, Floats
from harness.diff.column_difference import (
    ColumnDifference,
    compare_columns,
    everything_differs,
    padded,
)
from harness.diff.columns import Aligned, Keys, column_name
from harness.diff.floor import ColumnFloor
from harness.diff.whole_numbers import other_numbers

Floors = Mapping[tuple[str, str], ColumnFloor]


def floors_by_column(columns: Sequence[ColumnFloor]) -> Floors:
    """(tensor, column) → its floor."""
    return {(column.tensor, column.column): column for column in columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Per column, each of shape (c,)."""

    tolerance: Floats
    """Relative."""
    scale: Floats
    """As `ColumnFloor.scale`; 0 where there is no floor."""
    typical: Floats
    """As `ColumnFloor.typical`."""
    noise: Floats
    """As `ColumnFloor.noise`."""
    whole: Floats
    """As `ColumnFloor.whole`."""
    own: Floats
    """As `WideFloor.own`."""
    counted: Bools
    """Whether a difference makes a request a mismatch."""

    def difference(self, pair: Aligned) -> ColumnDifference:
        """Compares rows; the shape of a batch may have fewer columns than are known, on both sides.

        Args:
          pair: the rows of both sides.

        Returns:
          As many columns as are known.
        """
        width, known = pair.baseline.shape[1], len(self.counted)
        if pair.unlike:
            return everything_differs(len(pair.baseline), known)
        found = compare_columns(
            pair.baseline,
            pair.candidate,
            self.tolerance[:width],
            self.scale[:width],
            typical=self.typical[:width],
            noise=self.noise[:width],
            own=None if self.own is self.scale else self.own[:width],
        )
        self._count_whole(pair, found)
        return padded(found, known - width)

    def _count_whole(self, pair: Aligned, found: ColumnDifference) -> None:
        """Enters whole numbers that are others: a tolerance for rounding is not for these."""
        width = pair.baseline.shape[1]
        for i in np.flatnonzero((self.whole[:width] > 0) & (found.absolute[:width] >= 1)).tolist():
            least = max(1.0, self.noise[i] * self.scale[i])
            found.mismatch[:, i] |= other_numbers(
                pair.baseline[:, i], pair.candidate[:, i], least, self.whole[i]
            )


def measures_of(
    tensor: str,
    labels: Keys,
    floors: Floors,
    base: float,
    expected: Collection[str],
    *,
    noisy: bool = False,
) -> Measures:
    """The measures of a tensor's columns.

    Args:
      tensor: the baseline's name.
      labels: its columns.
      floors: per column; one without a floor is measured against each row's own magnitude.
      base: the tolerance that the types allow; 0 = compared exactly.
      expected: tensor or column names whose differences are not counted.
      noisy: the baseline's own noise explains differences whatever the base, as of floats that nothing rounds.
    """
    scale, typical, noise, own, whole = _of_columns(tensor, labels, floors)
    if (own == scale).all():
        own = scale
    tolerance = np.fmax(noise, base) if base or noisy else np.zeros(len(labels))
    counted = np.ones(len(labels), dtype=np.bool_)
    if expected:
        named = [{tensor, column_name(tensor, label)} for label in labels]
        counted = np.array([names.isdisjoint(expected) for names in named], dtype=np.bool_)
    return Measures(
        tolerance=tolerance,
        scale=scale,
        typical=typical,
        noise=noise,
        own=own,
        whole=whole,
        counted=counted,
    )


def _of_columns(tensor: str, labels: Keys, floors: Floors) -> Floats:
    """(scale, typical, noise, own scale, whole) of every column, shape (5, c); 0 without a floor."""
    whole = floors.get((tensor, ""))
    if whole is not None and whole.wide is not None:
        return whole.wide.of(labels)
    known = [floors.get((tensor, label)) for label in labels]
    found = [
        (f.scale, f.typical, f.noise, min(f.own, f.scale), f.whole) if f else (0.0,) * 5
        for f in known
    ]
    return np.array(found, dtype=np.float64).reshape(-1, 5).T

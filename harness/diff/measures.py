"""What a tensor's columns are measured by: fixed by the floor, before any row is seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Bools, Floats
from harness.diff.columns import Aligned, Keys, column_name
from harness.diff.distance import RowDifference, compare_rows, compare_whole
from harness.diff.floor import ColumnFloor

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
    counted: Bools
    """Whether a difference makes a request a mismatch."""

    def difference(self, pair: Aligned, *, whole: bool) -> RowDifference:
        """Compares rows; the shape of a batch may have fewer columns than are known, on both sides.

        Args:
          pair: the rows of both sides.
          whole: all columns are judged as one.

        Returns:
          As many columns as are known; where they are judged as one, each has the same figures.
        """
        width, known = pair.baseline.shape[1], len(self.counted)
        if pair.unlike:
            return _all_differ(len(pair.baseline), known)
        part = slice(1 if whole else width)
        compare = compare_whole if whole else compare_rows
        found = compare(
            pair.baseline,
            pair.candidate,
            self.tolerance[part],
            self.scale[part],
            typical=self.typical[part],
            noise=self.noise[part],
        )
        if not whole:
            return _padded(found, known - width)
        return RowDifference(
            mismatch=found.mismatch.any(axis=1, keepdims=True).repeat(known, axis=1),
            masked=found.masked.any(axis=1, keepdims=True).repeat(known, axis=1),
            absolute=found.absolute.max(axis=1, keepdims=True, initial=0.0).repeat(known, 1),
            relative=found.relative.max(axis=1, keepdims=True, initial=0.0).repeat(known, 1),
            small=found.small,
        )


def measures_of(
    tensor: str, labels: Keys, floors: Floors, base: float, expected: Collection[str]
) -> Measures:
    """The measures of a tensor's columns.

    Args:
      tensor: the baseline's name.
      labels: its columns.
      floors: per column; one without a floor is measured against each row's own magnitude.
      base: the tolerance that the types allow; 0 = compared exactly.
      expected: tensor or column names whose differences are not counted.
    """
    known = [floors.get((tensor, label)) for label in labels]
    tolerance = [f.tolerance(base) if f and base else base for f in known]
    named = [{tensor, column_name(tensor, label)} for label in labels]
    return Measures(
        tolerance=np.array(tolerance, dtype=np.float64),
        scale=np.array([f.scale if f else 0.0 for f in known], dtype=np.float64),
        typical=np.array([f.typical if f else 0.0 for f in known], dtype=np.float64),
        noise=np.array([f.noise if f else 0.0 for f in known], dtype=np.float64),
        counted=np.array([names.isdisjoint(expected) for names in named], dtype=np.bool_),
    )


def _all_differ(rows: int, columns: int) -> RowDifference:
    """No column of it is known to be equal."""
    nothing = np.zeros((rows, columns))
    return RowDifference(
        mismatch=np.ones((rows, columns), dtype=np.bool_),
        masked=np.zeros((rows, columns), dtype=np.bool_),
        absolute=nothing,
        relative=nothing,
        small=np.zeros((rows, columns), dtype=np.bool_),
    )


def _padded(found: RowDifference, more: int) -> RowDifference:
    """With columns that these rows do not have, in which nothing differs."""
    if not more:
        return found
    wider = ((0, 0), (0, more))
    return RowDifference(
        mismatch=np.pad(found.mismatch, wider),
        masked=np.pad(found.masked, wider),
        absolute=np.pad(found.absolute, wider),
        relative=np.pad(found.relative, wider),
        small=np.pad(found.small, wider),
    )

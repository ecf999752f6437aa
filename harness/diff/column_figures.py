"""Running figures of a tensor's columns: arrays of the tensor's width, whatever that is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.core.tensors import Bools, Floats, Ints
from harness.diff.column_difference import ColumnDifference
from harness.diff.distance import SMALL_SHARE
from harness.diff.state import State

_OFTEN = 2.0 * SMALL_SHARE
"""Part of all values that is no chance, where no column has two rows."""


def _counts() -> Ints:
    return np.zeros(0, dtype=np.int64)


@dataclass(slots=True, kw_only=True)
class ColumnFigures:
    """What a stream has shown of k columns so far."""

    rows: int = 0
    """Rows compared."""
    absolute: Floats = field(default_factory=lambda: np.zeros(0))
    """Largest finite |candidate − baseline|, shape (k,)."""
    relative: Floats = field(default_factory=lambda: np.zeros(0))
    """Largest difference relative to the scale, shape (k,)."""
    small: Ints = field(default_factory=_counts)
    """Rows with a `RowDifference.small`, shape (k,)."""
    lent: Ints = field(default_factory=_counts)
    """Rows with a `RowDifference.lent`, shape (k,)."""
    one_sided: Ints = field(default_factory=_counts)
    """Rows that are NaN or infinite on one side only, shape (k,)."""
    differing: Ints = field(default_factory=_counts)
    """Requests with a row beyond tolerance, shape (k,)."""

    def grow(self, more: int, differing: int) -> None:
        """Takes `more` columns in, in each of which so many requests differ already."""
        self.absolute = np.pad(self.absolute, (0, more))
        self.relative = np.pad(self.relative, (0, more))
        self.small = np.pad(self.small, (0, more))
        self.lent = np.pad(self.lent, (0, more))
        self.one_sided = np.pad(self.one_sided, (0, more))
        self.differing = np.pad(self.differing, (0, more), constant_values=differing)

    def add(self, found: ColumnDifference) -> None:
        """Takes a batch's rows, but for the requests that differ."""
        self.absolute = np.maximum(self.absolute, found.absolute)
        self.relative = np.maximum(self.relative, found.relative)
        self.small = self.small + found.small
        self.lent = self.lent + found.lent
        self.one_sided = self.one_sided + found.masked

    @property
    def unproven(self) -> Bools:
        """Columns with too many rows that no tolerance of their own covers to be comparable, shape (k,)."""
        found = np.maximum(self.small, self.lent)
        # Of few rows one is soon too many: chance puts one near zero in some column.
        often = (found > 1) | (found.sum() > _OFTEN * self.rows * len(found))
        return np.asarray(often & (found > SMALL_SHARE * self.rows), dtype=np.bool_)

    def state(self) -> State:
        """The columns' figures, as arrays."""
        return {
            "absolute": self.absolute,
            "relative": self.relative,
            "small": self.small,
            "lent": self.lent,
            "one_sided": self.one_sided,
            "differing": self.differing,
        }

    @classmethod
    def from_state(cls, rows: int, state: State) -> ColumnFigures:
        """Continues from `state()`."""
        return cls(
            rows=rows,
            absolute=state["absolute"].astype(np.float64),
            relative=state["relative"].astype(np.float64),
            small=state["small"].astype(np.int64),
            lent=state["lent"].astype(np.int64),
            one_sided=state["one_sided"].astype(np.int64),
            differing=state["differing"].astype(np.int64),
        )

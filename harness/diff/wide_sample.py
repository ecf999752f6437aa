"""Values of a wide tensor: of the columns that differ most, which no stride would hit.

Which columns these are is known only once they differ, so that a column's values are kept from the first
batch on in which it was among them. Values of all columns would be as large as the stream's beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from harness.core.tensors import Array, Bools, Floats, Ints
from harness.diff.sample import RowSample
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes

WANTED = 8
"""Columns that are kept for sure."""
_KEPT = 16
"""Columns kept at most: one that is wanted no more is not dropped at once."""


def worst_columns(differing: Ints, relative: Floats, most: int) -> Ints:
    """The columns that differ, those with the most requests first, then those that are furthest apart.

    Args:
      differing: requests by column, shape (k,).
      relative: largest difference by column, shape (k,).
      most: how many are asked for.
    """
    columns = np.flatnonzero(differing)
    order = np.lexsort((columns, -relative[columns], -differing[columns]))
    return np.asarray(columns[order[:most]], dtype=np.int64)


@dataclass(slots=True)
class _Kept:
    """One column's values."""

    first: int
    """Rows before its first one."""
    sample: RowSample = field(default_factory=lambda: RowSample(sharing=_KEPT))


class WideSample:
    """Both sides' values of up to `_KEPT` columns, one `RowSample` each; they share its room for text."""

    def __init__(self) -> None:
        self.seen = 0
        self._columns: dict[int, _Kept] = {}

    def __contains__(self, column: int) -> bool:
        return column in self._columns

    def __iter__(self) -> Iterator[int]:
        return iter(self._columns)

    def wants_more(self) -> bool:
        """Whether rows that are equal would still be kept."""
        return any(kept.sample.wants_more() for kept in self._columns.values())

    def add_equal(self, values: Array) -> None:
        """Offers rows, shape (R, k), that are the same on both sides."""
        for column, kept in self._columns.items():
            if column < values.shape[1]:
                kept.sample.add_equal(values[:, [column]])
        self.seen += len(values)

    def add(self, baseline: Array, candidate: Array, cells: Bools, worst: Ints) -> None:
        """Offers rows.

        Args:
          baseline: shape (R, k).
          candidate: shape (R, k).
          cells: which values differ, shape (R, k) or wider.
          worst: the columns that differ most, these rows included, the worst first.
        """
        for column in worst[:WANTED].tolist():
            if column not in self._columns:
                self._make_room(set(worst[:WANTED].tolist()))
                self._columns[column] = _Kept(first=self.seen)
        for column, kept in self._columns.items():
            if column < baseline.shape[1]:
                kept.sample.add(
                    baseline[:, [column]], candidate[:, [column]], np.asarray(cells[:, column])
                )
        self.seen += len(baseline)

    def _make_room(self, wanted: set[int]) -> None:
        if len(self._columns) >= _KEPT:
            del self._columns[next(c for c in self._columns if c not in wanted)]

    def column(self, index: int) -> tuple[Array, Array]:
        """As `RowSample.column`; nothing of a column that is not kept."""
        if index not in self._columns:
            return np.zeros(0), np.zeros(0)
        return self._columns[index].sample.column(0)

    def cut(self, index: int) -> int | None:
        """As `RowSample.cut`."""
        kept = self._columns.get(index)
        return None if kept is None else kept.sample.cut

    def prefix(self, index: int) -> tuple[Array, Array]:
        """As `RowSample.prefix`; nothing of a column that was not kept from the first row on."""
        if index not in self._columns or self._columns[index].first:
            return np.zeros(0), np.zeros(0)
        return self._columns[index].sample.prefix(0)

    def state(self) -> State:
        """Everything, as arrays."""
        head = [self.seen, [[column, kept.first] for column, kept in self._columns.items()]]
        state: State = {"head": bytes_from_value(head)}
        for i, kept in enumerate(self._columns.values()):
            state |= under(str(i), kept.sample.state())
        return state

    @classmethod
    def from_state(cls, state: State) -> WideSample:
        """Continues from `state()`."""
        sample = cls()
        sample.seen, columns = value_from_bytes(state["head"])
        for i, (column, first) in enumerate(columns):
            sample._columns[column] = _Kept(
                first=first, sample=RowSample.from_state(inside(str(i), state), sharing=_KEPT)
            )
        return sample

"""A bounded sample of rows of one tensor, taken in test order.

The first rows of the stream, equal or not, and the first rows that differ: enough to name the
relation between the two sides, small enough to save after every chunk. Test order is random, so
"first" is a fair draw.
"""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Array, Bools, held_bytes
from harness.diff.state import State, array_from_parts, array_parts, bytes_from_value
from harness.diff.state import value_from_bytes as _read

LIMIT = 4096
"""Rows kept of the beginning, and differing rows kept."""

_CELLS = 1 << 19
"""Values that the beginning of a wide tensor may have, where all its columns are kept."""
_LEAST = 64
"""Rows of it at least: enough to know a column by."""

_TEXT = 16 << 20
"""Bytes of text that the beginning may have, and that the rows which differ may, of both sides: a text may be of
any length."""
_FOR_A_FEW = 8
"""Times as many bytes that a few rows may have, to know a column by: beyond, one row may be all that is kept."""


def rows_kept(columns: int) -> int:
    """Rows that are kept of so many columns."""
    return min(LIMIT, max(_CELLS // columns, _LEAST))


class RowSample:
    """Both sides' values of a few thousand rows, shape (rows, columns).

    Args:
      limit: rows kept of the beginning; None = `LIMIT`.
      sharing: samples that share the room for text.
    """

    def __init__(self, limit: int | None = None, *, sharing: int = 1) -> None:
        self.limit = self._full = LIMIT if limit is None else limit
        self.seen = 0
        self.differing = 0
        self._most = LIMIT
        self._room = _TEXT // sharing
        self._text = [0, 0]
        self._baseline: list[Array] = []
        self._candidate: list[Array] = []

    def wants_more(self) -> bool:
        """Whether rows that are equal would still be kept."""
        return self.seen < self.limit

    def add_equal(self, values: Array) -> None:
        """Offers rows, shape (R, k), that are the same on both sides."""
        kept = values[: self._first(values, values)].copy()
        self.seen += len(values)
        if len(kept):
            # One object on both sides: saved once.
            self._baseline.append(kept)
            self._candidate.append(kept)

    def add(self, baseline: Array, candidate: Array, mismatch: Bools) -> None:
        """Offers rows, shape (R, k); `mismatch` marks those that differ, shape (R,)."""
        keep = np.zeros(len(mismatch), dtype=np.bool_)
        keep[: self._first(baseline, candidate)] = True
        differ = np.flatnonzero(mismatch)[: max(self._most - self.differing, 0)]
        fitting = self._fitting((baseline[differ], candidate[differ]), self.differing, 1)
        if fitting < len(differ):
            self._most = self.differing + fitting
        keep[differ[:fitting]] = True
        self.seen += len(mismatch)
        self.differing = min(self.differing + int(mismatch.sum()), self._most)
        if keep.any():
            self._baseline.append(baseline[keep])
            self._candidate.append(candidate[keep])

    def _first(self, baseline: Array, candidate: Array) -> int:
        """How many of these rows are kept as the stream's first ones; later none is where text is too long."""
        rows = max(self.limit - self.seen, 0)
        fitting = self._fitting((baseline[:rows], candidate[:rows]), self.seen, 0)
        if fitting < len(baseline[:rows]):
            self.limit = self.seen + fitting
        return fitting

    def _fitting(self, sides: tuple[Array, Array], kept: int, part: int) -> int:
        """How many of these rows there is room for, by both sides' text.

        Args:
          sides: the rows, baseline and candidate.
          kept: rows of that part so far, of which a few have more room.
          part: 0 = the beginning, 1 = rows that differ.
        """
        texts = [side for side in sides if side.dtype == object]
        for count in range(len(sides[0]) if texts else 0):
            room = self._room if kept + count >= _LEAST else self._room * _FOR_A_FEW
            if self._text[part] >= room:
                return count
            self._text[part] += sum(held_bytes(side[count]) for side in texts)
        return len(sides[0])

    def column(self, index: int) -> tuple[Array, Array]:
        """One column's sampled values, baseline and candidate, in test order."""
        before = [_column(chunk, index) for chunk in self._baseline]
        after = [_column(chunk, index) for chunk in self._candidate]
        if not before:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(before), np.concatenate(after)

    @property
    def cut(self) -> int | None:
        """How many rows are kept where text left no room for others; None = as many as are kept of numbers."""
        kept = sum(map(len, self._baseline))
        shortened = self._most < LIMIT or self.limit < self._full
        return kept if shortened and kept < self.seen else None

    def prefix(self, index: int) -> tuple[Array, Array]:
        """As `column`, of the first rows only: these rows are the same ones for every tensor."""
        before, after = self.column(index)
        kept = min(self.seen, self.limit)
        return before[:kept], after[:kept]

    def beginning(self) -> tuple[Array, Array]:
        """As `prefix`, of all columns, shape (rows, columns)."""
        if not self._baseline:
            return np.zeros((0, 0)), np.zeros((0, 0))
        kept = min(self.seen, self.limit)
        return _stacked(self._baseline)[:kept], _stacked(self._candidate)[:kept]

    def state(self) -> State:
        """Everything, as arrays."""
        state: State = {"head": bytes_from_value(self._head())}
        if not self._baseline:
            return state
        alike = all(b is c for b, c in zip(self._baseline, self._candidate, strict=True))
        before = _stacked(self._baseline)
        after = before if alike else _stacked(self._candidate)
        chunks = (*self._baseline, *self._candidate)
        if all(chunk.shape[1:] == before.shape[1:] for chunk in chunks):
            # In one piece from now on: the next checkpoint has nothing to put together.
            self._baseline, self._candidate = [before], [after]
        state |= array_parts("baseline", before)
        if not alike:
            state |= array_parts("candidate", after)
        return state

    def _head(self) -> list[object]:
        return [self.seen, self.differing, self.limit, self._most, self._text]

    @classmethod
    def from_state(cls, state: State, limit: int | None = None, *, sharing: int = 1) -> RowSample:
        """Continues from `state()` of one with these arguments."""
        sample = cls(limit, sharing=sharing)
        sample.seen, sample.differing, most, sample._most, sample._text = _read(state["head"])
        sample.limit = min(sample.limit, most)
        baseline = array_from_parts("baseline", state)
        if baseline is not None:
            candidate = array_from_parts("candidate", state)
            sample._baseline = [baseline]
            sample._candidate = [baseline if candidate is None else candidate]
        return sample


def _column(chunk: Array, index: int) -> Array:
    """A column; NaN when the chunk is older than the column (a class met later)."""
    return chunk[:, index] if index < chunk.shape[1] else np.full(len(chunk), np.nan)


def _stacked(chunks: list[Array]) -> Array:
    if len(chunks) == 1:
        return chunks[0]
    width = max(chunk.shape[1] for chunk in chunks)
    return np.concatenate(
        [
            chunk
            if chunk.shape[1] == width
            else np.pad(
                chunk.astype(np.float64) if chunk.dtype.kind in "biu" else chunk,
                ((0, 0), (0, width - chunk.shape[1])),
                constant_values=np.nan,
            )
            for chunk in chunks
        ]
    )

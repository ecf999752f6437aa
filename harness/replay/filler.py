"""Rows of a batch in one array, where some of them nobody answered.

How long a row is, its version says, and it may say that a row has a billion values and answer none. So rows
without an answer take no more memory than `FREE`, or than what was answered beside them; where they would,
no array is made. One value for all rows stays that: it is in memory once, however many rows there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, is_one_value

Chunks = tuple[tuple[int, Array], ...]
"""One output of consecutive requests: how many they are, and their rows."""
FREE = 16 << 20
"""Bytes that rows without an answer may always take."""
FREE_TRACED = 64 << 20
"""The same of traced tensors, which are not compared for the whole batch where no array is made."""


@dataclass(slots=True)
class Spare:
    """What rows without an answer may take beside the rows that were answered, all tensors of a batch together."""

    left: int
    """Bytes."""

    def gives(self, size: int) -> bool:
        """Whether there are so many bytes left; they are taken then."""
        if size > self.left:
            return False
        self.left -= size
        return True


def unanswered(like: Array, rows: int) -> Array:
    """Rows that nobody answered: NaN, 0, False or the empty text, one value that takes no memory.

    Args:
      like: its type and the shape of its rows.
      rows: how many.

    Returns:
      Shape (rows, *trailing); where that would be more than `FREE` in memory, every trailing length is 0.
    """
    trailing = like.shape[1:]
    if rows * _row_bytes(like) > FREE:
        trailing = (0,) * len(trailing)
    return np.broadcast_to(_value(like), (rows, *trailing))


def in_one_array(
    like: Array, pieces: Sequence[Array], answered: Sequence[bool], spare: Spare
) -> Array | None:
    """The rows of consecutive pieces; None where what nobody answered would take more than it may.

    Args:
      like: what the rows look like where none was answered.
      pieces: shape (rows, *trailing) each; those with an answer in one shape and type.
      answered: of each piece whether any of its rows was answered; what others hold is not looked at.
      spare: what rows without an answer may take where the others take less.
    """
    total = sum(map(len, pieces))
    there = [a for a, known in zip(pieces, answered, strict=True) if known and len(a)]
    missing = total - sum(map(len, there))
    if not there:
        return unanswered(like, missing)
    like, row = there[0], _row_bytes(there[0])
    large = total * row > FREE
    if _all_one(there) and (large or not missing):
        return np.broadcast_to(like[:1], (total, *like.shape[1:]))
    if missing > total - missing and not spare.gives(missing * row):
        return None
    return np.concatenate(
        [
            a if known else np.full((len(a), *like.shape[1:]), _value(like), like.dtype)
            for a, known in zip(pieces, answered, strict=True)
            if len(a)
        ]
    )


def _all_one(arrays: Sequence[Array]) -> bool:
    """Whether all rows of all of these are one value."""
    first = arrays[0][:1].tobytes() if all(map(is_one_value, arrays)) else None
    return first is not None and all(a[:1].tobytes() == first for a in arrays[1:])


def _row_bytes(like: Array) -> int:
    return math.prod(like.shape[1:]) * like.dtype.itemsize


def _value(like: Array) -> Array:
    return np.full((), {"O": "", "f": np.nan}.get(like.dtype.kind, 0), like.dtype)

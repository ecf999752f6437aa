"""Rows of a table as requests of several rows, for a model that takes batches of one size only.

A table of bare rows (no ids, times or context columns, one row each) says nothing of who asked for which of
them together, so they may be put together as the model takes them. Recorded requests were asked as they are, and
stay so. Tried and left was filling each row up with copies of itself: what a model does in the other places of a
batch, and to rows unlike each other, would go unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.core.counted import counted
from harness.core.errors import TrafficError
from harness.core.tensors import Array
from harness.store.table_pieces import Piece

MADE_UP_ID = "row-"
"""Begins the id of a row that was given none: its place, which says nothing about another file's rows."""
MOST_FILLED = 256 << 20
"""Bytes that a table of fewer rows than one batch may take once it is filled up."""
_ROW_BYTES = 64
"""That a row takes at least, however small its values: its request and its answers are held, too."""
_Rows = dict[str, Array]


def is_bare(piece: Piece) -> bool:
    """Whether it holds rows and nothing else, each a request of its own."""
    said = piece.ts_ns is not None or piece.request_id is not None or piece.context
    return not said and not any(isinstance(values, list) for values in piece.inputs.values())


def together(given: Iterable[tuple[Path, Piece]], rows: int) -> int:
    """How many rows of a table make a request: just so many where all of it is bare, else 0, as it was given.

    How many a model takes is its own claim, so it may not make much of a small table.

    Args:
      given: (file, some of its rows).
      rows: that a batch of the model must have, ≥ 1.

    Raises:
      TrafficError: filled up to so many rows, the table would take more than `MOST_FILLED` bytes.
    """
    count = size = 0
    where = ""
    for path, piece in given:
        where = str(path)
        if not is_bare(piece):
            return 0
        count += piece.count
        size += sum(map(_bytes, _own(piece).values()))
    if 0 < count < rows and max(size // count, _ROW_BYTES) * rows > MOST_FILLED:
        raise TrafficError(
            where,
            f"the model takes batches of {rows:,} rows and no others, and there are {counted(count, 'row')}: a batch "
            f"filled up with these would take more than {MOST_FILLED >> 20} MiB",
            "Give a table with as many rows, or export the model with a free number of rows or a smaller one.",
        )
    return rows


def in_batches(given: Iterable[tuple[Path, Piece]], rows: int) -> Iterator[tuple[Path, Piece]]:
    """Bare pieces as requests of so many rows, in order; the last is filled up with the first rows of all.

    Args:
      given: (file, some of its rows).
      rows: of a request, as `together` says.

    Yields:
      (file, requests), each called after the place of its first row.
    """
    first: list[_Rows] = []
    held: list[_Rows] = []
    kept = left = at = 0
    last = None
    for path, piece in given:
        last, own = path, _own(piece)
        if kept < rows:
            first.append({n: v[: rows - kept] for n, v in own.items()})
            kept += min(rows - kept, piece.count)
        held.append(own)
        left += piece.count
        if left >= rows:
            joined, whole = _joined(held), left // rows
            yield path, _requests(joined, whole, rows, at)
            held = [{n: v[whole * rows :] for n, v in joined.items()}]
            left, at = left - whole * rows, at + whole * rows
    if last is not None and left:
        filler = np.arange(rows - left) % kept
        more = {n: v[filler] for n, v in _joined(first).items()}
        yield last, _requests(_joined([*held, more]), 1, rows, at)


def _requests(held: _Rows, count: int, rows: int, at: int) -> Piece:
    """The first requests of what is held, whose first row is the table's row `at`."""
    return Piece(
        count=count,
        inputs={n: [v[i * rows : (i + 1) * rows] for i in range(count)] for n, v in held.items()},
        ts_ns=None,
        request_id=[f"{MADE_UP_ID}{at + i * rows}" for i in range(count)],
        context={},
    )


def _own(piece: Piece) -> _Rows:
    return {n: v for n, v in piece.inputs.items() if not isinstance(v, list)}


def _joined(parts: Sequence[_Rows]) -> _Rows:
    return {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}


def _bytes(values: Array) -> int:
    """That values take, text by its length beside what refers to it."""
    return values.nbytes + (sum(map(len, values.ravel().tolist())) if values.dtype == object else 0)

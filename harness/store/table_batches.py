"""Rows of a table as requests of several rows, for a model that takes batches of one size only.

A table of bare rows (no ids, times or context columns, one row each) says nothing of who asked for which of
them together, so they may be put together as the model takes them. Recorded requests were asked as they are, and
stay so. Tried and left was filling each row up with copies of itself: what a model does in the other places of a
batch, and to rows unlike each other, would go unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from harness.core.tensors import Array, Ints
from harness.store.table_pieces import Piece

MADE_UP_ID = "row-"
"""Begins the id of a row that was given none: its place, which says nothing about another file's rows."""
_Rows = dict[str, Array]


def is_bare(piece: Piece) -> bool:
    """Whether it holds rows and nothing else, each a request of its own."""
    said = piece.ts_ns is not None or piece.request_id is not None or piece.context
    return not said and not any(isinstance(values, list) for values in piece.inputs.values())


def in_batches(given: Iterable[tuple[Path, Piece]], rows: int) -> Iterator[tuple[Path, Piece]]:
    """Bare pieces as requests of so many rows, in order; the last is filled up with the first rows of all.

    Args:
      given: (file, some of its rows).
      rows: of a request, ≥ 1.

    Yields:
      (file, requests), each called after the place of its first row.
    """
    first: _Rows = {}
    held: _Rows = {}
    at, last = 0, None
    for path, piece in given:
        last, own = path, {n: v for n, v in piece.inputs.items() if not isinstance(v, list)}
        first = _picked(_joined(first, own), np.arange(min(rows, _count(first) + piece.count)))
        held = _joined(held, own)
        whole = _count(held) // rows
        if whole:
            yield path, _requests(held, whole, rows, at)
            held, at = {n: v[whole * rows :] for n, v in held.items()}, at + whole * rows
    if last is not None and (left := _count(held)):
        more = _picked(first, np.arange(rows - left) % _count(first))
        yield last, _requests(_joined(held, more), 1, rows, at)


def _requests(held: _Rows, count: int, rows: int, at: int) -> Piece:
    """The first requests of what is held, whose first row is the table's row `at`."""
    return Piece(
        count=count,
        inputs={n: [v[i * rows : (i + 1) * rows] for i in range(count)] for n, v in held.items()},
        ts_ns=None,
        request_id=[f"{MADE_UP_ID}{at + i * rows}" for i in range(count)],
        context={},
    )


def _count(some: _Rows) -> int:
    return len(next(iter(some.values()))) if some else 0


def _joined(some: _Rows, more: _Rows) -> _Rows:
    return {n: np.concatenate((some[n], v)) for n, v in more.items()} if some else more


def _picked(some: _Rows, at: Ints) -> _Rows:
    return {n: v[at] for n, v in some.items()}

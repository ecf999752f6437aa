"""Tensors as named columns, aligned between the two sides.

A flat tensor is one column named ""; a matrix has columns "0", "1", …; a ZipMap output has its
class names. Every column is judged by its own measures, whatever the width. Of tensors with more than
WIDE columns only those that differ most are shown one by one (large embeddings: a line for each would
say nothing to a reader), and only their values are kept.
"""

from __future__ import annotations

import enum
import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Bools, Ints, PackedText, Strings, flat_rows, some_rows
from harness.core.traffic import RequestBatch

WIDE = 64
"""Largest number of columns that are all shown and kept."""
_BLOCK = 4096
"""Labels that are made at a time."""
Keys = tuple[str, ...]


class Alike(enum.Enum):
    """Which trailing shapes hold the same columns."""

    SAME = "same"
    """The same shape and no other: outputs, whose shape clients read."""
    COLUMN = "column"
    """(rows) and (rows, 1), too, which is told: what stands inside a model."""
    SIZE = "size"
    """Any of one size: recordings, which may have been written flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """Two tensors over the same columns."""

    labels: Keys
    """Column names, K of them; ("",) for a flat tensor."""
    baseline: Array
    """Shape (R, K)."""
    candidate: Array
    """Shape (R, K)."""
    unlike: str = ""
    """Why the shapes cannot be compared; then every row differs and K = 0."""
    reshaped: str = ""
    """How the shapes differ where the columns are compared all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRows:
    """Which requests of a batch are compared, and which rows they own."""

    requests: Bools
    """Compared or not, shape (n,)."""
    rows: Bools | None
    """Compared or not, shape (R,); None = all R."""
    owner: Ints
    """Request index of each compared row, ascending, shape (R',)."""
    ids: Strings | PackedText
    """Request ids, shape (n,)."""
    single: bool
    """Every request is compared and owns exactly one row."""
    total: int
    """R, before leaving rows out."""
    count: int
    """Compared requests that own at least one row."""

    def take(self, tensor: Array) -> Array:
        """The compared rows of a tensor of R rows."""
        return tensor if self.rows is None else some_rows(tensor, self.rows)

    def owners(self, rows: Bools) -> Bools:
        """Requests that own any of the marked compared rows, shape (n,)."""
        if self.single:
            return rows
        marked = np.zeros(len(self.requests), dtype=np.bool_)
        marked[self.owner[rows]] = True
        return marked

    def count_by_column(self, cells: Bools) -> Ints:
        """How many requests own a marked cell, per column of (R', k); shape (k,)."""
        if not self.single and len(self.owner):
            starts = np.flatnonzero(np.diff(self.owner, prepend=-1))
            cells = np.logical_or.reduceat(cells, starts, axis=0)
        return np.asarray(cells.sum(axis=0, dtype=np.int64))


def compared_rows(batch: RequestBatch, ok: Bools) -> ComparedRows:
    """Leaves out the rows of requests that are not compared.

    Args:
      batch: n requests.
      ok: which of them are compared, shape (n,).
    """
    n = len(batch)
    owner = batch.row_owner()
    everything = bool(ok.all())
    single = everything and batch.single
    rows = None if everything else ok[owner]
    kept = owner if rows is None else owner[rows]
    return ComparedRows(
        requests=ok,
        rows=rows,
        owner=kept,
        ids=batch.request_id,
        single=single,
        total=len(owner),
        count=n if single else int(np.count_nonzero(np.diff(kept, prepend=-1))),
    )


def aligned(
    baseline: Array,
    candidate: Array,
    keys: tuple[Keys | None, Keys | None] = (None, None),
    known: Keys = (),
    alike: Alike = Alike.SIZE,
) -> Aligned:
    """Brings two tensors to the same columns.

    Args:
      baseline: shape (R, *trailing).
      candidate: shape (R, *trailing).
      keys: class names of a ZipMap output, both sides; None for other tensors.
      known: class names met in earlier batches, which keep their places.
      alike: which trailing shapes are equal enough.

    Returns:
      Matrices over the union of columns; a class that one side lacks is NaN there.
    """
    before, after = flat_rows(baseline), flat_rows(candidate)
    reshaped = ""
    if keys[0] is not None and keys[1] is not None:
        labels = tuple(dict.fromkeys((*known, *keys[0], *keys[1])))
        before, after = _placed(before, keys[0], labels), _placed(after, keys[1], labels)
    elif not _fit(baseline.shape[1:], candidate.shape[1:], alike):
        return _unlike(baseline, candidate)
    else:
        labels = keys[0] or keys[1] or _labels(baseline)
        if alike is Alike.COLUMN and baseline.ndim != candidate.ndim:
            reshaped = _became(baseline, candidate)
    return Aligned(labels=labels, baseline=before, candidate=after, reshaped=reshaped)


@functools.lru_cache(maxsize=8)
def numbered(count: int) -> Keys:
    """The labels of a matrix's columns, from "0" on.

    Those of another width are the same texts: of a tensor whose width varies they are made once.
    """
    blocks = map(_numbers, range(-(-count // _BLOCK)))
    return tuple(itertools.chain.from_iterable(blocks))[:count]


@functools.lru_cache(maxsize=256)
def _numbers(block: int) -> Keys:
    """The texts of so many whole numbers, block by block."""
    return tuple(map(str, range(block * _BLOCK, (block + 1) * _BLOCK)))


def begins_with(labels: Keys, first: Keys) -> bool:
    """Whether columns are those of `first`, and perhaps more after them."""
    return labels[: len(first)] == first


def column_name(tensor: str, label: str) -> str:
    """As shown to a user: `imputed[3]`, or the tensor's own name."""
    return f"{tensor}[{label}]" if label else tensor


def _fit(before: tuple[int, ...], after: tuple[int, ...], alike: Alike) -> bool:
    if before == after or alike is Alike.SAME:
        return before == after
    one = math.prod(before) == math.prod(after)
    return one and (alike is Alike.SIZE or {before, after} == {(), (1,)})


def _became(baseline: Array, candidate: Array) -> str:
    """How the shape changed, in words."""
    return f"the shape {shown_shape(baseline)} became {shown_shape(candidate)}"


def shown_shape(tensor: Array) -> str:
    """Shape of a tensor by rows: (rows, 2, 3)."""
    return f"({', '.join(['rows', *map(str, tensor.shape[1:])])})"


def _labels(tensor: Array) -> Keys:
    return ("",) if tensor.ndim == 1 else numbered(math.prod(tensor.shape[1:]))


def _placed(matrix: Array, keys: Keys, labels: Keys) -> Array:
    if keys == labels:
        return matrix
    placed = np.full((len(matrix), len(labels)), np.nan)
    where = {label: i for i, label in enumerate(labels)}
    placed[:, [where[key] for key in keys]] = matrix
    return placed


def _unlike(baseline: Array, candidate: Array) -> Aligned:
    nothing = np.empty((len(baseline), 0))
    return Aligned(
        labels=("",),
        baseline=nothing,
        candidate=nothing,
        unlike=_became(baseline, candidate),
    )

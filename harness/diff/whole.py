"""Intermediate tensors of any shape, compared whole: what is the first place to part?

Rows are known only where a tensor's first axis is as long as the batch; then every column has its own
scale, as in `distance`. All else is one column.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.core.tensors import Array, Bools, Floats, Ints, Nested
from harness.diff.column_difference import compare_columns, unequal_columns
from harness.diff.distance import (
    Comparison,
    comparison,
    computed_tolerance,
)
from harness.diff.nested import unlike
from harness.diff.scales import column_scales, is_lent, lent_scales
from harness.diff.whole_numbers import counted_below, other_numbers

_COLUMNS = 64
"""Largest number of columns that are lent no scale."""
_NO_ROWS = -1
"""Length that no tensor has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """How one batch's values of two tensors differ."""

    rows: Bools
    """Which rows differ, shape (rows,); shape (1,) where rows are not known."""
    relative: float
    """Largest difference relative to the scale; inf for NaN, infinity or words on one side only."""
    absolute: float
    """Largest finite difference."""
    columns: Floats = field(default_factory=lambda: np.zeros(0))
    """`relative` of each column, shape (k,); () where the two cannot be compared."""
    unlike: str = ""
    """Why the two cannot be compared: another shape or type."""
    small: int = 0
    """Rows with differences within the tolerance that are large parts of their values, in the column with the most."""


def apart(
    baseline: Array,
    candidate: Array,
    *,
    rows: int,
    tolerance: float | Floats,
    fine: bool = False,
    exact: bool = False,
    moved: bool = False,
) -> Apart:
    """Compares two whole tensors.

    Args:
      baseline: any shape.
      candidate: the same number of values, perhaps in another shape.
      rows: of the batch.
      tolerance: relative, ≥ 0, of all columns or of each; never below what the types allow.
      fine: where they are float64, all digits count: no float32 arithmetic is before the baseline's.
      exact: nothing rounds the baseline's, as `Graph.exact` has it.
      moved: both versions hand it on as it came: floats of one type are compared bit by bit.

    Returns:
      Rows that differ and how far; every row where the two cannot be compared.
    """
    known = baseline.ndim > 0 and baseline.shape[0] == rows
    count = rows if known else 1
    if baseline.size != candidate.size:
        return _unlike(count, f"shape {_shape(baseline)} against {_shape(candidate)}")
    how = comparison(baseline.dtype, candidate.dtype)
    if how is Comparison.IMPOSSIBLE:
        return _unlike(count, f"{baseline.dtype} against {candidate.dtype}")
    before = _matrix(baseline, rows)
    after = candidate.reshape(before.shape)
    width = before.shape[1]
    noise = _of_each(tolerance, width)
    usual = 0.0
    if not (moved and baseline.dtype == candidate.dtype):
        usual = computed_tolerance(baseline.dtype, candidate.dtype, coarse=not fine)
    scale, typical = _scales(before, after, exact=exact)
    found = compare_columns(
        before,
        after,
        np.fmax(noise, usual),
        scale,
        typical=typical,
        noise=noise,
    )
    below = counted_below(
        before, np.where(found.absolute >= 1, scale, 0.0), exact=exact, coarse=not fine
    )
    for i in np.flatnonzero(below).tolist():
        least = max(1.0, noise[i] * scale[i])
        found.mismatch[:, i] |= other_numbers(before[:, i], after[:, i], least, below[i])
    differs = np.asarray(found.mismatch.any(axis=1), dtype=np.bool_)
    return Apart(
        rows=differs if known else np.array([bool(differs.any())]),
        relative=_largest(found.relative, masked=bool(found.masked.any())),
        absolute=_largest(found.absolute, masked=False),
        columns=np.where(found.masked > 0, np.inf, found.relative),
        small=min(int(found.small.max(initial=0)), count),
    )


def apart_whole(
    baseline: Array | Nested,
    candidate: Array | Nested,
    *,
    rows: int,
    tolerance: float | Floats,
    fine: bool = False,
    exact: bool = False,
    moved: bool = False,
    output: bool = False,
) -> Apart:
    """As `apart`; of sequences and optionals the forms, then all their values as one column.

    Args:
      baseline: a tensor or a nest of them.
      candidate: the same kind.
      rows: of the batch.
      tolerance: relative, ≥ 0, of all columns or of each; never below what the types allow.
      fine: as for `apart`.
      exact: the same.
      moved: the same.
      output: clients read them, so another shape is another answer.
    """
    if isinstance(baseline, Nested) and isinstance(candidate, Nested):
        why = unlike(baseline, candidate)
        if why:
            return _unlike(1, why)
        flat = baseline.flat(), candidate.flat()
        return apart(*flat, rows=_NO_ROWS, tolerance=tolerance, fine=fine, exact=exact, moved=moved)
    if isinstance(baseline, Nested) or isinstance(candidate, Nested):
        return _unlike(1, "a sequence or an optional on one side only")
    found = apart(
        baseline, candidate, rows=rows, tolerance=tolerance, fine=fine, exact=exact, moved=moved
    )
    if output and baseline.shape != candidate.shape and not found.unlike:
        why = f"shape {_shape(baseline)} against {_shape(candidate)}"
        return _unlike(len(found.rows), why)
    return found


def _of_each(tolerance: float | Floats, width: int) -> Floats:
    """The tolerance of each column, shape (width,); of other columns than these the largest."""
    given = np.asarray(tolerance, dtype=np.float64)
    fits = given.shape == (width,)
    return given if fits else np.full(width, given.max(initial=0.0))


def _scales(baseline: Array, candidate: Array, *, exact: bool) -> tuple[Floats, Floats]:
    """The scales S and T of every column that differs; those of wide tensors are lent (see `scales`)."""
    found = np.zeros((2, baseline.shape[1]))
    columns = unequal_columns(baseline, candidate)
    if len(columns):
        values = baseline if len(columns) == len(found[0]) else baseline[:, columns]
        own = column_scales(values)
        lent = is_lent(exact=exact, wide=len(found[0]) > _COLUMNS)
        found[:, columns] = lent_scales(baseline, own) if lent else own
    return found[0], found[1]


def permuted_columns(
    baseline: Array, candidate: Array, *, tolerance: float, fine: bool = False
) -> tuple[int, ...]:
    """Which column of the baseline each of the candidate's holds, when they are all there in another order.

    Args:
      baseline: shape (rows, columns).
      candidate: the same shape.
      tolerance: relative, ≥ 0.
      fine: as for `apart`.

    Returns:
      Column numbers of the baseline in the candidate's order; () when they are no permutation, or the
      same order.
    """
    if baseline.ndim != _MATRIX or baseline.shape != candidate.shape:
        return ()
    rows, columns = baseline.shape
    order = _exactly(baseline, candidate)
    left = np.setdiff1d(np.arange(columns), order)
    asked = 0
    for i in np.flatnonzero(order < 0).tolist():
        column = candidate[:, i]
        same = -1
        # Equal columns are told apart by nothing; the own place goes first.
        for j in sorted(_near(baseline, left, column, max(tolerance, _NEAR)), key=lambda j: j != i):
            asked += 1
            if asked > _ASKED:
                return ()
            values = baseline[:, j]
            if not apart(values, column, rows=rows, tolerance=tolerance, fine=fine).rows.any():
                same = j
                break
        if same < 0:
            return ()
        order[i] = same
        left = left[left != same]
    found = tuple(order.tolist())
    return () if found == tuple(range(columns)) else found


def _exactly(baseline: Array, candidate: Array) -> Ints:
    """The baseline's column that each of the candidate's is bit by bit, shape (k,), none twice; −1 = none is."""
    order = np.full(baseline.shape[1], -1, dtype=np.int64)
    if baseline.dtype != candidate.dtype or baseline.dtype == object:
        return order
    ours = [baseline[:, i].tobytes() for i in range(len(order))]
    theirs = [candidate[:, i].tobytes() for i in range(len(order))]
    places: dict[bytes, list[int]] = {}
    for i, (old, new) in enumerate(zip(ours, theirs, strict=True)):
        if old == new:
            order[i] = i
        else:
            places.setdefault(old, []).append(i)
    for i in np.flatnonzero(order < 0).tolist():
        if free := places.get(theirs[i]):
            order[i] = free.pop(0)
    return order


def _near(baseline: Array, places: Ints, column: Array, tolerance: float) -> list[int]:
    """Of these columns those that may be this one, as far as one row shows."""
    if object in (baseline.dtype, column.dtype) or not len(column):
        return [int(j) for j in places]
    values = baseline[:, places].astype(np.float64)
    own = column.astype(np.float64)
    row = int(np.argmax(np.where(np.isfinite(own), np.abs(own), -1.0)))
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.fmax(np.nanmax(np.abs(values), axis=0, initial=0.0), abs(own[row]))
        far = np.abs(values[row] - own[row]) > _SLACK * tolerance * size
    return [int(j) for j in places[~far]]


_MATRIX = 2
_NEAR = 1e-3
"""Columns whose largest values are further apart than this are not compared row by row."""
_SLACK = 4.0
"""Times a tolerance that leaves no column out that `apart` may find equal."""
_ASKED = 20_000
"""Pairs of columns that are compared row by row at most."""


def _matrix(values: Array, rows: int) -> Array:
    if values.ndim > 0 and values.shape[0] == rows:
        return values.reshape(rows, values.size // rows if rows else 0)
    return values.reshape(-1, 1)


def _unlike(count: int, why: str) -> Apart:
    return Apart(
        rows=np.ones(count, dtype=np.bool_), relative=float("inf"), absolute=0.0, unlike=why
    )


def _largest(values: Floats, *, masked: bool) -> float:
    return float("inf") if masked else float(values.max(initial=0.0))


def _shape(values: Array) -> str:
    return "[" + ", ".join(str(n) for n in values.shape) + "]"

"""Straight lines between raw columns and fitted ones: a scaler is one, whatever its constants.

Which columns may be lines of which is asked of all at once, by correlations of the rows in which both have a
value; the few that may are then looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Bools, Floats
from harness.diff.columns import column_name
from harness.diff.tally import TensorTally

_ROWS = 30
_DISTINCT = 3
_STRAIGHT = 1e-5
"""A column is a line of a feature where it misses by at most this share of its own range."""
_LITTLE = 1e-3
"""The same of a column of which float32 leaves fewer digits."""
_NEARLY = 0.999
"""Squared correlation that no such line is below."""
_LEAST = 1e-12
"""Variance of a column, of values up to 1, below which it is constant."""
_MOST_PAIRS = 1 << 20
"""Pairs of columns that are asked; of more, those in the same place only."""
_ROUNDED = 2.0**-22
"""Part of a value, and of what it is computed of, that a few operations in float32 may leave uncertain."""
AS_IT_IS = (1.0, 0.0)
"""The line of a column that only fills gaps: no scaler of anything."""
Line = tuple[float, float]
"""(slope, intercept)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A raw column, in the rows that a fitted tensor keeps, too."""

    name: str
    """As shown."""
    baseline: Floats
    """Shape (n,)."""
    candidate: Floats
    """Shape (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The raw columns of which one fitted column may be a line."""

    both: list[Source]
    """On both sides."""
    before: list[Source]
    """In the baseline."""
    after: list[Source]
    """In the candidate."""


def has_numbers(tally: TensorTally) -> bool:
    """Whether its columns can be looked at one by one; not words, nor what was not compared."""
    seen = bool(tally.rows) and not tally.unlike and bool(tally.sample.seen)
    return seen and all(side.dtype != object for side in tally.sample.prefix(0))


def sources_of(tally: TensorTally, features: Sequence[TensorTally]) -> list[Sources]:
    """Per column of a fitted tensor the raw columns that it may be a line of.

    Args:
      tally: of the fitted tensor, with numbers.
      features: of raw features and inputs, with numbers.
    """
    width = len(tally.labels)
    found = [Sources(both=[], before=[], after=[]) for _ in range(width)]
    fitted = [_floats(side) for side in tally.sample.beginning()]
    for feature in features:
        rows = tally.rows_shared(feature)
        if rows < _ROWS:
            continue
        raw = [_floats(side)[:rows] for side in feature.sample.beginning()]
        possible = [may_be_lines(x, y[:rows]) for x, y in zip(raw, fitted, strict=True)]
        for j, i in np.argwhere(possible[0] | possible[1]).tolist():
            source = Source(
                name=feature.name if feature.flat else column_name(feature.name, feature.labels[j]),
                baseline=raw[0][:, j],
                candidate=raw[1][:, j],
            )
            old, new = bool(possible[0][j, i]), bool(possible[1][j, i])
            for wanted, sources in (
                (old and new, found[i].both),
                (old, found[i].before),
                (new, found[i].after),
            ):
                if wanted:
                    sources.append(source)
    return found


def line_of(x: Floats, y: Floats, *, rounded: bool = False) -> Line | None:
    """(slope, intercept) where y is a straight line of x; None where it is not.

    Args:
      x: raw values, shape (n,).
      y: the column, the same rows.
      rounded: a column that moves little for its size may miss by what float32 leaves of its values, too.
    """
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < _ROWS:
        return None
    x, y = x[known], y[known]
    low, high = int(np.argmin(x)), int(np.argmax(x))
    if x[low] == x[high] or y[low] == y[high]:
        return None
    slope = (y[high] - y[low]) / (x[high] - x[low])
    intercept = y[low] - slope * x[low]
    missed = np.abs(y - slope * x - intercept).max()
    reach = abs(y[high] - y[low])
    allowed = _STRAIGHT * reach
    if rounded:
        allowed = max(allowed, min(_ROUNDED * np.abs(y).max(), _LITTLE * reach))
    if missed > allowed or len(np.unique(x)) < _DISTINCT:
        return None
    if np.array_equal(x, y):
        return AS_IT_IS
    return float(slope), float(intercept)


def read_off(x: Floats, y: Floats, slope: float, there: float) -> float:
    """The raw value that a line takes to a value of the column; 0 where it is no further from 0 than can be read.

    It is read at the row nearest to it, so that of a value which some row has, only that row's rounding is in it.

    Args:
      x: raw values, shape (n,).
      y: the column that is a line of them, the same rows.
      slope: of the line.
      there: the column's value.

    Returns:
      In the raw unit.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    near = int(np.argmin(np.abs(y - there)))
    found = (there - (y[near] - slope * x[near])) / slope
    ends = np.array([np.argmin(x), np.argmax(x)])
    of_ends, of_near = (np.abs(y[i]) + np.abs(slope * x[i]) for i in (ends, near))
    of_slope = of_ends.sum() / (abs(slope) * np.ptp(x))
    of_value = (abs(there) + abs(slope * found) + of_near) / abs(slope)
    unsure = _ROUNDED * (of_value + abs(found - x[near]) * of_slope)
    return 0.0 if abs(found) <= unsure else float(found)


def may_be_lines(x: Floats, y: Floats) -> Bools:
    """Which columns of y, shape (n, k), may be lines of which of x, shape (n, j); shape (j, k)."""
    j, k = x.shape[1], y.shape[1]
    if j * k <= _MOST_PAIRS:
        return _correlated(x, y)
    same = np.zeros((j, k), dtype=np.bool_)
    for i in range(min(j, k)):
        same[i, i] = bool(_correlated(x[:, [i]], y[:, [i]])[0, 0])
    return same


def _correlated(x: Floats, y: Floats) -> Bools:
    u, a = _standard(x)
    v, b = _standard(y)
    count = np.maximum(a.T @ b, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_u, mean_v = (u.T @ b) / count, (a.T @ v) / count
        of_u = ((u * u).T @ b) / count - mean_u**2
        of_v = (a.T @ (v * v)) / count - mean_v**2
        together = (u.T @ v) / count - mean_u * mean_v
        near = together**2 >= _NEARLY * of_u * of_v
    return np.asarray(near & (of_u > _LEAST) & (of_v > _LEAST) & (count >= _ROWS), dtype=np.bool_)


def _standard(values: Floats) -> tuple[Floats, Floats]:
    """Columns around their means and within ±1, 0 where nothing is known; and 1 where something is."""
    known = np.isfinite(values)
    plain = np.where(known, values, 0.0)
    count = np.maximum(known.sum(axis=0), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.where(known, plain - plain.sum(axis=0) / count, 0.0)
        size = np.abs(moved).max(axis=0, initial=0.0)
        found = moved / np.where(size > 0, size, 1.0)
    return np.nan_to_num(found), known.astype(np.float64)


def _floats(values: Array) -> Floats:
    return values.astype(np.float64)

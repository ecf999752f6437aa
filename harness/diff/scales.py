"""What the values of a column are like: the scales S and T that `distance` measures differences by.

All columns of a tensor are taken at once, in blocks, so that one has its own scale at any width.

Sums in another order round every column of a wide tensor by what its largest terms are like: among a
thousand columns of a softmax, by up to four times what one column's tolerance allows. So where a tensor comes of
such sums (an answer, what stands inside a net), its columns are lent the scale of the whole, up to `_LENT`
times their own. What is beyond `USUAL` times their own is counted (`RowDifference.lent`): hardly any rounding is.
A column that is 0 all along is lent nothing: beside large neighbours a loan would hide whatever it becomes.
"""

from __future__ import annotations

import math

import numpy as np

from harness.core.tensors import Array, Floats, Ints

_BULK = 0.999
"""Quantile of a column's distinct magnitudes that stands for its large values."""
_HIGH = 0.9
"""Quantile of them that is taken for granted: rarer large values may be outliers."""
_FAR = 1000.0
"""Times that a magnitude is larger than the one before it, or than `_HIGH`, and is an outlier."""
MEDIANS = 100.0
"""Medians that a column's scale may have for differences that are a large part of the value."""
_LENT = 10.0
"""Times its own scale that a column may be lent: a tolerance of 1e-6 becomes 1e-5 at most."""
USUAL = 4.0
"""Times its own scale that rounding takes up: of 16 softmaxes and 3 ReLU layers none had a row in a hundred beyond."""
_CELLS = 1 << 19
"""Sorted at a time."""
_SAMPLED = 1 << 18
"""Cells that stand for a whole tensor."""


def column_scales(values: Array) -> tuple[Floats, Floats]:
    """The scales S and T of every column: see `distance`.

    Args:
      values: shape (n, k), any dtype.

    Returns:
      (S, T), each ≥ 0, T ≤ S, shape (k,); 0 for words and for columns without a finite value besides 0.
    """
    rows, columns = values.shape
    found = np.zeros((2, columns))
    if values.dtype == object or not values.size:
        return found[0], found[1]
    step = max(_CELLS // rows, 1)
    for at in range(0, columns, step):
        found[:, at : at + step] = _of_block(values[:, at : at + step])
    return found[0], found[1]


def lent_scales(values: Array, scales: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """The scales of columns of a wide tensor, up to `_LENT` times as large where the whole's are larger.

    Args:
      values: shape (n, k).
      scales: the `column_scales` of these columns, or of some of them.
    """
    if values.dtype == object or not values.size:
        return scales
    with np.errstate(invalid="ignore"):
        limits = [np.where(own > 0, _LENT * own, 0.0) for own in scales]
    scale, typical = (
        np.clip(of_whole, own, limit)
        for own, of_whole, limit in zip(scales, _of_whole(values), limits, strict=True)
    )
    return scale, np.minimum(typical, scale)


def _of_whole(values: Array) -> tuple[Floats, Floats]:
    """The scales of all columns as one."""
    step = max(-(-values.size // _SAMPLED), 1)
    while math.gcd(step, values.shape[1]) > 1:
        step += 1  # in step with the columns, only a few of them would be seen
    return column_scales(values.reshape(-1)[::step, None])


def is_lent(*, exact: bool, wide: bool) -> bool:
    """Whether the columns of a tensor are lent the scale of the whole.

    Args:
      exact: nothing rounds it, as far as is known.
      wide: it has so many columns that a sum would be lent it.
    """
    return wide and not exact


def robust_scale(values: Array) -> float:
    """The scale S of one column, any shape and dtype."""
    return float(column_scales(values.reshape(-1, 1))[0][0])


def typical_scale(values: Array) -> float:
    """The scale T of one column: `robust_scale`, but at most 100 medians of its magnitudes."""
    return float(column_scales(values.reshape(-1, 1))[1][0])


def _of_block(values: Array) -> Floats:
    """(S, T) of a few columns, shape (2, k)."""
    size = np.ascontiguousarray(values.T, dtype=np.float64)
    size = np.abs(size)
    size[~(np.isfinite(size) & (size > 0))] = np.inf
    size.sort(axis=1)
    repeated = size[:, 1:] == size[:, :-1]
    if (repeated & np.isfinite(size[:, 1:])).any():
        size[:, 1:][repeated] = np.inf
        size.sort(axis=1)
    count = np.isfinite(size).sum(axis=1)
    last: Ints = np.maximum(count - 1, 0).astype(np.int64)

    def at(place: Ints) -> Floats:
        return np.asarray(np.take_along_axis(size, place[:, None], axis=1)[:, 0])

    places = np.arange(size.shape[1] - 1)
    with np.errstate(over="ignore"):
        jumps = size[:, 1:] > _FAR * size[:, :-1]
        jumps &= (places >= (last // 2)[:, None]) & (places < last[:, None])
        end = np.where(jumps.any(axis=1), jumps.argmax(axis=1) if len(places) else 0, last)
        bulk = at(np.minimum((_BULK * last).astype(np.int64), end))
        scale = np.minimum(bulk, _FAR * at((_HIGH * last).astype(np.int64)))
        typical = np.minimum(scale, MEDIANS * at(last // 2))
    return np.where(count > 0, np.stack([scale, typical]), 0.0)

"""Fitted columns whose difference comes from a raw feature that differs: one fault is told once.

A scaled, clipped or rounded raw feature leaves the same mark in what is fitted to it. That a column follows is
read off the values: both sides are lines of their own raw values (their constants are judged by themselves),
the differences are a weighted sum of the raw ones, as behind a scaler or a projection, or one function of the
raw feature gives the column on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.core.tensors import Array, Bools, Floats
from harness.diff.pairs import RelationKind
from harness.diff.refit_lines import has_numbers, line_of
from harness.diff.roots import Differing, same_function
from harness.diff.tally import TensorTally

_EXPLAINED = 1e-3
"""Part of the squared differences that a sum of the raw ones may leave."""
_COLUMNS = 64
"""Differing raw columns, and columns of one report, that are asked."""
_ROWS_EACH = 4
"""Rows at least for each raw column of such a sum."""
_LEAST = 30
_COARSE = (RelationKind.PRECISION, RelationKind.FILLED_WITH_ZERO)
"""Marks that a function read off values within 2 % proves only where the raw feature has them, too."""


def upstream_of(
    tally: TensorTally,
    columns: Sequence[int],
    relation: str,
    raw: Mapping[str, tuple[TensorTally, frozenset[str]]],
) -> str:
    """The raw features that all these columns' differences follow from; "" = not all do.

    Args:
      tally: of a fitted tensor.
      columns: those that differ.
      relation: what they are called.
      raw: differing raw features by name, each with the relations that its columns are called.
    """
    names: dict[str, None] = {}
    for index in columns[:_COLUMNS]:
        found = _from_one(tally, index, relation, raw) or _from_sum(tally, index, raw)
        if not found:
            return ""
        names |= dict.fromkeys(found)
    return ", ".join(names)


def differing_columns(tally: TensorTally) -> list[int]:
    """Columns of which the first rows differ."""
    return np.flatnonzero(_unequal(*tally.sample.beginning()).any(axis=0)).tolist()


def _from_one(
    tally: TensorTally,
    index: int,
    relation: str,
    raw: Mapping[str, tuple[TensorTally, frozenset[str]]],
) -> list[str]:
    own = [_floats(side) for side in tally.prefix(index)]
    for name, (feature, relations) in raw.items():
        rows = min(tally.rows_shared(feature), len(own[0]))
        if rows < _LEAST or not has_numbers(feature):
            continue
        y0, y1 = (side[:rows] for side in own)
        moved = differing_columns(feature)
        # Of many, the one in the same place goes first.
        for j in sorted(moved, key=lambda j: j != index)[:_COLUMNS]:
            x0, x1 = (_floats(side)[:rows] for side in feature.prefix(j))
            if line_of(x0, y0) and line_of(x1, y1):
                return [name]
            root = Differing(name=name, baseline=x0, candidate=x1, relation="")
            column = Differing(name=tally.name, baseline=y0, candidate=y1, relation="")
            if (relation not in _COARSE or relation in relations) and same_function(root, column):
                return [name]
    return []


def _from_sum(
    tally: TensorTally, index: int, raw: Mapping[str, tuple[TensorTally, frozenset[str]]]
) -> list[str]:
    before, after = (_floats(side) for side in tally.prefix(index))
    names, parts = [], []
    rows = len(before)
    for name, (feature, _) in raw.items():
        shared = tally.rows_shared(feature)
        if shared < _LEAST or not has_numbers(feature):
            continue
        rows = min(rows, shared)
        names.append(name)
        for j in differing_columns(feature)[:_COLUMNS]:
            parts += _moves(*(_floats(side)[:shared] for side in feature.prefix(j)))
    moved = (after - before)[:rows]
    if not parts or len(parts) > _COLUMNS or rows < _ROWS_EACH * len(parts):
        return []
    of = np.stack([part[:rows] for part in parts], axis=1)
    if not (np.isfinite(moved).all() and np.isfinite(of).all()) or not moved.any():
        return []
    moved = moved / np.abs(moved).max()
    of = of / np.maximum(np.abs(of).max(axis=0), np.finfo(np.float64).tiny)
    weights = np.linalg.lstsq(of, moved, rcond=None)[0]
    left = moved - of @ weights
    return names if float(left @ left) <= _EXPLAINED * float(moved @ moved) else []


def _moves(before: Floats, after: Floats) -> list[Floats]:
    """How a raw column moved: by how much, and where a value came or went, with the value."""
    there = np.isfinite(before) & np.isfinite(after)
    came, went = np.isnan(before) & np.isfinite(after), np.isfinite(before) & np.isnan(after)
    with np.errstate(invalid="ignore"):
        parts = [np.where(there, after - before, 0.0)]
    for one_sided, values in ((came, after), (went, before)):
        parts += [one_sided.astype(np.float64), np.where(one_sided, values, 0.0)]
    return [part for part in parts if part.any()]


def _unequal(before: Array, after: Array) -> Bools:
    found = np.asarray(before != after, dtype=np.bool_)
    if object not in (before.dtype, after.dtype):
        found &= ~(np.isnan(before.astype(np.float64)) & np.isnan(after.astype(np.float64)))
    return found


def _floats(values: Array) -> Floats:
    return values.astype(np.float64)

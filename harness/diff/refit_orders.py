"""Fitted columns, and values of categories, that changed places: no fit does that, whatever it was fitted to.

Columns that hold each other's values are told by what they are lines of, or as they are. Components that are
sorted by their spread, as those of a principal component analysis, are known by it also where all constants are
fitted anew: nearly the baseline's, and no longer sorted. (Any two columns that correlate crosswise were tried and
left: the distances of clusters, and learned embeddings, come in any order with every fit.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from harness.core.tensors import Array, Floats
from harness.diff.distance import FLOAT_TOLERANCE
from harness.diff.pairs import shown
from harness.diff.refit_lines import Sources, line_of
from harness.diff.tally import TensorTally
from harness.diff.whole import permuted_columns

Moved = tuple[int, str, str]
"""(column, what it held, what it holds)."""
_ROWS = 30
_VALUES = 4
"""Distinct values of a column that tell it from others."""
_WIDEST = 512
"""Components of which all are asked for each other's values."""
_ALIKE = 0.9
"""Correlation of a component with the same one of another fit, at least."""
_APART = 0.2
"""Correlation of components with each other, at most."""
_SORTED = 0.98
"""Part of the one before that a spread may exceed it by, the other way round, where they are sorted."""
_WIDER = 1.25
"""Factor between the spreads of components that no other rows put in another order."""
_CATEGORIES = 3
_MOST_CATEGORIES = 2048
_EACH = 3
"""Rows of a category, on average, so that each has its value."""
_EVEN = 1e-5
"""Part of a step by which steps are even, as those of ranks are."""


def moved_columns(
    tally: TensorTally, sources: Sequence[Sources], unknown: Collection[int]
) -> list[Moved]:
    """Columns of which some are no line of a raw one, and that changed places.

    Columns that are lines of their own raw ones on both sides hold what these hold: they follow.

    Args:
      tally: of a fitted tensor.
      sources: per column the raw columns that it may be a line of.
      unknown: columns of which no constant can be read off.
    """
    moved = (
        _moved_lines(tally, sources) or _moved_values(tally) or _moved_components(tally, unknown)
    )
    return moved if any(i in unknown for i, _, _ in moved) else []


def flags_in_another_order(tally: TensorTally, columns: Collection[int]) -> list[Moved]:
    """Columns of few values that hold each other's exactly: words in another order, which a fit may give them.

    Args:
      tally: of a fitted tensor.
      columns: those that differ; [] unless these and no others changed places.
    """
    before, after = tally.sample.beginning()
    if len(before) < _ROWS or len(columns) < 2 or not tally.sample.differing:  # noqa: PLR2004 - a pair at least
        return []
    order = permuted_columns(before, after, tolerance=0.0)
    moved = [(i, tally.labels[i], tally.labels[j]) for i, j in enumerate(order) if i != j]
    return moved if {i for i, _, _ in moved} == set(columns) else []


def exchanged_values(before: Array, after: Array) -> str:
    """Which values of categories stand for each other, in words; "" = the column is no such one.

    Whole numbers and even steps are codes and ranks, which a fit to other rows may give out in another order.

    Args:
      before: the baseline's column, shape (n,).
      after: the candidate's.
    """
    old, place, counts = np.unique(before, return_inverse=True, return_counts=True)
    few = _CATEGORIES <= len(old) <= min(len(before) // _EACH, _MOST_CATEGORIES)
    if not few or not np.isfinite(old).all() or (old == np.rint(old)).all():
        return ""
    steps = np.diff(old)
    if np.ptp(steps) <= _EVEN * steps.max():
        return ""
    first = np.zeros(len(old), dtype=np.int64)
    first[place] = np.arange(len(before))
    new = after[first]
    known = (new[place] == after).all() and np.array_equal(np.sort(new), old)
    moved = np.flatnonzero(new != old)
    if not known or not len(moved):
        return ""
    most = int(moved[counts[moved].argmax()])
    return f"{shown(float(new[most]))} where the baseline has {shown(float(old[most]))}, and {len(moved) - 1} more"


def _moved_lines(tally: TensorTally, sources: Sequence[Sources]) -> list[Moved]:
    """(column, raw column that it held, raw column that it holds), where these are the same ones in all."""
    found = []
    for index, asked in enumerate(sources):
        if asked.both or not (asked.before and asked.after):
            continue
        old, new = (_floats(side) for side in tally.sample.prefix(index))
        held = [s.name for s in asked.before if line_of(s.baseline, old[: len(s.baseline)])]
        holds = [s.name for s in asked.after if line_of(s.candidate, new[: len(s.candidate)])]
        if held and holds:
            found.append((index, held[0], holds[0]))
    return found if sorted(o for _, o, _ in found) == sorted(n for _, _, n in found) else []


def _moved_values(tally: TensorTally) -> list[Moved]:
    """Columns whose values are the baseline's in other columns; flags may be any words'."""
    before, after = tally.sample.beginning()
    if len(before) < _ROWS:
        return []
    order = permuted_columns(before, after, tolerance=FLOAT_TOLERANCE)
    moved = [(i, tally.labels[i], tally.labels[j]) for i, j in enumerate(order) if i != j]
    plain = any(len(np.unique(before[:, i])) < _VALUES for i, _, _ in moved)
    return [] if plain else moved


def _moved_components(tally: TensorTally, unknown: Collection[int]) -> list[Moved]:
    """Columns that were sorted by spread and apart, and are nearly these and sorted no more."""
    places = sorted(unknown)
    sides = [_floats(side) for side in tally.sample.beginning()]
    if not 1 < len(places) <= _WIDEST or sides[0].shape != sides[1].shape:
        return []
    before, after = (side[:, places] for side in sides)
    known = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    if known.sum() < _ROWS * len(places) or known.mean() < _ALIKE:
        return []
    order = _order_of_components(before[known], after[known])
    return [
        (places[i], tally.labels[places[i]], tally.labels[places[j]])
        for i, j in enumerate(order)
        if i != j
    ]


def _order_of_components(before: Floats, after: Floats) -> list[int]:
    """Which of the baseline's components each of the candidate's is; [] = none, or no other order is proven."""
    (old, spread), (new, wide) = (_standard(side) for side in (before, after))
    if spread.min() == 0 or wide.min() == 0 or not _is_sorted(spread):
        return []
    alike = np.abs(old.T @ new)
    order = alike.argmax(axis=0)
    same = len(set(order.tolist())) == len(order) and alike.max(axis=0).min() >= _ALIKE
    if not same or np.abs(old.T @ old - np.eye(len(order))).max() > _APART:
        return []
    if not _is_sorted(wide[np.argsort(order)]) or not _changed_clearly(order, spread, wide):
        return []
    return [int(j) for j in order]


def _changed_clearly(order: Array, spread: Floats, wide: Floats) -> bool:
    """Whether two columns changed places whose spreads are far apart on both sides."""
    for i in range(len(order) - 1):
        later = np.flatnonzero(order[i + 1 :] < order[i]) + i + 1
        clear = (wide[later] >= _WIDER * wide[i]) & (
            spread[order[later]] >= _WIDER * spread[order[i]]
        )
        if clear.any():
            return True
    return False


def _is_sorted(spread: Floats) -> bool:
    return bool((spread[:-1] >= _SORTED * spread[1:]).all())


def _standard(values: Floats) -> tuple[Floats, Floats]:
    """(columns of mean 0 and length 1, their standard deviations)."""
    plain = values - values.mean(axis=0)
    spread = np.asarray(values.std(axis=0))
    size = np.sqrt(len(values)) * np.where(spread > 0, spread, 1.0)
    return np.asarray(plain / size), spread


def _floats(values: Array) -> Floats:
    return values.astype(np.float64)

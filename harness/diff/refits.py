"""Fitted constants that changed: what fills a gap, what is taken away, what is divided by, which words.

They are read off the values, not off the graph, so that the converter does not matter. A fitted
column that is a straight line of a raw feature or an input gives its scaler (x − offset) / scale; where the raw
feature has no value, the column shows the fill, which the line takes back to the feature's own unit.
Each side's line is over its own raw values: a fault upstream does not look like another constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness.core.counted import counted
from harness.core.tensors import Array, Bools, Floats
from harness.diff.pairs import shown
from harness.diff.reports import Refit
from harness.diff.tally import TensorTally

FILL, OFFSET, SCALE, VOCABULARY = "fill", "offset", "scale", "vocabulary"
_ROWS = 30
_DISTINCT = 3
_STRAIGHT = 1e-5
"""A column is a line of a feature where it misses by at most this share of its own range."""
_FIRST = 256
"""Rows that rule out most lines, of all columns at once."""
_LOOSE = 4.0
"""Times that a line of these rows may miss by more than the line of all."""
_MOVED = 1e-5
"""Constants nearer than this, relative to the larger, are the same: the fit carries float32's noise."""
_WORDS = 4
_AS_IT_IS = (1.0, 0.0)
"""The line of a column that only fills gaps: no scaler of anything."""
Words = Mapping[str, tuple[str, ...]]


def refits(
    fitted: Iterable[TensorTally],
    raw: Sequence[TensorTally],
    pairs: Sequence[tuple[str, str]],
    words: tuple[Words, Words],
) -> tuple[Refit, ...]:
    """Lists every fitted constant that differs.

    Args:
      fitted: matched tensors after fitted constants.
      raw: matched raw features and number inputs, of the same requests.
      pairs: (baseline's, candidate's) names of the raw features.
      words: vocabularies of baseline and candidate.

    Returns:
      One entry a constant, the first column that shows it.
    """
    found: dict[tuple[str, str], Refit] = {}
    features = [tally for tally in raw if _columns(tally) == 1]
    for tally in fitted:
        if not (columns := _columns(tally)):
            continue
        about = _lines_maybe(tally, features)
        for index in range(columns):
            for refit in _of_column(tally, index, about[index]):
                found.setdefault((refit.feature, refit.role), refit)
    return (*_moved(found.values()), *_vocabularies(pairs, words))


def gained(old: tuple[str, ...] | None, new: tuple[str, ...] | None) -> tuple[int, int] | None:
    """(words before, words after) where the candidate knows more words and every old code is as it was."""
    if not old or not new or len(new) <= len(old) or new[: len(old)] != old:
        return None
    return len(old), len(new)


def without_gained(baseline: Array, candidate: Array, counts: tuple[int, int]) -> Array:
    """The candidate's codes, as the baseline's where only the baseline does not know the word.

    Args:
      baseline: codes, shape (R, …); outside [0, before) = an unknown word.
      candidate: the same of the candidate.
      counts: see `gained`.
    """
    before, after = counts
    if baseline.shape != candidate.shape or "O" in (baseline.dtype.kind, candidate.dtype.kind):
        return candidate
    old, code = _floats(baseline), _floats(candidate)
    new = ~((old >= 0) & (old < before)) & (code >= before) & (code < after)
    return np.where(new, baseline, candidate) if new.any() else candidate


def _of_column(tally: TensorTally, index: int, features: Sequence[TensorTally]) -> list[Refit]:
    old, new = (_floats(side) for side in tally.sample.prefix(index))
    for feature in features:
        raw = _beginning(tally, feature)
        lines = [_line(x, y) for x, y in zip(raw, (old, new), strict=True)]
        if lines[0] is None or lines[1] is None:
            continue
        both = (lines[0], lines[1])
        fills = [_fill(x, y, line) for x, y, line in zip(raw, (old, new), both, strict=True)]
        constants = [(FILL, fills[0], fills[1])]
        if both != (_AS_IT_IS, _AS_IT_IS):
            (slope, at), (new_slope, new_at) = both
            constants += [(OFFSET, 0.0 - at / slope, 0.0 - new_at / new_slope)]
            constants += [(SCALE, 1 / slope, 1 / new_slope)]
        label = tally.labels[index]
        return [
            Refit(
                tensor=f"{tally.name}[{label}]" if label else tally.name,
                feature=feature.name, role=role, baseline=before, candidate=after,
                suspicious=_doubt(role, before, after),
            )
            for role, before, after in constants
            if before is not None and after is not None
        ]  # fmt: skip
    return []


def _beginning(tally: TensorTally, feature: TensorTally) -> list[Floats]:
    """Both sides' values of a feature in the rows that are kept of a fitted tensor."""
    return [_floats(side[: tally.sample.limit]) for side in feature.sample.prefix(0)]


def _lines_maybe(
    tally: TensorTally, features: Sequence[TensorTally]
) -> list[Sequence[TensorTally]]:
    """Per column the features that it may be a line of on both sides: the others are not asked one by one."""
    sides = tally.sample.beginning()
    possible = np.zeros((len(features), len(tally.labels)), dtype=np.bool_)
    first = [_floats(side[:_FIRST]) for side in sides]
    with np.errstate(all="ignore"):
        ranges = [_ranges(side) for side in sides]
        for place, feature in enumerate(features):
            raw = _beginning(tally, feature)
            if all(len(x) == len(side) for x, side in zip(raw, sides, strict=True)):
                possible[place] = _may_be_lines(raw[0][:_FIRST], first[0], ranges[0])
                possible[place] &= _may_be_lines(raw[1][:_FIRST], first[1], ranges[1])
    return [
        [features[i] for i in np.flatnonzero(possible[:, column]).tolist()]
        for column in range(len(tally.labels))
    ]


def _ranges(values: Array) -> Floats:
    """Largest less smallest finite value by column, shape (k,); NaN or −inf where there is none."""
    known = np.isfinite(values)
    low = np.where(known, values, np.inf).min(axis=0)
    return np.asarray(np.where(known, values, -np.inf).max(axis=0) - low, dtype=np.float64)


def _may_be_lines(x: Floats, y: Floats, ranges: Floats) -> Bools:
    """Columns of y, shape (n, k), that a line of x may give as far as these rows show, shape (k,)."""
    known = np.isfinite(x)[:, None] & np.isfinite(y)
    low = np.where(known, x[:, None], np.inf).argmin(axis=0)
    high = np.where(known, x[:, None], -np.inf).argmax(axis=0)
    places = np.arange(y.shape[1])
    run, rise = x[high] - x[low], y[high, places] - y[low, places]
    missed = np.abs(y - y[low, places] - (x[:, None] - x[low]) * (rise / run))
    straight = np.where(known, missed, 0.0).max(axis=0) <= _LOOSE * _STRAIGHT * ranges
    undecided = (known.sum(axis=0) < _DISTINCT) | ~(np.abs(run) > 0)
    return np.asarray((straight | undecided) & (ranges > 0), dtype=np.bool_)


def _doubt(role: str, before: float, after: float) -> str:
    if role == FILL and abs(after) <= _MOVED * abs(before) and before != 0:
        return f"0 stands for a missing value, {shown(before)} did before: fitted, or forgotten?"
    if role == SCALE and after == 1 and abs(before - 1) > _MOVED:
        return "the candidate does not scale it"
    return ""


def _moved(found: Iterable[Refit]) -> list[Refit]:
    return [
        refit
        for refit in found
        if isinstance(refit.baseline, float)
        and isinstance(refit.candidate, float)
        and abs(refit.candidate - refit.baseline)
        > _MOVED * max(abs(refit.baseline), abs(refit.candidate))
    ]


def _vocabularies(pairs: Sequence[tuple[str, str]], words: tuple[Words, Words]) -> list[Refit]:
    found = []
    for ours, theirs in pairs:
        old, new = words[0].get(ours), words[1].get(theirs)
        counts = gained(old, new)
        if old is None or new is None or counts is None:
            continue
        more = new[counts[0] :]
        some = ", ".join(more[:_WORDS]) + (" …" if len(more) > _WORDS else "")
        found.append(
            Refit(
                tensor=ours, feature=ours, role=VOCABULARY, baseline=counted(counts[0], "word"),
                candidate=f"{counted(counts[1], 'word')}, new: {some}", suspicious="",
            )
        )  # fmt: skip
    return found


def _line(x: Floats, y: Floats) -> tuple[float, float] | None:
    """(slope, intercept) where y is a straight line of x; None where it is not."""
    if len(x) != len(y):
        return None
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
    if missed > _STRAIGHT * abs(y[high] - y[low]) or len(np.unique(x)) < _DISTINCT:
        return None
    if np.array_equal(x, y):
        return _AS_IT_IS
    return float(slope), float(intercept)


def _fill(x: Floats, y: Floats, line: tuple[float, float]) -> float | None:
    """What stands for a missing x, in its unit; None where nothing is missing, or nothing fixed does."""
    given = y[np.isnan(x)]
    if not len(given) or not np.isfinite(given).all() or np.ptp(given) > 0:
        return None
    return (float(given[0]) - line[1]) / line[0]


def _columns(tally: TensorTally) -> int:
    """Columns that can be looked at one by one; 0 for words, and for what was not compared."""
    one_by_one = tally.rows and not tally.unlike and tally.sample.seen and _numbers(tally)
    return len(tally.labels) if one_by_one else 0


def _numbers(tally: TensorTally) -> bool:
    return all(side.dtype != object for side in tally.sample.prefix(0))


def _floats(values: Array) -> Floats:
    return values.astype(np.float64)

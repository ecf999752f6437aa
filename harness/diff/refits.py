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
from harness.core.tensors import Array, Floats
from harness.diff.columns import column_name
from harness.diff.distance import FLOAT_TOLERANCE
from harness.diff.refit_doubts import EXACT, doubted_fill, doubted_scale
from harness.diff.refit_lines import (
    AS_IT_IS,
    Line,
    Source,
    Sources,
    has_numbers,
    line_of,
    sources_of,
)
from harness.diff.reports import Refit
from harness.diff.tally import TensorTally
from harness.diff.whole import permuted_columns

FILL, OFFSET, SCALE, VOCABULARY = "fill", "offset", "scale", "vocabulary"
ORDER = "order"
_ROWS = 30
_VALUES = 4
"""Distinct values of a column that tell it from others."""
_WORDS = 4
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
    features = [tally for tally in raw if has_numbers(tally)]
    moved: list[Refit] = []
    for tally in filter(has_numbers, fitted):
        sources = sources_of(tally, features)
        for index, asked in enumerate(sources):
            for refit in _of_column(tally, index, asked.both):
                found.setdefault((refit.feature, refit.role), refit)
        moved += _order(tally, sources)
    return (*moved, *_moved(found.values()), *_vocabularies(pairs, words))


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


def _of_column(tally: TensorTally, index: int, sources: Sequence[Source]) -> list[Refit]:
    old, new = (_floats(side) for side in tally.sample.prefix(index))
    for source in sources:
        raw = (source.baseline, source.candidate)
        sides = [side[: len(source.baseline)] for side in (old, new)]
        lines = [line_of(x, y) for x, y in zip(raw, sides, strict=True)]
        if lines[0] is None or lines[1] is None:
            continue
        both = (lines[0], lines[1])
        fills = [_fill(x, y, line) for x, y, line in zip(raw, sides, both, strict=True)]
        constants: list[tuple[str, float, float, str]] = []
        if fills[0] is not None and fills[1] is not None:
            constants = [(FILL, fills[0], fills[1], doubted_fill(fills[0], fills[1]))]
        if both != (AS_IT_IS, AS_IT_IS):
            (slope, at), (new_slope, new_at) = both
            constants += [(OFFSET, 0.0 - at / slope, 0.0 - new_at / new_slope, "")]
            constants += [(SCALE, 1 / slope, 1 / new_slope, doubted_scale(*both))]
        return [
            Refit(
                tensor=column_name(tally.name, tally.labels[index]),
                feature=source.name, role=role, baseline=before, candidate=after, suspicious=doubt,
            )
            for role, before, after, doubt in constants
        ]  # fmt: skip
    return []


def _order(tally: TensorTally, sources: Sequence[Sources]) -> list[Refit]:
    """Columns that hold each other's values: refitted by what they are lines of, else as they are."""
    moved = _moved_lines(tally, sources) or _moved_values(tally)
    if not moved:
        return []
    return [
        Refit(
            tensor=", ".join(column_name(tally.name, tally.labels[i]) for i, _, _ in moved),
            feature=tally.name,
            role=ORDER,
            baseline=_listed([old for _, old, _ in moved]),
            candidate=_listed([new for _, _, new in moved]),
            suspicious="columns swapped?",
        )
    ]


def _moved_lines(tally: TensorTally, sources: Sequence[Sources]) -> list[tuple[int, str, str]]:
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


def _moved_values(tally: TensorTally) -> list[tuple[int, str, str]]:
    """As `_moved_lines`, of columns whose values are the baseline's in other columns; flags may be any words'."""
    before, after = tally.sample.beginning()
    if len(before) < _ROWS:
        return []
    order = permuted_columns(before, after, tolerance=FLOAT_TOLERANCE)
    moved = [(i, tally.labels[i], tally.labels[j]) for i, j in enumerate(order) if i != j]
    plain = any(len(np.unique(before[:, i])) < _VALUES for i, _, _ in moved)
    return [] if plain else moved


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _WORDS} more" if len(names) > _WORDS else ""
    return ", ".join(names[:_WORDS]) + more


def _moved(found: Iterable[Refit]) -> list[Refit]:
    return [
        refit
        for refit in found
        if isinstance(refit.baseline, float)
        and isinstance(refit.candidate, float)
        and abs(refit.candidate - refit.baseline)
        > EXACT * max(abs(refit.baseline), abs(refit.candidate))
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


def _fill(x: Floats, y: Floats, line: Line) -> float | None:
    """What stands for a missing x, in its unit; None where nothing is missing, or nothing fixed does."""
    given = y[np.isnan(x)]
    if not len(given) or not np.isfinite(given).all() or np.ptp(given) > 0:
        return None
    return (float(given[0]) - line[1]) / line[0]


def _floats(values: Array) -> Floats:
    return values.astype(np.float64)

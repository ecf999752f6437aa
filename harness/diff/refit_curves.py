"""Fitted columns that are a line of a curve of a raw feature: its logarithm, its root, its square.

A scaler is often fitted after such a step. No fit changes the step, so that a column that was a line of the
logarithm and is one of the plain values now, is a step that was forgotten, whatever was fitted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Floats
from harness.diff.columns import column_name
from harness.diff.refit_lines import Line, has_numbers, line_of, may_be_lines, read_off
from harness.diff.tally import TensorTally

_DISTINCT = 8
"""Raw values at least: fewer lie on some curve by chance, as the codes of an encoder do."""
_MOST_PAIRS = 1 << 18
"""Pairs of columns that are asked."""
_AT_ONCE = 1 << 14
"""Pairs of them that are asked in one go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """A step before a scaler."""

    name: str
    """With {} for the feature."""
    of: Callable[[Floats], Floats]
    """The step."""


_PLAIN = "{}"
_FORMS = (
    _Form(name=_PLAIN, of=np.array),
    _Form(name="log(1 + {})", of=np.log1p),
    _Form(name="log({})", of=np.log),
    _Form(name="√{}", of=np.sqrt),
    _Form(name="{}²", of=np.square),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A fitted column as lines of forms of one raw column, not both of them plain."""

    index: int
    """Of the column."""
    feature: str
    """The raw column, as shown."""
    forms: tuple[str, str]
    """What baseline and candidate are lines of: log(1 + amount)."""
    lines: tuple[Line, Line]
    """The lines."""
    offsets: tuple[float, float]
    """What each takes away from the form before it divides."""


def curves_of(
    tally: TensorTally, features: Sequence[TensorTally], columns: Sequence[int]
) -> list[Curve]:
    """The curves that these columns of a fitted tensor follow, at most one each.

    Args:
      tally: of the fitted tensor, with numbers.
      features: of raw features and inputs.
      columns: those that are no line of a raw column.
    """
    found: dict[int, Curve] = {}
    if not columns:
        return []
    fitted = [side[:, list(columns)] for side in _beginning(tally)]
    for names, raw in _together(tally, features, len(columns)):
        given = [side[: len(raw[0])] for side in fitted]
        possible = [_possible(x, y) for x, y in zip(raw, given, strict=True)]
        for j, i in np.argwhere(possible[0].any(axis=0) & possible[1].any(axis=0)).tolist():
            sides = [
                _line(x[:, j], y[:, i], near[:, j, i])
                for x, y, near in zip(raw, given, possible, strict=True)
            ]
            old, new = sides
            if old is None or new is None or old[0] == new[0] == _PLAIN:
                continue
            curve = Curve(
                index=columns[i],
                feature=names[j],
                forms=(old[0].format(names[j]), new[0].format(names[j])),
                lines=(old[1], new[1]),
                offsets=(old[2], new[2]),
            )
            found.setdefault(columns[i], curve)
    return list(found.values())


def forms_held(
    tally: TensorTally, features: Sequence[TensorTally], columns: Sequence[int]
) -> list[tuple[int, str, Floats]]:
    """(column, curve of which the baseline's is a line, that curve's values in the candidate), at most one each.

    Args:
      tally: of the fitted tensor, with numbers.
      features: of raw features and inputs.
      columns: those that are no line of a raw column, nor of a curve.
    """
    found: dict[int, tuple[int, str, Floats]] = {}
    if not columns:
        return []
    fitted = _beginning(tally)[0][:, list(columns)]
    for names, raw in _together(tally, features, len(columns)):
        given = fitted[: len(raw[0])]
        possible = _possible(raw[0], given)
        for j, i in np.argwhere(possible.any(axis=0)).tolist():
            held = _line(raw[0][:, j], given[:, i], possible[:, j, i])
            if held is not None and held[0] != _PLAIN:
                form = next(form for form in _FORMS if form.name == held[0])
                values = _formed(form, raw[1][:, [j]])[:, 0]
                found.setdefault(columns[i], (columns[i], form.name.format(names[j]), values))
    return list(found.values())


def _together(
    tally: TensorTally, features: Sequence[TensorTally], width: int
) -> Iterator[tuple[list[str], list[Floats]]]:
    """Raw columns of as many rows, (names; values of both sides, shape (rows, j)), a few at a time."""
    groups: dict[int, list[tuple[str, Floats, Floats]]] = {}
    left = _MOST_PAIRS
    for feature in filter(has_numbers, features):
        rows = tally.rows_shared(feature)
        left -= len(feature.labels) * width
        if not rows or left < 0:
            continue
        old, new = (side[:rows] for side in _beginning(feature))
        for j, label in enumerate(feature.labels):
            name = feature.name if feature.flat else column_name(feature.name, label)
            groups.setdefault(rows, []).append((name, old[:, j], new[:, j]))
    most = max(_AT_ONCE // width, 1)
    for group in groups.values():
        for start in range(0, len(group), most):
            names, old_columns, new_columns = zip(*group[start : start + most], strict=True)
            yield list(names), [np.stack(side, axis=1) for side in (old_columns, new_columns)]


def _possible(x: Floats, y: Floats) -> Floats:
    """Which form of which raw column may be which fitted one, shape (forms, j, k)."""
    return np.stack([may_be_lines(_formed(form, x), y) for form in _FORMS])


def _formed(form: _Form, x: Floats) -> Floats:
    """The form of columns; NaN in all of one that has values outside its domain."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        values = form.of(x)
    outside = (np.isfinite(x) & ~np.isfinite(values)).any(axis=0)
    return np.where(outside, np.nan, values)


def _line(x: Floats, y: Floats, possible: Floats) -> tuple[str, Line, float] | None:
    """(form, line of it, offset)."""
    if len(np.unique(x[np.isfinite(x)])) < _DISTINCT:
        return None
    for form, near in zip(_FORMS, possible.tolist(), strict=True):
        formed = _formed(form, x)
        line = line_of(formed, y) if near else None
        if line is not None:
            return form.name, line, read_off(formed, y, line[0], 0.0)
    return None


def _beginning(tally: TensorTally) -> list[Floats]:
    return [_floats(side) for side in tally.sample.beginning()]


def _floats(values: Array) -> Floats:
    return values.astype(np.float64)

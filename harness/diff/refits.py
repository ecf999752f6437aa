"""Fitted constants that changed: what fills a gap, what is taken away, what is divided by, which words.

They are read off the values, not off the graph, so that the converter does not matter. A fitted
column that is a straight line of a raw feature or an input gives its scaler (x − offset) / scale; where the raw
feature has no value, the column shows the fill, which the line takes back to the feature's own unit.
Each side's line is over its own raw values: a fault upstream does not look like another constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Bools, Floats
from harness.diff.columns import column_name
from harness.diff.refit_curves import Curve, curves_of, forms_held
from harness.diff.refit_doubts import (
    EXACT,
    doubted_fill,
    doubted_form,
    doubted_offset,
    doubted_scale,
)
from harness.diff.refit_exchanges import Fit, described, exchange_of, exchanged
from harness.diff.refit_lines import (
    AS_IT_IS,
    Line,
    Source,
    Sources,
    has_numbers,
    line_of,
    read_off,
    sources_of,
)
from harness.diff.refit_orders import (
    Moved,
    exchanged_values,
    flags_in_another_order,
    moved_columns,
)
from harness.diff.refit_shapes import distorted
from harness.diff.refit_words import VOCABULARY, Words, gained_words
from harness.diff.refit_zeros import dropped_categories, nearly_all
from harness.diff.reports import Refit
from harness.diff.tally import TensorTally

FILL, OFFSET, SCALE = "fill", "offset", "scale"
ORDER, FORM = "order", "form"
VALUES = "values"
_TOGETHER = (
    ((OFFSET, False), (SCALE, True)),
    ((OFFSET, False),),
    ((SCALE, True),),
    ((FILL, False),),
)
"""Constants that change places together, and whether each is a factor."""
_WORDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Refits:
    """What the values show of fitted constants."""

    constants: tuple[Refit, ...]
    """One entry a constant that differs, the first column that shows it."""
    unread: tuple[str, ...]
    """Columns that changed, of which no constant can be read off and nothing else is told."""


def refits(
    fitted: Iterable[TensorTally],
    raw: Sequence[TensorTally],
    pairs: Sequence[tuple[str, str]],
    words: tuple[Words, Words],
) -> Refits:
    """Lists every fitted constant that differs, and the columns that show none.

    Args:
      fitted: matched tensors after fitted constants.
      raw: matched raw features and number inputs, of the same requests.
      pairs: (baseline's, candidate's) names of the raw features.
      words: vocabularies of baseline and candidate.
    """
    found: dict[tuple[str, str], Refit] = {}
    features = [tally for tally in raw if has_numbers(tally)]
    moved: list[Refit] = []
    swapped: dict[tuple[str, str], Refit] = {}
    unread: list[str] = []
    for tally in filter(has_numbers, fitted):
        sources = sources_of(tally, features)
        told = [_of_column(tally, index, asked.both) for index, asked in enumerate(sources)]
        for refit in _changed_places(tally, told, sources):
            swapped.setdefault((refit.feature, refit.role), refit)
        unknown = [i for i, constants in enumerate(told) if constants is None]
        curves = curves_of(tally, features, unknown)
        told += [_of_curve(tally, curve) for curve in curves]
        for refit in (refit for constants in told for refit in constants or ()):
            key = refit.feature, refit.role
            if key not in found or (refit.suspicious and not found[key].suspicious):
                found[key] = refit
        left = _changed(tally, sorted({*unknown} - {curve.index for curve in curves}))
        others = _order(tally, moved_columns(tally, sources, unknown))
        others = others or _without_constants(tally, sources, left, raw)
        others += _dropped(tally)
        if not others and not any(feature.mismatched for feature in raw):
            # No fault for sure: what is unread of them stays so.
            moved += _order(tally, flags_in_another_order(tally, left), doubt="")
        moved += others
        shown = {name for refit in others for name in refit.tensor.split(", ")}
        names = [column_name(tally.name, tally.labels[i]) for i in left]
        unread += [name for name in names if name not in shown]
    constants = (*swapped.values(), *moved, *_moved(found.values()), *gained_words(pairs, words))
    return Refits(constants=constants, unread=tuple(unread))


def _of_column(
    tally: TensorTally, index: int, sources: Sequence[Source], *, rounded: bool = False
) -> list[Refit] | None:
    """Constants of a column that is a line (see `line_of`) of one raw column on both sides; None = of none."""
    old, new = (_floats(side) for side in tally.sample.prefix(index))
    for source in sources:
        raw = (source.baseline, source.candidate)
        sides = [side[: len(source.baseline)] for side in (old, new)]
        lines = [line_of(x, y, rounded=rounded) for x, y in zip(raw, sides, strict=True)]
        if lines[0] is None or lines[1] is None:
            continue
        both = (lines[0], lines[1])
        fills = [_fill(x, y, line) for x, y, line in zip(raw, sides, both, strict=True)]
        constants: list[tuple[str, float, float, str]] = []
        if fills[0] is not None and fills[1] is not None:
            constants = [(FILL, fills[0], fills[1], doubted_fill(fills[0], fills[1]))]
        if both != (AS_IT_IS, AS_IT_IS):
            slope, new_slope = both[0][0], both[1][0]
            offsets = (
                read_off(raw[0], sides[0], slope, 0.0),
                read_off(raw[1], sides[1], new_slope, 0.0),
            )
            doubt = doubted_offset(*offsets, 1 / new_slope, source.candidate)
            constants += [(OFFSET, *offsets, doubt)]
            spread = nearly_all(raw[0]) is None
            constants += [(SCALE, 1 / slope, 1 / new_slope, doubted_scale(*both, spread=spread))]
        return [
            Refit(
                tensor=column_name(tally.name, tally.labels[index]),
                feature=source.name, role=role, baseline=before, candidate=after, suspicious=doubt,
            )
            for role, before, after, doubt in constants
        ]  # fmt: skip
    return None


def _changed_places(
    tally: TensorTally, told: list[list[Refit] | None], sources: Sequence[Sources]
) -> list[Refit]:
    """What columns have of each other's constants; these are taken out of `told`, which has a column each.

    With another column's constants few digits of a column may be left, and its line is read all the same.
    """
    read = [
        _of_column(tally, i, sources[i].both, rounded=True) if constants is None else constants
        for i, constants in enumerate(told)
    ]
    columns = [i for i, constants in enumerate(read) if constants]
    found = []
    for together in _TOGETHER:
        roles = [role for role, _ in together]
        fits = [_fit(tally, i, read[i] or (), sources[i].both) for i in columns]
        for ring in exchanged(fits, together):
            found.append(exchange_of([fits[i] for i in ring], roles))
            for i in (columns[i] for i in ring):
                read[i] = [r for r in read[i] or () if r.role not in roles]
                told[i] = [] if told[i] is None else read[i]
    return found


def _fit(
    tally: TensorTally, index: int, constants: Sequence[Refit], sources: Sequence[Source]
) -> Fit:
    names = {refit.feature for refit in constants}
    raw = [
        side
        for source in sources
        if source.name in names
        for side in (source.baseline, source.candidate)
    ]
    spread, values = described(raw)
    return Fit(
        column=column_name(tally.name, tally.labels[index]),
        feature=", ".join(names),
        spread=spread,
        values=values,
        constants={r.role: (float(r.baseline), float(r.candidate)) for r in constants},
    )


def _distorted(tally: TensorTally, index: int, sources: Sequence[Source]) -> list[Refit]:
    """A column that was a line of a raw one, and is none for a reason that its values show."""
    old, new = (_floats(side) for side in tally.sample.prefix(index))
    for source in sources:
        rows = len(source.baseline)
        if line_of(source.baseline, old[:rows]) is None:
            continue
        if line_of(source.candidate, new[:rows]) is not None:
            return []
        if found := _bent(tally, index, source.name, source.candidate):
            return found
    return []


def _bent(tally: TensorTally, index: int, name: str, values: Floats) -> list[Refit]:
    """What became of a line of these values of the candidate, shape (n,)."""
    why = distorted(values, _floats(tally.sample.prefix(index)[1][: len(values)]))
    if not why:
        return []
    return [
        Refit(
            tensor=column_name(tally.name, tally.labels[index]),
            feature=name, role=VALUES, baseline=f"a line of {name}", candidate=why,
            suspicious="no fit explains it",
        )
    ]  # fmt: skip


def _of_curve(tally: TensorTally, curve: Curve) -> list[Refit]:
    """Constants of a column that is a line of one curve on both sides; or what became of the curve."""
    column = column_name(tally.name, tally.labels[curve.index])
    before, after = curve.forms
    constants: list[tuple[str, str, float | str, float | str, str]]
    if before != after:
        constants = [(curve.feature, FORM, before, after, doubted_form(before, after))]
    else:
        (slope, _), (new_slope, _) = curve.lines
        constants = [
            (before, OFFSET, *curve.offsets, ""),
            (before, SCALE, 1 / slope, 1 / new_slope, doubted_scale(*curve.lines)),
        ]
    return [
        Refit(tensor=column, feature=of, role=role, baseline=old, candidate=new, suspicious=doubt)
        for of, role, old, new, doubt in constants
    ]


def _dropped(tally: TensorTally) -> list[Refit]:
    """One entry for the categories of a tensor of flags that the candidate has no more."""
    gone = [tally.labels[i] for i in dropped_categories(tally)]
    if not gone:
        return []
    return [
        Refit(
            tensor=", ".join(column_name(tally.name, label) for label in gone),
            feature=tally.name, role=VOCABULARY, baseline=f"with {_listed(gone)}",
            candidate="without: too rare", suspicious="",
        )
    ]  # fmt: skip


def _without_constants(
    tally: TensorTally,
    sources: Sequence[Sources],
    columns: Sequence[int],
    raw: Sequence[TensorTally],
) -> list[Refit]:
    """What became of columns that changed, and of which no constant can be read off."""
    found = {i: _distorted(tally, i, sources[i].before) for i in columns}
    left = [i for i, refits_of in found.items() if not refits_of]
    found |= {i: _exchanged(tally, i, raw) for i in left}
    features = [feature for feature in raw if has_numbers(feature)]
    for i, name, values in forms_held(tally, features, left):
        found[i] = found[i] or _bent(tally, i, name, values)
    return [refit for refits_of in found.values() for refit in refits_of]


def _order(
    tally: TensorTally, moved: Sequence[Moved], *, doubt: str = "columns swapped?"
) -> list[Refit]:
    """Columns that hold each other's values, if there are any."""
    if not moved:
        return []
    return [
        Refit(
            tensor=", ".join(column_name(tally.name, tally.labels[i]) for i, _, _ in moved),
            feature=tally.name,
            role=ORDER,
            baseline=_listed([old for _, old, _ in moved]),
            candidate=_listed([new for _, _, new in moved]),
            suspicious=doubt,
        )
    ]


def _exchanged(tally: TensorTally, index: int, raw: Sequence[TensorTally]) -> list[Refit]:
    """A column of categories' values that stand for each other, where no raw column differs in the same rows."""
    before, after = tally.prefix(index)
    why = exchanged_values(before, after)
    if not why or any(_differs_with(tally, before != after, feature) for feature in raw):
        return []
    column = column_name(tally.name, tally.labels[index])
    return [
        Refit(
            tensor=column, feature=column, role=VALUES, baseline="one for each category",
            candidate=why, suspicious="the same values for other categories, which no fit gives",
        )
    ]  # fmt: skip


def _differs_with(tally: TensorTally, rows: Bools, feature: TensorTally) -> bool:
    """Whether a raw feature differs in all of these rows, shape (n,), so that they may follow from it."""
    shared = min(tally.rows_shared(feature), len(rows))
    if not shared or feature.unlike:
        return bool(feature.unlike)
    before, after = (side[:shared] for side in feature.sample.beginning())
    return bool((before != after).any(axis=1)[rows[:shared]].all())


def _changed(tally: TensorTally, columns: Sequence[int]) -> list[int]:
    """Those of these columns that differ beyond their tolerance in the first rows."""
    before, after = (_floats(side) for side in tally.sample.beginning())
    found = []
    for i in columns:
        tolerance, scale = tally.measure(i)
        old, new = before[:, i], after[:, i]
        same = (old == new) | (np.isnan(old) & np.isnan(new))
        with np.errstate(invalid="ignore"):
            same |= np.abs(new - old) <= tolerance * max(scale, 0.0)
        if not same.all():
            found.append(i)
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _WORDS} more" if len(names) > _WORDS else ""
    return ", ".join(names[:_WORDS]) + more


def _moved(found: Iterable[Refit]) -> list[Refit]:
    return [
        refit
        for refit in found
        if refit.role == FORM
        or (
            isinstance(refit.baseline, float)
            and isinstance(refit.candidate, float)
            and abs(refit.candidate - refit.baseline)
            > EXACT * max(abs(refit.baseline), abs(refit.candidate))
        )
    ]


def _fill(x: Floats, y: Floats, line: Line) -> float | None:
    """What stands for a missing x, in its unit; None where nothing is missing, or nothing fixed does."""
    given = y[np.isnan(x)]
    if not len(given) or not np.isfinite(given).all() or np.ptp(given) > 0:
        return None
    return read_off(x, y, line[0], float(given[0]))


def _floats(values: Array) -> Floats:
    return values.astype(np.float64)

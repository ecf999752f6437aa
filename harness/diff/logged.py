"""What the serving side logged of features, as it was recorded: tensors, or text of a context column.

A context column holds a value a request, `12.5`, or, of a feature with several columns, a list, `[12.5, 3.0]`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from harness.core.counted import counted
from harness.core.observations import Observations
from harness.core.tensors import Array, Bools, Floats, Strings
from harness.core.traffic import LOGGED, RequestBatch
from harness.core.words import coded

_TRUTH = {"true": 1.0, "false": 0.0}
"""What a table of booleans holds as text."""
_MOST_SHOWN = 80
"""Characters of a text that is told."""


def is_served(name: str) -> bool:
    """Whether a recorded tensor or a context column is a logged feature."""
    return name.startswith(LOGGED)


def logged_features(
    requests: RequestBatch, baseline: Observations
) -> tuple[dict[str, tuple[Array, Bools]], dict[str, tuple[int, str]]]:
    """What was logged, and what of it cannot be read.

    Returns:
      Feature → its values, shape (R, …), and for which requests there is one, shape (n,); and
      feature → how many of its texts are not its values, and the first of these in words.
    """
    answered = np.asarray(requests.answered, dtype=np.bool_)
    unread: dict[str, tuple[int, str]] = {}
    found = {
        n.removeprefix(LOGGED): (v, answered) for n, v in requests.recorded.items() if is_served(n)
    }
    alone = requests.rows == 1
    for column in requests.context:
        name = column.removeprefix(LOGGED)
        if not is_served(column) or name in found:
            continue
        texts = requests.context[column]
        there = np.asarray(alone & (texts != ""), dtype=np.bool_)
        own = baseline.features.get(name)
        values: Array = texts
        if own is not None and _holds_rows(texts, there, own):
            values, wrong = _rows(texts, there, own)
        elif own is None or own.dtype != object:
            values, wrong = _numbers(texts)
        else:
            wrong = np.zeros(len(texts), dtype=np.bool_)
        wrong &= there
        if own is not None and wrong.any():
            unread[name] = int(wrong.sum()), _shown(str(texts[wrong][0]), own)
        found[name] = np.repeat(values, requests.rows, axis=0), there & ~wrong
    return found, unread


def _width(feature: Array) -> int:
    """Values of a row."""
    return int(np.prod(feature.shape[1:], dtype=np.int64))


def _holds_rows(texts: Strings, there: Bools, feature: Array) -> bool:
    """Whether each text is a row: always of several columns; of one, where numbers stand in lists."""
    if _width(feature) > 1:
        return True
    lists = (str(text).lstrip().startswith("[") for text in texts[there])
    return feature.dtype != object and any(lists)


def _rows(texts: Strings, there: Bools, feature: Array) -> tuple[Array, Bools]:
    """The rows that lists hold, shape (n, k), and which texts hold none, shape (n,)."""
    width = _width(feature)
    words = feature.dtype == object
    values: Array = np.full((len(texts), width), "" if words else np.nan, object if words else None)
    wrong = np.zeros(len(texts), dtype=np.bool_)
    for i in np.flatnonzero(there).tolist():
        row = _flat(_read(str(texts[i])))
        if len(row) != width:
            wrong[i] = True
            continue
        try:
            values[i] = [_word(v) if words else _float(v) for v in row]
        except (TypeError, ValueError, OverflowError):
            wrong[i] = True
    return values, wrong


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shown(text: str, feature: Array) -> str:
    """A text that is none of a feature's rows, with how many values there should be and are."""
    has, width = len(_flat(_read(text))), _width(feature)
    shown = repr(text) if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]!r}…"
    return shown if has == width else f"{shown} ({counted(has, 'value')}, the feature has {width})"


def _word(value: object) -> str:
    """A value of a list as a word; TypeError where it is none."""
    if not isinstance(value, str):
        raise TypeError
    return value


def _float(value: str | float | None) -> float:
    """A value of a list as a number, null as a missing one; raises as `float` does."""
    truth = _TRUTH.get(value.strip().casefold()) if isinstance(value, str) else None
    if truth is not None:
        return truth
    return np.nan if value is None else float(value)


def _flat(row: object) -> list[Any]:
    """The values of nested lists, however deep."""
    left, values = [row], []
    while left:
        part = left.pop()
        if isinstance(part, list):
            left.extend(reversed(part))
        else:
            values.append(part)
    return values


def _numbers(texts: Strings) -> tuple[Floats, Bools]:
    """The numbers that texts hold, shape (n,), and which texts hold none, shape (n,)."""
    unique, codes = coded(texts)
    read = [_number(text) for text in unique]
    wrong = np.array([value is None for value in read], dtype=np.bool_)
    values = np.array([np.nan if value is None else value for value in read], np.float64)
    return values[codes], wrong[codes]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return _TRUTH.get(text.strip().casefold())

"""Pieces of a table of inputs, and what every kind of table is held to: names, side columns, shapes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.errors import TrafficError, nearest
from harness.core.tensors import Array, Ints, TensorSpec
from harness.core.traffic import LOGGED
from harness.store.blocks import CONTEXT
from harness.store.casting import RaggedError, array_from_json

TIME = "ts_ns"
ID = "request_id"
_SIDE = (CONTEXT, LOGGED)
PIECE_ROWS = 1024
_SHOWN = 40
"""Characters of a refused value that the message shows."""


Specs = Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some requests of a table."""

    count: int
    """Requests."""
    inputs: dict[str, Array | list[Array]]
    """Per input (count, *trailing) when every request is one row, else per request (rows, *trailing)."""
    ts_ns: Ints | None
    """Shape (count,); None = the table has no times."""
    request_id: list[str] | None
    """None = the table has no ids."""
    context: dict[str, list[str]]
    """Context columns."""


def check_names(where: str, names: Sequence[str], specs: Specs | None) -> list[str]:
    """The input columns among `names`; with specs exactly the model's inputs."""
    twice = next((n for n, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise TrafficError(
            where, f"two columns are called '{twice}'", "Drop one of them, or give it another name."
        )
    odd = next((n for n in names if not is_unicode(n)), None)
    if odd is not None:
        raise TrafficError(where, f"a column is called {odd!a}, which is no Unicode", "Rename it.")
    inputs = [
        n for n in names if (specs and n in specs) or not (n in {TIME, ID} or n.startswith(_SIDE))
    ]
    if not inputs:
        raise TrafficError(where, "no input columns", "Give one array or column per model input.")
    for name in inputs:
        if specs is not None and name not in specs:
            raise TrafficError(
                where,
                f"column '{name}' is no input of the model ({nearest(name, specs)})",
                f"Rename it, drop it, or keep it as context: {CONTEXT}{name}.",
            )
    for name in specs or ():
        if name not in inputs:
            raise TrafficError(
                where, f"no column for the model's input '{name}'", f"Columns: {', '.join(names)}."
            )
    return inputs


def side_columns(
    where: str, count: int, columns: Mapping[str, Sequence[Any]], inputs: Sequence[str]
) -> dict[str, Any]:
    """Times, ids and context of a piece, as `Piece` holds them."""
    side = {n: v for n, v in columns.items() if n not in inputs}
    for name, values in side.items():
        if len(values) != count:
            raise TrafficError(
                where,
                f"column '{name}' has {len(values)} values for {count} requests",
                "Give one value a request.",
            )
    times = side.get(TIME)
    if times is not None and not all(isinstance(t, int) for t in times):
        raise TrafficError(
            where, f"column '{TIME}' is not all integers", "Give nanoseconds since the epoch, UTC."
        )
    limits = np.iinfo(np.int64)
    for time in times or ():
        if not limits.min <= time <= limits.max:
            raise TrafficError(
                where,
                f"column '{TIME}' holds {time}, beyond 64 bits",
                "Give nanoseconds since the epoch, UTC.",
            )
    return {
        "ts_ns": None if times is None else np.array(times, np.int64),
        "request_id": None if ID not in side else [_text(where, ID, v) for v in side[ID]],
        "context": {
            n.removeprefix(CONTEXT): [_text(where, n, _single(where, n, v)) for v in values]
            for n, values in side.items()
            if n.startswith(_SIDE)
        },
    }


def _single(where: str, name: str, value: object) -> object:
    """A side column's value of a request; rows of one value, as of shape (N, 1), are that value.

    A logged feature may have several columns: their values are a list, as JSON.
    """
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if name.startswith(LOGGED) and isinstance(value, list):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, list | dict):
        raise TrafficError(
            where,
            f"column '{name}' holds {type(value).__name__}s, such as {_some(value)}",
            "Give one value a request: a number or a text.",
        )
    return value


def _some(value: list[Any] | dict[Any, Any]) -> str:
    """A value as text, whole or with as many of its first parts as there is room for."""
    text = str(value)
    if len(text) <= _SHOWN:
        return text
    parts = text[:_SHOWN].rpartition(", ")[0] or text[:_SHOWN]
    return f"{parts}, …{text[-1]}"


def _text(where: str, name: str, value: object) -> str:
    text = "" if value is None else str(value)
    if not is_unicode(text):
        raise TrafficError(
            where,
            f"column '{name}' holds {ascii(text)[:_SHOWN]}, which is no Unicode",
            "Give text without halves of surrogate pairs.",
        )
    return text


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_flat(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether values are (N,) where rows of one value, (N, 1), are meant: converters declare these.

    Lists of any length are told apart: there (N,) are the values of one row.
    """
    return len(shape) == 1 and spec.shape == (1,)


def check_shape(
    where: str,
    name: str,
    trailing: tuple[int, ...] | None,
    spec: TensorSpec,
    *,
    filled: bool = True,
) -> None:
    """Refuses rows of another shape than the input's.

    Args:
      where: the table.
      name: the input's.
      trailing: shape of a row; None = a single value.
      spec: what the model takes.
      filled: there are values that another shape could hold.

    Raises:
      TrafficError: says both shapes.
    """
    fits = trailing is not None and (
        spec.any_rank
        or (
            len(trailing) == len(spec.shape)
            and all(w is None or w == g for w, g in zip(spec.shape, trailing, strict=True))
        )
    )
    if not fits:
        found = "a single value" if trailing is None else f"rows of shape {list(trailing)}"
        taken = f"rows of {spec.shown()}" if spec.any_rank else spec.shown()
        wanted = ["rows", *("any" if d is None else str(d) for d in spec.shape)]
        raise TrafficError(
            where,
            f"column '{name}' has {found} where the model takes {taken}",
            f"Reshape it to [{', '.join(wanted)}{', …' if spec.any_rank else ''}]: its first axis is the table's rows."
            if filled
            else "Leave this request out: lists without a value do not say the shape of its rows.",
        )


def nested(where: str, name: str, values: Sequence[Any], spec: TensorSpec) -> Array | list[Array]:
    """Scalars and nested lists: one row each where the depth is the input's, or not declared, else several rows.

    An empty list is no row, where it can be nothing else.
    """
    if _without_rows(spec) is None or [] not in values:
        try:
            joined = array_from_json(where, name, values, spec.datatype, exact=True)
            if is_flat(joined.shape, spec):
                return joined[:, np.newaxis]
            if spec.any_rank or joined.ndim == len(spec.shape) + 1:
                check_shape(where, name, joined.shape[1:], spec, filled=joined.size > 0)
                return joined
        except RaggedError:
            pass
    return [_rows(where, name, value, spec) for value in values]


def _rows(where: str, name: str, value: object, spec: TensorSpec) -> Array:
    """The rows of one request, shape (rows, *trailing)."""
    rowless = _without_rows(spec)
    if rowless is not None and value == []:
        return array_from_json(where, name, [], spec.datatype, exact=True).reshape(rowless)
    try:
        array = array_from_json(where, name, [value], spec.datatype, exact=True)[0]
    except RaggedError:
        raise TrafficError(
            where, f"column '{name}' has lists of different lengths in one request", "Pad them."
        ) from None
    rows = np.asarray(array, object if spec.datatype == "BYTES" else None)
    if is_flat(np.atleast_1d(rows).shape, spec):
        rows = np.atleast_1d(rows)[:, np.newaxis]
    elif spec.any_rank or rows.ndim == len(spec.shape):
        rows = rows[np.newaxis]
    trailing = rows.shape[1:] if rows.ndim else None
    check_shape(where, name, trailing, spec, filled=rows.size > 0)
    return rows


def _without_rows(spec: TensorSpec) -> tuple[int, ...] | None:
    """Shape of a request without a row, which an empty list cannot say; None = it is not known.

    Where a row may itself be without values, an empty list is such a row, or nothing tells which of the two.
    """
    known = [d for d in spec.shape if d]
    return None if spec.any_rank or len(known) < len(spec.shape) else (0, *known)

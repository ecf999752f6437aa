"""A table's columns → the types a model declares, without losing anything.

Tables made with pandas hold int64 and float64, models declare float32 and int32. A cast that
changes a value would test the model on other requests than the table holds, so it is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.core.errors import TrafficError
from harness.core.tensors import NUMPY_DTYPES, Array, Bools, Strings

_REFUSED = "Write the column as {want}, or round it yourself."
_ANOTHER_KIND = {"O": "Write the column as text.", "b": "Write the column as booleans."}
"""By what the model takes."""
_SHOWN_DIGITS = 40
_WHOLE = {2: 1 << 11, 4: 1 << 24, 8: 1 << 53}
"""Bytes of a float type → up to here it holds every whole number."""
_SHOWN = {
    type(None): "null", bool: "booleans", int: "numbers", float: "numbers", str: "text", dict: "objects",
}  # fmt: skip


def cast_lossless(where: str, name: str, values: Array, datatype: str) -> Array:
    """Casts numbers to a declared datatype.

    Args:
      where: the file, for messages.
      name: the column, for messages.
      values: numbers, bools, or object arrays of str.
      datatype: Open Inference datatype.

    Raises:
      TrafficError: a value would change, or is of another kind.
    """
    dtype = NUMPY_DTYPES.get(datatype)
    if dtype is None:
        kind = datatype.partition(":")[2] or datatype
        raise TrafficError(
            where,
            f"input '{name}' is {kind}, which no recorded request can carry",
            "Export the model with plain tensors as inputs.",
        )
    if values.dtype == dtype:
        return values
    kinds = {values.dtype.kind, dtype.kind}
    if "O" in kinds or ("b" in kinds and len(kinds) > 1):
        found = {"O": "text", "b": "booleans"}.get(values.dtype.kind, str(values.dtype))
        raise TrafficError(
            where,
            f"column '{name}' holds {found} where the model takes {datatype}",
            _ANOTHER_KIND.get(dtype.kind, f"Write the column as numbers, of type {datatype}."),
        )
    with np.errstate(all="ignore"):  # a value that does not fit is found by the comparison
        cast = values.astype(dtype)
        back = cast.astype(values.dtype)
    same = _same(values, back) & _same_sign(values, cast)
    if values.dtype.kind == "f" and dtype.kind in "iu":
        # A float16 infinity becomes the smallest integer and comes back as infinity.
        same &= np.isfinite(values)
    if values.dtype.kind in "iu" and dtype.kind == "f":
        # The smallest integer becomes such an infinity, and comes back as itself.
        same &= np.isfinite(cast)
    if not same.all():
        example = values[~same].ravel()[0]
        raise TrafficError(
            where,
            f"column '{name}' holds {example!s} ({values.dtype}), which {datatype} cannot hold exactly",
            _REFUSED.format(want=datatype),
        )
    return cast


def array_from_json(
    where: str, name: str, values: Sequence[Any], datatype: str, *, exact: bool = False
) -> Array:
    """JSON values of one column as an array of a declared type.

    JSON numbers have no width: a decimal becomes the nearest value of the declared float type, and
    so does a whole number unless it is meant `exact`.

    Args:
      where: the file, for messages.
      name: the column, for messages.
      values: n scalars, or n equally shaped nested lists; null is NaN among numbers.
      datatype: Open Inference datatype.
      exact: refuse whole numbers that the type would round, as tables of integers are refused; a log's
        body was rounded in production, too.

    Raises:
      RaggedError: lists of different shapes; take them one by one.
      TrafficError: values of another kind than declared.
    """
    objects = np.array(values, dtype=object)
    kinds = {type(v) for v in objects.ravel().tolist()}
    if list in kinds:
        raise RaggedError
    found = datatype_of_json(kinds)
    want = NUMPY_DTYPES.get(datatype)
    _check_kinds(where, name, kinds, datatype)
    if not kinds and want is not None:
        return np.empty(objects.shape, want)
    if found == "BYTES":
        return cast_lossless(where, name, objects, datatype)
    if found == "INT64" and want is not None and want.kind in "iu":
        return _integers(where, name, objects, want)
    if exact:
        _check_whole_numbers(where, name, objects, want)
    if found == "BOOL":
        return cast_lossless(where, name, objects.astype(np.bool_), datatype)
    plain = objects.astype(np.float64)
    rounded = _nearest(plain, want)
    return cast_lossless(where, name, plain, datatype) if rounded is None else rounded


def _check_kinds(where: str, name: str, kinds: set[type], datatype: str) -> None:
    """Refuses values that no one type holds, and null where the declared type has none."""
    want = NUMPY_DTYPES.get(datatype)
    if type(None) in kinds and want is not None and want.kind != "f":
        raise TrafficError(
            where,
            f"column '{name}' holds null, which no value of {datatype} stands for",
            "Fill it; only float columns have a value (NaN) for missing.",
        )
    if kinds and datatype_of_json(kinds) is None:
        shown = " and ".join(sorted({_SHOWN.get(k, k.__name__) for k in kinds}))
        raise TrafficError(
            where,
            f"column '{name}' holds {shown}",
            "Give only numbers, only booleans or only text.",
        )


def _nearest(plain: Array, want: np.dtype[np.generic] | None) -> Array | None:
    """The nearest values of a float type; None where it is none, or has not the range."""
    if want is None or want.kind != "f":
        return None
    with np.errstate(over="ignore"):
        rounded: Array = plain.astype(want)
    return rounded if (np.isinf(rounded) == np.isinf(plain)).all() else None


def datatype_of_json(kinds: set[type]) -> str | None:
    """The datatype that holds values of these Python types; None when there is none."""
    if kinds == {str}:
        return "BYTES"
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64"
    return "FP64" if kinds and kinds <= {int, float, type(None)} else None


class RaggedError(ValueError):
    """Nested lists of different shapes."""


def _integers(where: str, name: str, objects: Strings, want: np.dtype[np.generic]) -> Array:
    limits = np.iinfo(want.name)
    for value in objects.ravel().tolist():
        if not limits.min <= value <= limits.max:
            raise TrafficError(
                where,
                f"column '{name}' holds {value}, which {want} cannot hold",
                "Correct the value.",
            )
    return objects.astype(want)


def _check_whole_numbers(
    where: str, name: str, objects: Strings, want: np.dtype[np.generic] | None
) -> None:
    """Refuses integers that a float type would round on their way, as tables of integers are."""
    if want is None or want.kind != "f":
        want = np.dtype(np.float64)
    exact = _WHOLE[want.itemsize]
    for value in objects.ravel().tolist():
        if type(value) is int and abs(value) > exact and not _holds(want, value):
            raise TrafficError(
                where,
                f"column '{name}' holds {value!s:.{_SHOWN_DIGITS}}, which {want} cannot hold exactly",
                "Round it yourself, or write it with a decimal point where the nearest value will do.",
            )


def _holds(want: np.dtype[np.generic], value: int) -> bool:
    try:
        with np.errstate(over="ignore"):
            cast = float(want.type(value))
    except OverflowError:
        return False
    return math.isfinite(cast) and int(cast) == value


def _same(values: Array, back: Array) -> Bools:
    equal: Bools = values == back
    if values.dtype.kind == "f":
        equal = equal | (np.isnan(values) & np.isnan(back))
    return equal


def _same_sign(values: Array, cast: Array) -> Bools:
    """Finds −1 that became 2⁶⁴ − 1: casting it back gives −1 again."""
    agree: Bools = np.less(values, 0) == np.less(cast, 0)
    return agree

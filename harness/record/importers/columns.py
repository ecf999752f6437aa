"""Rows and columns of bodies without names or types → tensors.

Names, types and shapes come from a model's signature or from a mapping; without either, JSON integers
become INT64 and other numbers FP64, and CSV is one tensor of FP64.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.errors import TrafficError
from harness.core.tensors import NUMPY_DTYPES, Array, Signature, Tensors
from harness.record.importers.parts import PayloadError, kind_of
from harness.store.casting import RaggedError, array_from_json, datatype_of_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorColumn:
    """A column that is one input or output."""

    name: str
    """The tensor's name."""
    column: str
    """The table's, or the body's name for it; bodies without names have them in the order of the tensors."""
    datatype: str
    """Open Inference datatype."""
    shape: tuple[int | None, ...] | None = None
    """Of one row; None in it = any length, None in place of it = as the values say."""

    def shown(self) -> str:
        """As shown to a user: name FP32[?, 3]."""
        dims = ", ".join("?" if d is None else str(d) for d in (None, *(self.shape or ())))
        return f"{self.name} {self.datatype}[{dims}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyMapping:
    """What the values of bodies are, as somebody says who has no model at hand.

    Bodies that have names and types of their own must agree with it.
    """

    inputs: tuple[TensorColumn, ...] = ()
    """Of requests; none = as the bodies say."""
    outputs: tuple[TensorColumn, ...] = ()
    """Of answers; none = as the bodies say."""


def columns_of(
    known: Signature | BodyMapping | None,
) -> tuple[tuple[TensorColumn, ...], tuple[TensorColumn, ...]]:
    """(inputs, outputs) of a model or a mapping; none where nothing is known."""
    if known is None:
        return (), ()
    if isinstance(known, BodyMapping):
        return known.inputs, known.outputs
    inputs, outputs = (
        tuple(
            TensorColumn(
                name=s.name,
                column=s.name,
                datatype=s.datatype,
                shape=None if s.any_rank else s.shape,
            )
            for s in specs
        )
        for specs in (known.inputs, known.outputs)
    )
    return inputs, outputs


def check_agrees(tensors: Tensors, specs: Sequence[TensorColumn]) -> None:
    """Refuses a body whose own names and types are not those of the mapping.

    Raises:
      PayloadError: says which.
    """
    for spec in specs:
        if spec.name not in tensors:
            raise PayloadError(
                f"it names its tensors itself, and none is the mapping's '{spec.name}': "
                f"{', '.join(tensors)}"[:300]
            )
        if tensors[spec.name].dtype != NUMPY_DTYPES[spec.datatype]:
            raise PayloadError(
                f"its own '{spec.name}' is {tensors[spec.name].dtype} where the mapping says {spec.datatype}"
            )


def tensors_from_rows(rows: Any, specs: Sequence[TensorColumn], only: str) -> Tensors:  # noqa: ANN401 - JSON
    """Rows → tensors: by name, by the order of what is known, or as one tensor.

    Args:
      rows: a JSON value.
      specs: what is known of the tensors; none = as the body says.
      only: name of the only tensor of a body without names.

    Raises:
      PayloadError: they do not fit.
    """
    if not isinstance(rows, list):
        rows = [rows]
    if rows and all(isinstance(r, dict) for r in rows):
        names = list(rows[0])
        if any(set(r) != set(names) for r in rows):
            raise PayloadError("the rows have different names")
        return tensors_from_columns({n: [r[n] for r in rows] for n in names}, specs)
    if len(specs) > 1:
        if any(not isinstance(r, list) or len(r) != len(specs) for r in rows):
            raise PayloadError(f"a row has not the {len(specs)} values of the model's tensors")
        columns = {s.column: [r[i] for r in rows] for i, s in enumerate(specs)}
        return tensors_from_columns(columns, specs)
    return tensors_from_columns({specs[0].column if specs else only: rows}, specs)


def tensors_from_columns(columns: Mapping[str, Any], specs: Sequence[TensorColumn]) -> Tensors:
    """Named columns → tensors.

    Args:
      columns: the body's name of each → its values, a row each.
      specs: what is known of the tensors; none = as the body says.

    Raises:
      PayloadError: one is missing, or they do not fit.
    """
    if missing := [s.column for s in specs if s.column not in columns]:
        raise PayloadError(f"no value for the model's '{missing[0]}'")
    tensors = {
        s.name: shaped(s.column, _column(s.column, columns[s.column], s.datatype), s) for s in specs
    } or {name: _column(name, values, None) for name, values in columns.items()}
    if len({len(a) for a in tensors.values()}) > 1:
        raise PayloadError("the tensors have different numbers of rows")
    return tensors


def _column(name: str, values: Any, datatype: str | None) -> Array:  # noqa: ANN401 - JSON
    values = values if isinstance(values, list) else [values]
    single = flat(values)
    datatype = datatype or datatype_of_json({type(v) for v in single})
    if datatype is None or datatype not in NUMPY_DTYPES:
        kinds = " and ".join(sorted({kind_of(v) for v in single})) or "nothing"
        raise PayloadError(f"'{name}' holds {kinds}; its type must be told (--model or --mapping)")
    return array_of(name, values, datatype)


def array_of(name: str, values: list[Any], datatype: str) -> Array:
    """JSON values as an array.

    Raises:
      PayloadError: they do not fit the datatype, or have different shapes.
    """
    try:
        return array_from_json("the body", name, values, datatype)
    except TrafficError as error:
        raise PayloadError(error.what) from None
    except OverflowError:
        raise PayloadError(f"'{name}' has a number that {datatype} cannot hold") from None
    except (RaggedError, ValueError):
        raise PayloadError(f"'{name}' has rows of different shapes") from None


def flat(data: object) -> list[Any]:
    """All values of nested lists, in order."""
    if not isinstance(data, list):
        return [data]
    if not any(isinstance(v, list) for v in data):
        return data
    return [v for inner in data for v in flat(inner)]


def shaped(name: str, array: Array, spec: TensorColumn) -> Array:
    """Adds or takes axes of length one where the model has them or has them not.

    Raises:
      PayloadError: the values have another shape.
    """
    if spec.shape is None:
        return array
    if array.ndim == 1 + len(spec.shape):
        pairs = zip(array.shape[1:], spec.shape, strict=True)
        if all(want in {None, found} for found, want in pairs):
            return array
    dims = [-1 if d is None else d for d in spec.shape]
    if dims.count(-1) <= 1 and len(array):
        try:
            return array.reshape((len(array), *dims))
        except ValueError:
            pass
    raise PayloadError(
        f"'{name}' has the shape {list(array.shape)} where the model has {spec.shown()}"
    )


def tensors_from_csv(text: str, specs: Sequence[TensorColumn], only: str) -> Tensors:
    """Lines of values → tensors: by the header's names, by the order of what is known, or as one tensor.

    Args:
      text: the body.
      specs: what is known of the tensors; none = one tensor of FP64.
      only: its name then.

    Raises:
      PayloadError: they do not fit.
    """
    rows = _lines(text)
    names = {s.column for s in specs}
    if names and set(rows[0]) >= names:
        if twice := [n for n in rows[0] if n in names and rows[0].count(n) > 1]:
            raise PayloadError(f"two columns '{twice[0]}'")
        if len(rows) == 1:
            raise PayloadError("it has a header and no rows")
        columns = {n: [r[i] for r in rows[1:]] for i, n in enumerate(rows[0]) if n in names}
        return {s.name: _text_column(columns[s.column], s) for s in specs}
    if len(specs) > 1:
        if len(rows[0]) != len(specs):
            raise PayloadError(f"{len(rows[0])} values a line where the model takes {len(specs)}")
        return {s.name: _text_column([r[i] for r in rows], s) for i, s in enumerate(specs)}
    values = parsed_text(only, [v for r in rows for v in r], specs[0].datatype if specs else "FP64")
    array = values.reshape(len(rows), -1)
    if not specs:
        return {only: array}
    (spec,) = specs
    # One value a line is one of its own, as in a JSON list, where nobody says otherwise.
    single = spec.shape is None and array.shape[1] == 1
    return {spec.name: values if single else shaped(only, array, spec)}


def _lines(text: str) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise PayloadError(f"no CSV: {error}") from None
    if len({len(r) for r in rows}) != 1:
        raise PayloadError("the lines have different numbers of values")
    return rows


def _text_column(values: Sequence[str], spec: TensorColumn) -> Array:
    return shaped(spec.column, parsed_text(spec.column, values, spec.datatype), spec)


def parsed_text(name: str, values: Sequence[str], datatype: str) -> Array:
    """Text cells as a declared type; an empty cell is NaN among floats.

    Raises:
      PayloadError: a cell that is none.
    """
    dtype = NUMPY_DTYPES.get(datatype)
    if dtype is None:
        raise PayloadError(f"'{name}' is {datatype}, which text cannot hold")
    if datatype == "BYTES":
        return np.array(values, object)
    try:
        if dtype.kind == "f":
            return _narrowed(np.array([v.strip() or "nan" for v in values], np.float64), dtype)
        if dtype.kind == "b":
            return np.array([_BOOLS[v.strip().lower()] for v in values], np.bool_)
        return np.array([int(v) for v in values], dtype)
    except (ValueError, KeyError, OverflowError):
        raise PayloadError(f"'{name}' has a value that is no {datatype}") from None


def _narrowed(wide: Array, dtype: np.dtype[np.generic]) -> Array:
    """Raises OverflowError where a finite number would become infinity."""
    with np.errstate(over="ignore"):
        narrow: Array = wide.astype(dtype)
    if (np.isinf(narrow) != np.isinf(wide)).any():
        raise OverflowError
    return narrow


_BOOLS = {"true": True, "false": False, "1": True, "0": False}

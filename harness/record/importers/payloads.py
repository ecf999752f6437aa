"""Bodies of requests and answers → Open Inference messages.

What a body is, is seen in its bytes: the content type is wrong often enough (KServe logs JSON as
application/x-www-form-urlencoded). Protobuf messages stay as they are, byte by byte. JSON numbers
have no width and CSV has no names: the model's signature gives both; without one JSON integers
become INT64 and other numbers FP64.

    protobuf                       ModelInferRequest, ModelInferResponse
    JSON  Open Inference V2        {"inputs": [{"name", "shape", "datatype", "data"}]}, {"outputs": …};
                                   with the binary extension: JSON, then the tensors' bytes
          KServe/TensorFlow V1     {"instances": [...]}, {"inputs": {...}}, {"predictions": ...}
          MLflow                   {"dataframe_split": …}, {"dataframe_records": [...]}, {"inputs": …}
          rows                     [...], or one JSON document a line
    CSV                            one row a line, columns in the signature's order, or with a header
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.core.errors import TrafficError
from harness.core.tensors import NUMPY_DTYPES, Array, Signature, Tensors, TensorSpec
from harness.record.importers.parts import Payload, PayloadError
from harness.store.casting import RaggedError, array_from_json, datatype_of_json
from harness.wire.contents import array_from_raw
from harness.wire.messages import (
    MessageError,
    request_bytes,
    response_bytes,
    tensors_from_request,
    tensors_from_response,
)

_ONLY_INPUT, _ONLY_OUTPUT = "input-0", "output-0"
"""What KServe calls the only tensor of a body without names."""
_ROW_KEYS = ("instances", "dataframe_records")
_ANSWER_KEYS = ("predictions", "outputs")
_JSON_STARTS = b"{["
_TRANSPORT = {"binary_data_output", "binary_data_size"}
_MOST_IN_AXIS = 2**31


class Messages:
    """Makes messages of bodies, by one model's signature.

    Args:
      signature: names, types and shapes; None = take them from the bodies.
    """

    def __init__(self, signature: Signature | None) -> None:
        self._inputs = signature.inputs if signature else ()
        self._outputs = signature.outputs if signature else ()

    def request(self, payload: Payload, model: str, request_id: str) -> bytes:
        """A serialized ModelInferRequest.

        Raises:
          PayloadError: the body is none, or does not fit the signature.
        """
        if payload.is_message:
            return payload.content
        body = _body(payload, self._inputs, tensors_from_request, _ONLY_INPUT)
        if body is None:
            return payload.content
        try:
            return request_bytes(model, body.tensors, request_id, parameters=body.parameters)
        except MessageError as error:
            raise PayloadError(error.reason) from None

    def response(self, payload: Payload, model: str, version: str, request_id: str) -> bytes:
        """A serialized ModelInferResponse.

        Raises:
          PayloadError: the body is none, or does not fit the signature.
        """
        if payload.is_message:
            return payload.content
        body = _body(payload, self._outputs, tensors_from_response, _ONLY_OUTPUT)
        if body is None:
            return payload.content
        try:
            return response_bytes(model, version, body.tensors, request_id)
        except MessageError as error:
            raise PayloadError(error.reason) from None


@dataclass(frozen=True, slots=True)
class _Body:
    """What a body holds."""

    tensors: Tensors
    parameters: dict[str, bool | int | float | str] = field(default_factory=dict)


def _body(
    payload: Payload, specs: Sequence[TensorSpec], parse: Callable[[bytes], Tensors], only: str
) -> _Body | None:
    """The body's tensors; None when it is a protobuf message already."""
    content = payload.content
    start = content.lstrip()[:1]
    if not start:
        raise PayloadError("the body is empty")
    kind = payload.content_type.lower()
    if not any(word in kind for word in ("csv", "text", "json")):
        # Before JSON: a message may begin with a line end and a bracket, a field and its length.
        try:
            parse(content)
        except MessageError as error:
            if start not in _JSON_STARTS and ("protobuf" in kind or "grpc" in kind):
                raise PayloadError(error.reason) from None
        else:
            return None
    if start in _JSON_STARTS or "json" in kind:
        return _of_json(content, specs, only)
    return _Body(_of_csv(_text(content), specs, only))


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError(f"not UTF-8 at byte {error.start}") from None


def _of_json(content: bytes, specs: Sequence[TensorSpec], only: str) -> _Body:
    # Latin-1 keeps one character a byte, so that a binary tail begins where the document ends.
    try:
        _, end = json.JSONDecoder().raw_decode(content.decode("latin-1").lstrip())
        skipped = len(content) - len(content.lstrip())
        document: Any = json.loads(content[skipped : skipped + end])
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"no JSON: {error}") from None
    tail = content[skipped + end :]
    if isinstance(document, dict):
        described = document.get("inputs", document.get("outputs"))
        if described is not None and _is_v2(described):
            return _Body(_of_v2(described, tail), _parameters(document.get("parameters")))
    if tail.strip():
        return _Body(_of_rows([document, *_json_lines(tail)], specs, only))
    return _Body(_of_document(document, specs, only))


def _parameters(given: object) -> dict[str, bool | int | float | str]:
    """A V2 request's own parameters; how its answer travels is none of the model's business."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise PayloadError("its parameters are no object")
    for name, value in given.items():
        if not isinstance(value, bool | int | float | str):
            raise PayloadError(f"the parameter '{name}' is {type(value).__name__}")
    return {n: v for n, v in given.items() if n not in _TRANSPORT}


def _json_lines(content: bytes) -> list[Any]:
    try:
        return [json.loads(line) for line in _text(content).splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"no JSON: {error}") from None


def _is_v2(described: object) -> bool:
    return isinstance(described, list) and all(
        isinstance(t, dict) and "name" in t and "datatype" in t for t in described
    )


def _of_v2(described: list[dict[str, Any]], tail: bytes) -> Tensors:
    tensors: Tensors = {}
    if not described:
        raise PayloadError("it has no tensors")
    for t in described:
        name, datatype, shape = str(t["name"]), str(t["datatype"]), _shape(t)
        if name in tensors:
            raise PayloadError(f"two tensors '{name}'")
        size = _binary_size(t, len(tail))
        if size is not None:
            try:
                tensors[name] = array_from_raw(name, datatype, shape, tail[:size])
            except MessageError as error:
                raise PayloadError(error.reason) from None
            tail = tail[size:]
            continue
        if t.get("data") is None:
            raise PayloadError(f"tensor '{name}' has no data")
        flat = _flat(t["data"])
        if len(flat) != math.prod(shape):
            raise PayloadError(f"tensor '{name}': {len(flat)} values for the shape {shape}")
        tensors[name] = _array(name, flat, datatype).reshape(shape)
    return tensors


def _shape(tensor: dict[str, Any]) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(
        type(d) is int and 0 <= d < _MOST_IN_AXIS for d in shape
    ):
        raise PayloadError(f"tensor '{tensor['name']}' has no shape")
    return shape


def _binary_size(tensor: dict[str, Any], most: int) -> int | None:
    """How many bytes of the tail are the tensor's; None = its data are in the document."""
    about = tensor.get("parameters") or {}
    if not isinstance(about, dict):
        raise PayloadError(f"tensor '{tensor['name']}': its parameters are no object")
    size = about.get("binary_data_size")
    if size is not None and (type(size) is not int or not 0 <= size <= most):
        raise PayloadError(f"tensor '{tensor['name']}': its {size} binary bytes are not all there")
    return size


def _flat(data: object) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    if not any(isinstance(v, list) for v in data):
        return data
    return [v for inner in data for v in _flat(inner)]


def _of_document(document: Any, specs: Sequence[TensorSpec], only: str) -> Tensors:  # noqa: ANN401 - JSON
    if not isinstance(document, dict):
        return _of_rows(document, specs, only)
    split = document.get("dataframe_split", document)
    if isinstance(split, dict) and isinstance(split.get("columns"), list) and "data" in split:
        return _of_rows(_named_rows(split), specs, only)
    key = next((k for k in (*_ROW_KEYS, "inputs", *_ANSWER_KEYS) if k in document), None)
    if key is not None:
        found = document[key]
        if isinstance(found, dict) and key not in _ROW_KEYS:
            return _of_columns(found, specs)
        return _of_rows(found, specs, only)
    if specs and {s.name for s in specs} <= set(document):
        return _of_rows([document], specs, only)
    if "error" in document:
        raise PayloadError(f"the body says: {str(document['error'])[:200]}")
    known = ", ".join((*_ROW_KEYS, "dataframe_split", "inputs", *_ANSWER_KEYS))
    raise PayloadError(f"none of {known} among {', '.join(map(str, document))[:200]}")


def _named_rows(split: dict[str, Any]) -> list[dict[str, Any]]:
    names = [str(c) for c in split["columns"]]
    rows = split["data"]
    if not isinstance(rows, list) or any(
        not isinstance(r, list) or len(r) != len(names) for r in rows
    ):
        raise PayloadError(f"a row has another number of values than the {len(names)} columns")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _of_rows(rows: Any, specs: Sequence[TensorSpec], only: str) -> Tensors:  # noqa: ANN401 - JSON
    """Rows → tensors: by name, by the signature's order, or as one tensor."""
    if not isinstance(rows, list):
        rows = [rows]
    if rows and all(isinstance(r, dict) for r in rows):
        names = list(rows[0])
        if any(set(r) != set(names) for r in rows):
            raise PayloadError("the rows have different names")
        return _of_columns({n: [r[n] for r in rows] for n in names}, specs)
    if len(specs) > 1:
        if any(not isinstance(r, list) or len(r) != len(specs) for r in rows):
            raise PayloadError(f"a row has not the {len(specs)} values of the model's tensors")
        columns = {s.name: [r[i] for r in rows] for i, s in enumerate(specs)}
        return _of_columns(columns, specs)
    return _of_columns({specs[0].name if specs else only: rows}, specs)


def _of_columns(columns: Mapping[str, Any], specs: Sequence[TensorSpec]) -> Tensors:
    by_name = {s.name: s for s in specs}
    if missing := [s.name for s in specs if s.name not in columns]:
        raise PayloadError(f"no value for the model's '{missing[0]}'")
    wanted = by_name or columns
    tensors = {
        name: _shaped(name, _column(name, columns[name], by_name.get(name)), by_name.get(name))
        for name in wanted
    }
    if len({len(a) for a in tensors.values()}) > 1:
        raise PayloadError("the tensors have different numbers of rows")
    return tensors


def _column(name: str, values: Any, spec: TensorSpec | None) -> Array:  # noqa: ANN401 - JSON
    values = values if isinstance(values, list) else [values]
    flat = _flat(values)
    datatype = spec.datatype if spec else datatype_of_json({type(v) for v in flat})
    if datatype is None or datatype not in NUMPY_DTYPES:
        kinds = ", ".join(sorted({type(v).__name__ for v in flat})) or "nothing"
        raise PayloadError(f"'{name}' holds {kinds}; give the model's signature")
    return _array(name, values, datatype)


def _array(name: str, values: list[Any], datatype: str) -> Array:
    try:
        return array_from_json("the body", name, values, datatype)
    except TrafficError as error:
        raise PayloadError(error.what) from None
    except OverflowError:
        raise PayloadError(f"'{name}' has a number that {datatype} cannot hold") from None
    except (RaggedError, ValueError):
        raise PayloadError(f"'{name}' has rows of different shapes") from None


def _shaped(name: str, array: Array, spec: TensorSpec | None) -> Array:
    """Adds or takes axes of length one where the signature has them or has them not."""
    if spec is None:
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


def _of_csv(text: str, specs: Sequence[TensorSpec], only: str) -> Tensors:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise PayloadError(f"no CSV: {error}") from None
    if len({len(r) for r in rows}) != 1:
        raise PayloadError("the lines have different numbers of values")
    names = {s.name for s in specs}
    if names and set(rows[0]) >= names:
        if twice := [n for n in rows[0] if n in names and rows[0].count(n) > 1]:
            raise PayloadError(f"two columns '{twice[0]}'")
        if len(rows) == 1:
            raise PayloadError("it has a header and no rows")
        columns = {n: [r[i] for r in rows[1:]] for i, n in enumerate(rows[0]) if n in names}
        return {
            s.name: _shaped(s.name, parsed_text(s.name, columns[s.name], s.datatype), s)
            for s in specs
        }
    if len(specs) > 1:
        if len(rows[0]) != len(specs):
            raise PayloadError(f"{len(rows[0])} values a line where the model takes {len(specs)}")
        return {
            s.name: _shaped(s.name, parsed_text(s.name, [r[i] for r in rows], s.datatype), s)
            for i, s in enumerate(specs)
        }
    spec = specs[0] if specs else None
    datatype = spec.datatype if spec else "FP64"
    flat = parsed_text(only, [v for r in rows for v in r], datatype)
    array = flat.reshape(len(rows), -1)
    return {spec.name if spec else only: _shaped(only, array, spec)}


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

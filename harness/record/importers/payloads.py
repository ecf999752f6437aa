"""Bodies of requests and answers → Open Inference messages.

What a body is, is seen in its bytes: the content type is wrong often enough (KServe logs JSON as
application/x-www-form-urlencoded). Protobuf messages stay as they are, byte by byte. JSON numbers
have no width and CSV has no names: the model's signature or a mapping gives both (`columns`).

    protobuf                       ModelInferRequest, ModelInferResponse
    JSON  Open Inference V2        {"inputs": [{"name", "shape", "datatype", "data"}]}, {"outputs": …};
                                   with the binary extension: JSON, then the tensors' bytes
          KServe/TensorFlow V1     {"instances": [...]}, {"inputs": {...}}, {"predictions": ...}
          MLflow                   {"dataframe_split": …}, {"dataframe_records": [...]}, {"inputs": …}
          rows                     [...], or one JSON document a line
    CSV                            one row a line, columns in the signature's order, or with a header
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.core.tensors import Signature, Tensors
from harness.record.importers.columns import (
    BodyMapping,
    TensorColumn,
    array_of,
    check_agrees,
    columns_of,
    flat,
    tensors_from_columns,
    tensors_from_csv,
    tensors_from_rows,
)
from harness.record.importers.documents import parsed
from harness.record.importers.parts import Payload, PayloadError, kind_of
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
    """Makes messages of bodies, by what is known of one model.

    Args:
      known: names, types and shapes, from its signature or a mapping; None = take them from the bodies.
    """

    def __init__(self, known: Signature | BodyMapping | None) -> None:
        self._inputs, self._outputs = columns_of(known)
        self._must_agree = isinstance(known, BodyMapping)

    def request(self, payload: Payload, model: str, request_id: str) -> bytes:
        """A serialized ModelInferRequest.

        Raises:
          PayloadError: the body is none, or does not fit what is known.
        """
        if payload.is_message:
            return payload.content
        body = self._checked(payload, self._inputs, tensors_from_request, _ONLY_INPUT)
        if body.is_message:
            return payload.content
        try:
            return request_bytes(model, body.tensors, request_id, parameters=body.parameters)
        except MessageError as error:
            raise PayloadError(error.reason) from None

    def response(self, payload: Payload, model: str, version: str, request_id: str) -> bytes:
        """A serialized ModelInferResponse.

        Raises:
          PayloadError: the body is none, or does not fit what is known.
        """
        if payload.is_message:
            return payload.content
        body = self._checked(payload, self._outputs, tensors_from_response, _ONLY_OUTPUT)
        if body.is_message:
            return payload.content
        try:
            return response_bytes(model, version, body.tensors, request_id)
        except MessageError as error:
            raise PayloadError(error.reason) from None

    def _checked(
        self, payload: Payload, specs: Sequence[TensorColumn], parse: _Parse, only: str
    ) -> _Body:
        body = _body(payload, specs, parse, only)
        if self._must_agree and body.described:
            check_agrees(body.tensors, specs)
        return body


@dataclass(frozen=True, slots=True)
class _Body:
    """What a body holds."""

    tensors: Tensors
    parameters: dict[str, bool | int | float | str] = field(default_factory=dict)
    described: bool = False
    """It has names and types of its own."""
    is_message: bool = False
    """It is a protobuf message, and stays as it is."""


_Parse = Callable[[bytes], Tensors]


def _body(payload: Payload, specs: Sequence[TensorColumn], parse: _Parse, only: str) -> _Body:
    content = payload.content
    start = content.lstrip()[:1]
    if not start:
        raise PayloadError("the body is empty")
    kind = payload.content_type.lower()
    if not any(word in kind for word in ("csv", "text", "json")):
        # Before JSON: a message may begin with a line end and a bracket, a field and its length.
        try:
            return _Body(parse(content), described=True, is_message=True)
        except MessageError as error:
            if start not in _JSON_STARTS and ("protobuf" in kind or "grpc" in kind):
                raise PayloadError(error.reason) from None
    if start in _JSON_STARTS or "json" in kind:
        return _of_json(content, specs, only)
    return _Body(tensors_from_csv(_text(content), specs, only))


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError(f"not UTF-8 at byte {error.start}") from None


def _of_json(content: bytes, specs: Sequence[TensorColumn], only: str) -> _Body:
    # Latin-1 keeps one character a byte, so that a binary tail begins where the document ends.
    try:
        _, end = json.JSONDecoder().raw_decode(content.decode("latin-1").lstrip())
    except (ValueError, RecursionError):
        end = len(content)  # told by who parses it
    skipped = len(content) - len(content.lstrip())
    document: Any = parsed(content[skipped : skipped + end])
    tail = content[skipped + end :]
    if isinstance(document, dict):
        described = document.get("inputs", document.get("outputs"))
        if described is not None and _is_v2(described):
            parameters = _parameters(document.get("parameters"))
            return _Body(_of_v2(described, tail), parameters, described=True)
    if tail.strip():
        return _Body(tensors_from_rows([document, *_json_lines(tail)], specs, only))
    return _Body(_of_document(document, specs, only))


def _parameters(given: object) -> dict[str, bool | int | float | str]:
    """A V2 request's own parameters; how its answer travels is none of the model's business."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise PayloadError("its parameters are no object")
    for name, value in given.items():
        if not isinstance(value, bool | int | float | str):
            raise PayloadError(f"the parameter '{name}' is {kind_of(value)}")
    return {n: v for n, v in given.items() if n not in _TRANSPORT}


def _json_lines(content: bytes) -> list[Any]:
    return [parsed(line) for line in _text(content).splitlines() if line.strip()]


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
        values = flat(t["data"])
        if len(values) != math.prod(shape):
            raise PayloadError(f"tensor '{name}': {len(values)} values for the shape {shape}")
        tensors[name] = array_of(name, values, datatype).reshape(shape)
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


def _of_document(document: Any, specs: Sequence[TensorColumn], only: str) -> Tensors:  # noqa: ANN401 - JSON
    if not isinstance(document, dict):
        return tensors_from_rows(document, specs, only)
    split = document.get("dataframe_split", document)
    if isinstance(split, dict) and isinstance(split.get("columns"), list) and "data" in split:
        return tensors_from_rows(_named_rows(split), specs, only)
    key = next((k for k in (*_ROW_KEYS, "inputs", *_ANSWER_KEYS) if k in document), None)
    if key is not None:
        found = document[key]
        if isinstance(found, dict) and key not in _ROW_KEYS:
            return tensors_from_columns(found, specs)
        return tensors_from_rows(found, specs, only)
    if specs and {s.column for s in specs} <= set(document):
        return tensors_from_rows([document], specs, only)
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

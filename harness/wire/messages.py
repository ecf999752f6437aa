"""Whole messages ↔ tensors: the plain path, one message at a time.

Writing always uses raw contents, so that every float bit survives. Reading accepts raw and typed
contents; when both are there, raw wins (some servers send empty `contents` beside raw outputs).
Arrays carry their whole shape, batch axis first. `columns` reads batches of messages faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, EncodeError

from harness.core.tensors import Tensors
from harness.wire.contents import (
    MessageError,
    array_from_contents,
    array_from_raw,
    datatype_from_array,
    raw_from_array,
)
from harness.wire.gen import open_inference_pb2

__all__ = [
    "MessageError",
    "request_bytes",
    "response_bytes",
    "streamed_bytes",
    "tensors_from_request",
    "tensors_from_response",
]

pb: Any = open_inference_pb2  # the generated module makes its classes at import: no static types


def request_bytes(
    model: str,
    inputs: Tensors,
    request_id: str,
    version: str = "",
    parameters: Mapping[str, bool | int | float | str] | None = None,
) -> bytes:
    """Serializes a ModelInferRequest; equal arguments give equal bytes.

    Args:
      model: model name.
      inputs: per input an array with its whole shape; strings as object or U arrays of str.
      request_id: the id the response will carry.
      version: model version; empty lets the server choose.
      parameters: of the whole request, sequence ids among them.

    Raises:
      MessageError: an array or parameter that has no Open Inference form.
    """
    message = pb.ModelInferRequest(model_name=_utf8(model), model_version=_utf8(version))
    message.id = _utf8(request_id)
    for name, value in (parameters or {}).items():
        _set_parameter(message.parameters[_utf8(name)], name, value)
    _add_tensors(message.inputs, message.raw_input_contents, inputs)
    return _serialized(message)


def response_bytes(model: str, version: str, outputs: Tensors, request_id: str) -> bytes:
    """Serializes a ModelInferResponse; equal arguments give equal bytes.

    Args:
      model: model name.
      version: version that answered.
      outputs: per output an array with its whole shape.
      request_id: id of the request it answers.

    Raises:
      MessageError: an array that has no Open Inference form.
    """
    message = pb.ModelInferResponse(model_name=_utf8(model), model_version=_utf8(version))
    message.id = _utf8(request_id)
    _add_tensors(message.outputs, message.raw_output_contents, outputs)
    return _serialized(message)


def streamed_bytes(response: bytes, error: str = "") -> bytes:
    """Serializes a ModelStreamInferResponse.

    Args:
      response: a serialized ModelInferResponse; for an error one that holds the id alone.
      error: why this request has no answer; "" = it has.

    Raises:
      MessageError: `response` is no ModelInferResponse.
    """
    inner = _parsed(pb.ModelInferResponse, response)
    return _serialized(
        pb.ModelStreamInferResponse(error_message=_utf8(error), infer_response=inner)
    )


def tensors_from_request(serialized: bytes) -> Tensors:
    """Reads the inputs of a serialized ModelInferRequest.

    Raises:
      MessageError: not a request, or tensors that contradict themselves; `reason` says which.
    """
    message = _parsed(pb.ModelInferRequest, serialized)
    return _tensors(message.inputs, message.raw_input_contents)


def tensors_from_response(serialized: bytes) -> Tensors:
    """Reads the outputs of a serialized ModelInferResponse.

    Raises:
      MessageError: not a response, or tensors that contradict themselves; `reason` says which.
    """
    message = _parsed(pb.ModelInferResponse, serialized)
    return _tensors(message.outputs, message.raw_output_contents)


def _parsed(kind: Any, serialized: bytes) -> Any:  # noqa: ANN401 - generated message classes
    try:
        return kind.FromString(serialized)
    except DecodeError:
        msg = f"not a {kind.DESCRIPTOR.name}"
        raise MessageError(msg) from None


def _serialized(message: Any) -> bytes:  # noqa: ANN401 - generated message classes
    try:
        return bytes(message.SerializeToString(deterministic=True))
    except EncodeError as error:
        msg = f"message cannot be written: {error}"
        raise MessageError(msg) from None


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        msg = "a name or id has no UTF-8 form"
        raise MessageError(msg) from None
    return text


def _set_parameter(parameter: Any, name: str, value: bool | float | str) -> None:  # noqa: ANN401 - generated
    try:
        match value:
            case bool():
                parameter.bool_param = value
            case int():
                parameter.int64_param = value
            case float():
                parameter.double_param = value
            case _:
                parameter.string_param = _utf8(value)
    except ValueError:
        msg = f"the parameter '{name}' is out of range"
        raise MessageError(msg) from None


def _add_tensors(descriptors: Any, raws: Any, tensors: Tensors) -> None:  # noqa: ANN401
    for name, given in tensors.items():
        array = np.asarray(given)
        datatype = datatype_from_array(name, array)
        descriptors.add(name=_utf8(name), datatype=datatype, shape=array.shape)
        raws.append(raw_from_array(name, array))


def _tensors(descriptors: Any, raws: Any) -> Tensors:  # noqa: ANN401
    use_raw = len(raws) > 0
    if use_raw and len(raws) != len(descriptors):
        msg = f"{len(raws)} raw contents for {len(descriptors)} tensors"
        if any("shared_memory_region" in d.parameters for d in descriptors):
            msg += " (some are in shared memory, which a recorder does not see)"
        raise MessageError(msg)
    tensors: Tensors = {}
    for i, d in enumerate(descriptors):
        if d.name in tensors:
            msg = f"tensor '{d.name}' appears twice"
            raise MessageError(msg)
        tensors[d.name] = (
            array_from_raw(d.name, d.datatype, d.shape, raws[i])
            if use_raw
            else array_from_contents(d.name, d.datatype, d.shape, d.contents)
        )
    return tensors

"""The one value of a request that names its user or session."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from harness.wire.contents import MessageError, array_from_contents, array_from_raw
from harness.wire.facts import parameter_text
from harness.wire.gen import open_inference_pb2

pb: Any = open_inference_pb2


def unit_from_parameter(request: bytes, name: str) -> str:
    """A parameter of the request as text; "" when it is not set.

    Raises:
      MessageError: not a request.
    """
    parameters = _parsed(request).parameters
    if name not in parameters:
        return ""
    return parameter_text(parameters[name])


def unit_from_input(request: bytes, name: str) -> str:
    """The only value of an input as text; "" when there is no such input or it holds several.

    Raises:
      MessageError: not a request, or an input that cannot be read.
    """
    message = _parsed(request)
    for i, tensor in enumerate(message.inputs):
        if tensor.name != name:
            continue
        if message.raw_input_contents:
            if i >= len(message.raw_input_contents):
                return ""
            raw = message.raw_input_contents[i]
            values = array_from_raw(name, tensor.datatype, tensor.shape, raw)
        else:
            values = array_from_contents(name, tensor.datatype, tensor.shape, tensor.contents)
        return str(values.reshape(-1)[0]) if values.size == 1 else ""
    return ""


def _parsed(request: bytes) -> Any:  # noqa: ANN401 - generated message classes
    try:
        return pb.ModelInferRequest.FromString(request)
    except DecodeError:
        msg = "not a ModelInferRequest"
        raise MessageError(msg) from None

"""Messages with some of their values changed: what redaction does to them.

What is not named stays, but the bytes are serialized anew, with raw contents, and fields that this
product does not know are gone: nothing unread is passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from harness.core.tensors import Array
from harness.wire.contents import MessageError, datatype_from_array, raw_from_array
from harness.wire.facts import parameter_text
from harness.wire.gen import open_inference_pb2
from harness.wire.messages import tensors_from_request, tensors_from_response

pb: Any = open_inference_pb2

TensorEdit = Callable[[Array], Array] | None
"""What becomes of a tensor; None = it is removed."""
TextEdit = Callable[[str], str] | None
"""The same for a parameter."""


def edited_request(
    serialized: bytes, inputs: Mapping[str, TensorEdit], parameters: Mapping[str, TextEdit]
) -> bytes:
    """A ModelInferRequest with changed inputs and top-level parameters.

    Args:
      serialized: the message.
      inputs: by name; names that it does not have change nothing.
      parameters: by name; a changed one becomes text.

    Raises:
      MessageError: it is no request, or its tensors cannot be read.
    """
    message = _parsed(pb.ModelInferRequest, serialized)
    _edit_parameters(message, parameters)
    if any(t.name in inputs for t in message.inputs):
        found = tensors_from_request(serialized)
        _edit_tensors(message.inputs, message.raw_input_contents, found, inputs)
    return bytes(message.SerializeToString(deterministic=True))


def edited_response(
    serialized: bytes, outputs: Mapping[str, TensorEdit], parameters: Mapping[str, TextEdit]
) -> bytes:
    """The same for a ModelInferResponse.

    Raises:
      MessageError: it is no response, or its tensors cannot be read.
    """
    message = _parsed(pb.ModelInferResponse, serialized)
    _edit_parameters(message, parameters)
    if any(t.name in outputs for t in message.outputs):
        found = tensors_from_response(serialized)
        _edit_tensors(message.outputs, message.raw_output_contents, found, outputs)
    return bytes(message.SerializeToString(deterministic=True))


def _parsed(kind: Any, serialized: bytes) -> Any:  # noqa: ANN401 - generated message classes
    try:
        message = kind.FromString(serialized)
    except DecodeError:
        msg = f"not a {kind.DESCRIPTOR.name}"
        raise MessageError(msg) from None
    message.DiscardUnknownFields()
    return message


def _edit_parameters(message: Any, edits: Mapping[str, TextEdit]) -> None:  # noqa: ANN401
    for name, edit in edits.items():
        if name not in message.parameters:
            continue
        text = parameter_text(message.parameters[name])
        del message.parameters[name]
        if edit is not None:
            message.parameters[name].string_param = edit(text)


def _edit_tensors(
    descriptors: Any,  # noqa: ANN401 - generated message classes
    raws: Any,  # noqa: ANN401
    found: Mapping[str, Array],
    edits: Mapping[str, TensorEdit],
) -> None:
    kept = []
    del raws[:]
    for descriptor in descriptors:
        array = found[descriptor.name]
        if descriptor.name in edits:
            edit = edits[descriptor.name]
            if edit is None:
                continue
            array = edit(array)
            descriptor.datatype = datatype_from_array(descriptor.name, array)
        descriptor.ClearField("contents")
        kept.append(descriptor)
        raws.append(raw_from_array(descriptor.name, array))
    copies = [type(d).FromString(d.SerializeToString()) for d in kept]
    del descriptors[:]
    descriptors.extend(copies)

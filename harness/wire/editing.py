"""Messages with some of their values changed: what redaction does to them.

What is not named stays, but the bytes are serialized anew, with raw contents, and fields that this
product does not know are gone: nothing unread is passed on. So a message with contents that no tensor's
name leads to, or two tensors of one name, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from harness.core.tensors import Array
from harness.wire.contents import MessageError, datatype_from_array, raw_from_array
from harness.wire.facts import parameter_text
from harness.wire.gen import open_inference_pb2
from harness.wire.messages import tensors_from_request, tensors_from_response

pb: Any = open_inference_pb2

TensorEdit = Callable[[Array], Array | None]
"""What becomes of a tensor; None = it is removed."""
TextEdit = Callable[[str], str | None]
"""The same for a parameter."""


def edited_request(
    serialized: bytes, inputs: Mapping[str, TensorEdit], parameters: Mapping[str, TextEdit]
) -> bytes:
    """A ModelInferRequest with changed inputs and parameters, its tensors' own among them.

    Args:
      serialized: the message.
      inputs: by name; names that it does not have change nothing.
      parameters: by name; a changed one becomes text.

    Raises:
      MessageError: it is no request, contradicts itself, or its tensors cannot be read.
    """
    message = _parsed(pb.ModelInferRequest, serialized)
    _check(message.inputs, message.raw_input_contents)
    _edit_parameters((message, *message.inputs, *message.outputs), parameters)
    if any(t.name in inputs for t in message.inputs):
        found = tensors_from_request(serialized)
        _edit_tensors(message.inputs, message.raw_input_contents, found, inputs)
    return bytes(message.SerializeToString(deterministic=True))


def edited_response(
    serialized: bytes, outputs: Mapping[str, TensorEdit], parameters: Mapping[str, TextEdit]
) -> bytes:
    """The same for a ModelInferResponse.

    Raises:
      MessageError: it is no response, contradicts itself, or its tensors cannot be read.
    """
    message = _parsed(pb.ModelInferResponse, serialized)
    _check(message.outputs, message.raw_output_contents)
    _edit_parameters((message, *message.outputs), parameters)
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


def _check(descriptors: Any, raws: Any) -> None:  # noqa: ANN401 - generated message classes
    names = [d.name for d in descriptors]
    if len(set(names)) != len(names):
        msg = "a tensor appears twice"
        raise MessageError(msg)
    if not raws:
        return
    if len(raws) != len(names):
        msg = f"{len(raws)} raw contents for {len(names)} tensors"
        raise MessageError(msg)
    for descriptor in descriptors:
        # Raw contents win. Empty ones beside them are what some servers send.
        if descriptor.HasField("contents") and descriptor.contents.ByteSize():
            msg = f"tensor '{descriptor.name}' has typed and raw contents"
            raise MessageError(msg)


def _edit_parameters(holders: Iterable[Any], edits: Mapping[str, TextEdit]) -> None:
    for holder in holders:
        for name, edit in edits.items():
            if name not in holder.parameters:
                continue
            text = parameter_text(holder.parameters[name])
            del holder.parameters[name]
            edited = edit(text)
            if edited is not None:
                holder.parameters[name].string_param = edited


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
            edited = edits[descriptor.name](array)
            if edited is None:
                continue
            array = edited
            descriptor.datatype = datatype_from_array(descriptor.name, array)
        descriptor.ClearField("contents")
        kept.append(descriptor)
        raws.append(raw_from_array(descriptor.name, array))
    copies = [type(d).FromString(d.SerializeToString()) for d in kept]
    del descriptors[:]
    descriptors.extend(copies)

"""What a recorder wants to know of a message, without reading its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from harness.wire.contents import MessageError
from harness.wire.gen import open_inference_pb2

pb: Any = open_inference_pb2
_SHARED_MEMORY = "shared_memory_region"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """Of a ModelInferRequest."""

    model: str
    """Model name asked for."""
    version: str
    """Version asked for; "" = the server chooses."""
    request_id: str
    """Its id; "" = none."""
    parameters: dict[str, str]
    """Top-level parameters as text: sequence ids, priorities and whatever clients add."""
    shared_memory: bool
    """Whether a tensor is in memory that server and client share and never crosses the wire."""
    outputs: tuple[str, ...] = ()
    """Outputs that it names; () = it takes all there are."""
    rows: int | None = None
    """First dimension of every input; None where they differ, or there is none."""


def request_facts(serialized: bytes) -> RequestFacts:
    """Reads a request.

    Raises:
      MessageError: it is no ModelInferRequest.
    """
    try:
        message = pb.ModelInferRequest.FromString(serialized)
    except DecodeError:
        msg = "not a ModelInferRequest"
        raise MessageError(msg) from None
    return RequestFacts(
        model=message.model_name,
        version=message.model_version,
        request_id=message.id,
        parameters={name: parameter_text(p) for name, p in message.parameters.items()},
        shared_memory=any(_SHARED_MEMORY in tensor.parameters for tensor in message.inputs),
        outputs=tuple(output.name for output in message.outputs),
        rows=_rows(message),
    )


def _rows(message: Any) -> int | None:  # noqa: ANN401 - generated message classes
    found = {tensor.shape[0] if tensor.shape else None for tensor in message.inputs}
    rows = found.pop() if len(found) == 1 else None
    return None if rows is None else int(rows)


def outputs_asked(serialized: bytes) -> tuple[str, ...]:
    """Outputs that a request names; () = it takes all there are, or is no request."""
    try:
        asked = pb.ModelInferRequest.FromString(serialized).outputs
    except DecodeError:
        return ()
    return tuple(output.name for output in asked)


def response_version(serialized: bytes) -> str:
    """Version that answered; "" when the response does not say, or is none."""
    try:
        return str(pb.ModelInferResponse.FromString(serialized).model_version)
    except DecodeError:
        return ""


def parameter_text(parameter: Any) -> str:  # noqa: ANN401 - generated message classes
    """A parameter's value as text; "" = not set."""
    kind = parameter.WhichOneof("parameter_choice")
    return "" if kind is None else str(getattr(parameter, kind))

"""What a reader gives: parts of exchanges, or records it could not use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum


class Trouble(StrEnum):
    """Why a record could not be used."""

    UNDECODABLE = "undecodable"
    """Its bytes or fields are not what the format says."""
    OVERSIZED = "oversized"
    """Longer than the limit, or left out by the system that logged it because of its size."""
    CONFLICTING = "conflicting"
    """Contradicts another record that came before it."""
    LATE = "late"
    """An answer that came, alone or with its request again, after that was written without one."""
    OTHER = "other"
    """Readable, but no inference request: another component, another type of event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A request's or a response's body."""

    content: bytes
    """Verbatim."""
    content_type: str = ""
    """As the system says; it may be wrong. "" = not said."""
    is_message: bool = False
    """It was just made here, from columns, and is not parsed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A request, its answer, or both."""

    place: str
    """Where it stands: file and record."""
    id: str
    """Pairs requests with answers; becomes the request id."""
    model: str
    """Model name."""
    raw: bytes
    """The record as it was read, for the quarantine."""
    ts_ns: int
    """When the request, or else the answer, was made."""
    version: str = ""
    """Version that answered."""
    request: Payload | None = None
    """None = this part is only the answer."""
    response: Payload | None = None
    """None = this part is only the request, or the request failed (`code`)."""
    answered: bool = False
    """Whether the part says how the request ended, with `response` or without."""
    latency_ns: int | None = None
    """None = the time between both parts, or unknown."""
    code: int = 0
    """gRPC status code of the answer."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Call metadata."""
    context: dict[str, str] = field(default_factory=dict)
    """Columns to slice by."""
    trace_id: str = ""
    """Distributed-tracing id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A record that was not used."""

    place: str
    """Where it stands: file and record."""
    trouble: Trouble
    """Which kind."""
    why: str
    """In words."""
    raw: bytes
    """The record, or its beginning."""
    records: int | None = 1
    """How many records it stands for; None = the rest of a file that does not say how many it holds."""

    @property
    def counted(self) -> int:
        """As how many records it counts; what else hides is estimated (`losses`)."""
        return 1 if self.records is None else self.records


class PayloadError(ValueError):
    """A body that cannot be made an Open Inference message; `args[0]` says why."""


# gRPC's own mapping of HTTP answers is lossy; this is the one of grpc-gateway's errors, read backwards.
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 409: 10, 413: 8, 429: 8, 499: 1, 500: 13,
          501: 12, 503: 14, 504: 4}  # fmt: skip
_HTTP = range(100, 600)
_HTTP_OK, _HTTP_REDIRECT = 200, 300
UNKNOWN_CODE = 2
"""gRPC: how the request ended is not known."""


_KINDS = {
    type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text",
    list: "a list", dict: "an object", bytes: "bytes",
}  # fmt: skip


def kind_of(value: object) -> str:
    """What a value is."""
    return _KINDS.get(type(value), type(value).__name__)


def text_of(value: object, name: str) -> str:
    """An id or a name: text, or a whole number as text.

    Raises:
      PayloadError: it is empty, or something else.
    """
    if value is None or value == "":
        raise PayloadError(f"'{name}' is empty")
    if isinstance(value, str):
        return value
    if type(value) is int or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise PayloadError(f"'{name}' is {kind_of(value)}, no text")


def code_from_http(status: int) -> int:
    """GRPC status code of an HTTP status; 0 for 2xx.

    Raises:
      PayloadError: it is none.
    """
    if status not in _HTTP:
        raise PayloadError(f"the status is {str(status)[:40]}, none of HTTP's")
    if _HTTP_OK <= status < _HTTP_REDIRECT:
        return 0
    return _CODES.get(status, UNKNOWN_CODE)

"""Finished calls → exchanges to write: redacted, with an id, a model, and columns to slice by."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence

from harness.core.calls import Call, Metadata
from harness.core.recording import BESIDE_SAMPLE, Recorded
from harness.core.tensors import Tensors
from harness.core.traffic import Exchange
from harness.record.frames import Framed
from harness.record.packing import PackingError, unpacked
from harness.record.redaction import Redaction
from harness.store.counts import Counts
from harness.wire.contents import MessageError
from harness.wire.facts import RequestFacts, request_facts, response_version
from harness.wire.messages import tensors_from_request

_IDS_REMEMBERED = 200_000
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-")


class ExchangeMaker:
    """Makes exchanges, and counts those that may not be written and what is odd about others.

    Args:
      redaction: applied before anything else is read of a message.
      context: columns to slice by. Each is looked for in the metadata, then the request's parameters,
        then its inputs of one element.
      made_up: prefix of the ids given to requests without one; unique to this start.
      counts: where it counts.
      details: whether what the server said of a failure may be written: servers like to repeat the
        value that they did not like, and no redaction rule would find it there.
      message_bytes: a compressed message that holds more may not be written.
    """

    def __init__(
        self,
        redaction: Redaction,
        context: Sequence[str],
        *,
        made_up: str,
        counts: Counts,
        details: bool = True,
        message_bytes: int = 16 << 20,
    ) -> None:
        self._redaction = redaction
        self._details = details
        self._message_bytes = message_bytes
        self._context = tuple(context)
        self._made_up = made_up
        self._counts = counts
        self._without_id = 0
        self._ids = _Remembered()
        self._clock = ClockWatch()

    def make(self, framed: Framed) -> Exchange | None:
        """The exchange, or None when it may not be written."""
        try:
            call = unpacked(framed.call, self._message_bytes)
        except PackingError as error:
            self._counts.add(error.why)
            return None
        try:
            facts = request_facts(call.request)
        except MessageError:
            self._counts.add(Recorded.UNPARSABLE)
            return None
        if facts.shared_memory:
            self._counts.add(Recorded.SHARED_MEMORY)
            return None
        try:
            request = self._redaction.request(call.request)
            response = self._redaction.response(call.response)
        except MessageError:
            self._counts.add(Recorded.UNREDACTABLE)
            return None
        if request is not call.request:
            facts = request_facts(request)
        metadata = _texts(self._redaction.metadata(call.metadata))
        self._counts.set(Recorded.RULES_UNUSED, len(self._redaction.unused))
        return Exchange(
            ts_ns=call.ts_ns,
            latency_ns=call.latency_ns,
            code=call.code,
            method=call.method,
            model=facts.model,
            version=response_version(response) or facts.version,
            request_id=self._id(facts.request_id),
            request=request,
            response=response,
            metadata=metadata | _remarks(framed, call, details=self._details),
            context=self._context_of(metadata, facts, self._tensors(request)),
            trace_id=_trace_id(metadata),
        )

    def look_at_clock(self) -> None:
        """Counts a step of the wall clock since the last look."""
        if self._clock.stepped(time.time_ns(), time.monotonic_ns()):
            self._counts.add(Recorded.CLOCK_STEPS)

    def _tensors(self, request: bytes) -> Tensors:
        try:
            return tensors_from_request(request)
        except MessageError:
            self._counts.add(Recorded.WRONG_TENSORS)
            return {}

    def _id(self, given: str) -> str:
        if not given:
            self._counts.add(Recorded.WITHOUT_ID)
            self._without_id += 1
            return f"{self._made_up}{self._without_id}"
        if self._ids.repeats(given):
            self._counts.add(Recorded.DUPLICATE_IDS)
        return given

    def _context_of(
        self, metadata: dict[str, str], facts: RequestFacts, inputs: Tensors
    ) -> dict[str, str]:
        found = {}
        for name in self._context:
            if name in metadata:
                found[name] = metadata[name]
            elif name in facts.parameters:
                found[name] = facts.parameters[name]
            elif name in inputs and inputs[name].size == 1:
                found[name] = str(inputs[name].item())
        return found


class _Remembered:
    """Ids seen of late: the last 200,000 at least, in memory that does not grow."""

    def __init__(self) -> None:
        self._new: set[int] = set()
        self._old: set[int] = set()

    def repeats(self, request_id: str) -> bool:
        """Whether the id was there before; remembers it."""
        key = hash(request_id)
        known = key in self._new or key in self._old
        self._new.add(key)
        if len(self._new) >= _IDS_REMEMBERED:
            self._old, self._new = self._new, set()
        return known


class ClockWatch:
    """Tells when the wall clock was set: it no longer runs beside the one that nobody sets."""

    STEP_NS = 1_000_000_000

    def __init__(self) -> None:
        self._apart: int | None = None

    def stepped(self, wall_ns: int, steady_ns: int) -> bool:
        """Whether the wall clock was set since the last call, by a second or more."""
        apart, before = wall_ns - steady_ns, self._apart
        self._apart = apart
        return before is not None and abs(apart - before) >= self.STEP_NS


def _remarks(framed: Framed, call: Call, *, details: bool) -> dict[str, str]:
    """What no client sent, under names that no metadata can have.

    Args:
      framed: the call as it passed.
      call: as it is recorded.
      details: whether what the server said of a failure is told.
    """
    remarks = {
        ":stream": call.stream,
        ":details": _text(call.details) if details else "",
        ":status-details": _status_details(call) if details else "",
        ":cancelled": "yes" if call.cancelled else "",
        BESIDE_SAMPLE: "failure" if framed.kept_as_failed else "",
    }
    return {name: text for name, text in remarks.items() if text}


def _status_details(call: Call) -> str:
    for name, value in call.trailing:
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            return base64.b64encode(value).decode()
    return ""


def _texts(metadata: Metadata) -> dict[str, str]:
    """Metadata as text; bytes as base64, values of one name joined as HTTP joins them."""
    found: dict[str, str] = {}
    for name, value in metadata:
        text = _text(value) if isinstance(value, str) else base64.b64encode(value).decode()
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def _text(given: str) -> str:
    return given.encode("utf-8", "replace").decode()


def _trace_id(metadata: dict[str, str]) -> str:
    found = _TRACEPARENT.match(metadata.get("traceparent", ""))
    return found[1] if found else metadata.get("x-b3-traceid", "")

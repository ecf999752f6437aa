"""ModelStreamInfer: one stream of requests and answers, told to the taps as pairs.

An answer carries the id of its request; without one it belongs to the oldest request that waits. Errors
of single requests come in-band, as an answer with a message and the stream goes on. What is left without
an answer when the stream ends is told as failed with the stream's own status. A model may also give
several answers to a request ("decoupled"): the first is told, the others are counted.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from harness.core.calls import Call, Metadata, Tap
from harness.core.clock import now_ns
from harness.core.traffic import OK_CODE
from harness.record.passing import passed
from harness.record.unary import client_gone, passed_on
from harness.record.upstream import Route
from harness.wire import MODEL_STREAM_INFER
from harness.wire.scan import REQUEST_ID, STREAM_ERROR, STREAM_RESPONSE, bytes_field

MOST_WAITING = 1024
MOST_WAITING_BYTES = 64 << 20
"""Of one stream's requests that are remembered until they are answered; older ones are forgotten, and
then count among the unpaired."""
_UNKNOWN = int(grpc.StatusCode.UNKNOWN.value[0])


class InferStreams:
    """The handler of ModelStreamInfer.

    Args:
      route: chooses the upstream by the first message.
      taps: hear of each pair.
    """

    def __init__(self, route: Route, taps: Sequence[Tap]) -> None:
        self._route = route
        self._taps = tuple(taps)
        self._numbers = itertools.count(1)
        self.unpaired = 0

    async def handler(self, requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: ANN401
        """Passes one stream."""
        metadata = passed_on(context.invocation_metadata())
        first = await anext(aiter(requests), None)
        start, remaining = time.perf_counter_ns(), context.time_remaining()
        upstream = self._route(MODEL_STREAM_INFER, first or b"", metadata)
        pairs = _Pairs(self, metadata, upstream.name, f"stream-{next(self._numbers)}")
        call = upstream.stream(MODEL_STREAM_INFER)(timeout=remaining, metadata=metadata)
        try:
            await passed(_with_first(first, requests), context, call, pairs.sent, pairs.answered)
        except asyncio.CancelledError:
            pairs.ended(*client_gone(remaining, start), gone=True)
            raise
        finally:
            if call.done():
                code, details = await call.code(), await call.details()
                pairs.ended(int(code.value[0]), details or "", gone=False)

    def tell(self, call: Call) -> None:
        """Tells the taps."""
        for tap in self._taps:
            tap.offer(call)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request without an answer yet."""

    ts_ns: int
    start_ns: int
    request: bytes


class _Pairs:
    """Finds each answer's request."""

    def __init__(
        self, streams: InferStreams, metadata: Metadata, upstream: str, stream: str
    ) -> None:
        self._streams = streams
        self._metadata = metadata
        self._upstream = upstream
        self._stream = stream
        self._waiting: OrderedDict[int, tuple[bytes, _Waiting]] = OrderedDict()
        self._by_id: dict[bytes, list[int]] = {}
        self._numbers = itertools.count()
        self._bytes = 0

    def sent(self, request: bytes) -> None:
        """A request goes to the upstream."""
        number = next(self._numbers)
        request_id = bytes_field(request, REQUEST_ID) or b""
        self._waiting[number] = (
            request_id,
            _Waiting(now_ns(), time.perf_counter_ns(), request),
        )
        self._bytes += len(request)
        if request_id:
            self._by_id.setdefault(request_id, []).append(number)
        while len(self._waiting) > MOST_WAITING or self._bytes > MOST_WAITING_BYTES:
            self._take(next(iter(self._waiting)))
            self._streams.unpaired += 1

    def answered(self, message: bytes) -> None:
        """An answer goes to the client."""
        response = bytes_field(message, STREAM_RESPONSE)
        error = bytes_field(message, STREAM_ERROR)
        number = self._number_of(bytes_field(response or b"", REQUEST_ID) or b"")
        if number is None:
            self._streams.unpaired += 1
            return
        waiting = self._take(number)
        if error:
            self._tell(waiting, _UNKNOWN, error.decode("utf-8", "replace"), b"")
        else:
            self._tell(waiting, OK_CODE, "", response or b"")

    def ended(self, code: int, details: str, *, gone: bool) -> None:
        """The stream is over; whoever waits gets no answer."""
        if code == OK_CODE:
            code, details = _UNKNOWN, "the stream ended without an answer"
        for number in list(self._waiting):
            self._tell(self._take(number), code, details, b"", gone=gone)

    def _number_of(self, answer_id: bytes) -> int | None:
        if answer_id:
            numbers = self._by_id.get(answer_id)
            return numbers[0] if numbers else None
        return next(iter(self._waiting), None)

    def _take(self, number: int) -> _Waiting:
        request_id, waiting = self._waiting.pop(number)
        self._bytes -= len(waiting.request)
        if request_id:
            self._by_id[request_id].remove(number)
            if not self._by_id[request_id]:
                del self._by_id[request_id]
        return waiting

    def _tell(
        self, waiting: _Waiting, code: int, details: str, response: bytes, *, gone: bool = False
    ) -> None:
        self._streams.tell(
            Call(
                ts_ns=waiting.ts_ns, latency_ns=time.perf_counter_ns() - waiting.start_ns,
                method=MODEL_STREAM_INFER, code=code, details=details, request=waiting.request,
                response=response, metadata=self._metadata, trailing=(), upstream=self._upstream,
                cancelled=gone, stream=self._stream,
            )
        )  # fmt: skip


async def _with_first(first: bytes | None, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first is None:
        return
    yield first
    async for message in rest:
        yield message

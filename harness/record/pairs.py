"""Which request a streamed answer belongs to.

An answer carries the id of its request; without one it belongs to the oldest request that waits. Errors
of single requests come in-band, as an answer with a message and the stream goes on. What is left without
an answer when the stream ends is told as failed with the stream's own status. A model may also give
several answers to a request ("decoupled"): the first is told, the others are counted.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.calls import Call, Metadata, Tap
from harness.core.clock import now_ns
from harness.core.traffic import OK_CODE
from harness.record.messages import Message, Room, unkept
from harness.record.outcomes import UNKNOWN
from harness.wire import MODEL_STREAM_INFER
from harness.wire.scan import REQUEST_ID, STREAM_ERROR, STREAM_RESPONSE, bytes_field

MOST_WAITING = 1024
MOST_WAITING_BYTES = 64 << 20
"""Of one stream's requests that are remembered until they are answered; older ones are forgotten, and
then count among the unpaired."""


class PairTeller:
    """Tells the taps of each pair, and counts what belongs to none.

    Args:
      taps: hear of each pair.
      room: for the requests that wait, of all streams together; None = each stream has its own only.
    """

    def __init__(self, taps: Sequence[Tap], room: Room | None = None) -> None:
        self._taps = tuple(taps)
        self.room = room or Room(None)
        self.unpaired = 0

    def tell(self, call: Call) -> None:
        """Tells the taps."""
        for tap in self._taps:
            tap.offer(call)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request without an answer yet."""

    ts_ns: int
    start_ns: int
    request: Message
    held: int
    """Of the room."""


class Pairs:
    """Finds each answer's request, in one stream.

    Args:
      teller: tells what was found.
      metadata: the client's.
      upstream: its name.
      stream: the stream's name.
    """

    def __init__(self, teller: PairTeller, metadata: Metadata, upstream: str, stream: str) -> None:
        self._teller = teller
        self._metadata = metadata
        self._upstream = upstream
        self._stream = stream
        self._waiting: OrderedDict[int, tuple[bytes, _Waiting]] = OrderedDict()
        self._by_id: dict[bytes, list[int]] = {}
        self._numbers = itertools.count()
        self._bytes = 0

    def sent(self, request: Message) -> None:
        """A request goes to the upstream."""
        number = next(self._numbers)
        request_id = request.request_id
        held = len(request.content)
        if not self._teller.room.take(held):
            request, held = request.without_room(), 0
        self._waiting[number] = (
            request_id,
            _Waiting(now_ns(), time.perf_counter_ns(), request, held),
        )
        self._bytes += held
        if request_id:
            self._by_id.setdefault(request_id, []).append(number)
        while len(self._waiting) > MOST_WAITING or self._bytes > MOST_WAITING_BYTES:
            self._take(next(iter(self._waiting)))
            self._teller.unpaired += 1

    def answered(self, answer: Message) -> None:
        """An answer goes to the client."""
        message, cut = answer.content, bool(answer.why)
        response = bytes_field(message, STREAM_RESPONSE, cut=cut)
        error = bytes_field(message, STREAM_ERROR, cut=cut)
        number = self._number_of(bytes_field(response or b"", REQUEST_ID, cut=cut) or b"")
        if number is None:
            self._teller.unpaired += 1
            return
        waiting = self._take(number)
        if error:
            self._tell(waiting, UNKNOWN, error.decode("utf-8", "replace"))
        else:
            self._tell(waiting, OK_CODE, "", answer.holding(response or b""))

    def ended(self, code: int, details: str, *, gone: bool) -> None:
        """The stream is over; whoever waits gets no answer."""
        if code == OK_CODE:
            code, details = UNKNOWN, "the stream ended without an answer"
        for number in list(self._waiting):
            self._tell(self._take(number), code, details, gone=gone)

    @property
    def waiting(self) -> int:
        """Requests without an answer yet."""
        return len(self._waiting)

    def forget(self) -> None:
        """Nobody will hear of those that wait."""
        for number in list(self._waiting):
            self._take(number)

    def _number_of(self, answer_id: bytes) -> int | None:
        if answer_id:
            numbers = self._by_id.get(answer_id)
            return numbers[0] if numbers else None
        return next(iter(self._waiting), None)

    def _take(self, number: int) -> _Waiting:
        request_id, waiting = self._waiting.pop(number)
        self._bytes -= waiting.held
        self._teller.room.give(waiting.held)
        if request_id:
            self._by_id[request_id].remove(number)
            if not self._by_id[request_id]:
                del self._by_id[request_id]
        return waiting

    def _tell(
        self, waiting: _Waiting, code: int, details: str, response: Message | None = None, *,
        gone: bool = False,
    ) -> None:  # fmt: skip
        request, answer = waiting.request, response or Message(b"", 0)
        missing = unkept(request, answer)
        self._teller.tell(
            Call(
                ts_ns=waiting.ts_ns, latency_ns=time.perf_counter_ns() - waiting.start_ns,
                method=MODEL_STREAM_INFER, code=code, details=details,
                request=b"" if missing else request.content,
                response=b"" if missing else answer.content,
                metadata=self._metadata, trailing=(), upstream=self._upstream, cancelled=gone,
                stream=self._stream, unkept=missing,
            )
        )  # fmt: skip

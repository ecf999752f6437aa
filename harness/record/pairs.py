"""Which request a streamed answer belongs to.

An answer carries the id of its request; without one it belongs to the oldest request that waits. Errors
of single requests come in-band, as an answer with a message and the stream goes on. What is left without
an answer when the stream ends is told as failed with the stream's own status. A model may also give
several answers to a request ("decoupled"): the first is told, the others are counted. Without ids nobody
can tell which those are: once there was an answer too many, what has no id is counted and not recorded.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.core.calls import Call, Metadata, Tap
from harness.core.clock import now_ns
from harness.core.recording import Recorded
from harness.core.traffic import OK_CODE, UNKNOWN_CODE
from harness.record.messages import Message, Room, unkept
from harness.record.packing import ERROR_WITHIN_BYTES
from harness.wire import MODEL_STREAM_INFER
from harness.wire.scan import REQUEST_ID, STREAM_ERROR, STREAM_RESPONSE, bytes_field

MOST_WAITING = 8192
MOST_WAITING_BYTES = 64 << 20
"""Of one stream's requests that are remembered until they are answered; older ones are forgotten, and
counted so. They are kept without their content first."""
_WAITING_BYTES = 512
"""What a request that waits costs beside its content."""


class PairTeller:
    """Tells the taps of each pair, and counts what no tap hears of.

    Args:
      taps: hear of each pair.
      room: for the requests that wait, of all streams together; None = each stream has its own only.
      count: counts; None = nobody wants to know.
    """

    def __init__(
        self, taps: Sequence[Tap], room: Room | None = None,
        count: Callable[[Recorded, int], None] | None = None,
    ) -> None:  # fmt: skip
        self._taps = tuple(taps)
        self.room = room or Room(None)
        self.count = count or (lambda *_: None)

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
        self._forgotten = 0
        """Requests that were forgotten, the oldest ones, and whose answers have not come."""
        self._uncertain = False
        """Whether an answer without an id came too many: earlier ones may have had the wrong request."""

    def sent(self, request: Message) -> None:
        """A request goes to the upstream."""
        number = next(self._numbers)
        request_id = request.request_id
        held = self._taken(len(request.content))
        if held is None:
            request = request.not_kept(Recorded.NO_ROOM)
            held = self._taken(len(request.content))
        while self._waiting and (held is None or len(self._waiting) >= MOST_WAITING):
            self._take(next(iter(self._waiting)))
            self._forgot()
            held = self._taken(len(request.content)) if held is None else held
        if held is None:
            self._forgot()
            return
        self._waiting[number] = (
            request_id,
            _Waiting(now_ns(), time.perf_counter_ns(), request, held),
        )
        if request_id:
            self._by_id.setdefault(request_id, []).append(number)

    def answered(self, answer: Message) -> None:
        """An answer goes to the client."""
        cut = bool(answer.why or answer.packing)
        response = answer.field(STREAM_RESPONSE) or b""
        answer_id = bytes_field(response, REQUEST_ID, cut=cut) or b""
        number = self._number_of(answer_id)
        if number is None:
            self._unpaired(answer_id)
            return
        error = answer.field(STREAM_ERROR, ERROR_WITHIN_BYTES)
        waiting = self._take(number)
        if self._uncertain and not answer_id:
            waiting = replace(waiting, request=waiting.request.not_kept(Recorded.UNCERTAIN))
        if error:
            self._tell(waiting, UNKNOWN_CODE, error.decode("utf-8", "replace"))
        else:
            held = answer if answer.packing else replace(answer, content=response)
            self._tell(waiting, OK_CODE, "", held)

    def ended(self, code: int, details: str, *, gone: bool) -> None:
        """The stream is over; whoever waits gets no answer."""
        if code == OK_CODE:
            code, details = UNKNOWN_CODE, "the stream ended without an answer"
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
        return None if self._forgotten else next(iter(self._waiting), None)

    def _unpaired(self, answer_id: bytes) -> None:
        """An answer to a request that was forgotten and counted, or to none."""
        if self._forgotten:
            self._forgotten -= 1
            return
        self._uncertain |= not answer_id
        self._teller.count(Recorded.UNPAIRED, 1)

    def _forgot(self) -> None:
        self._forgotten += 1
        self._teller.count(Recorded.SEEN, 1)
        self._teller.count(Recorded.FORGOTTEN, 1)

    def _taken(self, content: int) -> int | None:
        """Takes what a request costs of the stream's room and of the common one; None = there is none."""
        cost = content + _WAITING_BYTES
        if self._bytes + cost > MOST_WAITING_BYTES or not self._teller.room.take(cost):
            return None
        self._bytes += cost
        return cost

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
                packing=("", "") if missing else (request.packing, answer.packing),
            )
        )  # fmt: skip

"""A connection that passes, followed: its bytes in both directions → calls for the taps.

It never raises: a connection that it does not understand still passes, is followed no more, and is
counted.
"""

from __future__ import annotations

import itertools
import logging
import math
import time

import hpack

from harness.core.clock import now_ns
from harness.core.recording import Recorded
from harness.record import health
from harness.record.followed import FollowedCall, Moment, Observer, StreamedCalls, UnaryCall
from harness.record.h2frames import PREFACE, FrameScanner, NotFollowedError
from harness.record.headers import (
    HeaderBlocks,
    RequestHead,
    ResponseHead,
    request_head,
    response_head,
)
from harness.record.outcomes import (
    PROXY_ENDED,
    REFUSED_STREAM,
    UPSTREAM_LOST,
    outcome_of_end,
    outcome_of_reset,
)
from harness.wire import MODEL_STREAM_INFER, SERVICE

LOG = logging.getLogger("harness.record")
_PREFIX = f"/{SERVICE}/"
ANY_STREAM = 0x7FFFFFFF
"""The highest number of a stream."""
_FINAL_STATUS = 200
"""HTTP statuses below are said before the answer's own."""
_QUIET_S = 0.5
"""What is no HTTP/2 has been answered when no more came for that long."""
_numbers = itertools.count(1)


class Following:
    """Follows one connection between a client and its upstream.

    Args:
      observer: hears of calls; shared by all connections.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._name = f"connection-{next(_numbers)}"
        self.open: dict[int, FollowedCall | None] = {}
        """Streams under way; None = one that no tap hears of."""
        self.last = 0
        """The newest stream of the client's."""
        self.served_to = ANY_STREAM
        """The upstream serves no stream above this one."""
        self.blind = False
        """Whether it is followed no more."""
        self._answered_at = math.inf
        """When the upstream spoke last, while it is not followed; inf = the client has spoken since."""
        self._now = Moment(ts_ns=0, steady_ns=0)
        requests = HeaderBlocks(request_head, observer.heads)
        responses = HeaderBlocks(response_head, observer.heads)
        self._blocks = requests, responses
        self._sent = FrameScanner(_Sent(self, requests), PREFACE)
        self.answers = FrameScanner(_Answered(self, responses))
        """The upstream's direction."""

    def sent(self, chunk: bytes) -> None:
        """The client sent a chunk."""
        if not self.blind:
            self._now = Moment(ts_ns=now_ns(), steady_ns=time.perf_counter_ns())
            self._follow(self._sent, chunk)
        if self.blind and chunk:
            self._answered_at = math.inf

    def answered(self, chunk: bytes) -> None:
        """The upstream sent a chunk."""
        if not self.blind:
            self._follow(self.answers, chunk)
        if self.blind and chunk:
            self._answered_at = time.monotonic()

    def client_lost(self) -> None:
        """The client went, or is cut off: so are the calls under way."""
        for call in self._taken():
            call.gone()

    def upstream_lost(self) -> None:
        """The upstream went: it answers no call under way."""
        for call in self._taken():
            call.over(*UPSTREAM_LOST, ())

    def cut(self) -> None:
        """The proxy ends before the calls under way do."""
        for call in self._taken():
            call.over(*PROXY_ENDED, ())

    def serves_to(self, last: int) -> None:
        """The upstream serves no stream above this one: clients may repeat those, and what they still begin."""
        self.served_to = min(self.served_to, last)
        for stream in [s for s in self.open if s > last]:
            call = self.open.pop(stream)
            if call is not None:
                call.not_processed()

    def begin(self, stream: int, call: FollowedCall | None) -> None:
        """A stream begins."""
        self.open[stream] = call
        self.last = max(self.last, stream)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way; of a connection of HTTP/2 that is not followed nobody knows."""
        if not self.blind:
            return not self.open
        quiet = time.monotonic() - self._answered_at > _QUIET_S
        return quiet and not self._sent.past_preface

    def ended(self) -> None:
        """Nothing more passes."""
        for blocks in self._blocks:
            blocks.ended()

    def _follow(self, scanner: FrameScanner, chunk: bytes) -> None:
        try:
            scanner.feed(chunk)
        except (NotFollowedError, hpack.HPACKError):
            self._give_up()
        except Exception:
            LOG.exception("a connection is followed no more; it passes")
            self._give_up()

    def _give_up(self) -> None:
        self.blind = True
        self.ended()
        count = self._observer.count
        if not self._sent.past_preface:
            count(Recorded.NOT_HTTP2, 1)
            return
        # It may carry any number of requests: one at the least, so that the totals say of a loss.
        requests = max(1, sum(call.unfollowed() for call in self._taken()))
        count(Recorded.BLIND, 1)
        count(Recorded.SEEN, requests)
        count(Recorded.UNFOLLOWED, requests)

    def _taken(self) -> list[FollowedCall]:
        found = [call for call in self.open.values() if call is not None]
        self.open.clear()
        return found

    @property
    def observer(self) -> Observer:
        """Who hears of calls."""
        return self._observer

    @property
    def now(self) -> Moment:
        """When the client's last chunk came."""
        return self._now

    @property
    def name(self) -> str:
        """Of the connection."""
        return self._name


class _Sent:
    """The client's frames."""

    def __init__(self, connection: Following, blocks: HeaderBlocks[RequestHead]) -> None:
        self._connection = connection
        self._open = connection.open
        self._blocks = blocks

    def data(self, stream: int, chunk: bytes, at: int, end: int) -> None:
        call = self._open.get(stream)
        if call is not None:
            call.sent(chunk, at, end, self._connection.now)

    def headers(self, stream: int, block: bytes, *, last: bool) -> None:  # noqa: ARG002 - requests end by their answers
        head = self._blocks.read(block)
        connection = self._connection
        if stream <= connection.last:
            return  # a client's trailers
        method = head.method
        if method == health.WATCH:
            connection.last = stream  # it ends with its connection: the end waits for no such call
        elif stream > connection.served_to:
            connection.last = stream
            if method.startswith(_PREFIX):
                connection.observer.count(Recorded.NOT_PROCESSED, 1)
        elif not method.startswith(_PREFIX):
            connection.begin(stream, None)
        elif method == MODEL_STREAM_INFER:
            name = f"{connection.name}-{stream}"
            connection.begin(stream, StreamedCalls(connection.observer, head, connection.now, name))
        else:
            connection.begin(stream, UnaryCall(connection.observer, head, connection.now))

    def ended(self, stream: int) -> None:
        """A request ends by its answer."""

    def reset(self, stream: int, code: int) -> None:  # noqa: ARG002 - whatever its reason, it has gone
        call = self._open.pop(stream, None)
        if call is not None:
            call.gone()

    def goaway(self, last: int) -> None:
        """A client's is about streams of the server's, and there are none."""


class _Answered:
    """The upstream's frames."""

    def __init__(self, connection: Following, blocks: HeaderBlocks[ResponseHead]) -> None:
        self._open = connection.open
        self._serves_to = connection.serves_to
        self._blocks = blocks

    def data(self, stream: int, chunk: bytes, at: int, end: int) -> None:
        call = self._open.get(stream)
        if call is not None:
            call.answered(chunk, at, end)

    def headers(self, stream: int, block: bytes, *, last: bool) -> None:
        head = self._blocks.read(block)
        if last:
            self._over(stream, head)
            return
        call = self._open.get(stream)
        if call is not None and head.http_status >= _FINAL_STATUS:
            call.http_status = head.http_status
            call.answers.encoding = head.encoding

    def ended(self, stream: int) -> None:
        self._over(stream, None)

    def reset(self, stream: int, code: int) -> None:
        call = self._open.pop(stream, None)
        if call is None:
            return
        if code == REFUSED_STREAM:
            call.not_processed()
        else:
            call.broken(*outcome_of_reset(code))

    def goaway(self, last: int) -> None:
        self._serves_to(last)

    def _over(self, stream: int, head: ResponseHead | None) -> None:
        call = self._open.pop(stream, None)
        if call is None:
            return
        http_status = call.http_status or (0 if head is None else head.http_status)
        code, details = outcome_of_end(head, http_status)
        call.over(code, details, () if head is None else head.metadata)

"""One call on a connection that passes: what was said of it so far, and who hears of it at its end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.core.calls import Call, Metadata, Tap
from harness.core.recording import Recorded
from harness.core.traffic import OK_CODE
from harness.record.headers import RequestHead
from harness.record.messages import Message, Messages, Room, unkept
from harness.record.outcomes import DEADLINE_EXCEEDED, client_gone, without_answer
from harness.record.pairs import Pairs, PairTeller

_HEADS_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """What all connections of a relay share."""

    taps: Sequence[Tap]
    """Hear of every finished unary call of the inference service."""
    teller: PairTeller
    """Tells of streamed pairs."""
    room: Room
    """For what calls under way hold."""
    message_bytes: int
    """A larger message is not kept."""
    upstream: str
    """Its name."""
    count: Callable[[Recorded, int], None]
    """Counts what no tap hears of."""
    heads: Room = field(default_factory=lambda: Room(_HEADS_BYTES))
    """For the headers that all connections remember."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a chunk came."""

    ts_ns: int
    """Since the epoch."""
    steady_ns: int
    """By `time.perf_counter_ns`."""


class FollowedCall(ABC):
    """What is followed until its end.

    Args:
      observer: shared by all.
      head: what the client said first.
      now: when.
    """

    __slots__ = ("answers", "begun", "head", "http_status", "observer", "requests")

    def __init__(self, observer: Observer, head: RequestHead, now: Moment) -> None:
        self.observer = observer
        self.head = head
        self.begun = now
        self.requests = Messages(observer.message_bytes, observer.room)
        self.requests.encoding = head.encoding
        self.answers = Messages(observer.message_bytes, observer.room)
        self.http_status = 0
        """Of the answer; 0 = none yet."""

    @abstractmethod
    def sent(self, chunk: bytes, at: int, end: int, now: Moment) -> None:
        """The client sent chunk[at:end]."""

    @abstractmethod
    def answered(self, chunk: bytes, at: int, end: int) -> None:
        """The server sent chunk[at:end]."""

    @abstractmethod
    def over(self, code: int, details: str, trailing: Metadata, *, gone: bool = False) -> None:
        """It has ended; `gone` = by the client."""

    @abstractmethod
    def unfollowed(self) -> int:
        """Nobody will hear of it; how many requests that are."""

    @abstractmethod
    def not_processed(self) -> None:
        """The server had not begun with it, and says so: most clients repeat such a call by themselves."""

    def gone(self) -> None:
        """The client took it back, or went."""
        self.over(*client_gone(self.head.timeout_s, self.begun.steady_ns), (), gone=True)

    def broken(self, code: int, details: str) -> None:
        """The server broke it off; servers do so at the deadline, too."""
        if client_gone(self.head.timeout_s, self.begun.steady_ns)[0] == DEADLINE_EXCEEDED:
            self.gone()
        else:
            self.over(code, details, ())

    def release(self) -> None:
        """Gives back what it held."""
        self.requests.ended()
        self.answers.ended()


class UnaryCall(FollowedCall):
    """A call with one request and one answer."""

    __slots__ = ("_answer", "_arrived", "_request")

    def __init__(self, observer: Observer, head: RequestHead, now: Moment) -> None:
        super().__init__(observer, head, now)
        self._arrived = now
        self._request: Message | None = None
        self._answer: Message | None = None

    def sent(self, chunk: bytes, at: int, end: int, now: Moment) -> None:
        """See FollowedCall."""
        found = self.requests.feed(chunk, at, end)
        if found and self._request is None:
            self._request, self._arrived = found[0], now

    def answered(self, chunk: bytes, at: int, end: int) -> None:
        """See FollowedCall."""
        found = self.answers.feed(chunk, at, end)
        if found and self._answer is None:
            self._answer = found[0]

    def over(self, code: int, details: str, trailing: Metadata, *, gone: bool = False) -> None:
        """See FollowedCall."""
        request, answer = self._request, self._answer
        if answer is None:
            code, details = without_answer(code, details)
        if answer is None or code != OK_CODE:
            answer = _NO_ANSWER
        if request is None:
            request = _NO_REQUEST if gone else self.requests.unfinished()
        missing = unkept(request, answer)
        told = Call(
            ts_ns=self._arrived.ts_ns,
            latency_ns=time.perf_counter_ns() - self._arrived.steady_ns,
            method=self.head.method, code=code, details=details,
            request=b"" if missing else request.content,
            response=b"" if missing else answer.content,
            metadata=self.head.metadata, trailing=trailing, upstream=self.observer.upstream,
            cancelled=gone, unkept=missing,
            packing=("", "") if missing else (request.packing, answer.packing),
        )  # fmt: skip
        self.release()
        for tap in self.observer.taps:
            tap.offer(told)

    def unfollowed(self) -> int:
        """See FollowedCall."""
        self.release()
        return 1

    def not_processed(self) -> None:
        """See FollowedCall."""
        self.release()
        self.observer.count(Recorded.NOT_PROCESSED, 1)


_NO_REQUEST = Message(b"", 0, Recorded.INCOMPLETE)
_NO_ANSWER = Message(b"", 0)


class StreamedCalls(FollowedCall):
    """A stream of requests and answers.

    Args:
      observer: shared by all.
      head: what the client said.
      now: when.
      name: of the stream.
    """

    __slots__ = ("_pairs",)

    def __init__(self, observer: Observer, head: RequestHead, now: Moment, name: str) -> None:
        super().__init__(observer, head, now)
        self._pairs = Pairs(observer.teller, head.metadata, observer.upstream, name)

    def sent(self, chunk: bytes, at: int, end: int, now: Moment) -> None:  # noqa: ARG002 - pairs have their own times
        """See FollowedCall."""
        for message in self.requests.feed(chunk, at, end):
            self.requests.released()
            self._pairs.sent(message)

    def answered(self, chunk: bytes, at: int, end: int) -> None:
        """See FollowedCall."""
        for message in self.answers.feed(chunk, at, end):
            self.answers.released()
            self._pairs.answered(message)

    def over(self, code: int, details: str, trailing: Metadata, *, gone: bool = False) -> None:  # noqa: ARG002 - they are the stream's
        """See FollowedCall."""
        if self.requests.begun and gone:
            self.observer.count(Recorded.INCOMPLETE, 1)
        elif self.requests.begun:
            self._pairs.sent(self.requests.unfinished())
        self.release()
        self._pairs.ended(code, details, gone=gone)

    def unfollowed(self) -> int:
        """See FollowedCall."""
        self.release()
        waiting = self._pairs.waiting
        self._pairs.forget()
        return waiting

    def not_processed(self) -> None:
        """See FollowedCall."""
        self.observer.count(Recorded.NOT_PROCESSED, self.unfollowed())

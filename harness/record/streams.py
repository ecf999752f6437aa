"""ModelStreamInfer: one stream of requests and answers, told to the taps as pairs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from harness.core.calls import Tap
from harness.core.recording import Recorded
from harness.record.messages import Message
from harness.record.outcomes import Ending
from harness.record.pairs import Pairs, PairTeller
from harness.record.passing import passed
from harness.record.unary import passed_on
from harness.record.upstream import Route
from harness.wire import MODEL_STREAM_INFER


class InferStreams:
    """The handler of ModelStreamInfer.

    Args:
      route: chooses the upstream by the first message.
      taps: hear of each pair.
      count: counts what they do not hear of.
      ending: of the proxy.
    """

    def __init__(
        self, route: Route, taps: Sequence[Tap], count: Callable[[Recorded, int], None] | None,
        ending: Ending,
    ) -> None:  # fmt: skip
        self._route = route
        self._ending = ending
        self._teller = PairTeller(taps, count=count)
        self._numbers = itertools.count(1)

    async def handler(self, requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: ANN401
        """Passes one stream."""
        metadata = passed_on(context.invocation_metadata())
        first = await anext(aiter(requests), None)
        start, remaining = time.perf_counter_ns(), context.time_remaining()
        upstream = self._route(MODEL_STREAM_INFER, first or b"", metadata)
        pairs = Pairs(self._teller, metadata, upstream.name, f"stream-{next(self._numbers)}")
        call = upstream.stream(MODEL_STREAM_INFER)(timeout=remaining, metadata=metadata)
        try:
            await passed(
                _with_first(first, requests), context, call, _whole(pairs.sent),
                _whole(pairs.answered),
            )  # fmt: skip
        except asyncio.CancelledError:
            code, details, gone = self._ending.broken_off(remaining, start)
            pairs.ended(code, details, gone=gone)
            raise
        finally:
            if call.done():
                code, details = await call.code(), await call.details()
                pairs.ended(int(code.value[0]), details or "", gone=False)


def _whole(heard: Callable[[Message], None]) -> Callable[[bytes], None]:
    return lambda message: heard(Message(message, len(message)))


async def _with_first(first: bytes | None, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first is None:
        return
    yield first
    async for message in rest:
        yield message

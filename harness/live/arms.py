"""An upstream as one judged request sees it: its calls carry the request's number.

The proxy tells its taps which upstream answered, by name. A name of its own for each request is how
the answer finds its arrival again, without a look into the request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import grpc
import grpc.aio

from harness.live.arrivals import Arrival
from harness.live.heartbeat import Heartbeat
from harness.record.upstream import Upstream

_JUDGED = "request "
_LATE = int(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
_ITS_CLIENTS_DOING = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})


class Arm:
    """An upstream for one request.

    Args:
      upstream: who answers.
      arrival: the request's.
    """

    __slots__ = ("_upstream", "name")

    def __init__(self, upstream: Upstream, arrival: Arrival) -> None:
        self._upstream = upstream
        self.name = f"{_JUDGED}{int(arrival.candidate)} {arrival.seq}"

    def unary(self, method: str) -> Any:  # noqa: ANN401 - grpc has no types
        """As the upstream's."""
        return self._upstream.unary(method)

    def stream(self, method: str) -> Any:  # noqa: ANN401 - grpc has no types
        """As the upstream's."""
        return self._upstream.stream(method)


class ForgivingArm(Arm):
    """The candidate for one request, with the baseline's answer where it fails.

    Args:
      upstream: the candidate.
      arrival: the request's.
      baseline: who is asked then.
      failed: hears of the failure: (the arm's name before, gRPC status code; None = nothing is known of it).
      patience_s: a candidate that has not answered by then has failed.
      heartbeat: a deadline that ends while this process stood still says nothing of the candidate.
    """

    __slots__ = ("_baseline", "_failed", "_heartbeat", "_patience_s")

    def __init__(
        self,
        upstream: Upstream,
        arrival: Arrival,
        baseline: Upstream,
        failed: Callable[[str, int | None], None],
        patience_s: float,
        heartbeat: Heartbeat,
    ) -> None:
        super().__init__(upstream, arrival)
        self._baseline = baseline
        self._failed = failed
        self._patience_s = patience_s
        self._heartbeat = heartbeat

    def unary(self, method: str) -> Any:  # noqa: ANN401 - grpc has no types
        """A callable like the upstream's, whose call turns to the baseline when it fails."""

        def asked(request: bytes, *, timeout: float | None, metadata: Any) -> _Forgiven:  # noqa: ANN401
            start = time.monotonic()

            def again() -> Any:  # noqa: ANN401
                left = None if timeout is None else timeout - (time.monotonic() - start)
                return self._baseline.unary(method)(request, timeout=left, metadata=metadata)

            ours = timeout is None or self._patience_s < timeout
            wait_s = self._patience_s if ours else timeout
            first = self._upstream.unary(method)(request, timeout=wait_s, metadata=metadata)
            doing = (
                _ITS_CLIENTS_DOING - {grpc.StatusCode.DEADLINE_EXCEEDED}
                if ours
                else _ITS_CLIENTS_DOING
            )
            return _Forgiven(first, again, partial(self._told, start), doing)

        return asked

    def _told(self, start: float, code: int) -> None:
        # What the client gets from here on is the baseline's, and is no observation.
        before, self.name = self.name, self._baseline.name
        late = code == _LATE and self._heartbeat.stood_since(start)
        self._failed(before, None if late else code)


class _Forgiven:
    """A call that is made once more, elsewhere, when it fails."""

    def __init__(
        self,
        first: Any,  # noqa: ANN401
        again: Callable[[], Any],
        failed: Callable[[int], None],
        raised: frozenset[grpc.StatusCode],
    ) -> None:
        self._raised = raised
        self._call = first
        self._again = again
        self._failed = failed

    def __await__(self) -> Generator[Any, None, bytes]:
        return self._answer().__await__()

    async def _answer(self) -> bytes:
        try:
            found: bytes = await self._call
        except grpc.aio.AioRpcError as error:
            if error.code() in self._raised:
                raise
            self._failed(int(error.code().value[0]))
            self._call = self._again()
            found = await self._call
        return found

    def cancel(self) -> None:
        """Takes the call back that is under way."""
        self._call.cancel()

    async def initial_metadata(self) -> Any:  # noqa: ANN401
        """Of the call that was answered."""
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:  # noqa: ANN401
        """Of the call that was answered."""
        return await self._call.trailing_metadata()


def judged(upstream: str) -> tuple[bool, int] | None:
    """(whether the candidate was asked, number of the arrival) of a finished call.

    Args:
      upstream: the name that the call carries.

    Returns:
      None where the call is not judged.
    """
    if not upstream.startswith(_JUDGED):
        return None
    arm, _, seq = upstream[len(_JUDGED) :].partition(" ")
    return arm == "1", int(seq)

"""The proxy: bytes in, bytes out; taps hear of every finished inference.

    client ── Proxy ── route(method, request, metadata) ── Upstream ── server
                 └── taps: offer(Call)

No message is parsed on the way. Unary methods of the inference service and its bidirectional stream
are understood as calls with an answer; every other method, of whatever service and kind, passes as a
plain stream of messages each way, which is the same bytes. Initial and trailing metadata, details,
deadlines and cancellations pass in both directions. What the proxy cannot pass, because grpc replaces
or hides it: `user-agent`, the compression of messages, and the order of different metadata names.

Taps run on the event loop between the answer and the next call: they must be quick and never wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from harness.core.calls import Tap
from harness.core.recording import Recorded
from harness.record import health, unary
from harness.record.listening import not_listened_on
from harness.record.outcomes import Ending
from harness.record.passing import pass_through
from harness.record.streams import InferStreams
from harness.record.tls import ServerTls
from harness.record.upstream import METHODS_KEPT, UNLIMITED, Route, Upstream
from harness.wire import MODEL_STREAM_INFER, SERVICE

_PREFIX = f"/{SERVICE}/"
_CANCELLED_WITHIN_S = 2.0
_LOOK_S = 0.01


class Proxy:
    """Serves clients from upstreams. Make, start and stop it in one event loop.

    Args:
      route: chooses the upstream of each call.
      taps: hear of every finished unary call of the inference service and every streamed pair.
      upstreams: all that `route` may choose; closed with the proxy. The health service says
        NOT_SERVING while the first of them cannot be reached.
      tls: None = plain text.
      reached: whether the first upstream can be reached, where somebody else knows it better.
      serves: whether to serve a client, as grpc names its address; None = all. Health is told to all.
      count: counts what no tap hears of; None = nobody wants to know.
    """

    def __init__(
        self,
        route: Route,
        taps: Sequence[Tap],
        *,
        upstreams: Sequence[Upstream],
        tls: ServerTls | None = None,
        reached: Callable[[], bool] | None = None,
        serves: Callable[[str], bool] | None = None,
        count: Callable[[Recorded, int], None] | None = None,
    ) -> None:
        self._upstreams = tuple(upstreams)
        self._tls = tls
        self._reached = reached or (lambda: not self._upstreams[0].failing)
        self._draining = False
        self._ending = Ending()
        streams = InferStreams(route, taps, count, self._ending)
        self._handlers = _Handlers(
            route,
            taps,
            streams,
            health.Health(self._serving, lambda: self._draining),
            _UnderWay(serves),
            self._ending,
        )
        self._server: Any = None
        self.port = 0

    async def start(self, listen: str) -> int:
        """Begins to serve.

        Args:
          listen: host:port; port 0 = any free one.

        Returns:
          The port.

        Raises:
          UsageError: the address cannot be listened on, or a TLS file cannot be used.
        """
        # Without so_reuseport=0 a second proxy on the same port would silently share its calls.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *UNLIMITED])
        self._server.add_generic_rpc_handlers((self._handlers,))
        try:
            self.port = (
                self._server.add_insecure_port(listen)
                if self._tls is None
                else self._server.add_secure_port(listen, self._tls.credentials())
            )
        except RuntimeError as error:
            raise not_listened_on(listen) from error
        await self._server.start()
        return self.port

    async def stop(self, grace_s: float) -> None:
        """Takes no new call, lets those under way end, then closes the upstreams.

        Args:
          grace_s: calls that take longer are cancelled.
        """
        self._draining = True
        if self._server is not None:
            asyncio.get_running_loop().call_later(grace_s, self._cut)
            await self._server.stop(grace_s)
            # The tasks of the calls that this cancelled still have to tell the taps.
            await self._handlers.under_way.ended(_CANCELLED_WITHIN_S)
        for upstream in self._upstreams:
            await upstream.close()

    def _cut(self) -> None:
        self._ending.cut = True

    def _serving(self) -> bool:
        return not self._draining and self._reached()


class _UnderWay:
    """Counts the calls that are under way, and lets in whom we serve.

    Args:
      serves: whom; None = all.
    """

    def __init__(self, serves: Callable[[str], bool] | None) -> None:
        self._serves = serves
        self._count = 0

    def counted(self, handle: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Any]:
        """A handler whose calls are counted."""

        async def handled(request: Any, context: Any) -> Any:  # noqa: ANN401 - grpc has no types
            if self._serves is not None and not self._serves(context.peer()):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a client of this proxy")
            self._count += 1
            try:
                return await handle(request, context)
            finally:
                self._count -= 1

        return handled

    async def ended(self, within_s: float) -> None:
        """Waits until none is under way, so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._count:
                    await asyncio.sleep(_LOOK_S)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A handler for any method."""

    def __init__(
        self,
        route: Route,
        taps: Sequence[Tap],
        streams: InferStreams,
        own_health: health.Health,
        under_way: _UnderWay,
        ending: Ending,
    ) -> None:
        self._route = route
        self._ending = ending
        self._taps = tuple(taps)
        self.under_way = under_way
        self._known: dict[str, Any] = {
            **own_health.handlers(),
            MODEL_STREAM_INFER: grpc.stream_stream_rpc_method_handler(
                self.under_way.counted(streams.handler)
            ),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of a method; grpc calls it for each call."""
        method: str = details.method
        handler = self._known.get(method)
        if handler is not None:
            return handler
        handler = (
            grpc.unary_unary_rpc_method_handler(
                self.under_way.counted(unary.handler(method, self._route, self._taps, self._ending))
            )
            if method.startswith(_PREFIX)
            else grpc.stream_stream_rpc_method_handler(
                self.under_way.counted(pass_through(method, self._route))
            )
        )
        if len(self._known) < METHODS_KEPT:
            self._known[method] = handler
        return handler

"""harness.v1.CanaryJudge over gRPC: Observe for whoever splits traffic, Watch for whoever follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from harness.core.errors import HarnessError, UsageError
from harness.core.live import Standing
from harness.live.own_thread import awaited
from harness.wire.canary_judge import (
    OBSERVE,
    WATCH,
    ObservedColumns,
    bytes_from_standing,
    observed_from_bytes,
    only_final_from_bytes,
)
from harness.wire.contents import MessageError

_LOOK_S = 0.1
_LARGEST = 64 << 20
Stands = Callable[[], tuple[Standing, int]]
"""Where the comparison stands, and the number of the batch that is due."""
Observe = Callable[[ObservedColumns], tuple[Standing, int]]
"""Judges a batch; raises a UsageError for one that it cannot take."""


class JudgeServer:
    """The service on a port of its own.

    Args:
      stands: where it stands; asked from the event loop.
      observe: called in a thread, one batch at a time; None = a proxy observes, and clients may not.
    """

    def __init__(self, stands: Stands, observe: Observe | None) -> None:
        self._stands = stands
        self._judge = observe
        self._one = asyncio.Lock()
        self._server: Any = None
        self._stopping = False

    async def start(self, listen: str) -> int:
        """Begins to serve.

        Args:
          listen: host:port; port 0 = any free one.

        Returns:
          The port.

        Raises:
          UsageError: the address cannot be listened on.
        """
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _LARGEST)]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Methods(self._observe, self._watch),))
        try:
            port = int(self._server.add_insecure_port(listen))
        except RuntimeError as error:
            raise UsageError(
                f"--judge-listen {listen}",
                "the address cannot be listened on",
                "Name a free port of this machine, as HOST:PORT.",
            ) from error
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Ends every stream."""
        self._stopping = True
        if self._server is not None:
            await self._server.stop(1.0)

    async def _observe(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401
        judge = self._judge
        if judge is None:
            what = "the proxy of this process observes; follow it with Watch"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, what)
            return
        async for message in requests:
            try:
                async with self._one:
                    found = await awaited(partial(judge, observed_from_bytes(message)))
            except MessageError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
            except UsageError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except HarnessError as error:
                await context.abort(grpc.StatusCode.INTERNAL, str(error))
            else:
                yield bytes_from_standing(*found)

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401
        try:
            only_final = only_final_from_bytes(request)
        except MessageError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
            return
        said: Standing | None = None
        while not self._stopping:
            standing, due = self._stands()
            if standing != said and (standing.final or not only_final):
                said = standing
                yield bytes_from_standing(standing, due)
            if standing.final:
                return
            await asyncio.sleep(_LOOK_S)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The two methods."""

    def __init__(self, observe: Any, watch: Any) -> None:  # noqa: ANN401
        self._handlers = {
            OBSERVE: grpc.stream_stream_rpc_method_handler(observe),
            WATCH: grpc.unary_stream_rpc_method_handler(watch),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a method."""
        return self._handlers.get(details.method)

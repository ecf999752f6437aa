"""Methods that nobody records: any service, any kind, passed as a stream of messages each way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from harness.record.unary import passed_on
from harness.record.upstream import Route

Heard = Callable[[bytes], None]


def pass_through(method: str, route: Route) -> Callable[[Any, Any], Awaitable[None]]:
    """A handler that passes every message as it comes.

    Args:
      method: full RPC name.
      route: chooses the upstream, for an empty request.
    """

    async def handle(requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: ANN401 - grpc has no types
        metadata = passed_on(context.invocation_metadata())
        call = route(method, b"", metadata).stream(method)(
            timeout=context.time_remaining(), metadata=metadata
        )
        await passed(requests, context, call)

    return handle


async def passed(
    requests: AsyncIterator[bytes],
    context: Any,  # noqa: ANN401 - grpc has no types
    call: Any,  # noqa: ANN401 - grpc has no types
    sent: Heard | None = None,
    answered: Heard | None = None,
) -> None:
    """Joins a client's stream with an upstream's until both are done; status and metadata pass.

    Args:
      requests: from the client.
      context: of the client's call.
      call: the upstream's.
      sent: hears each request before it is passed.
      answered: hears each answer before it is passed.
    """
    up = asyncio.create_task(_up(requests, call, sent))
    try:
        await _down(context, call, answered)
        trailing = passed_on(await call.trailing_metadata())
        code, details = await call.code(), await call.details()
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details or "", trailing)
        context.set_trailing_metadata(trailing)
    finally:
        up.cancel()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await up


async def _up(requests: AsyncIterator[bytes], call: Any, sent: Heard | None) -> None:  # noqa: ANN401
    """Client → upstream. That the upstream has ended the call is told by the other direction.

    The call's own `write` would put a status of its own ("Internal error from Core") in the place of
    the upstream's, when the upstream ends the call while it is still written to.
    """
    with suppress(grpc.aio.InternalError, grpc.aio.AioRpcError):
        await call.wait_for_connection()
        async for message in requests:
            if sent is not None:
                sent(message)
            await call._cython_call.send_serialized_message(message)  # noqa: SLF001 - as said above
        await call.done_writing()


async def _down(context: Any, call: Any, answered: Heard | None) -> None:  # noqa: ANN401
    """Upstream → client, until the upstream has said its status."""
    with suppress(grpc.aio.AioRpcError):
        initial = passed_on(await call.initial_metadata())
        if initial:
            await context.send_initial_metadata(initial)
        while (message := await call.read()) is not grpc.aio.EOF:
            if answered is not None:
                answered(message)
            await context.write(message)

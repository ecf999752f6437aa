"""Unary calls: the hot path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from harness.core.calls import Call, Metadata, Tap
from harness.core.clock import now_ns
from harness.core.traffic import OK_CODE
from harness.record.outcomes import Ending
from harness.record.upstream import Route

OF_THE_CONNECTION = frozenset({"user-agent", "te", "content-type", "grpc-timeout"})
"""Metadata that grpc itself writes on either side."""

Handler = Callable[[bytes, Any], Awaitable[bytes]]


def passed_on(metadata: Any) -> tuple[tuple[str, str | bytes], ...]:  # noqa: ANN401 - grpc has no types
    """Metadata as the other side should see it."""
    return tuple((k, v) for k, v in metadata or () if k not in OF_THE_CONNECTION)


def handler(method: str, route: Route, taps: Sequence[Tap], ending: Ending) -> Handler:
    """A handler that asks an upstream and tells the taps.

    Args:
      method: full RPC name.
      route: chooses the upstream.
      taps: hear of the finished call.
      ending: of the proxy.
    """

    async def handle(request: bytes, context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
        ts_ns, start = now_ns(), time.perf_counter_ns()
        metadata = passed_on(context.invocation_metadata())
        upstream = route(method, request, metadata)
        remaining = context.time_remaining()
        call = upstream.unary(method)(request, timeout=remaining, metadata=metadata)

        def tell(
            code: int, details: str, response: bytes, trailing: Metadata, *, gone: bool
        ) -> None:
            told = Call(
                ts_ns=ts_ns, latency_ns=time.perf_counter_ns() - start, method=method, code=code,
                details=details, request=request, response=response, metadata=metadata,
                trailing=trailing, upstream=upstream.name, cancelled=gone,
            )  # fmt: skip
            for tap in taps:
                tap.offer(told)

        try:
            response: bytes = await call
        except asyncio.CancelledError:
            code, details, gone = ending.broken_off(remaining, start)
            tell(code, details, b"", (), gone=gone)
            raise
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            trailing = passed_on(error.trailing_metadata())
            await _send_initial(context, error.initial_metadata())
            tell(int(code.value[0]), details, b"", trailing, gone=False)
            await context.abort(code, details, trailing)
            raise  # not reached: abort raises
        await _send_initial(context, await call.initial_metadata())
        trailing = passed_on(await call.trailing_metadata())
        if trailing:
            context.set_trailing_metadata(trailing)
        tell(OK_CODE, "", response, trailing, gone=False)
        return response

    return handle


async def _send_initial(context: Any, metadata: Any) -> None:  # noqa: ANN401 - grpc has no types
    if metadata:
        sent = passed_on(metadata)
        if sent:
            await context.send_initial_metadata(sent)

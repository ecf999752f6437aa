"""grpc.health.v1 of the proxy itself: whether it takes calls and reaches its first upstream.

Two tiny messages, written by hand: HealthCheckRequest {string service = 1} and
HealthCheckResponse {ServingStatus status = 1}.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from harness.wire import SERVICE
from harness.wire.scan import bytes_field

NAME = "grpc.health.v1.Health"
WATCH = f"/{NAME}/Watch"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
_SERVICES = {"", SERVICE, NAME}
_LOOK_S = 0.2


class Health:
    """The service's two methods.

    Args:
      serving: says whether calls are taken.
      ending: says whether the proxy is to end, which waits for nobody who watches.
    """

    def __init__(self, serving: Callable[[], bool], ending: Callable[[], bool]) -> None:
        self._serving = serving
        self._ending = ending

    def handlers(self) -> dict[str, Any]:
        """Method → handler."""
        return {
            f"/{NAME}/Check": grpc.unary_unary_rpc_method_handler(self._check),
            WATCH: grpc.unary_stream_rpc_method_handler(self._watch),
        }

    async def _check(self, request: bytes, context: Any) -> bytes:  # noqa: ANN401
        if _service(request) not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self._status()

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401, ARG002
        known = _service(request) in _SERVICES
        said = b""
        while True:
            ending = self._ending()
            status = self._status() if known else SERVICE_UNKNOWN
            if status != said:
                said = status
                yield status
            if ending:
                return
            await asyncio.sleep(_LOOK_S)

    def _status(self) -> bytes:
        return SERVING if self._serving() else NOT_SERVING


def _service(request: bytes) -> str:
    return (bytes_field(request, 1) or b"").decode("utf-8", "replace")

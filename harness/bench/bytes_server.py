"""The upstream of `harness bench record`: a gRPC server that gives every request's bytes back.

python -m harness.bench.bytes_server        prints its port
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def __init__(self) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(_echo)

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._handler


async def _echo(request: bytes, _: Any) -> bytes:  # noqa: ANN401 - grpc has no types
    return request


async def _serve() -> None:
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *unlimited])
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"serving on port {port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())

"""A server behind the proxy: one channel that takes and gives bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import grpc
import grpc.aio

from harness.core.calls import Metadata
from harness.record.tls import ClientTls

UNLIMITED = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
)
"""A message that client and server agree on is not the proxy's to refuse; larger windows and frames than
HTTP/2's first ones spare a tenth of the processor time of 150 KB messages. Tried on those, and within the
noise: frames of 16 MB, read chunks of 256 KB and more, a larger write buffer, no bandwidth probes, the
throughput target, grpc's own experiments; threads in the place of asyncio cost a fifth more. A proxy of
grpc.aio that does nothing but pass them takes 0.50 to 0.55 ms each, and this one 0.55 to 0.65 ms."""

METHODS_KEPT = 256
"""Names of methods that are remembered: clients may send any number of them."""


class Upstream:
    """One server that the proxy may ask. Make it in the event loop that will use it.

    Args:
      target: host:port.
      name: what calls carry as their arm; by default the target.
      tls: None = plain text.
      options: more channel options of grpc.

    Raises:
      UsageError: a TLS file cannot be used.
    """

    def __init__(
        self,
        target: str,
        *,
        name: str = "",
        tls: ClientTls | None = None,
        options: tuple[tuple[str, Any], ...] = (),
    ) -> None:
        self.target = target
        self.name = name or target
        self.tls = tls
        # A retry would be a request that the client never sent.
        given = [*UNLIMITED, ("grpc.enable_retries", 0), *options]
        if tls is not None and tls.server_name:
            given.append(("grpc.ssl_target_name_override", tls.server_name))
        self._channel = (
            grpc.aio.insecure_channel(target, options=given)
            if tls is None
            else grpc.aio.secure_channel(target, tls.credentials(), options=given)
        )
        self._unary: dict[str, Any] = {}

    def unary(self, method: str) -> Any:  # noqa: ANN401 - grpc has no types
        """A callable for a unary method that takes and gives bytes."""
        found = self._unary.get(method)
        if found is None:
            found = self._channel.unary_unary(method)
            if len(self._unary) < METHODS_KEPT:
                self._unary[method] = found
        return found

    def stream(self, method: str) -> Any:  # noqa: ANN401 - grpc has no types
        """A callable for a method of any kind as a stream of bytes each way."""
        return self._channel.stream_stream(method)

    @property
    def failing(self) -> bool:
        """Whether the last attempt to connect failed. Nothing is known before the first call."""
        state = self._channel.get_state()
        return bool(state is grpc.ChannelConnectivity.TRANSIENT_FAILURE)

    async def close(self) -> None:
        """Ends the channel and every call on it."""
        await self._channel.close()


class Callee(Protocol):
    """Who answers one call: an upstream, or a view of one that only this call has."""

    @property
    def name(self) -> str:
        """What the finished call carries; asked when it has ended."""

    def unary(self, method: str) -> Any:  # noqa: ANN401 - grpc has no types
        """A callable for a unary method that takes and gives bytes."""

    def stream(self, method: str) -> Any:  # noqa: ANN401 - grpc has no types
        """A callable for a method of any kind as a stream of bytes each way."""


Route = Callable[[str, bytes, Metadata], Callee]
"""Chooses the upstream of a call: (method, request, metadata) → who answers. It must not wait. A stream
is routed once, by its first message; what is no inference is routed with an empty request."""

"""One finished call through a proxy, and who wants to hear of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.core.recording import Recorded

Metadata = Sequence[tuple[str, str | bytes]]
"""gRPC metadata in the order it came; values of names that end in -bin are bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unkept:
    """Why a call comes without its messages, though they passed."""

    why: Recorded
    """The counter of such requests."""
    request_bytes: int
    """Size of the request that passed, as far as it is known."""
    response_bytes: int
    """Size of the answer that passed, as far as it is known."""
    request_id: bytes
    """The request's own id, which the sample goes by; empty = it has none, or it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request with its answer or failure, as the proxy passed them. The bytes are verbatim."""

    ts_ns: int
    """When the request had arrived, nanoseconds since the epoch, UTC; the clock may be set back."""
    latency_ns: int
    """Until the answer was there, from a clock that never goes back."""
    method: str
    """Full RPC name, e.g. /inference.GRPCInferenceService/ModelInfer."""
    code: int
    """gRPC status code; 0 = answered. In a stream: that of this pair, not of the stream."""
    details: str
    """What the server said of a failure."""
    request: bytes
    """The request message; of a streamed pair, its ModelInferRequest. Compressed as `packing` says."""
    response: bytes
    """The response message, empty on failure; of a streamed pair, its ModelInferResponse, or where it
    is compressed the whole ModelStreamInferResponse."""
    metadata: Metadata
    """What the client sent, without what gRPC itself adds."""
    trailing: Metadata
    """The server's trailing metadata, grpc-status-details-bin among them."""
    upstream: str
    """Name of the upstream that was asked: which arm of a split."""
    cancelled: bool = False
    """The client took the call back, or its deadline passed, before the server had answered."""
    stream: str = ""
    """Same for all pairs of one stream, unique in this process; "" = a unary call."""
    unkept: Unkept | None = None
    """Set where the messages were not kept on the way: request and response are empty then."""
    packing: tuple[str, str] = ("", "")
    """Compression of request and response, gzip or deflate; "" = they are as they are."""


class Tap(Protocol):
    """Hears of finished calls, on the proxy's event loop."""

    def offer(self, call: Call) -> None:
        """Takes a call or counts it as dropped, at once: it must not block, wait or raise.

        Args:
          call: whose client may still be waiting for the answer.
        """

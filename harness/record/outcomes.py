"""How a call ended, from what HTTP/2 says of it (the gRPC protocol's mappings of statuses and errors)."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.core.traffic import OK_CODE, UNKNOWN_CODE
from harness.record.headers import ResponseHead

CANCELLED, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE = 1, 4, 13, 14
"""gRPC's status codes of these names."""
_PERMISSION_DENIED, _RESOURCE_EXHAUSTED, _UNIMPLEMENTED, _UNAUTHENTICATED = 7, 8, 12, 16
_HTTP_OK = 200
REFUSED_STREAM = 0x7
"""HTTP/2's error of a call that the server has not begun with."""
_OF_HTTP = {
    400: INTERNAL, 401: _UNAUTHENTICATED, 403: _PERMISSION_DENIED, 404: _UNIMPLEMENTED,
    429: UNAVAILABLE, 502: UNAVAILABLE, 503: UNAVAILABLE, 504: UNAVAILABLE,
}  # fmt: skip
_OF_RESET = {
    0x8: CANCELLED,
    0xB: _RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: _PERMISSION_DENIED,  # INADEQUATE_SECURITY
}
UPSTREAM_LOST = UNAVAILABLE, "the connection to the upstream was lost"
PROXY_ENDED = UNAVAILABLE, "the proxy ended before the call did"


def outcome_of_end(head: ResponseHead | None, http_status: int) -> tuple[int, str]:
    """Code and details of a call whose server has ended it.

    Args:
      head: the block of headers that it ended with; None = it ended without one.
      http_status: what it began with.
    """
    if head is not None and head.status is not None:
        return head.status, head.details
    if http_status != _HTTP_OK:
        return _OF_HTTP.get(
            http_status, UNKNOWN_CODE
        ), f"the server answered with HTTP status {http_status}"
    return UNKNOWN_CODE, "the server ended the call without a status"


def outcome_of_reset(error: int) -> tuple[int, str]:
    """Code and details of a call that the server broke off.

    Args:
      error: HTTP/2's error code.
    """
    return _OF_RESET.get(error, INTERNAL), f"the server broke the call off, HTTP/2 error {error}"


def without_answer(code: int, details: str) -> tuple[int, str]:
    """The same for a call that needs an answer and has none: OK is none."""
    return (
        (INTERNAL, "the server said OK and gave no answer") if code == OK_CODE else (code, details)
    )


ON_THE_WAY_S = 0.1
"""A client's clock runs from the sending: near its deadline, its going away is its deadline."""


def client_gone(remaining_s: float | None, start_ns: int) -> tuple[int, str]:
    """Code and details of a call that its client ended.

    Args:
      remaining_s: until the client's deadline when the call came; None = it has none.
      start_ns: when it came, by `time.perf_counter_ns`.
    """
    spent_s = (time.perf_counter_ns() - start_ns) / 1e9
    if remaining_s is not None and spent_s >= remaining_s - ON_THE_WAY_S:
        return DEADLINE_EXCEEDED, "the client's deadline passed"
    return CANCELLED, "the client cancelled the call"


@dataclass(slots=True)
class Ending:
    """Whether a proxy itself ends the calls that are left."""

    cut: bool = False
    """Their time is over."""

    def broken_off(self, remaining_s: float | None, start_ns: int) -> tuple[int, str, bool]:
        """Code and details of a call that ends before its answer, and whether its client ended it.

        Args:
          remaining_s: see `client_gone`.
          start_ns: see `client_gone`.
        """
        if self.cut:
            return *PROXY_ENDED, False
        return *client_gone(remaining_s, start_ns), True

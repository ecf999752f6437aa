"""A clock that is set once and never jumps, in nanoseconds since the epoch.

The order of arrivals and the age of units come from it. A machine's clock that is set back would
otherwise put requests before batches that are judged already, and one set forward would mature units
that nobody has waited for. How far the machine's clock has gone from it is told, not followed.
"""

from __future__ import annotations

import time

from harness.core.clock import now_ns


class SteadyClock:
    """Starts at the machine's time, or later.

    Args:
      after_ns: the instant before which it may not start, such as the end of what was judged.
    """

    def __init__(self, after_ns: int = 0) -> None:
        self._start_ns = max(now_ns(), after_ns + 1)
        self._since_ns = time.perf_counter_ns()

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self._start_ns + time.perf_counter_ns() - self._since_ns

    def drift_s(self) -> float:
        """How far the machine's clock is ahead of it."""
        return (now_ns() - self.now_ns()) / 1e9

"""Whether this process stood still for a while: stopped, or kept from its processors.

What was to end meanwhile ends all at once when it goes on, in any order: a deadline may fire before the
answer that waits is read. So such a deadline tells nothing of who was asked.
"""

from __future__ import annotations

import asyncio
import math
import time

_EVERY_S = 0.1
_MOST_S = 0.3
"""A longer time between two beats is standing still."""


class Heartbeat:
    """Beats on the event loop; before it began to beat, nothing stood still."""

    def __init__(self) -> None:
        self._last = math.inf
        self._stood = -math.inf

    async def beat(self) -> None:
        """Beats until it is cancelled."""
        self._last = time.monotonic()
        while True:
            await asyncio.sleep(_EVERY_S)
            now = time.monotonic()
            if now - self._last > _MOST_S:
                self._stood = now
            self._last = now

    def stood_since(self, start_s: float) -> bool:
        """Whether the process stood still at any time since an instant.

        Args:
          start_s: by `time.monotonic`.
        """
        return self._stood >= start_s or time.monotonic() - self._last > _MOST_S

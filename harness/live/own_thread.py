"""Work that may never come back: in a thread of its own, which nothing waits for.

A file on a disk that hangs, or one that blocks, cannot be given up once it was asked for; and a
thread of a pool would keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_END_S = 7.0
"""Whoever stops a service waits ten seconds for it, as a rule."""
STUCK = "the folder did not answer at the end, and was left as it is: whatever had been judged is in its journal"
"""What is said where `Patience` ended."""


def begun(work: Callable[[], T]) -> Future[T]:
    """Begins some work.

    Args:
      work: done in a thread that ends with the process.

    Returns:
      What becomes of it.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as trouble:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(trouble)

    threading.Thread(target=run, daemon=True).start()
    return future


async def awaited(work: Callable[[], T]) -> T:
    """Does some work without blocking the event loop; see `begun`.

    Args:
      work: goes on where the caller is cancelled.
    """
    return await asyncio.wrap_future(begun(work))


class Patience:
    """How long an end may take in all, from when this is made."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + _END_S

    async def ended(self, work: asyncio.Future[Any] | Future[Any]) -> bool:
        """Waits for some work, as long as there is time.

        Args:
          work: begun; goes on where it has not ended.
        """
        awaited = asyncio.wrap_future(work) if isinstance(work, Future) else work
        left_s = max(self._until_s - time.monotonic(), 0.1)
        return bool((await asyncio.wait({awaited}, timeout=left_s))[0])

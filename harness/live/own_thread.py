"""Work that may never come back: in a thread of its own, which nothing waits for.

A file on a disk that hangs, or one that blocks, cannot be given up once it was asked for; and a
thread of a pool would keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


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

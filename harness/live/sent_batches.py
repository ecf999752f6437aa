"""Batches that somebody sent: a repetition is told from another batch under the same number."""

from __future__ import annotations

from collections import deque
from typing import Any

from harness.core.errors import TrafficError

_MOST = 1_024
"""Batches whose content is remembered."""


class SentBatches:
    """The digests of the last batches."""

    def __init__(self) -> None:
        self._last: deque[tuple[int, str]] = deque(maxlen=_MOST)

    def add(self, number: int, digest: str) -> None:
        """Remembers a batch that was judged; its digest "" = it was made here."""
        self._last.append((number, digest))

    def check(self, number: int, digest: str, due: int) -> None:
        """Refuses what is no repetition.

        Args:
          number: of a batch that was judged before.
          digest: of what was sent under it now.
          due: number that is to come.

        Raises:
          TrafficError: its number is taken by another batch, or is too old to know that.
        """
        known = dict(self._last)
        if known.get(number) == digest:
            return
        what = (
            "was judged before with other content"
            if number in known
            else f"is older than the last {_MOST:,}: nobody knows whether it is the one that was judged"
        )
        remedy = (
            "One sender numbers all batches: merge what several have seen, in order of time, first. "
            f"Batch {due} is due."
        )
        raise TrafficError(f"batch {number}", what, remedy)

    def state(self) -> list[Any]:
        """Plain JSON values from which `restore` continues."""
        return [list(one) for one in self._last]

    def restore(self, state: list[Any]) -> None:
        """Continues from `state`."""
        self._last.extend((int(number), str(digest)) for number, digest in state)

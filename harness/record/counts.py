"""A recorder's counters, in a file that both its processes map: a kill of either loses no count."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from harness.core.errors import GateError
from harness.core.recording import Recorded, RecordingTotals, totals_from_counts

_SIZE = 8 * 64
"""Room for more counters than there are, so that a later version can open the file."""


class Counts:
    """Counters of 64 bits; each is changed by one process only.

    Args:
      path: the file; made when missing, kept when there.

    Raises:
      GateError: the file is no counter file.
    """

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size not in (0, _SIZE):
                raise GateError(
                    str(path), "is no counter file", "Remove it, or name another --out."
                )
            os.ftruncate(handle, _SIZE)
            self._map = mmap.mmap(handle, _SIZE)
        finally:
            os.close(handle)
        self._view = memoryview(self._map).cast("q")

    def add(self, counter: Recorded, by: int = 1) -> None:
        """Counts."""
        self._view[counter] += by

    def set(self, counter: Recorded, value: int) -> None:
        """Sets a counter."""
        self._view[counter] = value

    def __getitem__(self, counter: Recorded) -> int:
        """A counter's value."""
        return self._view[counter]

    def totals(self, *, writer: str, sample: float) -> RecordingTotals:
        """What they say together."""
        return totals_from_counts({c: self[c] for c in Recorded}, writer=writer, sample=sample)

    def close(self) -> None:
        """Unmaps the file; it stays."""
        self._view.release()
        self._map.close()

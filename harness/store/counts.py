"""A recorder's counters, in a file that both its processes map: a kill of either loses no count.

The file has all its blocks from the start, so that counting goes on while the disk is full.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from harness.core.errors import GateError
from harness.core.recording import SHARE_UNIT, Recorded, RecordingTotals, totals_from_counts

FOLDER = ".recorder"
"""Below the traffic: the recorder's own folder, unless it was given another."""
ENDING = ".counts"
_PLACES = 64
"""Room for more counters than there are, so that a later version can open the file."""
_SIZE = 8 * _PLACES


class Counts:
    """Counters of 64 bits; each is changed by one process only.

    Args:
      path: the file; made when missing, kept when there. None = in memory, while there is no file.

    Raises:
      GateError: the file is no counter file.
      OSError: it cannot be made or opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._map = mmap.mmap(-1, _SIZE) if path is None else _mapped(path)
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


def counted_totals(path: Path) -> RecordingTotals | None:
    """What a counter file says, read without changing it.

    Returns:
      None where it is none, cannot be read, or is an earlier version's that does not say its sample.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) != _SIZE:
        return None
    values = struct.unpack(f"={_PLACES}q", content)
    share = values[Recorded.SHARE]
    if not 0 < share <= SHARE_UNIT:
        return None
    return totals_from_counts(
        {c: values[c] for c in Recorded}, writer=path.stem, sample=share / SHARE_UNIT
    )


def _mapped(path: Path) -> mmap.mmap:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size not in (0, _SIZE):
            raise GateError(str(path), "is no counter file", "Remove it, or name another --out.")
        # A page without a block of its own would end the process when the disk is full.
        os.posix_fallocate(handle, 0, _SIZE)
        return mmap.mmap(handle, _SIZE)
    finally:
        os.close(handle)

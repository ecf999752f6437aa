"""Shared memory for the bodies of frames: one slot each way for each of the last few numbers.

A frame does not say where its body lies: the slot follows from its number, so there is no offset that
could point outside. The memory file is sealed against shrinking and growing before a child gets it: a
child that could truncate it would end the parent by SIGBUS. What a child writes there it can write again
at any time, so the parent copies a body out before it looks at it.

The file is large and mostly holes: memory is taken by what was written, and again by the next batches.
Bodies that do not fit go through the pipe.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

SLOTS = 3
"""Batches in flight that can lie here. All are used in turn: each is memory and cache."""
SLOT_BYTES = 16 << 20
"""Of a batch of 65,536 rows with 64 float32 columns."""


class Ring:
    """One process's view of the slots.

    Args:
      fd: memory file of `ring_bytes`; may be closed afterwards.
      slot_bytes: size of a slot, a multiple of the page size.

    Raises:
      OSError: it cannot be mapped.
    """

    def __init__(self, fd: int, slot_bytes: int = SLOT_BYTES) -> None:
        self.slot_bytes = slot_bytes
        self._map = mmap.mmap(fd, ring_bytes(slot_bytes))
        self._view = memoryview(self._map)
        starts = range(0, 2 * SLOTS * slot_bytes, slot_bytes)
        self._slots = [self._view[at : at + slot_bytes] for at in starts]

    def request(self, number: int, size: int) -> memoryview:
        """Where the body of a request lies: what the parent writes."""
        return self._slots[number % SLOTS][:size]

    def answer(self, number: int, size: int) -> memoryview:
        """Where the body of an answer lies: what the child writes."""
        return self._slots[SLOTS + number % SLOTS][:size]

    def close(self) -> None:
        """Unmaps; no view may be in use."""
        for view in (*self._slots, self._view):
            view.release()
        self._map.close()


def ring_bytes(slot_bytes: int = SLOT_BYTES) -> int:
    """Size of the whole file."""
    return 2 * SLOTS * slot_bytes


def fill(target: memoryview, buffers: Sequence[memoryview]) -> None:
    """Copies buffers one after the other."""
    at = 0
    for buffer in buffers:
        end = at + buffer.nbytes
        target[at:end] = buffer
        at = end

"""Every arrival in a small file in memory that outlives the process: what a kill lost has names.

A request enters the evidence when its answer is known and its batch is in the journal. One that was
under way when the process was killed would leave no trace, and a candidate that brings the proxy
down would hide its worst answers. So routing writes a record of 40 bytes into a mapped file, which
costs no system call, and a restart reads who had arrived and never entered. It survives a kill; after
a power cut it is as it was when it was last synced.

It also keeps how many batches are in the journal, so that a journal whose last lines are gone is told
from one that never had them.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import GateError

_SLOT = struct.Struct("<QqQdiI")
"""seq, ts_ns, unit, share, step, candidate."""
_FARTHEST = 1 << 32
"""Numbers so far behind the journal were never given."""
CAPACITY = 1 << 17
"""Arrivals kept: those not yet in the journal must fit, or they are lost without a name."""


_BATCHES_BYTES = 8
FILE_BYTES = CAPACITY * _SLOT.size + _BATCHES_BYTES
"""Size of a whole file."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that was split."""

    seq: int
    """1, 2, 3 … in order of arrival."""
    ts_ns: int
    """Later than that of every arrival before."""
    unit: int
    """See `split.Place`."""
    share: float
    """Candidate's share in force."""
    step: int
    """Of the ramp."""
    candidate: bool
    """The arm that the unit falls to."""


class Arrivals:
    """The mapped file.

    Args:
      path: made when missing, at its full size, so that a full disk shows here and not later.
      capacity: slots.

    Raises:
      GateError: it cannot be made or mapped.
    """

    def __init__(self, path: Path, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        size = capacity * _SLOT.size + _BATCHES_BYTES
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(handle, 0, size)
                self._map = mmap.mmap(handle, size)
            finally:
                os.close(handle)
        except OSError as error:
            raise GateError(
                str(path), f"cannot be made: {error.strerror}", "Make room or give access there."
            ) from error

    def put(self, arrival: Arrival) -> None:
        """Keeps an arrival in place of the oldest."""
        _SLOT.pack_into(
            self._map, (arrival.seq % self._capacity) * _SLOT.size, arrival.seq, arrival.ts_ns,
            arrival.unit, arrival.share, arrival.step, int(arrival.candidate),
        )  # fmt: skip

    def after(self, seq: int) -> list[Arrival]:
        """Arrivals with a later number that are still kept, in order.

        Args:
          seq: the last one that is in the journal.

        Raises:
          GateError: a record that was never written so.
        """
        found = [a for a in self._all() if a.seq > seq]
        if any(a.seq > seq + _FARTHEST for a in found):
            raise GateError("arrivals.bin", "an arrival was damaged", "Start anew.")
        return sorted(found, key=lambda arrival: arrival.seq)

    @property
    def batches(self) -> int:
        """Number of the batch that comes after those in the journal; 0 = none has been in it."""
        return int.from_bytes(self._map[-_BATCHES_BYTES:], "little")

    def put_batch(self, number: int) -> None:
        """Keeps that a batch is in the journal; a repetition changes nothing.

        Args:
          number: of the batch.
        """
        # Eight bytes copied at once: a kill leaves the one number or the other.
        self._map[-_BATCHES_BYTES:] = max(number + 1, self.batches).to_bytes(
            _BATCHES_BYTES, "little"
        )

    def _all(self) -> Iterator[Arrival]:
        slots = self._map[:-_BATCHES_BYTES]
        for seq, ts_ns, unit, share, step, candidate in _SLOT.iter_unpack(slots):
            if seq:
                yield Arrival(seq, ts_ns, unit, share, step, bool(candidate))

    def sync(self) -> None:
        """Waits until what was put is on the disk.

        Raises:
          OSError: it cannot be written.
        """
        self._map.flush()

    def close(self) -> None:
        """Unmaps the file."""
        self._map.close()

"""The writer's files: rows are durable in a spool first, and published as Parquet when it is full.

    .recorder/<name>-<n>.spool                    → model=…/date=…/hour=…/<name>-<n>-00000.parquet
    append, row group by row group                  in one go, then the spool is removed

Spools are published in the order of their numbers by one thread, so that a disk that is slow to publish
does not stop what comes in. One that cannot be published stays, and is tried again: with the next one,
at the end, and at the next start.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.places import Place
from harness.core.recording import Recorded
from harness.core.traffic import Exchange
from harness.record.counts import Counts
from harness.store.exchanges import batch_from_exchanges
from harness.store.partitions import PartitionedWriter
from harness.store.places import files_below, remove
from harness.store.spool import Spool, spooled, spooled_exchanges

LOG = logging.getLogger("harness.record")
_WAITING = 4
"""Full spools that may wait to be published before rows have to."""


class Spooler:
    """Appends rows to the open spool and publishes full ones.

    Args:
      out: where traffic goes.
      folder: the recorder's own, on this machine.
      name: the recorder's.
      counts: where it counts.
      sync: whether rows reach the disk before they count as durable.
    """

    def __init__(
        self, out: Place, folder: Path, name: str, counts: Counts, *, sync: bool = True
    ) -> None:
        self._publisher = _Publisher(out, folder, name, counts)
        self._folder = folder
        self._name = name
        self._counts = counts
        self._sync = sync
        self._number = counts[Recorded.PUBLISHED] + 1
        self._spool: Spool | None = None

    def recover(self) -> int:
        """Publishes what a killed writer left; call it before anything is written.

        Returns:
          Exchanges recovered.

        Raises:
          OSError, TrafficError: it can neither be read nor published.
        """
        recovered = 0
        for path in sorted(self._folder.glob(f"{self._name}-*.spool")):
            self._number = max(self._number, _number_of(path) + 1)
            recovered += self._publisher.publish(path)
        self._publisher.start()
        return recovered

    @property
    def size_bytes(self) -> int:
        """Of the open spool."""
        return 0 if self._spool is None else self._spool.size_bytes

    def write(self, exchanges: Sequence[Exchange]) -> bool:
        """Makes a row group durable.

        Returns:
          False when the disk refused it; it is counted then, and gone.
        """
        if not exchanges:
            return True
        try:
            if self._spool is None:
                path = self._folder / f"{self._name}-{self._number:08d}.spool"
                self._spool = Spool(path, sync=self._sync)
                self._number += 1
            self._spool.append(batch_from_exchanges(exchanges))
        except OSError as error:
            self._counts.add(Recorded.UNWRITABLE, len(exchanges))
            LOG.warning(
                "%d exchanges could not be written: %s", len(exchanges), error.strerror or error
            )
            return False
        return True

    def rotate(self) -> None:
        """Hands the open spool to the publisher; waits only when several wait there already."""
        if self._spool is None:
            return
        self._spool.close()
        self._publisher.add(self._spool.path)
        self._spool = None

    def close(self) -> None:
        """Publishes everything that can be."""
        self.rotate()
        self._publisher.close()


class _Publisher:
    """Publishes spools in order, in a thread of its own."""

    def __init__(self, out: Place, folder: Path, name: str, counts: Counts) -> None:
        self._out = out
        self._made = folder / "upload"
        self._name = name
        self._counts = counts
        self._queue: queue.Queue[Path | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, spool: Path) -> None:
        self._queue.put(spool)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def publish(self, spool: Path) -> int:
        """One spool → Parquet files; how many exchanges."""
        number = _number_of(spool)
        if number <= self._counts[Recorded.PUBLISHED]:
            spool.unlink()  # published and counted; the kill came before this
            return 0
        rows = sum(len(batch) for batch in spooled(spool))
        prefix = f"{self._name}-{number:08d}"
        for half_published in files_below(self._out, ".parquet"):
            if half_published.name.startswith(prefix):
                remove(self._out / str(half_published))
        with PartitionedWriter(self._out, name=prefix, spool=self._made) as writer:
            writer.write(spooled_exchanges(spool))
        self._counts.add(Recorded.WRITTEN, rows)
        self._counts.set(Recorded.PUBLISHED, number)
        spool.unlink()
        return rows

    def _run(self) -> None:
        waiting: list[Path] = []
        while True:
            spool = self._queue.get()
            if spool is not None:
                waiting.append(spool)
            try:
                while waiting:
                    self.publish(waiting[0])
                    del waiting[0]
            except (OSError, HarnessError) as error:
                LOG.warning("%s is published later: %s", waiting[0].name, error)
            if spool is None:
                return


def _number_of(spool: Path) -> int:
    return int(spool.stem.rpartition("-")[2])

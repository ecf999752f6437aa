"""The writer's files: rows are durable in a spool first, and published as Parquet when it is full.

    .recorder/<name>-<n>.spool                    → model=…/date=…/hour=…/<name>-<n>-00000.parquet
    append, row group by row group                  in one go, then the spool is removed

Spools are published in the order of their numbers by one thread, so that a disk that is slow to publish
does not stop what comes in. Where the place takes nothing, a spool stays and is tried again: after some
seconds, at the end, and at the next start. Where the spool itself is what cannot be published, it is set
aside as `<name>-<n>.aside`, counted, and tried once more at each start: it must not stop the others.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.places import Place
from harness.core.recording import Recorded
from harness.core.traffic import Exchange
from harness.store.counts import Counts
from harness.store.exchanges import batch_from_exchanges
from harness.store.partitions import PartitionedWriter
from harness.store.places import files_below, remove
from harness.store.spool import Spool, spooled, spooled_exchanges

LOG = logging.getLogger("harness.record")
_WAITING = 4
"""Full spools that may wait to be published before rows have to."""
_AGAIN_S = 5.0
"""Between two attempts to publish what the place refused."""
_SPOOL, _ASIDE = ".spool", ".aside"
_OF_THE_SPOOL = {
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.EINVAL,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
}
"""What the system says when a file's name or content is at fault, and no waiting helps."""


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
        """Has published what a killed writer left, in the background; call it before anything is written.

        Returns:
          Exchanges found that are in no published file and were not set aside.

        Raises:
          OSError: the folder cannot be read.
        """
        found = 0
        waiting = sorted(self._folder.glob(f"{self._name}-*{_SPOOL}"))
        for path in waiting:
            self._number = max(self._number, _number_of(path) + 1)
            if _number_of(path) > self._counts[Recorded.PUBLISHED]:
                found += _rows(path)
        self._publisher.start([*waiting, *sorted(self._folder.glob(f"{self._name}-*{_ASIDE}"))])
        return found

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
                path = self._folder / f"{self._name}-{self._number:08d}{_SPOOL}"
                self._spool = Spool(path, sync=self._sync)
                self._number += 1
            self._spool.append(batch_from_exchanges(exchanges))
        except OSError as error:
            self._counts.add(Recorded.UNWRITABLE, len(exchanges))
            self._counts.set(Recorded.SPOOL_REFUSED, 1)
            LOG.warning(
                "%d exchanges could not be written: %s", len(exchanges), error.strerror or error
            )
            return False
        self._counts.set(Recorded.SPOOL_REFUSED, 0)
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
        self._waiting: list[Path] = []
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self, first: Sequence[Path]) -> None:
        self._waiting = list(first)
        self._thread.start()

    def add(self, spool: Path) -> None:
        self._queue.put(spool)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        self._publish_waiting()
        while True:
            try:
                spool = self._queue.get(timeout=_AGAIN_S if self._waiting else None)
            except queue.Empty:
                self._publish_waiting()
                continue
            if spool is not None:
                self._waiting.append(spool)
            self._publish_waiting()
            if spool is None:
                return

    def _publish_waiting(self) -> None:
        """All that can be; what the place refuses, and what comes after it, keeps waiting."""
        while self._waiting:
            spool = self._waiting[0]
            try:
                self._publish_or_set_aside(spool)
            except (OSError, HarnessError) as error:
                self._counts.set(Recorded.PUBLISHING_REFUSED, 1)
                LOG.warning("%s is published later: %s", spool.name, error)
                return
            del self._waiting[0]
        self._counts.set(Recorded.PUBLISHING_REFUSED, 0)

    def _publish_or_set_aside(self, spool: Path) -> None:
        """Raises what the place said, when it refuses."""
        try:
            self._publish(spool)
        except Exception as error:
            if _refused_by_the_place(error):
                raise
            self._set_aside(spool, error)

    def _publish(self, spool: Path) -> None:
        """One spool → Parquet files."""
        number, aside = _number_of(spool), spool.suffix == _ASIDE
        if not aside and number <= self._counts[Recorded.PUBLISHED]:
            spool.unlink()  # published and counted; the kill came before this
            return
        rows = _rows(spool)
        prefix = f"{self._name}-{number:08d}"
        for half_published in files_below(self._out, ".parquet"):
            if half_published.name.startswith(prefix):
                remove(self._out / str(half_published))
        with PartitionedWriter(self._out, name=prefix, spool=self._made) as writer:
            writer.write(spooled_exchanges(spool))
        if aside:
            spool.unlink()
            self._counts.add(Recorded.SET_ASIDE, -rows)
        self._counts.add(Recorded.WRITTEN, rows)
        if not aside:
            self._counts.set(Recorded.PUBLISHED, number)
            spool.unlink()

    def _set_aside(self, spool: Path, error: Exception) -> None:
        if spool.suffix == _ASIDE:
            LOG.warning("%s stays set aside: %s", spool.name, error)
            return
        rows = _rows(spool)
        LOG.warning(
            "%s cannot be published and is set aside as %s (%d exchanges): %s",
            spool.name, spool.with_suffix(_ASIDE).name, rows, error,
        )  # fmt: skip
        spool.rename(spool.with_suffix(_ASIDE))
        self._counts.add(Recorded.SET_ASIDE, rows)
        self._counts.set(Recorded.PUBLISHED, _number_of(spool))


def _refused_by_the_place(error: Exception) -> bool:
    """Whether the disk or the store takes nothing, rather than not this."""
    if isinstance(error, OSError):
        return error.errno not in _OF_THE_SPOOL
    return isinstance(error, HarnessError)


def _rows(spool: Path) -> int:
    return sum(len(batch) for batch in spooled(spool))


def _number_of(spool: Path) -> int:
    return int(spool.stem.rpartition("-")[2])

"""The tap that records: sampling and a bounded queue here, everything else in the writer's process.

Production needs the proxy more than the recording: where the folder's disk is full or the writer cannot
start, calls pass and are counted, it is said, and both are tried again. Counts are kept in memory until
their file can be made.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import subprocess
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.core.calls import Call
from harness.core.errors import GateError, TrafficError, UsageError
from harness.core.recording import Recorded, RecordingTotals
from harness.core.traffic import OK_CODE
from harness.record.beside import start_beside
from harness.record.frames import frame_from_call
from harness.record.outbox import Outbox
from harness.record.sampling import Sampler
from harness.record.writer import WriterOptions
from harness.store.counts import ENDING as COUNTS
from harness.store.counts import Counts
from harness.store.files import locked
from harness.wire import MODEL_INFER, MODEL_STREAM_INFER

LOG = logging.getLogger("harness.record")
RECORDED_METHODS = frozenset({MODEL_INFER, MODEL_STREAM_INFER})
_LOOK_S = 0.5
_PATIENCE_S = 10.0
"""For the folder, before the first call is served."""
_RESTART_S = 5.0
"""Between two starts of a writer that keeps ending."""
_OF_THE_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip
"""What may pass; a folder that is refused for another reason was named wrongly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """What may wait for the writer, and what is too large for it."""

    bytes: int = 64 << 20
    """Of all requests and answers that wait."""
    count: int = 50_000
    """Exchanges that wait."""
    message_bytes: int = 16 << 20
    """A larger request or answer passes and is not recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What the start found of an earlier one that was killed."""

    recovered: int
    """Exchanges that were durable and are published now."""
    lost: int
    """Exchanges that it had taken and that are in no file."""


class Recorder:
    """Records inference calls. Start and stop it in the proxy's event loop.

    Args:
      options: for the writer's process; also its folder.
      sampler: what is kept.
      limits: of the queue.
    """

    def __init__(self, options: WriterOptions, sampler: Sampler, limits: QueueLimits) -> None:
        self._options = options
        self._sampler = sampler
        self._limits = limits
        self._counts = Counts(None)
        self._in_folder = False
        """Whether the folder is ours and the counts are in their file."""
        self._outbox: Outbox | None = None
        self._without_writer = Recorded.WRITER_GONE
        self._process: subprocess.Popen[bytes] | None = None
        self._calls: socket.socket | None = None
        self._watching: asyncio.Task[None] | None = None
        self._alone = ExitStack()

    def offer(self, call: Call) -> None:
        """See `core.calls.Tap`."""
        if call.method not in RECORDED_METHODS:
            return
        counts = self._counts
        if call.unkept is not None and call.unkept.why is Recorded.INCOMPLETE:
            counts.add(Recorded.INCOMPLETE)
            return
        counts.add(Recorded.SEEN)
        failed = call.code != OK_CODE
        if failed:
            counts.add(Recorded.FAILED)
        if call.unkept is None:
            self._keep(call, failed=failed)
        elif failed or self._sampler.keeps_id(call.unkept.request_id):
            counts.add(call.unkept.why)
        else:
            counts.add(Recorded.SAMPLED_OUT)

    def _keep(self, call: Call, *, failed: bool) -> None:
        """Hands the call on, if it is to be and can be."""
        counts = self._counts
        sampled = self._sampler.keeps(call.request, call.packing[0])
        if not sampled and not failed:
            counts.add(Recorded.SAMPLED_OUT)
        elif max(len(call.request), len(call.response)) > self._limits.message_bytes:
            counts.add(Recorded.TOO_LARGE)
        elif self._outbox is None or self._outbox.broken:
            counts.add(self._without_writer)
        elif not self._outbox.put(frame_from_call(call, kept_as_failed=not sampled)):
            counts.add(Recorded.QUEUE_FULL)
        else:
            counts.add(Recorded.HANDED)
            if not sampled:
                counts.add(Recorded.KEPT_AS_FAILED)

    async def start(self) -> Recovered:
        """Starts the writer's process, and again whenever it ends by itself.

        Where the disk does not answer it goes on trying behind the calls, which are counted.

        Returns:
          What it found of an earlier one; nothing where recording cannot begin yet.

        Raises:
          UsageError: another recorder of that name writes there, or the folder cannot be used.
        """
        found = Recovered(recovered=0, lost=0)
        beginning = asyncio.create_task(self._begin())
        try:
            done, _ = await asyncio.wait({beginning}, timeout=_PATIENCE_S)
            if done:
                found = beginning.result()
            else:
                LOG.warning("the recorder's folder does not answer yet: calls pass, unrecorded")
        except OSError as error:
            if not self._in_folder and error.errno not in _OF_THE_DISK:
                raise TrafficError(
                    self._options.spool, f"cannot be written to: {error.strerror}",
                    "Name another folder.",
                ) from error  # fmt: skip
            _say_off(error)
        except GateError as error:
            _say_off(error)
        self._watching = asyncio.create_task(self._watch(None if beginning.done() else beginning))
        return found

    async def stop(self, wait_s: float) -> RecordingTotals:
        """Sends what waits, then waits until the writer has published everything.

        Args:
          wait_s: for each of the two; what is not sent by then is counted so.
        """
        if self._watching is not None:
            self._watching.cancel()
        if self._outbox is not None:
            await self._outbox.drained(wait_s)
            left = self._outbox.close()
            self._outbox, self._without_writer = None, Recorded.ENDED_BEFORE
            self._counts.add(Recorded.HANDED, -left)
            self._counts.add(Recorded.ENDED_BEFORE, left)
        await self._end_writer(wait_s)
        self._alone.close()
        return self.totals()

    def totals(self) -> RecordingTotals:
        """Counts up to now, earlier starts among them."""
        return self._counts.totals(writer=self._options.name, sample=self._options.sample)

    def fault(self, counter: Recorded, count: int) -> None:
        """Adds what was counted elsewhere in this process."""
        self._counts.add(counter, count)

    @property
    def waiting(self) -> tuple[int, int]:
        """Exchanges and bytes in the queue."""
        return (0, 0) if self._outbox is None else (len(self._outbox), self._outbox.bytes)

    @property
    def healthy(self) -> bool:
        """Whether what is offered now is likely to be published."""
        refused = self._counts[Recorded.SPOOL_REFUSED] or self._counts[Recorded.PUBLISHING_REFUSED]
        return self._outbox is not None and not self._outbox.broken and not refused

    @property
    def writer_pid(self) -> int:
        """Of the writer's process; 0 while there is none."""
        return 0 if self._process is None else self._process.pid

    async def _begin(self) -> Recovered:
        if not self._in_folder:
            # In a thread: a disk that hangs must not stop the calls.
            self._carry_on(*await asyncio.to_thread(_folder_taken, self._options))
        return await self._start_writer()

    def _carry_on(self, kept: Counts, alone: ExitStack) -> None:
        """Adds what was counted until now to the folder's own counts."""
        self._alone = alone
        for counter in Recorded:
            kept.add(counter, self._counts[counter])
        kept.set(Recorded.CLOSED, 0)
        self._counts, self._in_folder = kept, True

    async def _start_writer(self) -> Recovered:
        # Options go where no user of this machine can read them: there is a key among them.
        self._process, ours, said = await start_beside(
            "harness.record.writer", self._options.to_json()
        )
        if "error" in said:
            ours.close()
            self._process = None  # ended, or ends when it looks at the socket
            raise GateError("the writer's process", str(said["error"]), "It is started again.")
        self._calls = ours
        loop = asyncio.get_running_loop()
        self._outbox = Outbox(loop, ours, most_bytes=self._limits.bytes, most=self._limits.count)
        return Recovered(recovered=int(said["recovered"]), lost=int(said["lost"]))

    async def _end_writer(self, wait_s: float) -> None:
        if self._calls is not None:
            self._calls.close()
            self._calls = None
        if self._process is None:
            return
        try:
            await asyncio.to_thread(self._process.wait, wait_s)
        except subprocess.TimeoutExpired:
            LOG.warning("the writer did not end in %g s; the next start goes on from there", wait_s)
            self._process.kill()
            self._process.wait()
        self._outbox = self._process = None

    async def _watch(self, beginning: asyncio.Task[Recovered] | None) -> None:
        """Puts a new process in the place of one that ended.

        Args:
          beginning: the first start, where it still goes on.
        """
        if beginning is not None:
            await self._tried(beginning)
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._process is not None and self._process.poll() is None:
                continue
            if self._process is not None:
                LOG.warning("the writer's process has ended; another one is started")
            if self._outbox is not None:
                self._outbox.close()
                self._outbox.broken = True
            await self._end_writer(1.0)
            await self._tried(self._begin())

    async def _tried(self, beginning: Awaitable[Recovered]) -> None:
        """Waits for a start, and says what came of it."""
        try:
            found = await beginning
            LOG.warning("%d exchanges recovered, %d lost", found.recovered, found.lost)
        except (OSError, UsageError, GateError) as error:
            _say_off(error)
            await asyncio.sleep(_RESTART_S)


def _folder_taken(options: WriterOptions) -> tuple[Counts, ExitStack]:
    """Makes the folder and its files: the counts, and what holds the lock."""
    folder, name = Path(options.spool), options.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("ab"):
        pass  # the writer's; made here, where an error can be told
    with ExitStack() as held:
        alone = held.enter_context(locked(folder / f"{name}.proxy.lock", wait=False))
        if not alone:
            raise UsageError(
                f"--out {options.out}",
                f"a recorder named '{name}' is writing there already",
                "Name another --out or another --name.",
            )
        kept = Counts(folder / f"{name}{COUNTS}")
        return kept, held.pop_all()
    raise AssertionError  # the lock's context lets every error through


def _say_off(error: Exception) -> None:
    LOG.warning("nothing is recorded, calls pass: %s; tried again every %g s", error, _RESTART_S)

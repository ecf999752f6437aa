"""Ends children whose resident memory or number of threads passes a limit, whatever else limits them.

The address-space limit turns most excess into a clean error inside the child. What it does not cover —
a child on which it could not be set — is seen from outside: one thread reads every watched
process's resident size every few milliseconds and kills the process that is over its limit. A session
has one thread; a process that starts many takes the machine from the others.

Both are read from files that stay open, one call each: opened anew at every look they took a hundredth of
a processor, beside versions that compute on all of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass, field

INTERVAL_S = 0.01
MOST_THREADS = 16
_OWN_LINKS = 2
_STATM_BYTES = 256
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(eq=False, slots=True, kw_only=True)
class Watch:
    """One process under watch."""

    pid: int
    """The child; it stays unreaped, so that the number is its own, until `Watchdog.leave`."""
    limit_bytes: int
    """Resident memory of its own that it may have."""
    peak_bytes: int = field(default=0)
    """Largest resident size that was seen."""
    killed: bool = field(default=False)
    """It was over its limit of memory and was ended for it."""
    crowded: bool = field(default=False)
    """It had more threads than MOST_THREADS and was ended for them."""
    files: tuple[int, ...] = field(default=())
    """Descriptors of its `statm` and its folder of threads; none before the first look and after `leave`."""


class Watchdog:
    """Watches processes from one thread, which runs while there is something to watch."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        # Re-entrant: a dropped sandbox leaves from wherever the garbage collector finds it.
        self._lock = threading.RLock()
        self._watched: set[Watch] = set()
        self._thread: threading.Thread | None = None
        self._idle = threading.Event()

    def join(self, pid: int, limit_bytes: int) -> Watch:
        """Watches a process from now on.

        Args:
          pid: a child of this process.
          limit_bytes: resident memory it may have.
        """
        watch = Watch(pid=pid, limit_bytes=limit_bytes)
        with self._lock:
            self._watched.add(watch)
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="memory-watchdog", daemon=True
                )
                self._thread.start()
        return watch

    def leave(self, watch: Watch) -> None:
        """Watches it no more. Call it before the process is reaped: its number may be given again."""
        with self._lock:
            self._watched.discard(watch)
            files, watch.files = watch.files, ()
            for fd in files:
                os.close(fd)
            if not self._watched:
                self._idle.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._watched:
                    self._thread = None
                    return
                # Under the lock: nobody can reap a process between the look and the signal.
                for watch in tuple(self._watched):
                    if watch in self._watched:
                        _look(watch)
            self._idle.wait(self._interval_s)


def _opened(pid: int) -> tuple[int, ...]:
    """What a look at a process reads; () when it has ended by itself, or there is no /proc."""
    try:
        statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        return statm, os.open(f"/proc/{pid}/task", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        os.close(statm)
        return ()


def _look(watch: Watch) -> None:
    watch.files = watch.files or _opened(watch.pid)
    if not watch.files:
        return  # the other limits hold
    statm, tasks = watch.files
    try:
        fields = os.pread(statm, _STATM_BYTES, 0).split()
        # Without what is shared with files: libraries, and the ring that the parent laid out.
        resident = (int(fields[1]) - int(fields[2])) * _PAGE
        # Links of a folder are as many as folders in it.
        threads = os.fstat(tasks).st_nlink - _OWN_LINKS
    except (OSError, ValueError, IndexError):
        return  # it has ended by itself
    if not watch.files:
        return  # the garbage collector left it meanwhile
    watch.peak_bytes = max(watch.peak_bytes, resident)
    if watch.killed or watch.crowded:
        return
    watch.killed = resident > watch.limit_bytes
    watch.crowded = threads > MOST_THREADS
    if watch.killed or watch.crowded:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(watch.pid, signal.SIGKILL)


WATCHDOG = Watchdog()
"""The one that sandboxes use: one thread for all of them."""

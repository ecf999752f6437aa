"""What the machine offers: disk, processors, memory files, kernel, clock."""

from __future__ import annotations

import enum
import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from harness.core import clock as wall_clock

_GIB = 1 << 30
_LOW_DISK_BYTES = 5 * _GIB
_NO_DISK_BYTES = _GIB // 2
_CLOCK_SLACK_NS = 24 * 3600 * 10**9


class State(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    """Nothing to do."""
    WARNING = "warning"
    """Works, with a limit that should be known."""
    PROBLEM = "problem"
    """Stands in the way of a gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    """Stable word for programs."""
    state: State
    """How it ended."""
    found: str
    """What is there, in words."""
    remedy: str = ""
    """What to do; "" when nothing needs doing."""


def disk(folder: Path) -> Check:
    """Free space, and whether it may be written, where sealed windows are kept.

    Args:
      folder: the cache folder; it may not exist yet.
    """
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / _GIB:.1f} GiB free for {folder}"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            name="disk",
            state=State.PROBLEM,
            found=f"{existing} cannot be written to",
            remedy="Name another folder with --cache or HARNESS_CACHE_DIR.",
        )
    if free >= _LOW_DISK_BYTES:
        return Check(name="disk", state=State.OK, found=found)
    return Check(
        name="disk",
        state=State.WARNING if free >= _NO_DISK_BYTES else State.PROBLEM,
        found=found,
        remedy="Free some space, or name another folder with --cache or HARNESS_CACHE_DIR.",
    )


def processors() -> Check:
    """How many processors this process may use; both legs and the parent compute at once."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{usable} usable of {os.cpu_count()}"
    if (usable or 1) > 1:
        return Check(name="processors", state=State.OK, found=found)
    return Check(
        name="processors",
        state=State.WARNING,
        found=found,
        remedy="Verdicts are the same, slower: both versions share one processor with the gate.",
    )


def shared_memory() -> Check:
    """Whether memory files can be made: a model reaches its sandbox in a sealed one."""
    try:
        os.close(os.memfd_create("harness-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except (AttributeError, OSError) as error:
        return Check(
            name="shared_memory",
            state=State.PROBLEM,
            found=f"memfd_create does not work ({error})",
            remedy="Use Linux 3.17 or newer, and a container profile that allows memfd_create.",
        )
    shm = Path("/dev/shm")  # noqa: S108 - looked at, nothing is put there
    size = f"; /dev/shm {shutil.disk_usage(shm).free / _GIB:.1f} GiB free" if shm.is_dir() else ""
    return Check(name="shared_memory", state=State.OK, found=f"sealed memory files{size}")


def kernel() -> Check:
    """Which system this is."""
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    if platform.system() == "Linux":
        return Check(name="kernel", state=State.OK, found=found)
    remedy = "The sandbox needs Linux; use a container or virtual machine."
    return Check(name="kernel", state=State.PROBLEM, found=found, remedy=remedy)


def clock(now_ns: int | None = None) -> Check:
    """Whether the wall clock can be right: training cut-offs and labels' ages depend on it.

    Args:
      now_ns: what the clock shows; None reads it.
    """
    now = wall_clock.now_ns() if now_ns is None else now_ns
    installed = Path(__file__).stat().st_mtime_ns
    found = f"{wall_clock.iso(now)} (UTC), step {time.get_clock_info('time').resolution:.0e} s"
    if now >= installed - _CLOCK_SLACK_NS:
        return Check(name="clock", state=State.OK, found=found)
    return Check(
        name="clock",
        state=State.PROBLEM,
        found=f"{found}, but this program was installed {wall_clock.iso(installed)}",
        remedy="Set the clock, or say what time it is with --as-of.",
    )

"""Landlock: what the process may reach in the file system, without any privilege.

It holds for threads that are made afterwards only, so it is set while there is one. Rights are named by
the kernel's own version of the interface: what an older kernel does not know cannot be forbidden by it.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Iterable

from harness.sandbox.child import kernel
from harness.sandbox.child.syscalls import (
    LANDLOCK_ADD_RULE,
    LANDLOCK_CREATE_RULESET,
    LANDLOCK_RESTRICT_SELF,
)

_ASK_VERSION = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# Number of file rights from this version on: refer in 2, truncate in 3, device ioctl in 5.
_FILE_RIGHTS = ((5, 16), (3, 15), (2, 14), (1, 13))
_TCP_FROM, _ALL_TCP = 4, 3
_SCOPES_FROM, _ALL_SCOPES = 6, 3
# What Python, numpy and onnxruntime read while they are imported, besides their own folders.
_SYSTEM_PATHS = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/bus/pci",
    "/sys/class",
    "/sys/devices",
    "/dev/null",
    "/dev/urandom",
    "/usr/share/zoneinfo",
)


def version() -> int:
    """The interface's version; raises OSError when the kernel has no Landlock or it is switched off."""
    return kernel.syscall(LANDLOCK_CREATE_RULESET, None, 0, _ASK_VERSION)


def restrict(readable: Iterable[str]) -> None:
    """Forbids everything in the file system but reading these.

    Also forbids TCP, and signals and abstract sockets to processes outside, where the kernel can.

    Args:
      readable: files and folders, with all below them; what is not there is left out.

    Raises:
      OSError: the kernel's answer.
    """
    offered = version()
    rights = (1 << next(n for since, n in _FILE_RIGHTS if offered >= since)) - 1
    attributes = struct.pack("=Q", rights)
    if offered >= _TCP_FROM:
        attributes += struct.pack("=Q", _ALL_TCP)
    if offered >= _SCOPES_FROM:
        attributes += struct.pack("=Q", _ALL_SCOPES)
    rules = kernel.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in readable:
            _allow_reading(rules, path)
        kernel.syscall(LANDLOCK_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def needed_for_imports() -> list[str]:
    """The interpreter, its packages and the system's libraries."""
    found = dict.fromkeys((sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix))
    found.update(dict.fromkeys(p for p in sys.path if p.startswith("/")))
    # An interpreter may have its libraries anywhere: what is loaded already shows where.
    with open("/proc/self/maps") as maps:  # noqa: PTH123 - pathlib is not imported before the lock
        loaded = {line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line}
    found.update(dict.fromkeys(sorted(p.rpartition("/")[0] for p in loaded if p.startswith("/"))))
    found.update(dict.fromkeys(_SYSTEM_PATHS))
    return [path for path in found if path not in {"", "/"}]


def _allow_reading(rules: int, path: str) -> None:
    """Adds a path; one that is not there, or lies in memory as our own program does, needs no rule."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        rights = _READ_FILE | _READ_DIR if folder else _READ_FILE
        kernel.syscall(
            LANDLOCK_ADD_RULE, rules, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0
        )
    except OSError as error:
        if error.errno != errno.EBADFD:
            raise
    finally:
        os.close(fd)

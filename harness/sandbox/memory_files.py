"""Sealed memory files: bytes that a child can read and nobody can change afterwards."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import SandboxError, UsageError

_REFUSED = (errno.ENOSYS, errno.EPERM, errno.EACCES)
_CHUNK = 1 << 20
_ALIGNMENT = 64
_SIZE_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_SEALS = _SIZE_SEALS | fcntl.F_SEAL_WRITE
_MOST_BUSY_S = 10.0
_LOOK_AGAIN_S = 0.01


def sealed_from_bytes(name: str, data: bytes) -> int:
    """Descriptor of a sealed memory file with this content; the caller closes it."""
    fd = _created(name)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        return _sealed(fd)
    except BaseException:
        os.close(fd)
        raise


def sealed_from_path(path: Path) -> int:
    """Descriptor of a sealed copy of a file; the caller closes it.

    The file is copied, never parsed, and read once: what the child sees is what was hashed or copied
    at this moment, whatever happens to the path later.

    Raises:
      UsageError: the file cannot be read.
    """
    return sealed_from_paths(path.name[:100] or "model", [path])[0]


def sealed_from_paths(name: str, paths: Sequence[Path]) -> tuple[int, list[tuple[int, int]]]:
    """A sealed copy of several files, one after the other.

    Args:
      name: for the system's list of descriptors.
      paths: the files.

    Returns:
      The descriptor, which the caller closes, and per file (first byte, bytes).

    Raises:
      UsageError: a file cannot be read.
    """
    fd = _created(name)
    spans: list[tuple[int, int]] = []
    at = 0
    try:
        for path in paths:
            size = _appended(fd, path)
            spans.append((at, size))
            at += size + -size % _ALIGNMENT
            os.lseek(fd, at, os.SEEK_SET)
        return _sealed(fd), spans
    except BaseException:
        os.close(fd)
        raise


def shared_of_size(name: str, size: int) -> int:
    """Descriptor of a memory file of holes that can be written and never change its size; the caller closes it."""
    fd = _created(name)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SIZE_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def empty_mailbox(name: str) -> int:
    """Descriptor of an empty memory file for `post`; the caller closes it."""
    return _created(name)


def post(mailbox: int, sources: Sequence[int]) -> list[int]:
    """Copies sealed files into a mailbox, one after the other, and seals it.

    Args:
      mailbox: from `empty_mailbox`; a process that has it can read it from now on.
      sources: descriptors; where they stand does not change.

    Returns:
      Bytes of each.
    """
    sizes = []
    for source in sources:
        at = 0
        size = os.fstat(source).st_size
        while at < size:
            at += os.sendfile(mailbox, source, at, size - at)
        sizes.append(size)
    _sealed(mailbox)
    return sizes


def _appended(fd: int, path: Path) -> int:
    """Copies a file to where the descriptor stands; its size."""
    try:
        size = 0
        with path.open("rb") as source:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
    except OSError as error:
        raise UsageError(
            str(path), f"cannot be read ({error.strerror})", "Give the path of an ONNX file."
        ) from None
    return size


def _created(name: str) -> int:
    if not hasattr(os, "memfd_create"):
        raise SandboxError(
            "sandbox", "this system has no sealed memory files", "Run the gate on Linux."
        )
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise UsageError(
            "sandbox",
            f"this machine refuses sealed memory files (memfd_create: {error.strerror})",
            "Use Linux 3.17 or newer, and a container profile that allows memfd_create.",
        ) from None


def _sealed(fd: int) -> int:
    """Seals a memory file and goes back to its start.

    The kernel refuses (EBUSY) while anything but the file holds one of its pages. It waits for a moment
    itself, but on a busy machine its own housekeeping may hold one for longer.
    """
    until = time.monotonic() + _MOST_BUSY_S
    while not _took_seals(fd):
        if time.monotonic() > until:
            raise SandboxError(
                "sandbox",
                f"memory that is to be sealed has been in use elsewhere for {_MOST_BUSY_S:.0f} s",
                "Run it again when the machine is less busy, or on another one.",
            )
        time.sleep(_LOOK_AGAIN_S)
    # A reader opens it again through its descriptor; reading starts at the shared offset.
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _took_seals(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True

"""Sealed memory files: bytes that a child can read and nobody can change afterwards."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from harness.core.errors import SandboxError, UsageError

_CHUNK = 1 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


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
    fd = _created(path.name[:100] or "model")
    try:
        with path.open("rb") as source:
            while chunk := source.read(_CHUNK):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
        return _sealed(fd)
    except OSError as error:
        os.close(fd)
        raise UsageError(
            str(path), f"cannot be read ({error.strerror})", "Give the path of an ONNX file."
        ) from None
    except BaseException:
        os.close(fd)
        raise


def _created(name: str) -> int:
    if not hasattr(os, "memfd_create"):
        raise SandboxError(
            "sandbox", "this system has no sealed memory files", "Run the gate on Linux."
        )
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _sealed(fd: int) -> int:
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    # A reader opens it again through its descriptor; reading starts at the shared offset.
    os.lseek(fd, 0, os.SEEK_SET)
    return fd

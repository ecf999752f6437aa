"""Whole files or none: hashing, publishing under the final name, and what damage looks like."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from harness.core.errors import GateError, TrafficError

COLUMNS_FILE = "columns.arrow"
"""A folder that has it is a sealed window and no recorded traffic."""


def sha256_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def publish(temporary: Path, final: Path) -> None:
    """Gives a finished file or folder its name, in one step that survives a power cut.

    Raises:
      OSError: `final` is a folder that is not empty.
    """
    for written in sorted(temporary.rglob("*")) if temporary.is_dir() else [temporary]:
        _sync(written)
    temporary.rename(final)
    _sync(final.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file's content; a reader sees the old bytes or the new ones, never a part."""
    with replaced(path) as file:
        file.write(content)


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that takes another's place when the body ends: readers see the old bytes or the new ones.

    Args:
      path: whose place; where the body fails it stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Holds an exclusive lock on a file while the body runs; it ends with the process, however that ends.

    Args:
      path: the lock file; made when missing, never removed.
      wait: wait for another holder, or go on without the lock.

    Yields:
      Whether the lock is held.
    """
    with path.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def damage_is_a_traffic_error(name: str, kind: str) -> Iterator[None]:
    """Turns what Arrow says about a damaged file into an error that names the file.

    Args:
      name: the file, as the user knows it.
      kind: what it should have been, e.g. Parquet.

    Raises:
      TrafficError: in place of Arrow's or the system's error.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: names in a footer
        first_line = str(error).split("\n", 1)[0].rstrip(".")
        raise TrafficError(
            name,
            f"cannot be read as {kind}: {first_line}",
            "It is damaged, cut off or of another kind; restore it or leave it out.",
        ) from None


_MACHINE_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EMFILE, errno.ENFILE,
}  # fmt: skip


@contextmanager
def machine_trouble_is_a_gate_error(where: Path) -> Iterator[None]:
    """Turns a full disk, a missing right and their like into an error that says where.

    Args:
      where: what is being written, for errors that name no file.

    Raises:
      GateError: in place of the system's error. Other errors of the system are mistakes of this
        program's and pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        raise GateError(
            str(error.filename or where),
            f"cannot be used: {os.strerror(error.errno)}",
            "Make room or give access there, then give the command again; a run whose folder is "
            "still there goes on with `harness gate --resume`.",
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

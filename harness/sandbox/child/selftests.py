"""What the locked process tries on itself: each attempt is harmless where it succeeds.

The answers, not the success of setting something up, decide which tier is reported.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable

from harness.sandbox.child import kernel
from harness.sandbox.child.syscalls import NUMBERS

ALLOWED = "allowed"
_SYSTEM_FILE = "/etc/passwd"
_FOLDERS = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - whether it can be written is the question
_AF_UNIX, _AF_INET = 1, 2
_SOCK_STREAM, _SOCK_DGRAM = 1, 2
_NO_SUCH_REQUEST = 0xFFFF
_NO_PROGRAM = b"/nonexistent/program"


def answers(parent: int) -> dict[str, str]:
    """Attempt → "allowed", or the name of the error it got.

    Args:
      parent: process id of the parent, to which no signal is sent: only whether one could be.
    """
    attempts: dict[str, Callable[[], object]] = {
        "read a system file": lambda: os.close(os.open(_SYSTEM_FILE, os.O_RDONLY)),
        "look at a system file": lambda: os.stat(_SYSTEM_FILE),  # noqa: PTH116 - after the lock
        "create a file": _create,
        "run memory as code": _executable_memory,
        "fork": _fork,
        "signal the parent": lambda: os.kill(parent, 0),
    }
    machine = kernel.machine()
    if machine:
        numbers = NUMBERS[machine]
        for name, call, *arguments in (
            ("TCP socket", "socket", _AF_INET, _SOCK_STREAM, 0),
            ("UDP socket", "socket", _AF_INET, _SOCK_DGRAM, 0),
            ("local socket", "socket", _AF_UNIX, _SOCK_STREAM, 0),
            ("memory file", "memfd_create", b"probe", 0),
            # Without parameters even an allowed one fails, with EFAULT.
            ("io_uring", "io_uring_setup", 1, None),
        ):
            attempts[name] = _descriptor(numbers[call], *arguments)
        attempts["run a program"] = lambda: kernel.syscall(
            numbers["execve"], _NO_PROGRAM, None, None
        )
        attempts["trace a process"] = lambda: kernel.syscall(
            numbers["ptrace"], _NO_SUCH_REQUEST, 0, 0, 0
        )
    return {name: _answer(attempt) for name, attempt in attempts.items()}


def open_answer(path: str) -> str:
    """What opening a file for reading says."""
    return _answer(lambda: os.close(os.open(path, os.O_RDONLY)))


def fork_answer() -> str:
    """What starting a process says."""
    return _answer(_fork)


def further_filter_answer() -> str:
    """What asking the kernel about another filter says: refused once the last one is in place."""
    number = NUMBERS[kernel.machine()]["seccomp"]
    return _answer(lambda: kernel.syscall(number, 2, 0, struct.pack("=I", 0)))


def _answer(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return kernel.error_name(error)
    return ALLOWED


def _descriptor(number: int, *arguments: int | bytes | None) -> Callable[[], None]:
    return lambda: os.close(kernel.syscall(number, *arguments))


def _create() -> None:
    """Makes a file in the first folder that there is, and removes it again."""
    for folder in _FOLDERS:
        path = f"{folder}/.sandbox-{os.getpid()}"
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except (FileNotFoundError, FileExistsError):
            continue
        os.close(fd)
        os.unlink(path)  # noqa: PTH108 - pathlib is not imported before the lock
        return


def _executable_memory() -> None:
    protection = mmap.PROT_READ | mmap.PROT_EXEC
    mmap.mmap(
        -1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection
    ).close()


def _fork() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)

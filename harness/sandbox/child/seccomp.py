"""The system call filter: from here on the process computes, reads and writes its pipes, and ends.

Two filters of the same shape are stacked, and the kernel takes the sterner word of each call. The first
refuses with an error number, so that the process can try forbidden calls on itself and live to report
what came back; the second ends the process for those that no model has an honest use for. A call both
let through costs nothing measurable: kernels since 5.11 keep the answer.

A path cannot be looked at by a filter: `newfstatat` is let through with AT_EMPTY_PATH, which glibc's
fstat needs. Code that runs inside the process could learn size and date of a file by it, no content.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from harness.sandbox.child import kernel
from harness.sandbox.child.syscalls import ALLOWED, DEADLY, FILES, NUMBERS

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_SET_MODE_FILTER, _TSYNC = 1, 1
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_CLONE_THREAD = 0x10000
_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000
_F_GETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 1, 3, 1030
_PR_SET_NAME, _PR_SET_VMA = 15, 0x53564D41


def program(machine: str, pid: int, *, kill: bool) -> bytes:
    """A filter as the kernel reads it, eight bytes an instruction.

    Args:
      machine: of `ARCHITECTURES`.
      pid: the process, which may signal its own threads: abort does.
      kill: end the process at deadly calls, and refuse further filters; else refuse the calls and
        leave a way to the second filter.
    """
    deadly = KILL if kill else REFUSE | errno.EPERM
    parts = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, ARCHITECTURES[machine], 1, 0),
        _step(_RETURN, KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        parts += [_step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, KILL)]
    numbers = NUMBERS[machine]
    answers = {name: _answer(ALLOW) for name in ALLOWED}
    answers |= _by_argument(pid, deadly, kill=kill)
    answers |= {name: _answer(REFUSE | errno.EACCES) for name in FILES}
    answers |= {name: _answer(deadly) for name in DEADLY}
    for name, body in answers.items():
        if name in numbers:
            parts += [_step(_EQUAL, numbers[name], 0, len(body) // 8), body]
    parts.append(_step(_RETURN, REFUSE | errno.EPERM))
    return b"".join(parts)


def install(*, kill: bool) -> None:
    """Puts a filter on every thread of the process, for good.

    Raises:
      OSError: the kernel's answer.
      KeyError: the numbers of this machine are not known (`kernel.machine`).
    """
    machine = kernel.machine()
    code = program(machine, os.getpid(), kill=kill)
    steps = ctypes.create_string_buffer(code, len(code))
    pointer = struct.pack("=HxxxxxxQ", len(code) // 8, kernel.address_of(steps))
    unsynchronised = kernel.syscall(NUMBERS[machine]["seccomp"], _SET_MODE_FILTER, _TSYNC, pointer)
    if unsynchronised:
        raise OSError(errno.ESRCH, f"thread {unsynchronised} could not be filtered")


def _by_argument(pid: int, deadly: int, *, kill: bool) -> dict[str, bytes]:
    """Calls whose arguments decide."""
    no_code = _if_bits(2, _PROT_EXEC, _answer(REFUSE | errno.EACCES), _answer(ALLOW))
    return {
        "mmap": no_code,
        "mprotect": no_code,
        "clone": _if_bits(0, _CLONE_THREAD, _answer(ALLOW), _answer(deadly)),
        # Its flags lie in memory, where a filter cannot look: glibc falls back on clone.
        "clone3": _answer(REFUSE | errno.ENOSYS),
        "tgkill": _if_one_of(0, (pid,), _answer(ALLOW), _answer(deadly)),
        "newfstatat": _if_bits(3, _AT_EMPTY_PATH, _answer(ALLOW), _answer(REFUSE | errno.EACCES)),
        # Python's mmap keeps a duplicate of its descriptor.
        "fcntl": _if_one_of(
            1,
            (_F_GETFD, _F_GETFL, _F_DUPFD_CLOEXEC),
            _answer(ALLOW),
            _answer(REFUSE | errno.EPERM),
        ),
        # Limits may be read; a new one would be at the address in the third argument.
        "prlimit64": _if_null(2, _answer(ALLOW), _answer(REFUSE | errno.EPERM)),
        "prctl": _if_one_of(
            0, (_PR_SET_NAME, _PR_SET_VMA), _answer(ALLOW), _answer(REFUSE | errno.EPERM)
        ),
        "seccomp": _answer(REFUSE | errno.EPERM if kill else ALLOW),
    }


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value & 0xFFFFFFFF)


def _answer(value: int) -> bytes:
    return _step(_RETURN, value)


def _low(argument: int) -> bytes:
    return _step(_LOAD, _ARGUMENTS + 8 * argument)


def _high(argument: int) -> bytes:
    return _step(_LOAD, _ARGUMENTS + 8 * argument + 4)


def _if_bits(argument: int, bits: int, yes: bytes, no: bytes) -> bytes:
    return _low(argument) + _step(_ANY_BIT, bits, 0, len(yes) // 8) + yes + no


def _if_one_of(argument: int, values: tuple[int, ...], yes: bytes, no: bytes) -> bytes:
    tests = [
        _step(_EQUAL, value, len(values) - 1 - i, 0 if i + 1 < len(values) else len(yes) // 8)
        for i, value in enumerate(values)
    ]
    return _low(argument) + b"".join(tests) + yes + no


def _if_null(argument: int, yes: bytes, no: bytes) -> bytes:
    past = len(yes) // 8
    return (
        _low(argument)
        + _step(_EQUAL, 0, 0, past + 2)
        + _high(argument)
        + _step(_EQUAL, 0, 0, past)
        + yes
        + no
    )

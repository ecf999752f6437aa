"""System calls that Python's standard library has no function for, by ctypes alone.

Each raises OSError as Python's own would. Nothing here decides anything.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from harness.sandbox.child.syscalls import NUMBERS

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_TIMERSLACK = 29
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 38, 39
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_WORDS = 6
_MAX_CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def machine() -> str:
    """The kind of processor whose system call numbers hold here; "" when they are not known."""
    name = os.uname().machine
    known = sys.platform == "linux" and sys.byteorder == "little" and sys.maxsize > 1 << 32
    return name if known and name in NUMBERS else ""


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Any system call.

    Args:
      number: of the call on this machine.
      arguments: integers, or bytes whose address is meant; None for a null pointer.

    Raises:
      OSError: the kernel's answer.
    """
    given = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *given))


def prctl(option: int, *arguments: int | ctypes.Array[ctypes.c_int]) -> int:
    """One operation on the process.

    Raises:
      OSError: the kernel's answer.
    """
    given = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    given += [ctypes.c_ulong(0)] * (4 - len(given))
    return _checked(_libc.prctl(ctypes.c_int(option), *given))


def unshare(flags: int) -> None:
    """Leaves the namespaces that the flags name.

    Raises:
      OSError: the kernel's answer.
    """
    _checked(_libc.unshare(ctypes.c_int(flags)))


def capabilities() -> tuple[int, ...]:
    """Effective, permitted and inheritable sets, low words then high words."""
    words = ctypes.create_string_buffer(4 * _CAPABILITY_WORDS)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capget(ctypes.c_char_p(header), words))
    return struct.unpack(f"={_CAPABILITY_WORDS}I", words.raw)


def drop_bounding_set() -> None:
    """Gives up, for good, every capability that a program could bring along.

    Raises:
      OSError: EPERM without the capability to do so.
    """
    for number in range(_MAX_CAPABILITIES):
        try:
            kept = prctl(PR_CAPBSET_READ, number)
        except OSError:
            # The kernel has no capability of this number, nor of a higher one.
            return
        if kept:
            prctl(PR_CAPBSET_DROP, number)


def drop_capabilities() -> None:
    """Empties all three sets.

    Raises:
      OSError: the kernel's answer.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(4 * _CAPABILITY_WORDS))))


def integer() -> ctypes.Array[ctypes.c_int]:
    """Where the kernel can put a number."""
    return (ctypes.c_int * 1)()


def address_of(buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Where a buffer lies, for structures that hold pointers."""
    return ctypes.addressof(buffer)


def error_name(error: OSError) -> str:
    """EACCES, EPERM …; the text when the number has no name."""
    return errno.errorcode.get(error.errno or 0, str(error))


def _checked(answer: int) -> int:
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer

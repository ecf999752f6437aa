"""Stage A: what a process can take from itself before it imports anything third-party.

Each layer answers with what was read back from the kernel, never with "the call returned 0".
Linux only; elsewhere each layer says that it is not there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
MAX_OPEN_FILES = 64


def _prctl(option: int, *arguments: int | ctypes.Array[ctypes.c_int]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    given += [ctypes.c_ulong(0)] * (4 - len(given))
    answer = int(libc.prctl(ctypes.c_int(option), *given))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def _parent_death_signal(parent: int) -> str:
    """SIGKILL when the parent dies; exits at once when it already has."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    read_back = (ctypes.c_int * 1)()
    _prctl(_PR_GET_PDEATHSIG, read_back)
    return "" if read_back[0] == int(signal.SIGKILL) else f"reads back {read_back[0]}"


def _no_new_privs() -> str:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return "" if _prctl(_PR_GET_NO_NEW_PRIVS) == 1 else "reads back 0"


def _limit(what: int, value: int) -> str:
    resource.setrlimit(what, (value, value))
    found = resource.getrlimit(what)
    return "" if found == (value, value) else f"reads back {found}"


def _no_files() -> str:
    """Tries to leave a file behind in the working directory."""
    try:
        fd = os.open("probe", os.O_CREAT | os.O_WRONLY, 0o600)
    except OSError:
        return ""
    try:
        os.write(fd, b"x")
    except OSError:
        return ""
    finally:
        os.close(fd)
        os.unlink("probe")  # noqa: PTH108 - pathlib is not imported before the lock
    return "a file could be written in the working directory"


def stage_a(parent: int, memory_bytes: int, die_with_parent: bool) -> dict[str, str]:
    """Applies and checks every layer of tier S0.

    Args:
      parent: process id of the parent.
      memory_bytes: address-space limit.
      die_with_parent: False when the parent's starting thread may end before the parent does: the
        kernel ties the signal to the thread.

    Returns:
      Layer → "" when it holds, else why it does not.
    """
    layers: dict[str, str] = {}

    def layer(name: str, attempt: object, *arguments: int) -> None:
        try:
            layers[name] = attempt(*arguments) if callable(attempt) else ""
        except (OSError, ValueError, AttributeError) as error:
            code = getattr(error, "errno", None)
            layers[name] = errno.errorcode.get(code, str(error)) if code else str(error)

    if die_with_parent:
        layer("parent_death_signal", _parent_death_signal, parent)
    else:
        layers["parent_death_signal"] = "started outside the parent's main thread"
    layer("no_new_privs", _no_new_privs)
    layer("rlimit_as", _limit, resource.RLIMIT_AS, memory_bytes)
    layer("rlimit_nofile", _limit, resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    layer("rlimit_fsize", _limit, resource.RLIMIT_FSIZE, 0)
    layer("rlimit_core", _limit, resource.RLIMIT_CORE, 0)
    layer("no_files", _no_files)
    return layers

"""A process that has imported what programs of the sandbox import, and forks them: `forked` asks it.

    python -I -BS fork_server.py SOCKET BUNDLE MODULE …

SOCKET and BUNDLE are descriptors. What it makes is a child of who started it, not its own. In that child
everything is as if the program had just been started: its descriptors and no others, an empty folder, a
session of its own, and no line of the program has run.
"""

import array
import ctypes
import fcntl
import importlib
import json
import os
import signal
import socket
import sys

_CLONE_PARENT = 0x8000
_CLONE = {"x86_64": 56, "aarch64": 220}
_MOST_BYTES, _MOST_FDS = 1 << 16, 32


def main() -> None:
    """Serves until the other end closes; in a child, runs the program."""
    control = socket.socket(fileno=int(sys.argv[1]))
    path = list(sys.path)
    sys.path[0] = f"/proc/self/fd/{sys.argv[2]}"
    packages = importlib.import_module("harness.sandbox.child.packages")
    sys.path += packages.folders()
    for name in sys.argv[3:]:
        importlib.import_module(name)
    while True:
        request, ancillary, _, _ = control.recvmsg(
            _MOST_BYTES, socket.CMSG_SPACE(4 * _MOST_FDS), socket.MSG_CMSG_CLOEXEC
        )
        if not request:
            return
        fds = array.array("i", b"".join(data for _, _, data in ancillary)).tolist()
        asked = json.loads(request)
        if _forked() == 0:
            sys.path[:] = path
            _become(asked, fds, control)
            break
        for fd in fds:
            os.close(fd)
    importlib.import_module(asked["arguments"][1]).main(asked["arguments"][2:])


def _forked() -> int:
    """fork, whose child is our parent's."""
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    flags = _CLONE_PARENT | signal.SIGCHLD
    pid = ctypes.PyDLL(None).syscall(_CLONE[os.uname().machine], flags, 0, 0, 0, 0)
    if pid < 0:
        sys.exit("no process could be made")
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return int(pid)


def _become(asked: dict[str, object], fds: list[int], control: socket.socket) -> None:
    """Takes what the new process is to have, says that it is there, and keeps nothing else."""
    os.setsid()
    os.chdir(str(asked["folder"]))
    arguments, numbers = asked["arguments"], asked["numbers"]
    assert isinstance(arguments, list)
    assert isinstance(numbers, list)
    sys.argv = arguments
    sys.path[0] = arguments[0]
    control.send(str(os.getpid()).encode())
    control.close()
    # Above every number that one of them is to have: none is written over before it is moved.
    above = max(*numbers, *fds) + 1
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    os.closerange(3, min(aside))
    for fd, number in zip(aside, numbers, strict=True):
        os.dup2(fd, number)
    kept = sorted({0, 1, 2, *numbers})
    most = os.sysconf("SC_OPEN_MAX")
    for low, high in zip(kept, [*kept[1:], most], strict=True):
        os.closerange(low + 1, high)


if __name__ == "__main__":
    main()

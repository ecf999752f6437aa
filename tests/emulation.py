"""A machine that offers less: runs a command under a filter that answers what such a machine would.

    python emulation.py no-namespaces,no-landlock,user -- COMMAND …

The filter comes before the command's own and is inherited by all that it starts. `user` leaves root
behind; interpreter and repository stay in sight even where they lie in root's home.
"""

import ctypes
import errno
import os
import struct
import sys
from pathlib import Path

from harness.sandbox.child import kernel
from harness.sandbox.child.syscalls import NUMBERS

NOBODY = 65534
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NEW_MOUNTS = 0x00020000
_BIND, _RECURSIVE, _PRIVATE = 1 << 12, 1 << 14, 1 << 18
_PROGRAMS = (sys.base_prefix, sys.prefix, str(Path(__file__).resolve().parents[1]))
_LANDLOCK = (444, 445, 446)


def refusals(what: str) -> dict[int, int]:
    """System call number → error number of a machine that lacks this."""
    numbers = NUMBERS[os.uname().machine]
    match what:
        case "no-namespaces":
            return {numbers["unshare"]: errno.EPERM}
        case "no-landlock":
            return dict.fromkeys(_LANDLOCK, errno.ENOSYS)
        case "landlock-off":
            return dict.fromkeys(_LANDLOCK, errno.EOPNOTSUPP)
        case "no-memory-files":
            return {numbers["memfd_create"]: errno.EPERM}
        case "no-seccomp":
            return {numbers["seccomp"]: errno.ENOSYS}
    raise SystemExit(f"cannot emulate {what}")


def refuse(answers: dict[int, int]) -> None:
    """Installs the filter."""
    steps = [struct.pack("=HBBI", 0x20, 0, 0, 0)]
    for number, code in answers.items():
        steps.append(struct.pack("=HBBI", 0x15, 0, 1, number))
        steps.append(struct.pack("=HBBI", 0x06, 0, 0, _ERRNO | code))
    steps.append(struct.pack("=HBBI", 0x06, 0, 0, _ALLOW))
    program = ctypes.create_string_buffer(b"".join(steps))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    pointer = struct.pack("=HxxxxxxQ", len(steps), ctypes.addressof(program))
    kernel.syscall(NUMBERS[os.uname().machine]["seccomp"], 1, 0, pointer)


def leave_root() -> None:
    """Becomes nobody, in a view of the file system in which nobody can read this program."""
    if os.getuid():
        return
    kernel.unshare(_NEW_MOUNTS)
    _mount(b"none", "/", _PRIVATE | _RECURSIVE)
    closed = {hidden for p in _PROGRAMS if (hidden := _first_closed(Path(p).resolve()))}
    wanted = {p: os.open(p, os.O_PATH) for p in _PROGRAMS}
    for folder in closed:
        _mount(b"none", str(folder), 0, b"tmpfs", b"mode=755")
    for path, fd in wanted.items():
        if not Path(path).exists():
            Path(path).mkdir(parents=True)
            _mount(f"/proc/self/fd/{fd}".encode(), path, _BIND)
        os.close(fd)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _first_closed(path: Path) -> Path | None:
    """The outermost folder on the way to a path that others may not enter."""
    return next((p for p in (*reversed(path.parents), path) if not p.stat().st_mode & 0o001), None)


def _mount(source: bytes, target: str, flags: int, kind: bytes = b"", data: bytes = b"") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source, target.encode(), kind or None, ctypes.c_ulong(flags), data or None):
        raise OSError(ctypes.get_errno(), "mount", target)


def interpreter(folder: Path, *what: str, **environment: str) -> Path:
    """A stand-in for the Python interpreter that starts the real one on such a machine.

    Args:
      folder: where it is put.
      what: the machine lacks.
      environment: variables that the program finds beside those that it was given.
    """
    script = folder / ("-".join(what) or "python")
    here = Path(__file__)
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\nos.environ.update({environment!r})\n"
        f"sys.path[:0] = [{str(here.parent)!r}, {str(here.parents[1])!r}]\n"
        f"import emulation\nemulation.run({what!r}, [sys.executable, *sys.argv[1:]])\n"
    )
    script.chmod(0o755)
    return script


def command(*what: str) -> list[str]:
    """What to put before a command's words to run it on such a machine."""
    return [sys.executable, __file__, ",".join(what), "--"]


def run(what: tuple[str, ...], words: list[str]) -> None:
    """Turns this process into the command."""
    if "user" in what:
        leave_root()
    if answers := {k: v for w in what if w != "user" for k, v in refusals(w).items()}:
        refuse(answers)
    os.execv(words[0], words)  # noqa: S606 - becoming the command is the purpose


if __name__ == "__main__":
    run(tuple(sys.argv[1].split(",")), sys.argv[3:])

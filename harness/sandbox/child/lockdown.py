"""The lock in two stages: before anything third-party is imported, and before a model is looked at.

Each layer answers with what was read back from the kernel or tried, never with "the call returned 0".
The parent-death signal is armed three times: the kernel forgets it whenever credentials change.
Linux only; elsewhere each layer says that it is not there.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable

from harness.sandbox.child import kernel, landlock, namespaces, packages, seccomp, selftests

MAX_OPEN_FILES = 64
MAX_CPU_S = 24 * 3600
"""Ends what outlives its parent; deadlines are the parent's."""
NOBODY = 65534
_CAP_KILL, _CAP_SETGID, _CAP_SETUID = 5, 6, 7
_REFUSED = frozenset({"EACCES", "EPERM"})

Layers = dict[str, str]
"""Layer → "" when it holds, else why it does not."""


def stage_a(parent: int, memory_bytes: int, die_with_parent: bool) -> Layers:
    """What holds during the imports: limits, no network, files readable that the imports need.

    Packages can be imported when it has returned, and not before.

    Args:
      parent: process id of the parent.
      memory_bytes: address-space limit.
      die_with_parent: False when the parent's starting thread may end before the parent does: the
        kernel ties the signal to the thread.
    """
    layers: Layers = {}
    if die_with_parent:
        _try(layers, "parent_death_signal", _parent_death_signal, parent)
    else:
        layers["parent_death_signal"] = "started outside the parent's main thread"
    _try(layers, "no_new_privs", _no_new_privs)
    # Before the limits: a file is written to make a user namespace.
    _try(layers, "network_namespace", _no_network)
    for name, what, value in (
        ("rlimit_as", resource.RLIMIT_AS, memory_bytes),
        ("rlimit_nofile", resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        ("rlimit_fsize", resource.RLIMIT_FSIZE, 0),
        ("rlimit_core", resource.RLIMIT_CORE, 0),
        ("rlimit_cpu", resource.RLIMIT_CPU, MAX_CPU_S),
    ):
        _try(layers, name, _limit, what, value)
    folders = packages.folders()
    _try(layers, "landlock_imports", _read_imports_only, *folders)
    _try(layers, "no_files", _no_files)
    sys.path += [folder for folder in folders if folder not in sys.path]
    if die_with_parent:
        _try(layers, "parent_death_signal", _parent_death_signal, parent)
    return layers


def stage_b(parent: int, layers: Layers) -> dict[str, str]:
    """What holds for the model: no privilege, no file, no call that leaves the process.

    Everything that will ever be imported has to be imported before.

    Args:
      parent: process id of the parent.
      layers: of stage A; this stage's are added.

    Returns:
      The answers of `selftests`, given with the lock in place.
    """
    _try(layers, "one_thread", _one_thread)
    _try(layers, "no_bounding_set", kernel.drop_bounding_set)
    _try(layers, "other_user", _other_user)
    _try(layers, "no_capabilities", _no_capabilities)
    _try(layers, "landlock", _open_nothing)
    if not layers["landlock"] and layers["one_thread"]:
        layers["landlock"] = f"does not hold for threads from before: {layers['one_thread']}"
    _try(layers, "not_dumpable", _not_dumpable)
    if not layers["parent_death_signal"]:
        _try(layers, "parent_death_signal", _parent_death_signal, parent)
    _try(layers, "seccomp", _refuse_calls)
    if layers["seccomp"]:
        # The filter tells processes from threads, which this limit cannot; without one it is what is left.
        _try(layers, "rlimit_nproc", _no_processes)
    answers = selftests.answers(parent)
    if layers["seccomp"]:
        layers["seccomp_kill"] = "needs the system call filter"
        return answers
    through = [name for name, answer in answers.items() if answer not in _REFUSED]
    if through:
        layers["seccomp"] = f"lets through: {', '.join(through)}"
    _try(layers, "seccomp_kill", _end_at_deadly_calls)
    return answers


def _try(
    layers: Layers, name: str, attempt: Callable[..., str | None], *arguments: int | str
) -> None:
    try:
        layers[name] = attempt(*arguments) or ""
    except (OSError, ValueError, AttributeError) as error:
        layers[name] = kernel.error_name(error) if isinstance(error, OSError) else str(error)


def _parent_death_signal(parent: int) -> str:
    """SIGKILL when the parent dies; exits at once when it already has."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    read_back = kernel.integer()
    kernel.prctl(kernel.PR_GET_PDEATHSIG, read_back)
    return "" if read_back[0] == int(signal.SIGKILL) else f"reads back {read_back[0]}"


def _no_new_privs() -> str:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    return "" if kernel.prctl(kernel.PR_GET_NO_NEW_PRIVS) == 1 else "reads back 0"


def _limit(what: int, value: int) -> str:
    resource.setrlimit(what, (value, value))
    found = resource.getrlimit(what)
    return "" if found == (value, value) else f"reads back {found}"


def _no_network() -> str:
    namespaces.leave()
    answer = namespaces.network_answer()
    return "" if answer == "ENETUNREACH" else f"the machine itself can be reached ({answer})"


def _read_imports_only(*folders: str) -> str:
    landlock.restrict([*landlock.needed_for_imports(), *folders])
    answer = selftests.open_answer("/etc/passwd")
    return "" if answer == "EACCES" else f"a system file could be opened ({answer})"


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


def _one_thread() -> str:
    count = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - pathlib may not be imported
    return "" if count == 1 else f"{count} threads"


def _other_user() -> str:
    """Root becomes nobody, unless the parent could then not end the process any more."""
    if os.getuid() and os.geteuid():
        return ""
    wanted = (_CAP_KILL, _CAP_SETGID, _CAP_SETUID)
    if not all(kernel.capabilities()[0] >> number & 1 for number in wanted):
        return "root without the capabilities kill, setgid and setuid"
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    found = {*os.getresuid(), *os.getresgid(), *os.getgroups()}
    return "" if found == {NOBODY} else f"reads back {sorted(found)}"


def _no_capabilities() -> str:
    """Empties every set but the bounding one."""
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    return "" if not any(kernel.capabilities()) else "some are left"


def _no_processes() -> str:
    """Neither a process nor a thread any more: at zero it does not matter what else the user runs.

    The limit is this process's alone; nobody else's processes are held to it.
    """
    found = _limit(resource.RLIMIT_NPROC, 0)
    answer = selftests.fork_answer()
    return found or ("" if answer == "EAGAIN" else f"a process could be started ({answer})")


def _open_nothing() -> str:
    landlock.restrict(())
    # Stage A let the interpreter be read: only this layer can refuse it.
    answer = selftests.open_answer(sys.executable)
    return "" if answer == "EACCES" else f"a file could be opened ({answer})"


def _not_dumpable() -> str:
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    return "" if kernel.prctl(kernel.PR_GET_DUMPABLE) == 0 else "reads back 1"


def _refuse_calls() -> str:
    if not kernel.machine():
        return f"no table of system calls for {os.uname().machine}"
    seccomp.install(kill=False)
    return ""


def _end_at_deadly_calls() -> str:
    seccomp.install(kill=True)
    answer = selftests.further_filter_answer()
    return "" if answer == "EPERM" else f"another filter could be added ({answer})"

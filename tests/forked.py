"""Programs of the sandbox for tests of what stands above it: forked from a process that has their imports.

Three quarters of a small comparison's processor time go into numpy, onnx and onnxruntime, which five to ten
processes import one after another. Here one process a kind of program has done that before, and every
program that is wanted is its fork: it gets its descriptors, locks itself in both stages, takes the model
and answers as it always does. Only the imports do not happen under the first stage of the lock, and an
interpreter of another environment is started as ever. Tests of the sandbox, of attacks, of scenarios and of
whole gates start each process as the product does; so does one that asks for `each_process_started`, and
every one with `python3 bootstrap.py test --each-process-started`.
"""

from __future__ import annotations

import array
import io
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.sandbox import child_process
from harness.sandbox.bundle import GRAPHS, TRACER, WORKER, bundle
from harness.sandbox.memory_files import sealed_from_bytes

SERVER = Path(__file__).with_name("fork_server.py")
IMPORTED = {
    WORKER: ["numpy", "onnxruntime"],
    TRACER: ["numpy", "onnxruntime"],
    GRAPHS: ["numpy", "numpy.random", "onnxruntime", "onnx"],
}
"""Program → what its server imports, besides all of the bundle that the program can use."""
_FOLDERS = {"cli", "pipeline", "replay"}
"""Whose tests get them."""
_MACHINES = ("x86_64", "aarch64")
_PATIENCE_S = 60.0
_PYTHON = sys.executable


class _Forked:
    """A process that was forked: of `subprocess.Popen` what `ChildProcess` uses."""

    def __init__(self, pid: int, stderr: int) -> None:
        self.pid = pid
        self.stderr = os.fdopen(stderr, "rb", 0)
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def _modules(code: bytes, program: str) -> list[str]:
    """Of the bundle: without those about graphs where no graph is looked at, which have no onnx."""
    with zipfile.ZipFile(io.BytesIO(code)) as archive:
        found = [name.removesuffix(".py").replace("/", ".") for name in archive.namelist()]
    beside = "harness.sandbox." if program == GRAPHS else "harness.sandbox.child."
    return [name for name in found if name.startswith(beside) and not name.endswith(("__", "pyc"))]


class _Server:
    """A process that forks one kind of program."""

    def __init__(self, program: str, code: bytes) -> None:
        self.code = code
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_PATIENCE_S)
        zipped = sealed_from_bytes("sandbox", code)
        command = [_PYTHON, "-I", "-BS", str(SERVER), str(theirs.fileno()), str(zipped)]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *IMPORTED[program], *_modules(code, program)], pass_fds=[theirs.fileno(), zipped], cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=child_process.ENVIRONMENT,
            )  # fmt: skip
        os.close(zipped)

    def fork(self, command: list[str], fds: list[int]) -> _Forked:
        """What `child_process._spawned` returns."""
        stderr, theirs = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)
        numbers = [0, 1, 2, *fds]
        given = array.array("i", [nothing, nothing, theirs, *fds])
        folder = tempfile.mkdtemp(prefix="sandbox-")
        asked = {
            "arguments": command[command.index("-BS") + 1 :],
            "folder": folder,
            "numbers": numbers,
        }
        try:
            with self._lock:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given)]
                self._control.sendmsg([json.dumps(asked).encode()], rights)
                pid = int(self._control.recv(100))
        finally:
            Path(folder).rmdir()
            os.close(theirs)
            os.close(nothing)
        return _Forked(pid, stderr)

    def close(self) -> None:
        self._control.close()
        self._process.wait(_PATIENCE_S)


class Servers:
    """One server a kind of program, from its first use until they are closed."""

    def __init__(self) -> None:
        self.started = child_process._spawned
        self._servers: dict[str, _Server] = {}

    def __call__(self, command: list[str], fds: list[int]) -> Any:
        program = next((name for name in IMPORTED if name in command), None)
        # The kernel ties a parent-death signal to the thread that started the server.
        mine = threading.current_thread() is threading.main_thread()
        if program is None or command[0] != _PYTHON or platform.machine() not in _MACHINES:
            return self.started(command, fds)
        if program not in self._servers and mine:
            self._servers[program] = _Server(program, bundle())
        server = self._servers.get(program)
        if server is None or server.code is not bundle():
            return self.started(command, fds)
        try:
            return server.fork(command, fds)
        except (OSError, ValueError):
            self.close()  # what it still answers would be taken for the next one's
            raise

    def close(self) -> None:
        """Ends them; the next use starts others."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


_SERVERS = Servers()


def pytest_addoption(parser: pytest.Parser) -> None:
    """All of it as the product does it."""
    parser.addoption(
        "--each-process-started", action="store_true", help="fork no program of the sandbox"
    )


@pytest.fixture
def each_process_started() -> None:
    """Programs of the sandbox start as the product's do."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Programs of the sandbox are forked, for fixtures of any scope, too, unless a test wants each started."""
    if _has_forks(item):
        child_process._spawned = _SERVERS
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Tests that get no forks find none of these processes among their own."""
    try:
        return (yield)
    finally:
        child_process._spawned = _SERVERS.started
        if nextitem is None or not _has_forks(nextitem):
            _SERVERS.close()


def _has_forks(item: pytest.Item) -> bool:
    if item.path.parent.name not in _FOLDERS or item.config.getoption("each_process_started"):
        return False
    return isinstance(item, pytest.Function) and "each_process_started" not in item.fixturenames

"""One child process: started with nothing it does not need, always reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.errors import SandboxError
from harness.sandbox.bundle import bundle
from harness.sandbox.channel import Channel, ChannelClosed, ChannelFull, ChannelTimeout
from harness.sandbox.child.frames import FrameError
from harness.sandbox.child.ring import Ring
from harness.sandbox.memory_files import sealed_from_bytes
from harness.sandbox.watchdog import MOST_THREADS, WATCHDOG, Watch

# PYTHONHASHSEED is ignored under -I; it stands here for programs that a version's environment may add.
ENVIRONMENT = {
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
}
NO_ROOM = "the machine had no memory left for its answer"
_EXIT_GRACE_S = 0.5
"""For a process that has closed its pipe, perhaps before it ends."""
_EXITING_S = 10.0
"""For one that is ending: its pipe closes first, and a busy machine may give it no processor for the rest."""
_MOST_SHOWN = 3000
"""Characters of what broke the protocol: names in it are the model's."""
_FLAGS, _EXITING = 6, 0x4
"""Of /proc/PID/stat from the state on: the kernel's flags, and PF_EXITING among them."""
_TICKS = slice(11, 13)
"""Of /proc/PID/stat from the state on: time in user and in system mode."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class ChildProcess:
    """A running program of the bundle with a channel to it.

    Use `started`; `close` kills and reaps, and also runs when the value is dropped or Python exits.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], channel: Channel, memory_bytes: int
    ) -> None:
        self.channel = channel
        self.pid = process.pid
        self.last_words = ""
        """End of its standard error, once it has died; untrusted text."""
        self._process = process
        self._watch = WATCHDOG.join(process.pid, memory_bytes)
        self._schedstat = _opened(f"/proc/{process.pid}/schedstat")
        self._finalize = weakref.finalize(
            self, _end, process, channel, self._watch, self._schedstat
        )

    @classmethod
    def started(
        cls,
        program: str,
        *,
        python: Path | None,
        fds: Sequence[int],
        config: Mapping[str, object],
        max_body: int,
        memory_bytes: int,
        ring: Ring | None = None,
    ) -> ChildProcess:
        """Starts a program of the bundle and sends it its configuration.

        The working directory is empty and already removed when the child's first line runs: no file
        can be made in it and none can stay behind.

        Args:
          program: module to run, from `bundle`.
          python: interpreter; None for the parent's own.
          fds: descriptors the child gets, in the order of its arguments; −1 for none.
          config: what the program reads as its first frame.
          max_body: bytes a frame from the child may have.
          memory_bytes: resident memory it may have before it is ended from outside.
          ring: shared memory that the child has too, for the bodies of batches; owned from now on.

        Raises:
          SandboxError: the interpreter does not start.
        """
        executable = str(python or sys.executable)
        code = sealed_from_bytes("sandbox", bundle())
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        theirs = [code, request_read, answer_write]
        ours = [request_write, answer_read]
        arguments = [request_read, answer_write, *fds]
        try:
            process = _spawned(
                [
                    executable,
                    "-I",
                    # No site: what an environment brings along must not run before the lock.
                    "-BS",
                    f"/proc/self/fd/{code}",
                    program,
                    *(str(a) for a in arguments),
                ],
                [code, *(a for a in arguments if a >= 0)],
            )
        except OSError as error:
            for fd in ours:
                os.close(fd)
            raise SandboxError(
                executable,
                f"does not start ({error.strerror})",
                "Give the path of a Python interpreter that has numpy and onnxruntime.",
            ) from None
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        assert process.stderr is not None  # noqa: S101 - Popen was asked for a pipe
        stderr = os.dup(process.stderr.fileno())
        channel = Channel(request_write, answer_read, stderr, max_body, ring)
        process.stderr.close()
        child = cls(process, channel, memory_bytes)
        channel.send(
            {
                "parent": os.getpid(),
                # The kernel ties the parent-death signal to the thread that started the child.
                "die_with_parent": threading.current_thread() is threading.main_thread(),
                **config,
            }
        )
        return child

    def close(self) -> str:
        """Kills the process and whatever it started, reaps it, closes the pipes.

        Returns:
          How the process ended: "was killed by SIGSEGV", "exited with code 3".
        """
        self._finalize()
        code = self._process.returncode
        if code < 0:
            if -code == signal.SIGSYS:
                return "was killed by SIGSYS: it made a system call that the sandbox forbids"
            try:
                return f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"was killed by signal {-code}"
        return f"exited with code {code}"

    def death(self) -> str:
        """After the pipe closed: how the process ended by itself."""
        since = time.perf_counter()
        while not (dead := self.has_exited()):
            grace_s = _EXITING_S if self._is_exiting() else _EXIT_GRACE_S
            if time.perf_counter() - since > grace_s:
                break
            time.sleep(0.001)
        self.last_words = self.channel.stderr_tail()
        ending = self.close()
        return ending if dead else "closed its pipe and ran on"

    def explain(self, error: Exception) -> tuple[str, str]:
        """Ends the child after a failed exchange; (crash | timeout | invalid, message)."""
        match error:
            case ChannelClosed():
                ending = self.death()
                if self.over_memory:
                    limit = f"the policy's sandbox.memory is {self._watch.limit_bytes >> 20} MiB"
                    return "crash", f"the process used too much memory and was ended ({limit})"
                if self._watch.crowded:
                    return (
                        "crash",
                        f"the process had more than {MOST_THREADS} threads and was ended",
                    )
                return "crash", f"the process {ending}"
            case ChannelTimeout():
                self.close()
                return "timeout", "no answer within the deadline"
            case ChannelFull():
                self.close()
                return "crash", NO_ROOM
            case FrameError():
                self.close()
                return "invalid", f"broke the protocol: {str(error)[:_MOST_SHOWN]}"
            case _:
                raise error

    @property
    def over_memory(self) -> bool:
        """Whether it was ended for the memory it used."""
        return self._watch.killed

    def cpu_times_s(self) -> tuple[float, float]:
        """Seconds on a CPU and seconds waiting for one, of the main thread; zeros when unknown."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            if self._schedstat < 0:
                return 0.0, 0.0
            # Asked before every batch: kept open, it is four times as fast as by its name.
            fields = os.pread(self._schedstat, 100, 0).split()
            return int(fields[0]) / 1e9, int(fields[1]) / 1e9
        return 0.0, 0.0

    def cpu_of_other_threads_s(self) -> float:
        """Seconds on a CPU of all its threads but the main one, since it began; 0 when unknown."""
        ticks = _stat(self.pid)[_TICKS]
        whole = sum(map(int, ticks)) * _TICK_S
        # The kernel counts the whole in ticks, for user and system each.
        return max(whole - self.cpu_times_s()[0] - len(ticks) * _TICK_S, 0.0)

    def could_run(self) -> bool:
        """Whether its main thread runs or waits for a processor, and for nothing else."""
        return _stat(self.pid)[:1] == [b"R"]

    def _is_exiting(self) -> bool:
        """Whether its main thread is ending, or has ended before its other threads."""
        return any(int(flags) & _EXITING for flags in _stat(self.pid)[_FLAGS : _FLAGS + 1])

    def has_exited(self) -> bool:
        """Whether it has ended by itself.

        Looks without reaping, so that the process group cannot be reused before it is killed.
        """
        if self._process.returncode is not None:
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None


def _spawned(command: list[str], fds: list[int]) -> subprocess.Popen[bytes]:
    directory = tempfile.mkdtemp(prefix="sandbox-")
    try:
        return subprocess.Popen(
            command,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=ENVIRONMENT,
            start_new_session=True,
        )
    finally:
        Path(directory).rmdir()


def _stat(pid: int) -> list[bytes]:
    """What the kernel says of a process, from its state on; empty when it says nothing."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    # The name before the state is the program's own choice; nothing after it holds a parenthesis.
    return stat.rpartition(b")")[2].split()


def _opened(path: str) -> int:
    """A descriptor, or −1 where the system has no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _end(process: subprocess.Popen[bytes], channel: Channel, watch: Watch, schedstat: int) -> None:
    """Kills the child's whole session while its id is still ours, then reaps it."""
    WATCHDOG.leave(watch)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    channel.close()
    if schedstat >= 0:
        os.close(schedstat)

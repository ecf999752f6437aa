"""From a version's bytes to a process that has loaded them, in steps that several starts can share.

Most of a start is the child's own work (its interpreter and imports, then the model): whoever needs
several begins all of them before waiting for any.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import EnvironmentUnavailableError, UsageError
from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import spoken
from harness.sandbox.channel import ChannelClosed, ChannelFull, ChannelTimeout
from harness.sandbox.child.frames import FrameError, Header
from harness.sandbox.child_process import ChildProcess
from harness.sandbox.child_texts import expect_kind, text_from
from harness.sandbox.deadlines import received
from harness.sandbox.hello import Hello, LoadFailure, hello_from_header
from harness.sandbox.isolation import Isolation, isolation_from_child, refuse_weaker
from harness.sandbox.model_files import NOTHING, ModelFiles
from harness.sandbox.pool import Pool, Waiting

DESCRIPTION = "environment.json"
"""Says what the environment of a version holds; one without it is no environment."""
OUT_OF_MEMORY = ("bad_alloc", "MemoryError", "Failed to allocate memory")
_OF_THE_MODEL = frozenset({"load", "locale"})
"""Kinds of failures that the model ends with, not what was to be loaded beside it."""
NO_ROOM = (*OUT_OF_MEMORY, "sandbox.memory", "ailed to map segment", "annot allocate memory")
"""Signs of a failure for want of memory, of the interpreter's and the system's own, too."""
_START, _LOAD = "sandbox.start_deadline", "sandbox.load_deadline"
_TOLD_VERSIONS = ("python", "numpy", "onnxruntime")
_FRAME_LIMIT = "FrameError: a header of "
PIPE_ERRORS = (ChannelClosed, ChannelFull, ChannelTimeout, FrameError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A child whose model is loaded."""

    child: ChildProcess
    """The process."""
    hello: Hello
    """What it says about the model."""
    isolation: Isolation
    """Which layers hold."""
    versions: dict[str, str]
    """python, numpy and onnxruntime inside."""
    traced: bool
    """A trace was asked for, whether or not it can be had."""
    trace_error: str
    """Why the process runs without the trace session that was asked for."""


class Start:
    """A process on its way to a loaded model: begun when made, then `load`, then `finish`.

    Start on the main thread: the kernel ties the parent-death signal to the thread.

    Args:
      files: the version's bytes; needed until `finish` has returned.
      limits: memory, deadlines and the isolation that is required.
      trace_tensors: tensors of the probed copy to return.
      python: interpreter of the version's own environment; None for the parent's.
      allow_weaker: go on when less isolation than required was obtained.
      pool: where a waiting process is taken from. External data go with a process from its start: a
        version that has some gets a process of its own.
      lengths: (output, how long the version that this one is compared with declares it as a whole).
      tables: outputs that are about a batch also where it has as many rows as they are long.

    Raises:
      SandboxError: the interpreter does not start at all.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        limits: SandboxPolicy,
        trace_tensors: tuple[str, ...] = (),
        python: Path | None = None,
        allow_weaker: bool = False,
        pool: Pool | None = None,
        lengths: Sequence[tuple[str, int]] = (),
        tables: Sequence[str] = (),
    ) -> None:
        self.began = time.perf_counter()
        """On the clock of time.perf_counter."""
        self.limits = limits
        self._files = files
        self._trace_tensors = trace_tensors
        self._python = python
        self._allow_weaker = allow_weaker
        self._traced = files.trace_fd != NOTHING
        self._trace_error = ""
        self._ready: tuple[Isolation, dict[str, str]] | None = None
        self._failure: LoadFailure | None = None
        self._pool = pool
        self._lengths, self._tables = dict(lengths), tables
        self._copies = [fd for fd in (files.trace_fd, files.cut_fd) if fd != NOTHING]
        self._process = self._begun()

    def load(self) -> None:
        """Waits for the child's word on its isolation, then lets it look at the model.

        Raises:
          UsageError: the isolation is weaker than required.
        """
        if self._ready is not None or self._failure is not None:
            return
        try:
            header = received(self._child, self.limits.start_deadline_s).header
            expect_kind(header, "ready")
            isolation = isolation_from_header(header, self._child.pid)
            versions = _versions_from(header)
            refuse_weaker(isolation, self.limits.require, allow_weaker=self._allow_weaker)
            files = self._files
            self._process.load(
                [files.model_fd, *self._copies],
                {
                    "trace_tensors": self._trace_tensors,
                    "external": files.external,
                },
            )
            self._ready = isolation, versions
        except PIPE_ERRORS as error:
            self._failure = load_failure_from_child(self._child, error, self.limits, unseen=True)
            self.close()
        except BaseException:
            self.close()
            raise

    def finish(self) -> Loaded | LoadFailure:
        """Waits until the model is loaded; the process belongs to the result.

        Raises:
          UsageError: the isolation is weaker than required.
          SandboxError: a second process does not start.
        """
        result = self._finished()
        if isinstance(result, LoadFailure) and not self._trace_error:
            if self._files.trace_fd == NOTHING or result.kind in _OF_THE_MODEL:
                return result
            # The probed copy may be what ends the process; the version must not be blamed for it.
            self._trace_error = result.message
            self._ready = self._failure = None
            self._trace_tensors, self._copies = (), []
            self._process = self._begun()
            result = self._finished()
        return result

    def close(self) -> None:
        """Ends the process of a start that nobody waits for."""
        self._process.close()

    @property
    def _child(self) -> ChildProcess:
        return self._process.child

    def _begun(self) -> Waiting:
        memory, external = self.limits.memory_bytes, self._files.external_fd
        if self._pool is not None and external == NOTHING:
            return self._pool.take(memory, python=self._python)
        return Waiting(memory, python=self._python, external_fd=external)

    def _finished(self) -> Loaded | LoadFailure:
        """One attempt, from wherever it stands."""
        self.load()
        if self._ready is None:
            return self._failure or LoadFailure(kind="crash", message="the process was ended")
        isolation, versions = self._ready
        child = self._child
        try:
            said = received(child, self.limits.load_deadline_s).header
            hello = hello_from_header(said, self._lengths, self._tables)
        except PIPE_ERRORS as error:
            failure = load_failure_from_child(child, error, self.limits)
            return replace(failure, isolation=isolation)
        except BaseException:
            self.close()
            raise
        if isinstance(hello, LoadFailure):
            self.close()
            return replace(with_limit(hello, self.limits), isolation=isolation)
        return Loaded(
            child=child,
            hello=hello,
            isolation=isolation,
            versions=versions,
            traced=self._traced,
            trace_error=self._trace_error,
        )


def isolation_from_header(header: Header, pid: int) -> Isolation:
    """What a child's ready frame says, and what is seen of it.

    Raises:
      FrameError: the frame says nothing of its layers.
    """
    # A child that has tried nothing on itself is believed no filter.
    tried = _texts_by_name(header.get("self_tests", {}))
    return isolation_from_child(_texts_by_name(header.get("layers")), tried, pid)


def admitted(
    child: ChildProcess, limits: SandboxPolicy, *, allow_weaker: bool = False
) -> LoadFailure | None:
    """`admission`, for those who need not know what the child is closed in."""
    found = admission(child, limits, allow_weaker=allow_weaker)
    return found if isinstance(found, LoadFailure) else None


def admission(
    child: ChildProcess, limits: SandboxPolicy, *, allow_weaker: bool = False
) -> Isolation | LoadFailure:
    """Waits for the child's word on its isolation, then lets it look at the model.

    Raises:
      UsageError: the isolation is weaker than required.
    """
    try:
        header = received(child, limits.start_deadline_s).header
        expect_kind(header, "ready")
        isolation = isolation_from_header(header, child.pid)
    except PIPE_ERRORS as error:
        return load_failure_from_child(child, error, limits, unseen=True)
    refuse_weaker(isolation, limits.require, allow_weaker=allow_weaker)
    child.channel.send({"kind": "load"})
    return isolation


def refuse_broken_environment(
    failure: LoadFailure, python: Path | None, limits: SandboxPolicy
) -> None:
    """An environment of a version's own that does not get as far as the model is no verdict about it.

    Its description is taken away, without which it is built anew when it is next asked for; but not where
    the policy gave it too little memory or time, which no new one would change.

    Args:
      failure: how a start ended.
      python: the environment's interpreter; None = the running one, which `harness doctor` looks after.
      limits: what the process was given.

    Raises:
      EnvironmentUnavailableError: the environment or the policy's limits are to blame.
    """
    if not failure.unseen or python is None:
        return
    what = f"the environment does not get as far as loading a model: {failure.message}"
    if failure.kind == "timeout":
        remedy = "Raise sandbox.start_deadline, or run it when the machine is less busy."
    elif limit_of(failure):
        remedy = f"Raise sandbox.memory, which is {limits.memory_bytes >> 20} MiB."
    else:
        (python.parent.parent / DESCRIPTION).unlink(missing_ok=True)
        remedy = "Give the command again: a damaged environment is built anew."
    raise EnvironmentUnavailableError(str(python), what, remedy)


def refuse_lacking_locale(failure: LoadFailure, where: str) -> None:
    """A locale that this machine lacks is no verdict about the version that asks for it.

    Args:
      failure: how loading ended.
      where: the model, as the user knows it.

    Raises:
      EnvironmentUnavailableError: a locale is lacking.
    """
    if failure.kind == "locale":
        raise EnvironmentUnavailableError(where, failure.message, failure.remedy)


def with_limit(failure: LoadFailure, limits: SandboxPolicy) -> LoadFailure:
    """A failure for want of memory says whose limit it was: perhaps not the model is at fault."""
    if not any(sign in failure.message for sign in OUT_OF_MEMORY):
        return failure
    limit = f"the policy's sandbox.memory is {limits.memory_bytes >> 20} MiB"
    return replace(failure, message=f"{failure.message} ({limit})")


def limit_of(failure: LoadFailure) -> str:
    """Key of the policy whose limit ended a start, so that perhaps not the model is at fault; "" = none is known."""
    if failure.kind == "timeout":
        return _START if failure.unseen else _LOAD
    return "sandbox.memory" if any(sign in failure.message for sign in NO_ROOM) else ""


def load_failure_from_child(
    child: ChildProcess, error: Exception, limits: SandboxPolicy, *, unseen: bool = False
) -> LoadFailure:
    """Ends a child that did not get as far as loading; its last words tell of missing packages.

    Args:
      child: the process.
      error: how waiting for it ended.
      limits: what it was given.
      unseen: it was not given the model yet.

    Raises:
      UsageError: it had more to say than a frame takes.
    """
    kind, message = child.explain(error)
    if kind == "crash" and _FRAME_LIMIT in child.last_words:
        # Our own limit, reached by our own code: no word about the version.
        said = spoken(child.last_words[child.last_words.rindex(_FRAME_LIMIT) :])
        raise UsageError(
            "sandbox",
            f"the version's names do not fit a frame of the gate ({said})",
            "Shorten the names of its inputs, outputs and features.",
        )
    if kind == "timeout":
        key, limit_s = (
            (_START, limits.start_deadline_s) if unseen else (_LOAD, limits.load_deadline_s)
        )
        meanwhile = f" ({error})" if str(error) else ""
        message = f"no answer within {limit_s:g} s, its {key}{meanwhile}"
    last = spoken(child.last_words) if kind == "crash" else ""
    return LoadFailure(kind=kind, message=f"{message}: {last}" if last else message, unseen=unseen)


def _versions_from(header: Header) -> dict[str, str]:
    """What runs in a child; raises FrameError where it leaves one out."""
    versions = _texts_by_name(header.get("versions"))
    if missing := [name for name in _TOLD_VERSIONS if not versions.get(name)]:
        msg = f"the ready frame names no version of {missing[0]}"
        raise FrameError(msg)
    return versions


def _texts_by_name(given: object) -> dict[str, str]:
    if not isinstance(given, dict):
        msg = "a table of texts is missing"
        raise FrameError(msg)
    return {text_from(k, 100): text_from(v, 1000) for k, v in given.items()}

"""A version of a model in its own process, as seen by the parent.

Whatever the model does to its process comes back as a value: `LoadFailure` at the start, `BatchFault`
for a batch. Exceptions mean that the gate or the user's configuration is wrong.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from harness.core.errors import GateError
from harness.core.observations import Cause, Outcome
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Feeds, Signature
from harness.sandbox.answers import Answers, BatchAnswer, BatchFault
from harness.sandbox.channel import ChannelFull
from harness.sandbox.child import columns
from harness.sandbox.child.frames import Frame, FrameError, header_text
from harness.sandbox.child.ring import SLOTS
from harness.sandbox.child_process import NO_ROOM
from harness.sandbox.deadlines import Deadline
from harness.sandbox.hello import LoadFailure
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.pace import Pace
from harness.sandbox.starting import OUT_OF_MEMORY, PIPE_ERRORS, Loaded, Start

_OUTCOMES = {"crash": Outcome.CRASH, "timeout": Outcome.TIMEOUT, "invalid": Outcome.INVALID}


@dataclass(slots=True)
class _Asked:
    """A batch that has been given to the child."""

    seq: int
    rows: int
    since: float
    trace: bool
    alone: bool
    cut: bool
    refused: str = ""


class Sandbox:
    """One loaded version. Answers come in the order of the questions.

    Use `Sandbox.start` and, best, a with-statement: leaving it ends the process.
    """

    def __init__(self, loaded: Loaded, *, name: str, limits: SandboxPolicy, start_s: float) -> None:
        self.name = name
        self.isolation = loaded.isolation
        """Which layers hold."""
        self.versions = loaded.versions
        """python, numpy and onnxruntime inside."""
        self.start_s = start_s
        """From the first system call to the loaded model."""
        self.trace_missing = loaded.hello.trace_missing
        """Named tensors that the trace session does not have."""
        self.trace_error = loaded.trace_error or loaded.hello.trace_error
        """Why there is no trace session although one was asked for; batches are answered without."""
        self.fixed = bool(loaded.hello.signature.rows)
        """An input declares how many rows it takes."""
        self._hello = loaded.hello
        self._answers = Answers(loaded.hello, limits.memory_bytes)
        self._child = loaded.child
        self._limits = limits
        self._traced = loaded.traced
        self._asked: deque[_Asked] = deque()
        self._seq = 0
        self._answered_at = time.perf_counter()
        self._widest = dict.fromkeys((False, True), -1)
        self._most_asked = -1
        self._ran_short = False
        self._dead = ""
        self._pace = Pace()

    @classmethod
    def start(
        cls,
        model: Path,
        *,
        name: str,
        limits: SandboxPolicy,
        external: Sequence[str] = (),
        trace_model: Path | None = None,
        cut_model: Path | None = None,
        trace_tensors: tuple[str, ...] = (),
        python: Path | None = None,
        allow_weaker: bool = False,
    ) -> Sandbox | LoadFailure:
        """Starts a process and loads the model in it.

        Args:
          model: the .onnx file; copied, never parsed here.
          name: for messages: baseline, candidate.
          limits: memory, deadlines and the isolation that is required.
          external: names of external data files relative to the model's folder, as pinned; no other
            file is ever given to the model.
          trace_model: a probed copy (`graphs.probe`), for batches that want a trace.
          cut_model: a copy that computes nothing but these tensors.
          trace_tensors: tensors of the probed copy to return.
          python: interpreter of the version's own environment; None for the parent's.
          allow_weaker: go on when less isolation than required was obtained.

        Returns:
          The sandbox, or why the version cannot be run.

        Raises:
          UsageError: a file cannot be read, or the isolation is weaker than required.
          SandboxError: the interpreter does not start at all.
        """
        with ModelFiles(
            model, external=external, trace_model=trace_model, cut_model=cut_model
        ) as files:
            start = Start(
                files,
                limits=limits,
                trace_tensors=trace_tensors,
                python=python,
                allow_weaker=allow_weaker,
            )
            return cls.started(start, name=name)

    @classmethod
    def started(cls, start: Start, *, name: str) -> Sandbox | LoadFailure:
        """Waits for a start that was begun, perhaps among others.

        Args:
          start: its process, which the sandbox owns from now on.
          name: for messages.

        Raises:
          As `start`.
        """
        loaded = start.finish()
        if isinstance(loaded, LoadFailure):
            return loaded
        return cls(
            loaded, name=name, limits=start.limits, start_s=time.perf_counter() - start.began
        )

    @property
    def signature(self) -> Signature:
        """The model's inputs and outputs."""
        return self._hello.signature

    @property
    def batch_deadline_s(self) -> float:
        """Time that a batch may take."""
        return self._limits.batch_deadline_s

    @property
    def alive(self) -> bool:
        """Whether the next batch can be given to it."""
        return not self._dead

    @property
    def ran_short(self) -> bool:
        """Whether it has run out of memory: what it holds since may be in the way of whatever comes next."""
        return self._ran_short

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    @property
    def in_flight(self) -> int:
        """Batches submitted and not collected."""
        return len(self._asked)

    def submit(
        self, inputs: Feeds, rows: int, *, trace: bool, alone: bool = False, cut: bool = False
    ) -> int:
        """Gives the child a batch and returns without waiting for it.

        Inputs that no model can be given (text with lone surrogates, an odd dtype) are not sent: the
        answer is an ERROR in its turn.

        Args:
          inputs: per input of the signature, shape (rows, *trailing); not to be changed before the answer.
          rows: model rows in the batch, ≥ 0.
          trace: also run the trace session.
          alone: let it answer alone, outputs and all; the model itself answers where it cannot.
          cut: let it compute features only, no outputs, where it has a copy for that.

        Returns:
          The batch's number.

        Raises:
          GateError: a trace is wanted of a sandbox without a trace model.
        """
        if trace and not self._traced:
            raise GateError(self.name, "has no trace session", "Start it with trace_model.")
        self._seq += 1
        asked = _Asked(self._seq, rows, time.perf_counter(), trace, trace and alone, cut)
        try:
            described, buffers = columns.encoded(inputs)
            said = {"rows": rows, "trace": trace, "alone": asked.alone, "cut": cut}
            text = header_text(said, {"tensors": described})
        except (TypeError, UnicodeEncodeError) as error:
            asked.refused = f"cannot be given to a model: {error}"
        else:
            if not self._dead:
                self._child.channel.send(
                    text,
                    buffers,
                    number=asked.seq,
                    slot_free=len(self._asked) < SLOTS,
                )
        self._asked.append(asked)
        return asked.seq

    def collect(self, timeout_s: float | None = None) -> BatchAnswer | BatchFault:
        """Waits for the oldest batch that is in flight.

        Args:
          timeout_s: from now; None for the policy's batch deadline. Time that the child spent waiting
            for a processor is added: a busy machine is no slow model.

        Raises:
          GateError: nothing is in flight.
        """
        if not self._asked:
            raise GateError(self.name, "no batch is in flight", "Call submit first.")
        asked = self._asked.popleft()
        if asked.refused:
            return BatchFault(seq=asked.seq, kind=Outcome.ERROR, message=asked.refused, alive=True)
        if self._dead:
            return BatchFault(seq=asked.seq, kind=Outcome.CRASH, message=self._dead, alive=False)
        limit = self._limits.batch_deadline_s if timeout_s is None else timeout_s
        return self._about_memory(asked, self._awaited(asked, limit))

    def close(self) -> None:
        """Ends the process. Batches in flight are lost."""
        self._dead = self._dead or "the sandbox was closed"
        self._child.close()

    def __enter__(self) -> Sandbox:
        """The sandbox itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process."""
        self.close()

    def _awaited(self, asked: _Asked, limit: float) -> BatchAnswer | BatchFault:
        deadline = Deadline(self._child, limit)
        try:
            most = None if asked.trace else self._answers.most_bytes(asked.rows)
            alike = asked.rows, asked.trace, asked.alone, asked.cut
            frame = self._child.channel.receive(
                limit,
                deadline.owed_s,
                max_body=most,
                nap_s=self._pace.nap_s(alike, len(self._asked)),
            )
            return self._checked(asked, frame)
        except PIPE_ERRORS as error:
            overdue = deadline.overdue()
            kind, message = self._child.explain(error)
            short = self._child.over_memory or isinstance(error, ChannelFull)
            cause = Cause.MEMORY_LIMIT if short else Cause.UNKNOWN
            if kind == "timeout":
                cause = overdue.cause
                message += f" of {limit:g} s ({overdue.words})"
            self._dead = message
            return BatchFault(
                seq=asked.seq,
                kind=_OUTCOMES[kind],
                message=message,
                alive=False,
                cause=cause,
                last_words=self._child.last_words,
            )

    def _about_memory(
        self, asked: _Asked, result: BatchAnswer | BatchFault
    ) -> BatchAnswer | BatchFault:
        """The result, with what it says about memory; notes how many rows were asked and answered at once."""
        before, self._most_asked = self._most_asked, max(self._most_asked, asked.rows)
        after, widest = self._ran_short, self._widest[asked.trace]
        if isinstance(result, BatchAnswer):
            self._widest[asked.trace] = max(widest, asked.rows)
            if not _short(result.trace_error):
                return result
            self._ran_short = True
            return replace(result, trace_short=True, after_short=after)
        said = result.message if result.alive else result.last_words
        if result.short_of_memory or (result.cause is Cause.UNKNOWN and _short(said)):
            self._ran_short = True
            grown = widest == asked.rows >= before
            result = replace(result, cause=Cause.MEMORY_LIMIT, grown=grown)
        return replace(result, after_short=True) if after else result

    def _checked(self, asked: _Asked, frame: Frame) -> BatchAnswer | BatchFault:
        now = time.perf_counter()
        service_s = now - max(asked.since, self._answered_at)
        self._answered_at = now
        self._pace.answered(service_s)
        try:
            result = self._answers.read(frame, seq=asked.seq, rows=asked.rows, service_s=service_s)
        except MemoryError:
            return BatchFault(
                seq=asked.seq, kind=Outcome.ERROR, message=NO_ROOM, alive=True,
                cause=Cause.MEMORY_LIMIT,
            )  # fmt: skip
        if isinstance(result, BatchAnswer) and result.alone and not asked.alone:
            msg = "the trace session answered for the model, which nobody asked for"
            raise FrameError(msg)
        return result


def _short(text: str) -> bool:
    """Whether the runtime or Python says that an allocation failed."""
    return any(sign in text for sign in OUT_OF_MEMORY)

"""What a child says, checked and turned into typed values.

Everything here comes from a process that ran a model somebody else made: names, counts, types and
shapes are compared with what was asked before a value leaves this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.core.counted import counted
from harness.core.observations import Cause, Outcome
from harness.core.tensors import NUMPY_DTYPES, Tensors, TensorSpec
from harness.sandbox.answer_headers import Said, said_from_text
from harness.sandbox.child import columns
from harness.sandbox.child.frames import Frame, FrameError
from harness.sandbox.child_texts import MAX_TEXT
from harness.sandbox.hello import Hello
from harness.sandbox.nested_values import nested_from
from harness.sandbox.of_batch import about_batch, in_every_row, repeated_bytes

MAX_WORDS = 300
_FATAL = "Fatal Python error"
_KEPT, _KEPT_BYTES = 64, 1 << 16
_PARTS = 4
"""Outputs about a batch may take one of so many parts of a leg's memory where they are in each of its rows: both
versions' rows are compared in numbers twice as long, with as many of differences."""
_LEAST_BODY, _SLACK = 16 << 20, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """What the model returned for R rows."""

    seq: int
    """Number that `submit` gave."""
    rows: int
    """R."""
    outputs: Tensors
    """Verdict session's outputs, shape (R, *trailing); what is about the whole batch (a scalar, a sequence, an
    optional, a tensor of another declared length than its rows) is in every row."""
    features: Tensors
    """Named tensors of the trace session; empty without a trace."""
    trace_outputs: Tensors
    """The trace session's own outputs; empty without a trace."""
    keys: dict[str, tuple[str, ...]]
    """Class names of ZipMap outputs."""
    service_s: float
    """From when the child could begin with it until its answer was complete, by the parent's clock."""
    weight: int = 0
    """Bytes of all tensors as they are held here, by the sizes that the header gives: text by its length."""
    trace_error: str = ""
    """Why the trace session raised; the outputs are good all the same."""
    trace_short: bool = False
    """The trace session needed more memory than there was."""
    after_short: bool = False
    """With `trace_short`: as `BatchFault.after_short`."""
    alone: bool = False
    """The trace session answered alone: outputs and features are of one run."""
    left_out: tuple[str, ...] = field(default=())
    """Features with no row per input row."""
    undeclared: tuple[tuple[str, str], ...] = field(default=())
    """(output, how its shape contradicts the signature)."""
    of_batch: frozenset[str] = frozenset()
    """Outputs of a length of their own, which is in every row."""

    @property
    def of_its_own(self) -> bool:
        """Whether what the process had been given before is not why there is no trace."""
        return not self.after_short

    def unless_traced(self) -> BatchAnswer | BatchFault:
        """The answer; a fault where only memory for its trace was short, which fewer requests may get."""
        if not self.trace_short:
            return self
        return BatchFault(
            seq=self.seq, kind=Outcome.ERROR, message=self.trace_error, alive=True,
            cause=Cause.MEMORY_LIMIT, after_short=self.after_short,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFault:
    """Why there is no answer."""

    seq: int
    """Number that `submit` gave."""
    kind: Outcome
    """ERROR, CRASH, TIMEOUT or INVALID."""
    message: str
    """What happened, in one or two sentences."""
    alive: bool
    """Whether the process can be given the next batch."""
    cause: Cause = Cause.UNKNOWN
    """What more is known of it."""
    last_words: str = ""
    """End of the dead process's standard error: untrusted, for a person who investigates."""
    grown: bool = False
    """It ran out of memory over as many rows as its process had answered before, and never more than these:
    what it needs grows with time."""
    after_short: bool = False
    """Its process had run out of memory over an earlier batch: what it holds since may be all that is wrong."""

    @property
    def of_its_own(self) -> bool:
        """Whether what the process had been given before cannot be the cause: a request may be blamed for it."""
        return not self.after_short and (self.seq == 1 or not self.short_of_memory)

    @property
    def short_of_memory(self) -> bool:
        """Whether more memory was needed than there was; what a process holds already is in the way then."""
        return self.cause is Cause.MEMORY_LIMIT

    @property
    def costs_process(self) -> bool:
        """Whether its process is gone, or holds memory that it gives back to nobody."""
        return not self.alive or self.short_of_memory


def spoken(last_words: str) -> str:
    """The line of a dead process's standard error that says most, at most MAX_WORDS long.

    What a library says before it gives up comes before Python's own account of the crash, whose many
    lines only say where that was.
    """
    lines = [line.strip() for line in last_words.splitlines() if line.strip()]
    fatal = next((i for i, line in enumerate(lines) if line.startswith(_FATAL)), None)
    if fatal is not None:
        lines = lines[: max(fatal, 1)]
    return lines[-1][:MAX_WORDS] if lines else ""


class Answers:
    """Reads the answers of one loaded model.

    Answers to batches of one size have the same header again and again: what a header alone decides is
    checked once.

    Args:
      hello: what the model said about itself.
      memory_bytes: that its process may have.
    """

    def __init__(self, hello: Hello, memory_bytes: int) -> None:
        self._hello = hello
        self._most_repeated = memory_bytes // _PARTS
        self._row_bytes = _row_bytes(hello.signature.outputs)
        self._checked: dict[tuple[bytes, int], Said] = {}

    def most_bytes(self, rows: int) -> int | None:
        """Bytes that are read of an answer for so many rows; None when the signature does not say.

        More than the outputs take: a wrong shape is to be told as such.
        """
        if self._row_bytes is None:
            return None
        longest = max((max(known) for known in self._hello.lengths.values()), default=0)
        return _LEAST_BODY + _SLACK * max(rows, longest) * self._row_bytes

    def read(
        self, frame: Frame, *, seq: int, rows: int, service_s: float
    ) -> BatchAnswer | BatchFault:
        """One answer, compared with the question and the model's own signature.

        Args:
          frame: as it came.
          seq: number that is due.
          rows: of the batch.
          service_s: time it took.

        Raises:
          FrameError: the child broke the protocol and cannot be believed any more.
        """
        said = self._checked.get((frame.text, rows)) or self._check(frame.text, rows)
        if frame.prefix.number != seq:
            msg = f"answered number {frame.prefix.number} when number {seq} was due"
            raise FrameError(msg)
        if said.error is not None:
            return BatchFault(seq=seq, kind=Outcome.ERROR, message=said.error, alive=True)
        if said.end != frame.body.nbytes:
            msg = f"the frame holds {frame.body.nbytes} bytes, its tensors {said.end}"
            raise FrameError(msg)
        outputs, features, trace_outputs, leaves = (
            columns.values(g, frame.body) for g in said.groups
        )
        of_batch = about_batch(outputs, rows, self._hello.lengths, self._hello.tables)
        repeated = repeated_bytes((outputs, trace_outputs), rows, of_batch)
        if repeated > self._most_repeated:
            return self._too_wide(seq, rows, repeated)
        outputs = in_every_row(outputs, rows, of_batch)
        trace_outputs = in_every_row(trace_outputs, rows, of_batch)
        wrong = [f"{n} has the shape {a.shape}" for n, a in outputs.items() if a.shape[0] != rows]
        if wrong:
            message = f"{'; '.join(wrong)[:MAX_TEXT]} for {counted(rows, 'row')}"
            return BatchFault(seq=seq, kind=Outcome.INVALID, message=message, alive=True)
        whole = nested_from(said.forms, leaves.values())
        outputs |= {name: value.cells(rows) for name, value in whole.items()}
        return BatchAnswer(
            seq=seq,
            rows=rows,
            outputs=outputs,
            features=features,
            trace_outputs=trace_outputs,
            keys=dict(said.keys),
            service_s=service_s,
            weight=said.weight + repeated,
            trace_error=said.trace_error,
            alone=said.alone,
            left_out=said.left_out,
            undeclared=said.undeclared,
            of_batch=frozenset(of_batch),
        )

    def _too_wide(self, seq: int, rows: int, repeated: int) -> BatchFault:
        """An answer whose outputs about the batch are too much to be compared row by row."""
        message = (
            f"outputs of a fixed length take {repeated >> 20} MiB in {counted(rows, 'row')}: more than "
            f"{self._most_repeated >> 20} MiB, a quarter of the policy's sandbox.memory"
        )
        return BatchFault(
            seq=seq, kind=Outcome.ERROR, message=message, alive=True, cause=Cause.MEMORY_LIMIT
        )

    def _check(self, text: bytes, rows: int) -> Said:
        """What a header says, once it fits the signature and the rows."""
        said = said_from_text(text, rows, self._hello)
        if len(text) <= _KEPT_BYTES:
            if len(self._checked) >= _KEPT:
                self._checked.clear()
            self._checked[text, rows] = said
        return said


def _row_bytes(outputs: Sequence[TensorSpec]) -> int | None:
    """Bytes of one row of these; None where a length or a text decides it."""
    total = 0
    for spec in outputs:
        if spec.datatype.startswith("OTHER:"):
            continue
        sized = spec.datatype in NUMPY_DTYPES and spec.datatype != "BYTES"
        if not sized or spec.any_rank or None in spec.shape:
            return None
        total += math.prod(d or 0 for d in spec.shape) * NUMPY_DTYPES[spec.datatype].itemsize
    return total

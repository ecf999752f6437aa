"""What a version did not answer when it was asked before or beside the replay.

Such questions (how large batches may be, what a request gets alone) prove nothing by themselves, and whoever
asks goes on without the answer. But a replay that ends early may never meet these requests. So each failure is
written down where the question is put, with who asked, and is looked into before the verdict. So is an answer
that is no number where the baseline's is one, or has another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.core.counted import counted
from harness.core.observations import Cause, Observations, Outcome
from harness.core.traffic import RequestBatch
from harness.replay.looks import Look, look_of, newly_nan, reshaped
from harness.sandbox.answers import BatchAnswer

_AT_ONCE = 20
"""Entries of one asker that are kept as they happen; of more, those that double their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A batch that got no answer, as it was asked."""

    by: str
    """Who asked: "planning set", "batching trial"."""
    seq: tuple[int, ...]
    """Its requests' positions in the traffic, in the batch's order."""
    first: str
    """Id of the first of them."""
    trace: bool
    """Features were asked for, too."""
    kind: Outcome
    """How it failed; OK = it was answered, and not as the baseline answers."""
    cause: Cause
    """What more is known."""
    message: str
    """What the version or its process said. Untrusted. Of an answer: what its shape is; "" = it holds a NaN."""
    surmised: bool = False
    """It was answered, and perhaps no worse than by the baseline, which was not asked the same."""

    def to_text(self) -> str:
        """The requests in a few words."""
        if len(self.seq) == 1:
            return f"request {self.first}"
        return f"{counted(len(self.seq))} from {self.first} on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The version that another one's answers are held against."""

    ledger: Ledger
    """Its own."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The other one's output → its output, where they are called otherwise."""
    but: Collection[str] = ()
    """Its outputs whose shape is expected to change."""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What one version did not answer, or not as it should."""

    entries: list[Unanswered] = field(default_factory=list)
    """In the order of the questions; the same question of the same asker once."""
    together: list[str] = field(default_factory=list)
    """Batches that it failed only as such, in words: their requests were answered in smaller ones."""
    noted: Callable[[], None] | None = None
    """Called after each change, so that it can be kept as it happens."""
    beside: Beside | None = None
    """What its answers are held against; None = they are only remembered."""
    _looks: dict[bytes, Look] = field(default_factory=dict)
    """Requests of a batch → how it was answered."""
    _shapes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    """Output → shapes of a row, in all of these."""

    def add(
        self, batch: RequestBatch, kind: Outcome, cause: Cause, message: str, *, by: str, trace: bool = False,
        surmised: bool = False,
    ) -> None:  # fmt: skip
        """Takes a batch that was not answered; one that the host gave no processor is no such batch.

        Args:
          batch: of one request or more, as it was asked.
          kind: how it failed.
          cause: what more is known.
          message: what was said.
          by: who asked.
          trace: features were asked for, too.
          surmised: as in `Unanswered`.
        """
        if cause is Cause.HOST_STARVED or not len(batch) or self.holds(batch, by):
            return
        self.entries.append(
            Unanswered(
                by=by, seq=tuple(batch.seq.tolist()), first=str(batch.request_id[0]), trace=trace, kind=kind, cause=cause,
                message=message,
                surmised=surmised,
            )
        )  # fmt: skip
        count = self._count(by)
        if count <= _AT_ONCE or not count & (count - 1):
            self.changed()

    def saw(
        self, batch: RequestBatch, answer: BatchAnswer | Observations, *, by: str, trace: bool = False
    ) -> None:  # fmt: skip
        """Takes an answer: remembers how it looks, or holds it against the other version's to the same batch.

        Args:
          batch: as it was asked.
          answer: to all of it.
          by: who asked.
          trace: features were asked for, too.
        """
        look = look_of(answer)
        if self.beside is None:
            self._looks[batch.seq.tobytes()] = look
            for name, shape in look.shapes.items():
                self._shapes.setdefault(name, set()).add(shape)
        else:
            self.hold(batch, look, self.beside.ledger.look_at(batch), by=by, trace=trace)

    def look_at(self, batch: RequestBatch) -> Look | None:
        """How a batch was answered; None = it was not asked."""
        return self._looks.get(batch.seq.tobytes())

    def hold(
        self, batch: RequestBatch, look: Look, other: Look | None, *, by: str, trace: bool = False
    ) -> None:
        """Writes a batch down whose answer is not as the other version's is.

        Args:
          batch: as it was asked.
          look: how it was answered.
          other: how the other version did, as far as that is known.
          by: who asked.
          trace: features were asked for, too.
        """
        if self.beside is None:
            return
        look = look.under(self.beside.names)
        known = other or self.beside.ledger.usual(look)
        nan = newly_nan(known, look, int(batch.rows.sum())).any()
        words = "" if nan else reshaped(known, look, self.beside.but)
        # What is known to be no number where the other one's is decides by itself: a handful shows it.
        if (nan or words) and (other is None or self._count(by) < _AT_ONCE):
            self.add(
                batch, Outcome.OK, Cause.UNKNOWN, words, by=by, trace=trace, surmised=other is None
            )

    def usual(self, look: Look) -> Look:
        """What an answer is held against whose batch was not asked here: shapes that were seen, and no NaN."""
        return Look(
            nan={},
            shapes={
                name: shape if shape in seen else min(seen)
                for name, shape in look.shapes.items()
                if (seen := self._shapes.get(name))
            },
        )

    def fails_together(self, batch: RequestBatch, by: str) -> None:
        """Takes a batch that fails only as such, the first few.

        Args:
          batch: as it was asked, twice.
          by: who asked.
        """
        words = f"{counted(len(batch))} from {batch.request_id[0]} on ({by})"
        if len(self.together) < _AT_ONCE and words not in self.together:
            self.together.append(words)
            self.changed()

    def _count(self, by: str) -> int:
        """Entries of one asker."""
        return sum(e.by == by for e in self.entries)

    def holds(self, batch: RequestBatch, by: str) -> bool:
        """Whether a batch that somebody asked, just now or in an interrupted run, is here."""
        seq = tuple(batch.seq.tolist())
        return any((e.by, e.seq) == (by, seq) for e in self.entries)

    def changed(self) -> None:
        """Tells whoever keeps it."""
        if self.noted is not None:
            self.noted()

    def recall(self, entries: Iterable[Mapping[str, Any]], together: Iterable[str]) -> None:
        """Takes over what `core.jsonable` made of an interrupted run's entries, and its batches that fail as such."""
        self.together = [str(words) for words in together]
        self.entries = [
            Unanswered(
                by=str(e["by"]), seq=tuple(int(s) for s in e["seq"]), first=str(e["first"]),
                trace=bool(e["trace"]), kind=Outcome(e["kind"]), cause=Cause(e["cause"]),
                message=str(e["message"]), surmised=bool(e["surmised"]),
            )
            for e in entries
        ]  # fmt: skip

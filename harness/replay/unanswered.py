"""What a version did not answer when it was asked before or beside the replay.

Such questions (how large batches may be, what a request gets alone) prove nothing by themselves, and whoever
asks goes on without the answer. But a replay that ends early may never meet these requests. So each failure is
written down where the question is put, with who asked, and is looked into before the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.core.counted import counted
from harness.core.observations import Cause, Outcome
from harness.core.traffic import RequestBatch


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
    """How it failed."""
    cause: Cause
    """What more is known."""
    message: str
    """What the version or its process said. Untrusted."""

    def to_text(self) -> str:
        """The requests in a few words."""
        if len(self.seq) == 1:
            return f"request {self.first}"
        return f"{counted(len(self.seq))} from {self.first} on"


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What one version did not answer."""

    entries: list[Unanswered] = field(default_factory=list)
    """In the order of the questions; the same question of the same asker once."""
    noted: Callable[[], None] | None = None
    """Called after each change, so that it can be kept as it happens."""

    def add(
        self, batch: RequestBatch, kind: Outcome, cause: Cause, message: str, *, by: str, trace: bool = False
    ) -> None:  # fmt: skip
        """Takes a batch that was not answered; one that the host gave no processor is no such batch.

        Args:
          batch: of one request or more, as it was asked.
          kind: how it failed.
          cause: what more is known.
          message: what was said.
          by: who asked.
          trace: features were asked for, too.
        """
        if cause is Cause.HOST_STARVED or not len(batch) or self.holds(batch, by):
            return
        self.entries.append(
            Unanswered(
                by=by, seq=tuple(batch.seq.tolist()), first=str(batch.request_id[0]), trace=trace, kind=kind, cause=cause,
                message=message,
            )
        )  # fmt: skip
        self.changed()

    def holds(self, batch: RequestBatch, by: str) -> bool:
        """Whether a batch that somebody asked, just now or in an interrupted run, is here."""
        seq = tuple(batch.seq.tolist())
        return any((e.by, e.seq) == (by, seq) for e in self.entries)

    def changed(self) -> None:
        """Tells whoever keeps it."""
        if self.noted is not None:
            self.noted()

    def recall(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Takes over what `core.jsonable` made of an interrupted run's entries."""
        self.entries = [
            Unanswered(
                by=str(e["by"]), seq=tuple(int(s) for s in e["seq"]), first=str(e["first"]),
                trace=bool(e["trace"]), kind=Outcome(e["kind"]), cause=Cause(e["cause"]),
                message=str(e["message"]),
            )
            for e in entries
        ]  # fmt: skip

"""How heavy a version's answers are and how long they take, in the mean over what it answered so far.

The mean, not the most: one bulk request among thousands would make every batch a small one, and whether a
sample holds such a request is chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.core.observations import Observations
from harness.core.tensors import held_bytes
from harness.core.traffic import RequestBatch
from harness.sandbox.answers import BatchAnswer


@dataclass(slots=True, kw_only=True)
class Amount:
    """Answers, summed."""

    bytes: int = 0
    """Of outputs and features."""
    rows: int = 0
    """In all requests."""
    requests: int = 0
    """That were answered."""


@dataclass(slots=True, kw_only=True)
class Answered:
    """What a leg knows of its version's answers."""

    seconds: float = 0.0
    """Of all batches that were answered."""
    plain: Amount = field(default_factory=Amount)
    """Answers without features."""
    traced: Amount = field(default_factory=Amount)
    """Answers that were asked for with features."""
    most_rows: int = 0
    """So many at once fit into the memory of a leg, where more did not; 0 = all that was asked did."""

    def learn(self, answer: BatchAnswer, requests: int, *, trace: bool) -> None:
        """Takes over an answer.

        Args:
          answer: to a batch.
          requests: in it.
          trace: features were asked for.
        """
        self.weigh(answer, answer.rows, requests, trace=trace and not answer.trace_error)
        self.seconds += answer.service_s

    def weigh(
        self, answer: BatchAnswer | Observations, rows: int, requests: int, *, trace: bool
    ) -> None:
        """Takes over how heavy an answer is, and nothing of its time.

        Args:
          answer: to a batch.
          rows: in it.
          requests: in it.
          trace: it came with features, as was asked.
        """
        known = self.traced if trace else self.plain
        known.bytes += answer.weight if isinstance(answer, BatchAnswer) else _weight(answer)
        known.rows += rows
        known.requests += requests

    def fitted(self, rows: int) -> None:
        """Takes over that so many rows fit into the memory and twice as many do not; 0 = nothing is known."""
        if rows:
            self.most_rows = min(rows, self.most_rows or rows)

    def too_large(self, batch: RequestBatch) -> bool:
        """Whether it is known not to fit into the memory as a whole."""
        return len(batch) > 1 and 0 < self.most_rows < int(batch.rows.sum())

    @property
    def requests(self) -> int:
        """Answered so far."""
        return self.plain.requests + self.traced.requests

    @property
    def mean_s(self) -> float:
        """Time a request; 0 when none was answered."""
        return self.seconds / max(self.requests, 1)

    @property
    def rows_each(self) -> float:
        """Rows that a request has in the mean; 0 when none was answered."""
        return (self.plain.rows + self.traced.rows) / max(self.requests, 1)

    @property
    def bytes_a_row(self) -> float:
        """Of an answer: with features where these were asked for, as most batches have them."""
        return max(known.bytes / max(known.rows, 1) for known in (self.plain, self.traced))


def answered_from_json(value: Mapping[str, Any]) -> Answered:
    """Reads what `core.jsonable` made of an Answered."""
    amounts = {name: Amount(**value[name]) for name in ("plain", "traced")}
    most = int(value.get("most_rows", 0))
    return Answered(seconds=float(value["seconds"]), most_rows=most, **amounts)


def _weight(answer: Observations) -> int:
    """As `BatchAnswer.weight`, value by value: for a few requests."""
    groups = (answer.outputs, answer.features, answer.trace_outputs)
    return sum(held_bytes(array) for group in groups for array in group.values())

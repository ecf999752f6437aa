"""Where the sampled beginning of a column stands in time: an earlier row's value is known by it alone."""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Array, Ints
from harness.diff.columns import ComparedRows
from harness.diff.pairs import Relation, RelationKind
from harness.diff.relations import name_relation
from harness.diff.sample import LIMIT, rows_kept
from harness.diff.tally import TensorTally


class RowOrder:
    """Places of the rows of one tally, or of several that take the same rows."""

    def __init__(self) -> None:
        self._parts: list[Ints] = []
        self._rows = 0

    def note(self, seq: Ints, view: ComparedRows) -> None:
        """Takes a batch's rows.

        Args:
          seq: the requests' places in time, shape (n,).
          view: which rows of which requests are compared.
        """
        if self._rows < LIMIT:
            kept = seq[view.owner][: LIMIT - self._rows]
            self._parts.append(np.array(kept, dtype=np.int64))
            self._rows += len(kept)

    def stale(self, tally: TensorTally, index: int = 0) -> Relation | None:
        """Tries an earlier row's value of a column, where the sampled beginning is dense in time."""
        before, after = tally.longest_prefix(index)
        order = self.state()
        if len(before) < min(len(order), rows_kept(len(tally.labels))):
            return None
        order = order[: len(before)]
        if len(order) != len(before) or len(np.unique(order)) < len(order):
            return None
        tolerance, scale = tally.measure(index)
        relation = name_relation(before, after, tolerance=tolerance, scale=scale, order=order)
        return relation if relation.kind is RelationKind.STALE else None

    def state(self) -> Ints:
        """Everything so far."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.int64)

    def restore(self, state: Array) -> None:
        """Continues from `state()`."""
        self._parts, self._rows = [state.astype(np.int64)], len(state)

"""What a column is called that its own pairs do not name: by other rows, and by other columns."""

from __future__ import annotations

from collections.abc import Sequence

from harness.diff.pairs import Relation, RelationKind
from harness.diff.row_order import RowOrder
from harness.diff.swaps import other_column
from harness.diff.tally import Further, TensorTally

_IN_TIME = (RelationKind.OTHER, RelationKind.PRECISION, RelationKind.ROUNDING)
"""Names after which time is asked: a late copy of values that move slowly is nearly equal, too."""


def asked_further(tally: TensorTally, order: RowOrder, others: Sequence[TensorTally]) -> Further:
    """Asks about columns of a tally.

    Args:
      tally: the columns' tensor.
      order: where its rows stand in time.
      others: tensors of the same stream whose values a column may carry.
    """

    def ask(index: int, relation: Relation) -> Relation:
        if relation.kind not in _IN_TIME:
            return relation
        found = order.stale(tally, index)
        if found is None and relation.kind is RelationKind.OTHER:
            found = other_column(tally, index, others)
        return relation if found is None else found

    return ask

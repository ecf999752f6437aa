"""The first differing requests of a tensor, and the first differing value of each of its columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.core.tensors import Bools
from harness.diff.columns import Aligned, ComparedRows
from harness.diff.reports import Example

_MOST = 5


@dataclass(slots=True)
class Examples:
    """Kept in test order."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    """Column → (request id, baseline's value, candidate's)."""
    ids: list[str] = field(default_factory=list)
    """Requests that differ, at most `_MOST`."""

    def add(
        self, pair: Aligned, cells: Bools, view: ComparedRows, columns: Iterable[tuple[int, str]]
    ) -> None:
        """Looks for columns' first values among the rows of a batch.

        Args:
          pair: the rows.
          cells: which values differ, shape (R, k).
          view: whose rows they are.
          columns: (place, label) of those that may be kept.
        """
        if len(self.ids) < _MOST:
            owners = np.unique(view.owner[cells.any(axis=1)])
            self.ids += [str(i) for i in view.ids[owners[: _MOST - len(self.ids)]]]
        for column, label in columns:
            if label in self.values or not cells[:, column].any():
                continue
            row = int(np.argmax(cells[:, column]))
            request = str(view.ids[view.owner[row]])
            if pair.unlike:
                self.values[label] = [request, None, None]
            else:
                before, after = pair.baseline[row, column], pair.candidate[row, column]
                self.values[label] = [request, _plain(before), _plain(after)]

    def of(self, label: str) -> Example | None:
        """A column's."""
        if label not in self.values:
            return None
        request, before, after = self.values[label]
        return Example(request_id=request, baseline=before, candidate=after)


def _plain(value: Any) -> float | int | bool | str:  # noqa: ANN401 - a cell of any dtype
    return value if isinstance(value, str) else value.item()

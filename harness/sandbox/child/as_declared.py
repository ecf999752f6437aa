"""Whether an output with as many rows as it is declared long is a row for each row, or as long whatever is asked.

The same rows twice over tell: only the second kind stays as it is. It is asked once of each length, where a batch
first has that many rows, so that a process which is new says the same as one that has answered much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


class AsDeclared:
    """What a model's outputs have shown.

    Args:
      described: its inputs and outputs, as the hello has them. One that fixes the rows it takes is not asked.
      beside: output → how long the version beside it declares it.
      run: answers inputs.
      errors: what it may raise.
    """

    def __init__(
        self,
        described: Mapping[str, Sequence[Mapping[str, Any]]],
        beside: Mapping[str, int],
        run: Callable[[dict[str, Array]], Arrays],
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._run, self._errors = run, errors
        self._names: dict[int, set[str]] = {}
        self._shown: dict[int, list[str]] = {}
        if any(type(first) is int for i in described["inputs"] for first in i["shape"][:1]):
            return
        for output in described["outputs"]:
            for length in (*output["shape"][:1], beside.get(output["name"])):
                if type(length) is int and length > 1:
                    self._names.setdefault(length, set()).add(output["name"])

    def among(self, feeds: dict[str, Array], outputs: Arrays, rows: int) -> list[str]:
        """Outputs that would be no longer for more rows; a model that more rows are refused by shows nothing.

        Args:
          feeds: the batch's inputs, each with an axis of rows.
          outputs: what was returned for them.
          rows: of the batch.
        """
        names = self._names.get(rows)
        if names is None:
            return []
        if rows not in self._shown:
            self._shown[rows] = self._looked(feeds, rows, names)
        return [n for n in self._shown[rows] if outputs[n].shape[:1] == (rows,)]

    def _looked(self, feeds: dict[str, Array], rows: int, names: set[str]) -> list[str]:
        try:
            more = self._run({n: np.concatenate((array, array)) for n, array in feeds.items()})
        except self._errors:
            return []
        return sorted(n for n in names & more.keys() if more[n].shape[:1] == (rows,))

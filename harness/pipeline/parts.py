"""What was found in parts of a batch, as of the whole batch, request by request in its order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from harness.core.tensors import Array, Ints
from harness.judge.metrics import Values

_Scalar = TypeVar("_Scalar", bound=np.generic)


def gathered(parts: Sequence[tuple[Ints, Mapping[str, Array]]], n: int) -> dict[str, Array]:
    """Columns.

    Args:
      parts: indices of a part's requests, and its columns, which all parts have.
      n: requests in all parts.
    """
    if len(parts) == 1:
        return dict(parts[0][1])
    return {
        name: _column([(at, columns[name]) for at, columns in parts], n) for name in parts[0][1]
    }


def together(parts: Sequence[tuple[Ints, Values]], n: int) -> Values:
    """One guardrail's values.

    Args:
      parts: indices of a part's requests, and their values.
      n: requests in all parts.
    """
    if len(parts) == 1:
        return parts[0][1]
    left: Counter[str] = Counter()
    for _, values in parts:
        left.update(dict(values.left_out))
    scored = [(at, v.score) for at, v in parts if v.score is not None]
    return Values(
        x=_column([(at, v.x) for at, v in parts], n),
        failed=_column([(at, v.failed) for at, v in parts], n),
        score=_column(scored, n) if scored else None,
        left_out=tuple(left.items()),
    )


def _column(parts: Sequence[tuple[Ints, npt.NDArray[_Scalar]]], n: int) -> npt.NDArray[_Scalar]:
    found = np.empty(n, parts[0][1].dtype)
    for at, column in parts:
        found[at] = column
    return found

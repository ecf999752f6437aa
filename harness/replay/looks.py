"""How an answer looks: the shape of its outputs, and where they are no numbers.

One place decides what of an answer is a failure beside the baseline's: an output that is not a number where the
baseline's is one, or that clients would get in another shape.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.observations import Observations, Outcome
from harness.core.tensors import Array, Bools, Tensors, rows_with_nan
from harness.sandbox.answers import BatchAnswer

_SEVERAL = (-1,)
"""Shape of an output that requests got in several shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """An answer to R rows, without its values."""

    shapes: dict[str, tuple[int, ...]]
    """Output → shape of a row, (−1,) where it has several; ZipMap outputs are left out, whose classes may differ from batch to batch."""
    nan: dict[str, Bools]
    """Output → rows that hold a NaN, shape (R,); outputs without any are left out."""

    def under(self, names: Mapping[str, str]) -> Look:
        """The same under other names.

        Args:
          names: own name → the other one, where they differ.
        """
        return Look(
            shapes={names.get(n, n): shape for n, shape in self.shapes.items()},
            nan={names.get(n, n): rows for n, rows in self.nan.items()},
        )


def look_of(answer: BatchAnswer | Observations) -> Look:
    """How an answer looks."""
    forms, whole = {}, True
    if isinstance(answer, Observations):
        forms, whole = answer.forms, bool((answer.outcome == Outcome.OK).all())
    # Filler of a great length holds no values: it is no shape that anybody got.
    shown = {n: a for n, a in answer.outputs.items() if whole or a.size or not len(a)}
    return Look(
        shapes={n: a.shape[1:] for n, a in shown.items() if n not in answer.keys}
        | dict.fromkeys(forms, _SEVERAL),
        nan=_nan_rows(answer.outputs) | _nan_in(forms),
    )


def reshaped(baseline: Look, candidate: Look, expected: Collection[str] = ()) -> str:
    """Which outputs come in another shape than the baseline's, in words; "" = none but for expected changes."""
    found = [
        f"{name} has rows of the shape {shape} where the baseline's are {baseline.shapes[name]}"
        for name, shape in candidate.shapes.items()
        if name not in expected and baseline.shapes.get(name, shape) != shape
    ]
    return "; ".join(found)


def newly_nan(baseline: Look, candidate: Look, rows: int) -> Bools:
    """Rows with a NaN in an output where the baseline's has none, shape (rows,)."""
    found: Bools = np.zeros(rows, np.bool_)
    for name, theirs in candidate.nan.items():
        ours = baseline.nan.get(name)
        found |= theirs if ours is None else theirs & ~ours
    return found


def _nan_in(forms: Mapping[str, Sequence[tuple[int, Array]]]) -> dict[str, Bools]:
    """As `_nan_rows`, of outputs in several shapes."""
    found = {}
    for name, chunks in forms.items():
        parts = [_nan_rows({name: a}).get(name, np.zeros(len(a), np.bool_)) for _, a in chunks]
        rows = np.concatenate(parts)
        if rows.any():
            found[name] = rows
    return found


def _nan_rows(outputs: Tensors) -> dict[str, Bools]:
    found = {}
    for name, values in outputs.items():
        if values.dtype.kind == "f":
            rows = rows_with_nan(values)
            if rows.any():
                found[name] = rows
    return found

"""A table's column → observations that a test may stake its validity on.

A bound is a bound: a test of a mean is valid only if no observation can lie outside the range it
bets on. Where a policy merely declares a range, values are cut to it, which makes the range true and
makes the clipped mean the subject of the verdict (2 % of rows at +1 under a declared ±0.25 gave 39 %
false promotion of the mean itself). Where a metric's mathematics gives the bounds, a value outside
them is not that metric, and cutting it would hide the mistake.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from harness.core.errors import TrafficError
from harness.core.policies import Guardrail
from harness.core.tensors import Floats
from harness.judge.metrics import Values

_ROUNDING = 1e-9
"""Share of the range by which a sum in float64 may leave a mathematical bound."""

_FIRST_LOOK = 50
_LOOK_GROWTH = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnValues:
    """One guardrail's observations of a table's n rows, and what was done to them."""

    values: Values
    """x in the guardrail's bounds, shape (n,); NaN rows failed."""
    n_missing: int
    """Rows that are NaN or empty: they count as the worst value for whatever is to be proven."""
    n_clipped: tuple[int, int]
    """Rows (below, above) the declared range, cut to its ends."""


def column_values(guardrail: Guardrail, x: Floats) -> ColumnValues:
    """Makes a guardrail's observations from its column.

    Args:
      guardrail: its bounds; a declared range clips.
      x: the column in arrival order, shape (n,), n ≥ 0; NaN = missing, ±inf allowed in a range.

    Returns:
      Values in the bounds, with counts of what was missing and what was cut.

    Raises:
      TrafficError: a value outside the mathematical bounds of the guardrail's metric.
    """
    lo, hi = guardrail.bounds()
    x = np.asarray(x, np.float64)
    missing = np.isnan(x)
    below, above = x < lo, x > hi
    if guardrail.range is None:
        slack = _ROUNDING * (hi - lo)
        odd = np.flatnonzero((x < lo - slack) | (x > hi + slack))
        if len(odd):
            raise TrafficError(
                f"column '{guardrail.column}', row {odd[0]}",
                f"{x[odd[0]]:g} is no value of {guardrail.metric.value}, "
                f"which lies in [{lo:g}, {hi:g}]; {len(odd):,} rows are outside",
                "Correct the column, or declare a `range` instead of a metric: that clips.",
            )
    return ColumnValues(
        values=Values(x=np.where(missing, np.nan, np.clip(x, lo, hi)), failed=missing),
        n_missing=int(np.count_nonzero(missing)),
        n_clipped=(
            (int(np.count_nonzero(below)), int(np.count_nonzero(above)))
            if guardrail.range is not None
            else (0, 0)
        ),
    )


def looks(n: int) -> list[tuple[int, int]]:
    """Where a table in arrival order is cut into looks: steps that grow with what was seen.

    Looks cost no error rate; between two of them the rows grow by a quarter, so that more of them
    would show little else.

    Args:
      n: rows, ≥ 0.
    """
    edges = [0]
    step = float(_FIRST_LOOK)
    while edges[-1] < n:
        edges.append(min(n, max(edges[-1] + 1, round(step))))
        step *= _LOOK_GROWTH
    return list(itertools.pairwise(edges))

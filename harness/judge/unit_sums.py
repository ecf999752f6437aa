"""Observations of requests → observations of units, where a unit's requests come one after another.

A test order by units puts all requests of a unit together, but not into one batch. What a batch ends
with is kept open: the sum, the count and whether a request failed, which is all that the unit's
value needs. A unit enters in the batch that holds its last request.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from harness.core.errors import GateError
from harness.core.tensors import Bools
from harness.judge.metrics import Values
from harness.judge.units import means_of_sums


class UnitSums:
    """One guardrail's open unit; memory does not grow with the data."""

    def __init__(self) -> None:
        """Starts between two units."""
        self._sum = 0.0
        self._count = 0
        self._failed = False

    def add(self, values: Values, last: Bools) -> Values:
        """Takes the next requests of the order.

        Args:
          values: n requests.
          last: whether a request is its unit's last one, shape (n,).

        Returns:
          The units that end among them, as `units.unit_means` defines their values; `left_out`
          counts requests.

        Raises:
          GateError: another number of requests, or values that are sorted by a score.
        """
        if len(values.x) != len(last) or values.score is not None:
            what = f"{len(last)} unit ends for {len(values.x)} observations"
            raise GateError("judge, unit", what, "Report this: one for every request, no scores.")
        # Requests before the first end belong to the open unit; those after the last one stay open.
        unit = np.concatenate([[0], np.cumsum(last)[:-1]]) if len(last) else np.zeros(0, np.int64)
        ended = int(np.count_nonzero(last))
        enters = ~np.isnan(values.x) & ~values.failed
        counts = np.bincount(unit[enters], minlength=ended + 1)
        sums = np.asarray(np.bincount(unit[enters], values.x[enters], ended + 1), np.float64)
        failed = np.bincount(unit[values.failed], minlength=ended + 1) > 0
        sums[0] += self._sum
        counts[0] += self._count
        failed[0] |= self._failed
        self._sum, self._count = float(sums[ended]), int(counts[ended])
        self._failed = bool(failed[ended])
        return Values(
            x=means_of_sums(sums[:ended], counts[:ended], failed[:ended]),
            failed=failed[:ended],
            left_out=values.left_out,
        )

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `from_state` continues identically."""
        return {"sum": self._sum, "count": self._count, "failed": self._failed}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Continues from `state`."""
        found = cls()
        found._sum, found._count = float(state["sum"]), int(state["count"])
        found._failed = bool(state["failed"])
        return found

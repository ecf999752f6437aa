"""Units of a gate: which requests count once together, in which order, and what each window holds.

A window's requests are drawn unit by unit: units in random order, all requests of one together. The
tests then see one value a unit, in the batch in which it ends. Only the tests count units: replay,
diffs, failures and the pairs table go on by request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.core.errors import TrafficError, nearest
from harness.core.policies import Policy
from harness.core.tensors import Bools, Ints
from harness.judge.units import is_block, units_of_blocks
from harness.replay.order import Batch
from harness.store.orders import Order, positions_in
from harness.store.windows import SealedWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class GateUnits:
    """The units of a run's windows."""

    code: Ints
    """Unit of each storage position, shape (n,)."""
    last: Mapping[str, Bools]
    """Window → whether a position is its unit's last one in the window's order, shape (n,)."""

    def ends(self, batch: Batch) -> Bools:
        """Which requests of a batch are their unit's last ones."""
        return self.last[batch.window][batch.positions]

    @staticmethod
    def of(code: Ints, orders: Mapping[str, Order]) -> GateUnits:
        """The ends of the units in each window's order."""
        last = {}
        for name, stored in orders.items():
            order = positions_in(stored)
            at = np.zeros(len(code), np.bool_)
            at[order[unit_ends(order, code) - 1]] = True
            last[name] = at
        return GateUnits(code=code, last=last)


def unit_codes(policy: Policy, window: SealedWindow) -> Ints | None:
    """Unit of each storage position, shape (n,), −1 where the column is empty; None without a unit.

    Raises:
      TrafficError: the traffic does not record the column.
    """
    if not policy.unit:
        return None
    if is_block(policy.unit):
        return units_of_blocks(window.index().ts_ns(), policy.unit).code
    recorded = window.info.context
    if policy.unit not in recorded:
        what = f"the traffic does not record the column {policy.unit}"
        remedy = f"Use a context column or a block like 1h; {nearest(policy.unit, recorded)}"
        raise TrafficError("unit", what, remedy)
    codes, words = window.index().context(policy.unit)
    empty = np.array([word is None or word == "" for word in words], np.bool_)
    return np.where(empty[codes], -1, codes).astype(np.int64)


def check_units(
    policy: Policy, window: SealedWindow, code: Ints, selected: Mapping[str, Bools]
) -> None:
    """Refuses windows whose requests do not fall into units that count once.

    Args:
      policy: unit and slices.
      window: the traffic.
      code: from `unit_codes`.
      selected: window → positions that belong to it, shape (n,).

    Raises:
      TrafficError: a request without a unit (leaving it out, or taking it for a unit of its own,
        would both bias), or a unit with requests of two slices.
    """
    for name, chosen in selected.items():
        missing = int(np.count_nonzero(chosen & (code < 0)))
        if missing:
            what = f"{missing:,} requests of the {name} window carry no {policy.unit}"
            raise TrafficError(
                "unit", what, "Record it for every request, or use a time block like `unit: 1h`."
            )
        at = np.flatnonzero(chosen)
        columns = {c for g in policy.guardrails if g.window.value == name for c in g.slice_by}
        for column in sorted(columns & set(window.info.context)):
            codes, words = window.index().context(column)
            first = codes[at[_first_of_unit(code[at])]]
            odd = np.flatnonzero(first != codes[at])
            if len(odd):
                one, other = str(words[first[odd[0]]]), str(words[codes[at[odd[0]]]])
                raise TrafficError(
                    f"guardrails, slice_by {column}",
                    f"a unit of {policy.unit} has requests with {column} '{one}' and '{other}', and "
                    "counts once",
                    "Slice by what a whole unit has, or gate without `unit:`.",
                )


def _first_of_unit(code: Ints) -> Ints:
    """Index of the first request of each request's unit, shape (k,)."""
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def unit_ends(order: Ints, code: Ints) -> Ints:
    """Requests up to the end of each unit of an order in which units are together, ascending."""
    if not len(order):
        return np.zeros(0, np.int64)
    mine = code[order]
    return np.append(np.flatnonzero(mine[1:] != mine[:-1]) + 1, len(mine))


def planning_requests(policy: Policy, order: Order, code: Ints | None) -> int:
    """Requests at the start of an order that only plan: `windows.planning` of them, or of units."""
    n0 = policy.windows.planning
    if code is None or not n0:
        return min(n0, len(order))
    ends = unit_ends(positions_in(order), code)
    return int(ends[min(n0, len(ends)) - 1]) if len(ends) else 0

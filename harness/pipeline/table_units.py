"""Rows of a table → what counts once: rows, units of a column, or time blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from harness.core.errors import TrafficError
from harness.core.policies import Policy, Weight
from harness.core.tensors import Strings
from harness.judge.metrics import Values
from harness.judge.tables import ColumnValues, table_values
from harness.judge.units import (
    UnitMap,
    is_block,
    size_weighted_draws,
    unit_means,
    units_of_blocks,
    units_of_column,
)
from harness.pipeline.observed import ObservedTable

_SEED_BYTES = 8


def unit_columns(policy: Policy) -> list[str]:
    """Columns that the policy's unit needs."""
    return [policy.unit] if policy.unit and not is_block(policy.unit) else []


def units_of(unit: str, observed: ObservedTable) -> UnitMap:
    """Which unit each row belongs to.

    Raises:
      TrafficError: a row without a unit, or a time block without times.
    """
    if is_block(unit):
        return units_of_blocks(observed.times_ns(), unit)
    return units_of_column(observed.words(unit))


def columns_seen(policy: Policy, observed: ObservedTable) -> dict[str, ColumnValues]:
    """Every guardrail's observations of the table's rows.

    Raises:
      TrafficError: a column that is missing, or holds what its metric cannot take.
    """
    return {
        g.name: table_values(
            g, [observed.numbers(c) for c in g.reads()], planning=policy.windows.planning
        )
        for g in policy.guardrails
    }


def slices_of(policy: Policy, observed: ObservedTable) -> dict[str, Strings]:
    """Slice column → value of each row or, with a unit, of each unit.

    Raises:
      TrafficError: a unit with rows of two slices: it counts once, and so in one of them at most.
    """
    sliced = sorted({c for g in policy.guardrails for c in g.slice_by})
    words = {column: observed.words(column) for column in sliced}
    if not policy.unit or not sliced:
        return words
    units = units_of(policy.unit, observed)
    first = np.zeros(units.n_units, np.int64)
    # The last write wins, so that of each unit's rows the first one stays.
    first[units.code[::-1]] = np.arange(len(units.code))[::-1]
    found = {}
    for column, each in words.items():
        found[column] = each[first]
        odd = np.flatnonzero(found[column][units.code] != each)
        if len(odd):
            raise TrafficError(
                f"{observed.name}, row {odd[0]}",
                f"a unit of {policy.unit} has rows with {column} '{each[odd[0]]}' and "
                f"'{found[column][units.code[odd[0]]]}', and counts once",
                "Slice by what a whole unit has, or judge the slices as tables of their own.",
            )
    return found


def seeds_of_draws(
    policy: Policy, observed: ObservedTable, values: Mapping[str, Values]
) -> dict[str, int]:
    """Guardrail name → seed of its draws under `weight: request`; empty otherwise.

    Made from what is judged alone, a guardrail's values in order and which rows belong together, at
    the precision of a float32. How a table is stored, what else it holds and how guardrails are named
    change nothing, so nobody can draw again until an answer pleases.

    Args:
      policy: unit and weight.
      observed: the table.
      values: guardrail name → observations of its rows.

    Raises:
      TrafficError: a row without a unit, or a time block without times.
    """
    if not policy.unit or policy.weight is not Weight.REQUEST:
        return {}
    code = units_of(policy.unit, observed).code.astype("<i8").tobytes()
    return {name: _seed(code, found) for name, found in values.items()}


def _seed(code: bytes, values: Values) -> int:
    known = ~np.isnan(values.x) & ~values.failed
    # Adding 0 makes −0 a 0.
    x = np.where(known, values.x, 0.0).astype("<f4") + np.float32(0.0)
    digest = hashlib.sha256(code)
    for part in (x.astype("<f4"), known, values.failed):
        digest.update(part.tobytes())
    return int.from_bytes(digest.digest()[:_SEED_BYTES], "big")


def by_unit(
    policy: Policy,
    observed: ObservedTable,
    values: Mapping[str, Values],
    seeds: Mapping[str, int],
) -> dict[str, Values]:
    """Observations of what counts once.

    With `weight: unit` each unit's value is the mean of its rows. With `weight: request` as many
    units as there are, drawn with replacement and with probability ∝ size, carry those means: their
    expectation is the mean over this table's rows (judge.units).

    Args:
      policy: unit and weight; without a unit nothing changes.
      observed: the table.
      values: guardrail name → observations of its rows.
      seeds: from `seeds_of_draws`.

    Raises:
      TrafficError: a row without a unit, or a time block without times.
    """
    if not policy.unit:
        return dict(values)
    units = units_of(policy.unit, observed)
    if policy.weight is Weight.UNIT:
        return {name: unit_means(v, units) for name, v in values.items()}
    drawn = {
        name: size_weighted_draws(v, units, units.n_units, np.random.default_rng(seeds[name]))
        for name, v in values.items()
    }
    if policy.windows.planning and units.n_units:
        raise TrafficError(
            "windows.planning",
            "units drawn with replacement plan and are evidence at once",
            "Leave it out, or use `weight: unit`.",
        )
    return drawn

"""Rows of a table → what counts once: rows, units of a column, or time blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.core.errors import TrafficError
from harness.core.policies import Policy, Weight
from harness.judge.metrics import Values
from harness.judge.units import (
    UnitMap,
    is_block,
    size_weighted_draws,
    unit_means,
    units_of_blocks,
    units_of_column,
)
from harness.pipeline.observed import ObservedTable

_BLOCK_TIME = "ts_ns"


def unit_columns(policy: Policy) -> list[str]:
    """Columns that the policy's unit needs."""
    return [policy.unit] if policy.unit and not is_block(policy.unit) else []


def units_of(unit: str, observed: ObservedTable) -> UnitMap:
    """Which unit each row belongs to.

    Raises:
      TrafficError: a row without a unit, or a time block without the column ts_ns.
    """
    if is_block(unit):
        return units_of_blocks(observed.times_ns(_BLOCK_TIME), unit)
    return units_of_column(observed.words(unit))


def by_unit(
    policy: Policy, observed: ObservedTable, values: Mapping[str, Values], seed: int
) -> dict[str, Values]:
    """Observations of what counts once.

    With `weight: unit` each unit's value is the mean of its rows. With `weight: request` as many
    units as there are, drawn with replacement and with probability ∝ size, carry those means: their
    expectation is the mean over this table's rows (judge.units).

    Args:
      policy: unit and weight; without a unit nothing changes.
      observed: the table.
      values: guardrail name → observations of its rows.
      seed: draws the units.

    Raises:
      TrafficError: a row without a unit, or a time block without the column ts_ns.
    """
    if not policy.unit:
        return dict(values)
    units = units_of(policy.unit, observed)
    if policy.weight is Weight.UNIT:
        return {name: unit_means(v, units) for name, v in values.items()}
    rng = np.random.default_rng(seed)
    drawn = {name: size_weighted_draws(v, units, units.n_units, rng) for name, v in values.items()}
    if policy.windows.planning and units.n_units:
        raise TrafficError(
            "windows.planning",
            "units drawn with replacement plan and are evidence at once",
            "Leave it out, or use `weight: unit`.",
        )
    return drawn

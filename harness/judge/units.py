"""Units: whatever is exchangeable when requests are not. A unit enters every test once.

Requests of one user resemble each other, and so do requests of one hour. A test that takes them for
independent is wrong in most runs; a test over the means of users or hours is not. It also answers
another question: the mean over *units*. Where the mean over *requests* is meant, units are drawn
with replacement and with probability ∝ size, which makes each draw's expectation the request mean
of this window, and leaves the draws independent (N = ∞).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.clock import seconds_from_duration
from harness.core.errors import TrafficError, UsageError
from harness.core.tensors import Array, Bools, Floats, Ints
from harness.judge.metrics import Values

_ALL_TIME_S = 9e9
"""Times are 64-bit nanoseconds: a longer block holds them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitMap:
    """Which unit each request belongs to."""

    code: Ints
    """Unit of each request, 0 … n_units − 1 in order of first request, shape (n,)."""
    n_units: int
    """Different units."""
    sizes: Ints
    """Requests of each unit, shape (n_units,)."""


def units_of_column(column: Array) -> UnitMap:
    """Units named by a column: user, session, tenant.

    Args:
      column: name of each request's unit, in arrival order, shape (n,).

    Raises:
      TrafficError: a request without a unit; leaving it out or lumping it would both bias.
    """
    names = np.asarray(column)
    missing = np.array([name is None or name in ("", b"") or name != name for name in names])  # noqa: PLR0124 - NaN is the one value unequal to itself
    if missing.any():
        what = f"{int(missing.sum())} of {len(names)} requests carry no unit"
        raise TrafficError("unit", what, "Fill the column, or use a time block like `unit: 1h`.")
    index: dict[object, int] = {}
    codes = [index.setdefault(name, len(index)) for name in names.tolist()]
    return _mapped(np.asarray(codes, np.int64), len(index))


def units_of_blocks(ts_ns: Ints, duration: str) -> UnitMap:
    """Units that are time blocks: requests of the same 1h, counted from the epoch in UTC.

    Blocks must be long beside the time over which requests depend on each other. Order within and
    between blocks does not matter.

    Args:
      ts_ns: arrival of each request, ns since the epoch, shape (n,).
      duration: 10m, 1h, 1d.

    Raises:
      UsageError: no duration.
      TrafficError: a duration of zero.
    """
    length_ns = round(min(seconds_from_duration(duration, "unit"), _ALL_TIME_S) * 1e9)
    if length_ns <= 0:
        raise TrafficError("unit", f"a block of {duration} has no length", "Use 10m, 1h or 1d.")
    return units_of_column(np.asarray(ts_ns, np.int64) // length_ns)


def is_block(unit: str) -> bool:
    """Whether a policy's `unit` is a time block (1h) and not a column's name (1st_party_id)."""
    try:
        seconds_from_duration(unit, "unit")
    except UsageError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitArms:
    """Which arm each unit of an unpaired table belongs to: that of its first row."""

    candidate: Bools
    """Arm per unit, shape (n_units,)."""
    propensity: Floats
    """π of the unit's first row, shape (n_units,)."""
    counts: Bools
    """Rows that count, shape (n,); the others came after their unit had changed arms."""


def unit_arms(candidate: Bools, propensity: Floats, units: UnitMap) -> UnitArms:
    """Fixes each unit's arm and step at its first row, as `exposures` does for live traffic.

    Args:
      candidate: arm of each row in arrival order, shape (n,).
      propensity: π in force at each row, shape (n,).
      units: of the same rows.

    Returns:
      What `OverlapTrack.add` needs per unit. Outcomes are `unit_means` over the rows that count.

    Raises:
      TrafficError: lengths differ.
    """
    if not len(candidate) == len(propensity) == len(units.code):
        what = f"{len(candidate)} arms, {len(propensity)} propensities, {len(units.code)} units"
        raise TrafficError("unit", what, "Give one of each for every row.")
    _, first = np.unique(units.code, return_index=True)
    arms = np.asarray(candidate, np.bool_)[first]
    return UnitArms(
        candidate=arms,
        propensity=np.asarray(propensity, np.float64)[first],
        counts=np.asarray(candidate, np.bool_) == arms[units.code],
    )


def unit_means(values: Values, units: UnitMap) -> Values:
    """Turns observations of requests into observations of units.

    A unit's value is the mean over its requests that enter. A unit with a failed request has
    failed: its mean has no one value that is the worst for both answers. A unit none of whose
    requests enter does not enter.

    Args:
      values: n requests.
      units: of the same n requests.

    Returns:
      Values of the units in order of first request; bounds are those of the requests.

    Raises:
      TrafficError: another number of requests.
    """
    if len(values.x) != len(units.code):
        what = f"{len(units.code)} units for {len(values.x)} observations"
        raise TrafficError("unit", what, "Give one unit for every request.")
    enters = ~np.isnan(values.x) & ~values.failed
    counts = np.bincount(units.code[enters], minlength=units.n_units)
    sums = np.asarray(np.bincount(units.code[enters], values.x[enters], units.n_units), np.float64)
    failed = np.bincount(units.code[values.failed], minlength=units.n_units) > 0
    return Values(x=means_of_sums(sums, counts, failed), failed=failed, left_out=values.left_out)


def means_of_sums(sums: Floats, counts: Ints, failed: Bools) -> Floats:
    """Value of each unit; NaN where it failed or none of its requests enters, shape (u,)."""
    return np.where((counts > 0) & ~failed, sums / np.maximum(counts, 1), np.nan)


def size_weighted_draws(
    values: Values, units: UnitMap, n_draws: int, rng: np.random.Generator
) -> Values:
    """Draws units with replacement, with probability ∝ the number of their requests that enter.

    The mean of a draw is the request mean of this very window, exactly; draws are independent, so
    N = ∞ however many are taken. The subject is this window, not traffic like it.

    Args:
      values: n requests.
      units: of the same n requests.
      n_draws: ≥ 0.
      rng: source of the draws, seeded after the candidate is fixed.

    Returns:
      Values of the drawn units, n_draws of them (none when no request enters).

    Raises:
      TrafficError: another number of requests.
    """
    means = unit_means(values, units)
    entering = values.failed | ~np.isnan(values.x)
    sizes = np.bincount(units.code[entering], minlength=units.n_units).astype(np.float64)
    if not sizes.sum():
        empty = np.zeros(0)
        return Values(x=empty, failed=empty.astype(np.bool_), left_out=values.left_out)
    drawn = rng.choice(units.n_units, n_draws, p=sizes / sizes.sum())
    return Values(x=means.x[drawn], failed=means.failed[drawn], left_out=values.left_out)


def within_bounds(where: str, x: Floats, failed: Bools, bounds: tuple[float, float]) -> None:
    """Refuses values on which the test's validity could not be staked.

    Args:
      where: what they are of, for the error.
      x: observations, NaN = does not enter, shape (n,).
      failed: shape (n,).
      bounds: mathematical (lo, hi).

    Raises:
      TrafficError: a value outside.
    """
    known = x[~np.isnan(x) & ~failed]
    lo, hi = bounds
    if np.any((known < lo) | (known > hi)):
        what = f"a value is outside [{lo:g}, {hi:g}]"
        raise TrafficError(where, what, "The test is valid only within true bounds.")


def _mapped(code: Ints, n_units: int) -> UnitMap:
    return UnitMap(code=code, n_units=n_units, sizes=np.bincount(code, minlength=n_units))

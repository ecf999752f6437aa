"""The floor with what the order of the baseline's sums moves, column by column."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from harness.diff.columns import Keys
from harness.diff.distance import FLOOR_FACTOR
from harness.diff.floor import SWALLOWED, ColumnFloor, Floor, OtherOrders


def with_orders(
    floor: Floor, measured: Sequence[Floor], smooth: Collection[str], *, proven: bool = False
) -> Floor:
    """Adds measured orders to a floor; what no such sum is before stays as it is.

    So does what jumps: that a few rows of it flip excuses no other row. Where the graphs are proven to be one
    function, what is measured is the candidate's own noise, of any type, until it swallows faults.

    Args:
      floor: the baseline against itself.
      measured: the same against copies of it whose sums go in another order, at least one.
      smooth: tensors as `ModelGraph.smooth`.
      proven: nothing but the order of sums is between the versions.
    """
    requests = min(f.requests for f in measured)
    orders = OtherOrders(count=len(measured), requests=requests, proven=proven)
    most = SWALLOWED / FLOOR_FACTOR if proven else 0.0
    return replace(
        floor,
        outputs=_moved(floor.outputs, [f.outputs for f in measured], smooth, most),
        features=_moved(floor.features, [f.features for f in measured], smooth, most),
        orders=orders,
    )


def _moved(
    columns: Sequence[ColumnFloor],
    measured: Sequence[Sequence[ColumnFloor]],
    smooth: Collection[str],
    most: float,
) -> tuple[ColumnFloor, ...]:
    found: dict[tuple[str, str], float] = {}
    for one in measured:
        for column in (c for c in one if c.tensor in smooth):
            for label, relative in _by_label(column):
                key = column.tensor, label
                found[key] = max(found.get(key, 0.0), relative)
    return tuple(_with(column, found, most) for column in columns)


def _with(column: ColumnFloor, found: dict[tuple[str, str], float], most: float) -> ColumnFloor:
    """The column with what was measured, of which up to `most` is noise."""
    moved = [found.get((column.tensor, label), 0.0) for label, _ in _by_label(column)]
    largest = max(moved, default=0.0)
    if not largest:
        return column
    relative = max(column.relative, min(largest, most))
    if column.wide is None:
        return replace(column, ordered=largest, relative=relative)
    noise = [max(r, min(m, most)) for r, m in zip(column.wide.relative, moved, strict=True)]
    wide = replace(column.wide, ordered=tuple(moved), relative=tuple(noise))
    return replace(column, ordered=largest, relative=relative, wide=wide)


def _by_label(column: ColumnFloor) -> list[tuple[str, float]]:
    """(label, relative difference) of every column that stands in it."""
    if column.wide is None:
        return [(column.column, column.relative)]
    labels: Keys = column.wide.names()
    return list(zip(labels, column.wide.relative, strict=True))

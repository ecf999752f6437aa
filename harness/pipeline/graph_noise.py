"""How far the baseline is apart from itself in a traced batch: again, in halves, with its sums in other orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Nested, Tensors
from harness.diff.tensor_trace import TensorTrace
from harness.pipeline.graph_copies import OpenCopies
from harness.pipeline.graph_opening import halves, joined
from harness.sandbox.tracing import Traced


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Both sides' values of a pair of tensors in one batch."""

    trace: TensorTrace
    """What is known of the pair."""
    name: str
    """The baseline's tensor, as its copy calls it."""
    values: Array | Nested
    """The baseline's."""
    others: Array | Nested
    """The candidate's."""
    smooth: bool
    """The baseline's follows rounded sums without a jump, as `Graph.smooth` has it."""


def take_noise(opened: OpenCopies, feeds: Tensors, rows: int, compared: Sequence[Compared]) -> None:
    """Enters the baseline against itself into the traces, before its values are compared.

    Args:
      opened: the running copies.
      feeds: the batch, under the baseline's names.
      rows: of it.
      compared: its values.
    """
    again = opened.tracers[2]
    repeated = again.run(feeds, again.tensors)
    parts = (
        [again.run(half, again.tensors) for half in halves(feeds, rows)]
        if rows > 1 and not opened.sketched
        else []
    )
    for one in compared:
        same = repeated.value(one.name)
        if same is not None:
            split = [p.tensors[one.name] for p in parts if one.name in p.tensors]
            whole = joined(split) if split and len(split) == len(parts) else None
            if not isinstance(one.values, np.ndarray) or (
                whole is not None and whole.shape != one.values.shape
            ):
                whole = None
            one.trace.floor_from(same, one.values, whole, rows)
    for runner in opened.orders:
        ordered = runner.run(feeds, again.tensors)
        for one in (c for c in compared if c.smooth):
            other = ordered.value(one.name)
            if other is not None:
                one.trace.ordered_from(one.values, other, rows)


def in_order(ours: str, theirs: str, before: Traced, after: Traced) -> Array | Nested | None:
    """The candidate's values; scores by class in the baseline's order of classes, NaN for one that it lacks."""
    values = after.value(theirs)
    if not isinstance(values, np.ndarray):
        return values
    mine, other = before.keys.get(ours), after.keys.get(theirs)
    if mine is None or other is None or mine == other:
        return values
    lacking = np.full((len(values), 1), np.nan)
    columns = [*mine, *(key for key in other if key not in mine)]
    place = {key: i for i, key in enumerate(other)}
    return np.hstack([values, lacking])[:, [place.get(key, len(other)) for key in columns]]

"""A batch without some of its requests, and of the same size: rows of the others stand in their place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.core.tensors import Bools, Feeds, Ints, Tensors, some_rows
from harness.sandbox.answers import BatchAnswer


def refilled(inputs: Feeds, rows: Ints, rest: Ints) -> tuple[Feeds, Bools] | None:
    """The inputs with rows of `rest` in place of all others; None where `rest` has no rows.

    Args:
      inputs: of n requests, shape (R, *trailing).
      rows: of each request, shape (n,).
      rest: the requests that stay.

    Returns:
      The inputs, shape (R, *trailing), and which rows are those of `rest`, shape (R,).
    """
    keep = np.zeros(len(rows), np.bool_)
    keep[rest] = True
    kept: Bools = np.repeat(keep, rows)
    good, bad = np.flatnonzero(kept), np.flatnonzero(~kept)
    if not len(good):
        return None
    source = np.arange(len(kept))
    source[bad] = good[np.arange(len(bad)) % len(good)]
    return {name: array[source] for name, array in inputs.items()}, kept


def without(answer: BatchAnswer, kept: Bools) -> BatchAnswer:
    """Some rows of an answer, with their share of its time."""
    rows = int(kept.sum())

    def cut(tensors: Tensors) -> Tensors:
        return {name: some_rows(array, kept) for name, array in tensors.items()}

    return replace(
        answer,
        rows=rows,
        outputs=cut(answer.outputs),
        features=cut(answer.features),
        trace_outputs=cut(answer.trace_outputs),
        service_s=answer.service_s * rows / max(len(kept), 1),
    )

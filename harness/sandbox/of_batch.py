"""Outputs that are about a batch as a whole, not about its rows: scalars, a table of constants, a sum over all.

They are one value in each row of their batch: what a batch is answered, each of its requests is. Where such a
value depends on the batch, each request runs by itself, as with every other output.

How long an output is declared, by its version or by the one beside it, tells what it may be and no more: many
exporters write the length of their example down and return a row for each row all the same. What it is shows
where the batch has another number of rows than that; where it has just as many, every version is read as the
baseline was seen to answer (`Hello.tables`), so that none is read unlike another. Lengths that neither version declares are
not guessed: some detections are as many as the rows by chance. Nor is a length of 1: a version that gives one
row for a whole batch answers each request by itself as one does that gives a row for each, and is not like it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from harness.core.tensors import Tensors

Lengths = Mapping[str, frozenset[int]]
"""Output → how long it is declared as a whole, above 1: by its version, or by the one that it is compared with."""


def about_batch(outputs: Tensors, rows: int, lengths: Lengths, tables: Collection[str]) -> set[str]:
    """Which of these are about the batch.

    Args:
      outputs: as the model returned them.
      rows: of the batch.
      lengths: as `Hello.lengths` has them.
      tables: outputs that are about the batch also where it has as many rows as they are long.
    """
    return {
        name
        for name, known in lengths.items()
        if name in outputs
        and outputs[name].ndim
        and len(outputs[name]) in known
        and (len(outputs[name]) != rows or name in tables)
    }


def repeated_bytes(groups: Iterable[Tensors], rows: int, of_batch: Collection[str]) -> int:
    """Bytes that tensors about the batch take beyond their own where each row is compared.

    Args:
      groups: outputs, and those of the trace.
      rows: of the batch.
      of_batch: names of those with a length of their own.
    """
    sizes = (a.nbytes for g in groups for n, a in g.items() if not a.ndim or n in of_batch)
    return sum(sizes) * max(rows - 1, 0)


def in_every_row(tensors: Tensors, rows: int, of_batch: Collection[str]) -> Tensors:
    """Scalars, and what else is about the batch, in each of its rows: one value, that is not copied or written to.

    Args:
      tensors: as the model returned them.
      rows: of the batch.
      of_batch: names of those with a length of their own.
    """
    if not of_batch and all(array.ndim for array in tensors.values()):
        return tensors
    return {
        n: np.broadcast_to(a, (rows, *a.shape)) if not a.ndim or n in of_batch else a
        for n, a in tensors.items()
    }

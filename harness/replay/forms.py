"""A pair of batches in parts whose answers have one shape each.

Requests that run by themselves may be answered in different shapes: as many boxes as a picture shows. What one
version answers to a request is held against what the other answers to the same request, whatever its
neighbours got. So such a batch is compared part by part: a part holds the requests to which the first version
gives one shape and the second version one, its own or another. What a version did not answer is a part of its own: beside
answers in wide rows it would have to be as wide as these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.tensors import Ints
from harness.replay.composition import observed_in_parts, some_of

_Key = tuple[tuple[int, ...] | None, ...]


def in_forms(
    pair: PairBatch, again: PairBatch | None = None
) -> list[tuple[Ints, PairBatch, PairBatch | None]]:
    """The pair as it is, nearly always; otherwise its parts.

    Args:
      pair: n requests.
      again: the same a second time.

    Returns:
      Ascending indices of the requests of each part, the part, and the same of the second time.
    """
    seen = [pair.baseline, pair.candidate, pair.anchor]
    seen += [] if again is None else [again.baseline, again.candidate]
    several = [o for o in seen if o is not None and o.forms]
    if not several:
        return [(np.arange(len(pair)), pair, again)]
    shapes = [column for o in several for column in _shapes(pair, o)]
    keys: list[_Key] = list(zip(*shapes, strict=True))
    # What has no rows goes with the others.
    usual = next((key for key in keys if any(shape is not None for shape in key)), keys[0])
    parts: dict[_Key, list[int]] = {}
    for index, key in enumerate(keys):
        told = any(shape is not None for shape in key) or pair.requests.rows[index]
        parts.setdefault(key if told else usual, []).append(index)
    found = [*map(np.array, parts.values())]
    own = _parts(pair, found)
    more = [None] * len(found) if again is None else _parts(again, found)
    return list(zip(found, own, more, strict=True))


def _shapes(pair: PairBatch, observed: Observations) -> list[list[tuple[int, ...] | None]]:
    """Per output in several shapes: that of each request's answer; None without an answer or rows."""
    known = (observed.outcome == Outcome.OK) & (pair.requests.rows > 0)
    columns = []
    for chunks in observed.forms.values():
        shapes = [array.shape[1:] for count, array in chunks for _ in range(count)]
        columns.append([s if there else None for s, there in zip(shapes, known, strict=True)])
    return columns


def _parts(pair: PairBatch, parts: Sequence[Ints]) -> list[PairBatch]:
    """The pair's parts, in one pass over each version's answers."""
    asked = pair.requests
    sides = [observed_in_parts(asked, side, parts) for side in (pair.baseline, pair.candidate)]
    third = pair.anchor
    anchors = [None] * len(parts) if third is None else observed_in_parts(asked, third, parts)
    return [
        replace(
            pair, requests=some_of(asked, at), baseline=baseline, candidate=candidate, anchor=anchor
        )
        for at, baseline, candidate, anchor in zip(parts, *sides, anchors, strict=True)
    ]

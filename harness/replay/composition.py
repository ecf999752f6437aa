"""Batches cut into pieces, and the observations of pieces put together again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.core.observations import Observations, Outcome
from harness.core.tensors import Array, Ints, Tensors
from harness.core.traffic import RequestBatch
from harness.replay.assembly import in_key_order

_SPLITS = (333 / 1024, 845 / 1024)
"""Where a repetition's batches are cut; the smallest have to be cut too, or their batch stays the same."""


def cuts(n: int) -> list[tuple[int, int]]:
    """Where a batch of n requests is cut: up to three pieces of different sizes; two requests make two."""
    edges = sorted({0, *(min(math.ceil(n * part), n) for part in _SPLITS), n})
    return list(itertools.pairwise(edges))


def rows_of(batch: RequestBatch, start: int, stop: int) -> RequestBatch:
    """Requests start:stop of a batch."""
    low, high = int(batch.rows[:start].sum()), int(batch.rows[:stop].sum())
    return RequestBatch(
        seq=batch.seq[start:stop],
        request_id=batch.request_id[start:stop],
        ts_ns=batch.ts_ns[start:stop],
        rows=batch.rows[start:stop],
        inputs={name: tensor[low:high] for name, tensor in batch.inputs.items()},
        recorded={name: tensor[low:high] for name, tensor in batch.recorded.items()},
        answered=batch.answered[start:stop],
        context={name: column[start:stop] for name, column in batch.context.items()},
        coded={name: coded[low:high] for name, coded in batch.coded.items()},
        coded_context={name: c[start:stop] for name, c in batch.coded_context.items()},
    )


def requests_at(
    batch: RequestBatch, observations: Observations, at: Ints
) -> tuple[RequestBatch, Observations]:
    """Some requests of a batch, with what they were answered in it; features are left out.

    Args:
      batch: requests.
      observations: of all of them.
      at: which, ascending, shape (k,).
    """
    ends = np.cumsum(batch.rows)
    rows = np.concatenate([np.arange(ends[i] - batch.rows[i], ends[i]) for i in at.tolist()])
    some = replace(
        batch, seq=batch.seq[at], request_id=batch.request_id[at], ts_ns=batch.ts_ns[at],
        rows=batch.rows[at], answered=batch.answered[at],
        inputs={name: tensor[rows] for name, tensor in batch.inputs.items()},
        recorded={name: tensor[rows] for name, tensor in batch.recorded.items()},
        context={name: column[at] for name, column in batch.context.items()},
        coded={}, coded_context={},
    )  # fmt: skip
    return some, Observations(
        outcome=observations.outcome[at],
        outputs={name: tensor[rows] for name, tensor in observations.outputs.items()},
        features={}, trace_outputs={}, latency_s=observations.latency_s[at],
        keys=observations.keys,
    )  # fmt: skip


def joined(pieces: Sequence[Observations]) -> Observations:
    """Observations of consecutive pieces of a batch as those of the whole batch.

    An answer that has another shape than the first good one is INVALID, as within a batch.
    """
    keys = {
        name: tuple(dict.fromkeys(k for p in pieces for k in p.keys.get(name, ())))
        for name in pieces[0].keys
    }
    outputs = [
        {n: in_key_order(a, p.keys.get(n), keys.get(n)) for n, a in p.outputs.items()}
        for p in pieces
    ]
    good = next((i for i, p in enumerate(pieces) if (p.outcome == Outcome.OK).any()), 0)
    outcomes, first = [], 0
    messages: list[tuple[int, str]] = []
    for piece, arrays in zip(pieces, outputs, strict=True):
        odd = [n for n, a in arrays.items() if a.shape[1:] != outputs[good][n].shape[1:]]
        outcome = piece.outcome
        if odd and (outcome == Outcome.OK).any():
            message = f"has another shape than other requests' answers: {', '.join(odd)}"
            messages.extend(
                (first + int(i), message) for i in np.flatnonzero(outcome == Outcome.OK)
            )
            outcome = np.where(outcome == Outcome.OK, np.int8(Outcome.INVALID), outcome)
        arrays.update({n: _filler(arrays[n], outputs[good][n]) for n in odd})
        outcomes.append(outcome)
        messages.extend((first + i, text) for i, text in piece.messages)
        first += len(outcome)
    return Observations(
        outcome=np.concatenate(outcomes),
        outputs=_joined(outputs),
        features=_joined([p.features for p in pieces]),
        uneven=_uneven(pieces),
        trace_outputs=_joined([p.trace_outputs for p in pieces]),
        latency_s=np.concatenate([p.latency_s for p in pieces]),
        keys=keys,
        messages=tuple(sorted(messages)),
        alone=any(p.alone for p in pieces),
    )


def _filler(array: Array, like: Array) -> Array:
    filler = {"O": "", "f": np.nan}.get(like.dtype.kind, 0)
    return np.full((len(array), *like.shape[1:]), filler, like.dtype)


def _uneven(pieces: Sequence[Observations]) -> tuple[str, ...]:
    """Features that every piece has, in several shapes; and those for which a piece says so."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for piece in pieces:
        for name, array in piece.features.items():
            shapes.setdefault(name, set()).add(array.shape[1:])
    said = [name for piece in pieces for name in piece.uneven]
    return tuple(dict.fromkeys([*said, *(n for n, found in shapes.items() if len(found) > 1)]))


def _joined(parts: Sequence[Tensors]) -> Tensors:
    """What every piece has, in one shape."""
    names = set.intersection(*(set(p) for p in parts))
    return {
        name: np.concatenate([p[name] for p in parts])
        for name in parts[0]
        if name in names and len({p[name].shape[1:] for p in parts}) == 1
    }

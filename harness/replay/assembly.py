"""Answers to parts of a batch → the observations of the whole batch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.core.observations import Observations, Outcome
from harness.core.tensors import MAP, NESTED, NUMPY_DTYPES, Array, Ints, Signature, Tensors
from harness.core.traffic import RequestBatch
from harness.replay.filler import FREE, FREE_TRACED, Chunks, Spare, in_one_array, unanswered
from harness.sandbox.answers import BatchAnswer, BatchFault

_Keys = Mapping[str, tuple[str, ...]]
"""ZipMap output → its classes, in column order."""
Part = tuple[Ints, BatchAnswer]
"""Indices of requests in the batch, ascending, and the answer to exactly these."""


@dataclass(slots=True)
class Shapes:
    """What the leg's tensors look like, so that batches without an answer look like the others."""

    outputs: Tensors
    """Empty arrays, shape (0, *trailing): declared by the signature, then as seen."""
    features: Tensors = field(default_factory=dict)
    """As seen."""
    trace_outputs: Tensors = field(default_factory=dict)
    """As seen."""
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """As seen."""

    def learn(self, answer: BatchAnswer) -> None:
        """Takes over the shapes of an answer that has rows."""
        if not answer.rows:
            return
        for known, seen in (
            (self.outputs, answer.outputs),
            (self.features, answer.features),
            (self.trace_outputs, answer.trace_outputs),
        ):
            if seen:
                known.clear()
                # Not array[:0], which is a view and would keep the whole answer in memory.
                known.update({n: np.empty((0, *a.shape[1:]), a.dtype) for n, a in seen.items()})
        self.keys.update(answer.keys)


def shapes_from_signature(signature: Signature) -> Shapes:
    """Shapes before any answer: free dimensions count as 1, ZipMap has no columns yet."""
    outputs: Tensors = {}
    keys: dict[str, tuple[str, ...]] = {}
    for spec in signature.outputs:
        if spec.datatype.startswith(MAP):
            outputs[spec.name] = np.empty((0, 0), np.float64)
            keys[spec.name] = ()
        elif spec.datatype.startswith(NESTED):
            outputs[spec.name] = np.empty(0, object)
        elif spec.datatype in NUMPY_DTYPES:
            trailing = tuple(1 if d is None else d for d in spec.shape)
            outputs[spec.name] = np.empty((0, *trailing), NUMPY_DTYPES[spec.datatype])
    return Shapes(outputs=outputs, keys=keys)


def observations_from_parts(
    batch: RequestBatch,
    parts: Sequence[Part],
    faults: Mapping[int, BatchFault],
    shapes: Shapes,
    *,
    trace: bool,
) -> Observations:
    """Puts answers where their requests are; requests with neither answer nor fault were not run.

    Args:
      batch: what was asked.
      parts: answers to disjoint sets of its requests.
      faults: index → why that request has no answer.
      shapes: what rows without an answer look like.
      trace: whether a trace was asked for; a part without one takes it from the whole batch, because
        a feature that is there for some rows only cannot be compared.
    """
    outcome = np.full(len(batch), int(Outcome.NOT_RUN), np.int8)
    latency = np.full(len(batch), np.nan)
    messages: list[tuple[int, str]] = []
    for index, fault in sorted(faults.items()):
        outcome[index] = fault.kind
        messages.append((index, fault.message))
    for indices, answer in parts:
        outcome[indices] = Outcome.OK
        latency[indices] = latency_shares(answer.service_s, batch.rows[indices])
    pieces = _pieces(batch, parts)
    answers = [answer for _, answer in parts]
    keys = _all_keys(answers, shapes)
    like = _empty(_as_answered(shapes.outputs, answers), keys)
    outputs, forms = _outputs(pieces, like, _in_several_shapes(answers, keys), keys)
    traced = trace and all(a.features or a.trace_outputs or not a.rows for a in answers)
    known = shapes.features if traced else {}
    features = _traced(pieces, "features", known, {})
    tensors = _empty(shapes.trace_outputs, keys) if traced else {}
    return Observations(
        outcome=outcome,
        outputs=outputs,
        features=features,
        trace_outputs=_traced(pieces, "trace_outputs", tensors, keys),
        latency_s=latency,
        keys=keys,
        forms=forms,
        uneven=tuple(name for name in known if name not in features),
        messages=tuple(sorted(messages)),
        short=tuple(sorted(i for i, fault in faults.items() if fault.short_of_memory)),
    )


def observations_from_answer(
    batch: RequestBatch, answer: BatchAnswer, shapes: Shapes
) -> Observations:
    """The usual case: one answer to the whole batch, taken over without a copy."""
    outputs, keys, traced = dict(answer.outputs), dict(answer.keys), dict(answer.trace_outputs)
    if not answer.rows:
        # Without rows ZipMap cannot say which classes there are; the leg knows from earlier batches.
        keys = {name: shapes.keys.get(name, known) for name, known in keys.items()}
        empty = {name: np.empty((0, len(known))) for name, known in keys.items()}
        outputs |= empty
        traced |= {name: array for name, array in empty.items() if name in traced}
    return Observations(
        outcome=np.zeros(len(batch), np.int8),
        outputs=outputs,
        features=answer.features,
        trace_outputs=traced,
        latency_s=latency_shares(answer.service_s, batch.rows),
        keys=keys,
        alone=answer.alone,
    )


def latency_shares(service_s: float, rows: Ints) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Service time shared by rows; equally when no request has any. Shape (n,)."""
    total = int(rows.sum())
    shares = rows / total if total else np.full(len(rows), 1.0 / max(len(rows), 1))
    return np.asarray(service_s * shares, np.float64)


def _all_keys(answers: Sequence[BatchAnswer], shapes: Shapes) -> dict[str, tuple[str, ...]]:
    """Per ZipMap output: the classes the leg knows, then those that only these answers have."""
    return {
        name: tuple(dict.fromkeys([*known, *(k for a in answers for k in a.keys.get(name, ()))]))
        for name, known in shapes.keys.items()
    }


def _in_several_shapes(
    answers: Sequence[BatchAnswer], keys: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Outputs that parts with rows have in several shapes; the columns of a ZipMap are put in one order."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for answer in answers:
        for name, array in answer.outputs.items() if answer.rows else ():
            shapes.setdefault(name, set()).add(array.shape[1:])
    return [name for name, found in shapes.items() if len(found) > 1 and name not in keys]


def _as_answered(known: Tensors, answers: Sequence[BatchAnswer]) -> Tensors:
    """What outputs look like in these answers; in the leg's others, where none of these has rows.

    One that a part lacks is no output of the whole: filler would stand for what nobody answered.
    """
    seen = [answer.outputs for answer in answers if answer.rows]
    first = seen[0] if seen else known
    return {name: first[name] for name in known if all(name in one for one in (first, *seen))}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Consecutive requests of a batch that one part answers, or none does."""

    requests: int
    """How many."""
    rows: int
    """Of all of them."""
    answer: BatchAnswer | None
    """The part's, to other requests, too; None without one, or without rows."""
    first: int
    """Where their rows begin in it."""

    def of(self, group: str, name: str, empty: Array, keys: _Keys) -> Array | None:
        """Their rows of a tensor; filler without an answer, None where the answer lacks it.

        Args:
          group: outputs, features or trace_outputs.
          name: of the tensor.
          empty: what it looks like, shape (0, *trailing).
          keys: per ZipMap output: the columns of the whole.
        """
        if self.answer is None:
            return unanswered(empty, self.rows)
        found: Array | None = getattr(self.answer, group).get(name)
        if found is None:
            return None
        own = self.answer.keys.get(name) if name in keys else None
        return in_key_order(found[self.first : self.first + self.rows], own, keys.get(name))


def _pieces(batch: RequestBatch, parts: Sequence[Part]) -> list[_Piece]:
    """The batch in pieces."""
    owner = np.full(len(batch), -1)
    for part, (indices, _) in enumerate(parts):
        owner[indices] = part
    used = [0] * len(parts)
    found = []
    edges = np.flatnonzero(np.diff(owner, prepend=-2, append=-2)).tolist()
    for start, stop in itertools.pairwise(edges):
        part, rows = int(owner[start]), int(batch.rows[start:stop].sum())
        there = part >= 0 and rows > 0
        answer, first = (parts[part][1], used[part]) if there else (None, 0)
        found.append(_Piece(requests=stop - start, rows=rows, answer=answer, first=first))
        if there:
            used[part] += rows
    return found


def _outputs(
    pieces: Sequence[_Piece], like: Tensors, several: Collection[str], keys: _Keys
) -> tuple[Tensors, dict[str, Chunks]]:
    """Outputs in one array each, and as `Observations.forms` has them where none can hold them.

    Args:
      pieces: of the batch.
      like: what outputs of the whole look like.
      several: those that have several shapes.
      keys: per ZipMap output: the columns of the whole.
    """
    outputs: Tensors = {}
    forms: dict[str, Chunks] = {}
    answered, spare = [piece.answer is not None for piece in pieces], Spare(FREE)
    for name, empty in like.items():
        arrays = [a for p in pieces if (a := p.of("outputs", name, empty, keys)) is not None]
        whole = None if name in several else in_one_array(empty, arrays, answered, spare)
        if whole is None:
            counts = [piece.requests for piece in pieces]
            forms[name] = tuple(zip(counts, arrays, strict=True))
        else:
            outputs[name] = whole
    return outputs, forms


def _traced(pieces: Sequence[_Piece], group: str, like: Tensors, keys: _Keys) -> Tensors:
    """Traced tensors in one array each; not those that a part lacks, or has in another shape or type.

    Filler among values would be compared as if the version had made it. Nor those of which what nobody answered
    would take too much.
    """
    found: Tensors = {}
    answered, spare = [piece.answer is not None for piece in pieces], Spare(FREE_TRACED)
    for name, empty in like.items():
        arrays = [piece.of(group, name, empty, keys) for piece in pieces]
        whole = [
            a
            for a, known in zip(arrays, answered, strict=True)
            if a is not None and (not known or (a.dtype, a.shape[1:]) == (empty.dtype, empty.shape[1:]))
        ]  # fmt: skip
        fits = len(whole) == len(arrays)
        rows = in_one_array(empty, whole, answered, spare) if fits else None
        if rows is not None:
            found[name] = rows
    return found


def _empty(like: Tensors, keys: _Keys) -> Tensors:
    """What tensors look like, without rows; ZipMap with the columns of the whole."""
    shapes = {n: (len(keys[n]),) if n in keys else a.shape[1:] for n, a in like.items()}
    return {name: np.empty((0, *shapes[name]), array.dtype) for name, array in like.items()}


def all_in_key_order(
    tensors: Tensors, own: Mapping[str, tuple[str, ...]], wanted: Mapping[str, tuple[str, ...]]
) -> Tensors:
    """Tensors, each as `in_key_order` gives it."""
    return {n: in_key_order(a, own.get(n), wanted.get(n)) for n, a in tensors.items()}


def in_key_order(
    array: Array, own: tuple[str, ...] | None, wanted: tuple[str, ...] | None
) -> Array:
    """A ZipMap matrix with its columns in the batch's order; other arrays as they are."""
    if own is None or wanted is None or own == wanted or array.shape[1] != len(own):
        return array  # filler has as many columns as its leg knew then, or none
    matrix = np.full((len(array), len(wanted)), np.nan)
    matrix[:, [wanted.index(k) for k in own]] = array
    return matrix

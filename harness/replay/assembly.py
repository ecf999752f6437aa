"""Answers to parts of a batch → the observations of the whole batch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.core.observations import Observations, Outcome
from harness.core.tensors import MAP, NESTED, NUMPY_DTYPES, Array, Ints, Signature, Tensors
from harness.core.traffic import RequestBatch
from harness.sandbox.answers import BatchAnswer, BatchFault

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
    rows = batch.rows
    total = int(rows.sum())
    offsets = np.concatenate([[0], np.cumsum(rows)])
    outcome = np.full(len(batch), int(Outcome.NOT_RUN), np.int8)
    latency = np.full(len(batch), np.nan)
    messages: list[tuple[int, str]] = []
    for index, fault in sorted(faults.items()):
        outcome[index] = fault.kind
        messages.append((index, fault.message))
    answers = [answer for _, answer in parts]
    keys, nothing = _all_keys(answers, shapes), not any(answer.rows for answer in answers)
    outputs = _filled(_as_answered(shapes.outputs, answers), total, keys, only=nothing)
    several = [n for n in _in_several_shapes(answers, keys) if n in outputs]
    forms = {name: _chunks(name, batch, parts, outputs.pop(name)) for name in several}
    traced = trace and all(a.features or a.trace_outputs or not a.rows for a in answers)
    features = _filled(shapes.features, total, keys, only=nothing) if traced else {}
    trace_outputs = _filled(shapes.trace_outputs, total, keys, only=nothing) if traced else {}
    unfit: set[str] = set()
    for indices, answer in parts:
        outcome[indices] = Outcome.OK
        latency[indices] = latency_shares(answer.service_s, rows[indices])
        if answer.rows:
            where = _row_indices(indices, rows, offsets)
            _placed(answer, where, keys, outputs)
            unfit |= _traced(answer.features, where, features)
            own = all_in_key_order(answer.trace_outputs, answer.keys, keys)
            unfit |= _traced(own, where, trace_outputs)
    # Filler among values would be compared as if the version had made it.
    return Observations(
        outcome=outcome,
        outputs=outputs,
        features={name: array for name, array in features.items() if name not in unfit},
        trace_outputs={name: array for name, array in trace_outputs.items() if name not in unfit},
        latency_s=latency,
        keys=keys,
        forms=forms,
        uneven=tuple(name for name in features if name in unfit),
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


def _filled(
    like: Tensors, rows: int, keys: Mapping[str, tuple[str, ...]], *, only: bool
) -> Tensors:
    """Arrays of filler: NaN, 0, False or the empty text; one value that takes no memory where that is all."""
    filled: Tensors = {}
    for name, array in like.items():
        trailing = (len(keys[name]),) if name in keys else array.shape[1:]
        filler = {"O": "", "f": np.nan}.get(array.dtype.kind, 0)
        one = np.full((), filler, array.dtype)
        whole = np.broadcast_to(one, (rows, *trailing))
        filled[name] = whole if only else whole.copy()
    return filled


def _all_keys(answers: Sequence[BatchAnswer], shapes: Shapes) -> dict[str, tuple[str, ...]]:
    """Per ZipMap output: the classes the leg knows, then those that only these answers have."""
    return {
        name: tuple(dict.fromkeys([*known, *(k for a in answers for k in a.keys.get(name, ()))]))
        for name, known in shapes.keys.items()
    }


def _row_indices(indices: Ints, rows: Ints, offsets: Ints) -> Ints:
    """Rows of these requests, in order."""
    counts = rows[indices]
    starts = np.repeat(offsets[indices] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return np.asarray(starts + np.arange(int(counts.sum())), np.int64)


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


def _chunks(
    name: str, batch: RequestBatch, parts: Sequence[Part], filler: Array
) -> tuple[tuple[int, Array], ...]:
    """One output as `Observations.forms` has it: what each part was answered, filler where there is no answer."""
    owner = np.full(len(batch), -1)
    for part, (indices, _) in enumerate(parts):
        owner[indices] = part
    used = [0] * len(parts)
    found = []
    edges = np.flatnonzero(np.diff(owner, prepend=-2, append=-2)).tolist()
    for start, stop in itertools.pairwise(edges):
        part, count = int(owner[start]), int(batch.rows[start:stop].sum())
        array = filler[:count]
        if part >= 0 and count:
            array = parts[part][1].outputs[name][used[part] : used[part] + count]
            used[part] += count
        found.append((stop - start, array))
    return tuple(found)


def _placed(
    answer: BatchAnswer, where: Ints, keys: Mapping[str, tuple[str, ...]], outputs: Tensors
) -> None:
    """Writes an answer's rows into the batch's arrays."""
    for name, array in outputs.items():
        found = answer.outputs[name]
        array[where] = in_key_order(found, answer.keys.get(name), keys.get(name))


def _traced(values: Tensors, where: Ints, target: Tensors) -> set[str]:
    """Writes traced rows into the batch's arrays; names of those that this part lacks, or has in another shape or type."""
    unfit = set()
    for name, array in target.items():
        found = values.get(name)
        if found is None or (found.dtype, found.shape[1:]) != (array.dtype, array.shape[1:]):
            unfit.add(name)
        else:
            array[where] = found
    return unfit


def all_in_key_order(
    tensors: Tensors, own: Mapping[str, tuple[str, ...]], wanted: Mapping[str, tuple[str, ...]]
) -> Tensors:
    """Tensors, each as `in_key_order` gives it."""
    return {n: in_key_order(a, own.get(n), wanted.get(n)) for n, a in tensors.items()}


def in_key_order(
    array: Array, own: tuple[str, ...] | None, wanted: tuple[str, ...] | None
) -> Array:
    """A ZipMap matrix with its columns in the batch's order; other arrays as they are."""
    if own is None or wanted is None or own == wanted:
        return array
    matrix = np.full((len(array), len(wanted)), np.nan)
    matrix[:, [wanted.index(k) for k in own]] = array
    return matrix

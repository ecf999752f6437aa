"""Batches cut into pieces, and the observations of pieces put together again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from harness.core.observations import Observations, Outcome
from harness.core.tensors import Array, Decoded, Ints, Kind, Tensors, some_rows
from harness.core.traffic import RequestBatch
from harness.replay.assembly import all_in_key_order, in_key_order
from harness.replay.filler import FREE, FREE_TRACED, Chunks, Spare, in_one_array

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
        inputs=_cut(batch.inputs, low, high),
        recorded={name: tensor[low:high] for name, tensor in batch.recorded.items()},
        answered=batch.answered[start:stop],
        context=_cut(batch.context, start, stop),
        coded={name: coded[low:high] for name, coded in batch.coded.items()},
        coded_context={name: c[start:stop] for name, c in batch.coded_context.items()},
    )


def _cut(
    columns: Mapping[str, npt.NDArray[Kind]], start: int, stop: int
) -> Mapping[str, npt.NDArray[Kind]]:
    """Rows start:stop of columns."""
    if isinstance(columns, Decoded):
        return columns.cut(start, stop)
    return {name: column[start:stop] for name, column in columns.items()}


def some_of(batch: RequestBatch, at: Ints) -> RequestBatch:
    """Some requests of a batch: those at ascending indices, shape (k,)."""
    rows = _rows_at(batch, at)
    return replace(
        batch, seq=batch.seq[at], request_id=batch.request_id[at], ts_ns=batch.ts_ns[at],
        rows=batch.rows[at], answered=batch.answered[at],
        inputs={name: tensor[rows] for name, tensor in batch.inputs.items()},
        recorded={name: tensor[rows] for name, tensor in batch.recorded.items()},
        context={name: column[at] for name, column in batch.context.items()},
        coded={}, coded_context={},
    )  # fmt: skip


def _rows_at(batch: RequestBatch, at: Ints) -> Ints:
    """Rows of the requests at ascending indices, in order."""
    chosen = np.zeros(len(batch), np.bool_)
    chosen[at] = True
    return np.flatnonzero(np.repeat(chosen, batch.rows))


def requests_at(
    batch: RequestBatch, observations: Observations, at: Ints
) -> tuple[RequestBatch, Observations]:
    """Some requests of a batch, with what they were answered in it; features are left out.

    Args:
      batch: requests.
      observations: of all of them.
      at: which, ascending, shape (k,).
    """
    bare = replace(observations, features={}, trace_outputs={}, uneven=())
    return some_of(batch, at), observed_at(batch, bare, at)


def observed_at(batch: RequestBatch, observations: Observations, at: Ints) -> Observations:
    """What some requests of a batch were answered in it; outputs that have one shape among them are arrays.

    Args:
      batch: requests.
      observations: of all of them.
      at: which, ascending, shape (k,).
    """
    return observed_in_parts(batch, observations, [at])[0]


def observed_in_parts(
    batch: RequestBatch, observations: Observations, parts: Sequence[Ints]
) -> list[Observations]:
    """As `observed_at`, of several parts of a batch that have no request in common, in one pass over it.

    Args:
      batch: requests.
      observations: of all of them.
      parts: which requests, ascending each.
    """
    part, place = np.full(len(batch), -1), np.zeros(len(batch), np.int64)
    for number, at in enumerate(parts):
        part[at], place[at] = number, np.arange(len(at))
    rows = dict(_groups(np.repeat(part, batch.rows)))
    said: dict[int, list[tuple[int, str]]] = {}
    for index, text in observations.messages:
        said.setdefault(int(part[index]), []).append((int(place[index]), text))
    forms = {n: _shared_out(batch, chunks, part) for n, chunks in observations.forms.items()}
    return [
        _observed(
            observations, at, rows.get(number, np.arange(0)),
            {name: tuple(found[number]) for name, found in forms.items() if number in found},
            tuple(said.get(number, ())),
            tuple(int(place[i]) for i in observations.short if part[i] == number),
        )
        for number, at in enumerate(parts)
    ]  # fmt: skip


def _observed(
    observations: Observations,
    at: Ints,
    rows: Ints,
    chunks: Mapping[str, Chunks],
    messages: tuple[tuple[int, str], ...],
    short: tuple[int, ...],
) -> Observations:
    """The observations at some requests, of which everything told by index is known."""

    def picked(tensors: Tensors) -> Tensors:
        return {name: some_rows(tensor, rows) for name, tensor in tensors.items()}

    outputs, forms, outcome = picked(observations.outputs), {}, observations.outcome[at]
    spare = Spare(FREE)
    for name, found in chunks.items():
        ends = list(itertools.accumulate(count for count, _ in found))
        arrays = [array for _, array in found]
        answered = [
            bool(len(array)) and bool((outcome[end - count : end] == Outcome.OK).any())
            for end, (count, array) in zip(ends, found, strict=True)
        ]
        seen = [array for array, known in zip(arrays, answered, strict=True) if known]
        several = len({array.shape[1:] for array in seen}) > 1
        like = (seen or arrays)[0]
        whole = None if several else in_one_array(like, arrays, answered, spare)
        if whole is None:
            forms[name] = found
        else:
            outputs[name] = whole
    return replace(
        observations, outcome=outcome, outputs=outputs, forms=forms,
        features=picked(observations.features), trace_outputs=picked(observations.trace_outputs),
        latency_s=observations.latency_s[at], messages=messages, short=short,
    )  # fmt: skip


def _shared_out(
    batch: RequestBatch, chunks: Chunks, part: Ints
) -> dict[int, list[tuple[int, Array]]]:
    """Part → its own of one output's chunks, in one pass.

    Args:
      batch: n requests.
      chunks: of all of them.
      part: to which each belongs, shape (n,); −1 = to none.
    """
    found: dict[int, list[tuple[int, Array]]] = {}
    first = 0
    for count, array in chunks:
        here = part[first : first + count]
        if len(here) and (here == here[0]).all():
            found.setdefault(int(here[0]), []).append((count, array))
        else:
            rows = dict(_groups(np.repeat(here, batch.rows[first : first + count])))
            for number, requests in _groups(here):
                kept = some_rows(array, rows.get(number, np.arange(0)))
                found.setdefault(number, []).append((len(requests), kept))
        first += count
    return found


def _groups(labels: Ints) -> list[tuple[int, Ints]]:
    """Each label with its places, ascending."""
    order = np.argsort(labels, kind="stable")
    edges = np.flatnonzero(np.diff(labels[order])) + 1
    parts = np.split(order, edges) if len(order) else []
    return [(int(labels[places[0]]), places) for places in parts]


def joined(pieces: Sequence[Observations]) -> Observations:
    """Observations of consecutive pieces of a batch as those of the whole batch.

    Answers may have other shapes than those to other pieces: what is right follows from the other version's
    answer to the same request, so they are kept apart, in `forms`. One to no rows has no shape to speak of.
    """
    keys = {
        name: tuple(dict.fromkeys(k for p in pieces for k in p.keys.get(name, ())))
        for name in pieces[0].keys
    }
    answered = [bool((piece.outcome == Outcome.OK).any()) for piece in pieces]
    outputs = [all_in_key_order(p.outputs, p.keys, keys) for p in pieces]
    traced = [all_in_key_order(p.trace_outputs, p.keys, keys) for p in pieces]
    several = _in_several_shapes(pieces, outputs, answered)
    plain = [{n: a for n, a in arrays.items() if n not in several} for arrays in outputs]
    rows = [_rows(piece) for piece in pieces]
    whole, beyond = _joined(plain, rows, answered, Spare(FREE))
    forms = {
        name: _chunks(name, pieces, outputs, keys.get(name))
        for name in sorted(several | {n for n in beyond if all(n in part for part in plain)})
    }
    features, left_out = _joined([p.features for p in pieces], rows, answered, Spare(FREE_TRACED))
    messages: list[tuple[int, str]] = []
    short: list[int] = []
    first = 0
    for piece in pieces:
        messages.extend((first + i, text) for i, text in piece.messages)
        short.extend(first + i for i in piece.short)
        first += len(piece.outcome)
    return Observations(
        outcome=np.concatenate([p.outcome for p in pieces]),
        outputs=whole,
        forms=forms,
        features=features,
        uneven=_uneven(pieces, answered, left_out),
        trace_outputs=_joined(traced, rows, answered, Spare(FREE_TRACED))[0],
        latency_s=np.concatenate([p.latency_s for p in pieces]),
        keys=keys,
        messages=tuple(sorted(messages)),
        short=tuple(short),
        alone=any(p.alone for p in pieces),
    )


def _in_several_shapes(
    pieces: Sequence[Observations], outputs: Sequence[Tensors], answered: Sequence[bool]
) -> set[str]:
    """Outputs that answers with rows have in several shapes, or that a piece has in no array."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for arrays, known in zip(outputs, answered, strict=True):
        if known:
            for name, array in arrays.items():
                if len(array):
                    shapes.setdefault(name, set()).add(array.shape[1:])
    several = {name for piece in pieces for name in piece.forms}
    several |= {name for name, found in shapes.items() if len(found) > 1}
    # One that a piece lacks is no output of the whole, as with one shape.
    return {
        n
        for n in several
        if all(n in a or n in p.forms for p, a in zip(pieces, outputs, strict=True))
    }


def _chunks(
    name: str,
    pieces: Sequence[Observations],
    outputs: Sequence[Tensors],
    wanted: tuple[str, ...] | None,
) -> Chunks:
    """One output, piece by piece; of a ZipMap with its columns in the order of the whole."""
    found: list[tuple[int, Array]] = []
    for piece, arrays in zip(pieces, outputs, strict=True):
        if name in piece.forms:
            own = piece.keys.get(name)
            found.extend((count, in_key_order(a, own, wanted)) for count, a in piece.forms[name])
        else:
            found.append((len(piece.outcome), arrays[name]))
    return tuple(found)


def _rows(piece: Observations) -> int:
    """Rows of all its requests; −1 where no array shows them."""
    for arrays in (piece.outputs, piece.features, piece.trace_outputs):
        for array in arrays.values():
            return len(array)
    for chunks in piece.forms.values():
        return sum(len(array) for _, array in chunks)
    return -1


def _joined(
    parts: Sequence[Tensors], rows: Sequence[int], answered: Sequence[bool], spare: Spare
) -> tuple[Tensors, set[str]]:
    """Tensors that every piece has that was answered with rows, in one shape and type there.

    A piece that was not may lack one: what failed first was asked before the leg knew its tensors.

    Args:
      parts: of each piece.
      rows: of each piece, −1 where they are not known.
      answered: of each whether any of its requests was.
      spare: what rows without an answer may take.

    Returns:
      Those in one array each, and the names of those that none holds, for all the rows that nobody answered.
    """
    whole: Tensors = {}
    beyond = set()
    for name in dict.fromkeys(name for part in parts for name in part):
        lacking = [
            (r, known) for p, r, known in zip(parts, rows, answered, strict=True) if name not in p
        ]
        if any(r < 0 or (r and known) for r, known in lacking):
            continue
        if len(_looks(name, parts, answered)) > 1:
            continue
        arrays = [p[name] if name in p else np.empty(r) for p, r in zip(parts, rows, strict=True)]
        seen = [a for a, known in zip(arrays, answered, strict=True) if known and len(a)]
        there = [part[name] for part in parts if name in part]
        like = (seen or [a for a in there if len(a)] or there)[0]
        array = in_one_array(like, arrays, answered, spare)
        if array is None:
            beyond.add(name)
        else:
            whole[name] = array
    return whole, beyond


def _uneven(
    pieces: Sequence[Observations], answered: Sequence[bool], beyond: set[str]
) -> tuple[str, ...]:
    """Features that were answered in several shapes or types, that no array holds, or for which a piece says so."""
    features = [piece.features for piece in pieces]
    seen = dict.fromkeys(name for tensors in features for name in tensors)
    several = [n for n in seen if n in beyond or len(_looks(n, features, answered)) > 1]
    said = [name for piece in pieces for name in piece.uneven]
    return tuple(dict.fromkeys([*said, *several]))


def _looks(
    name: str, parts: Sequence[Tensors], answered: Sequence[bool]
) -> set[tuple[object, ...]]:
    """Types and trailing shapes that a tensor has in the pieces that were answered with rows of it."""
    arrays = [p[name] for p, known in zip(parts, answered, strict=True) if known and name in p]
    return {(a.dtype, a.shape[1:]) for a in arrays if len(a)}

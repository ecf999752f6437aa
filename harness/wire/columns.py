"""Batches of messages → columns: the fast path that sealing uses.

All messages of a window share one layout (names, datatypes, trailing shapes). A message is parsed
only into its serialized tensor descriptors and its raw contents (`RequestView`, `ResponseView`: a
second definition of the same bytes). Descriptors that were seen before are recognised as bytes, raw
contents are joined per column and read in one go. Messages with typed contents take the plain path
and join the others as raw contents.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError

from harness.core.tensors import NUMPY_DTYPES, Array, Bools, Ints, Strings, Tensors, TensorSpec
from harness.wire.contents import (
    MessageError,
    datatype_from_array,
    objects_from_strings,
    raw_from_array,
    strings_from_all_raw,
)
from harness.wire.gen import open_inference_pb2
from harness.wire.messages import tensors_from_request, tensors_from_response
from harness.wire.sessions import IN_A_SESSION, in_session

pb: Any = open_inference_pb2

Kind = Literal["request", "response"]
Layout = tuple[TensorSpec, ...]

_PLANS_KEPT = 1024
_WORDS_KEPT = 65_536
_WORD_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedColumns:
    """n messages as columns; R = rows.sum() model rows, those of the messages that are ok."""

    ok: Bools
    """Whether the message was readable and has the window's layout, shape (n,)."""
    reasons: tuple[tuple[int, str], ...]
    """(index, why) of every message that is not ok, by index."""
    rows: Ints
    """Model rows of each message, shape (n,); 0 where not ok."""
    tensors: Tensors
    """Per tensor of the layout, shape (R, *trailing), in message order; empty before a layout is known."""
    specs: Layout
    """The layout, trailing shapes fixed; empty before it is known."""
    request_id: Strings
    """Id inside the message, shape (n,); "" where not readable or not set."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a message with certain descriptors maps to the layout, or why it does not."""

    rows: int
    order: tuple[int, ...] | None
    reason: str


@dataclass(slots=True)
class _Gathered:
    """What the messages of one batch gave, one entry a message that may be ok."""

    index: list[int]
    rows: list[int]
    raws: list[Sequence[bytes]]
    reasons: dict[int, str]


class ColumnDecoder:
    """Reads messages of one layout.

    Args:
      kind: which message the bytes are.
      layout: names, datatypes and trailing shapes to hold the messages to; a None dimension is
        fixed by the first message that fits. Without a layout the first good message fixes it.
    """

    def __init__(self, kind: Kind, layout: Layout | None = None) -> None:
        self._kind = kind
        self._view: Any = pb.RequestView if kind == "request" else pb.ResponseView
        self._descriptor: Any = (
            pb.ModelInferRequest.InferInputTensor
            if kind == "request"
            else pb.ModelInferResponse.InferOutputTensor
        )
        self._wanted = layout
        self._layout: Layout | None = None
        if layout is not None and not any(None in s.shape for s in layout):
            self._layout = layout
        self._plans: dict[tuple[bytes, ...], _Plan] = {}
        self._words: dict[bytes, tuple[str, ...]] = {}

    @property
    def layout(self) -> Layout | None:
        """The layout, once known."""
        return self._layout

    def decode(self, messages: Sequence[bytes]) -> DecodedColumns:
        """Reads a batch.

        Args:
          messages: serialized messages; bad ones become reasons, never exceptions.
        """
        gathered = _Gathered([], [], [], {})
        ids: list[str] = []
        for i, message in enumerate(messages):
            try:
                view = self._view.FromString(message)
            except DecodeError:
                gathered.reasons[i] = f"not a ModelInfer{self._kind.capitalize()}"
                ids.append("")
                continue
            ids.append(view.id)
            if self._kind == "request" and in_session(message):
                gathered.reasons[i] = IN_A_SESSION
                continue
            self._gather(i, message, tuple(view.tensors), tuple(view.raw), gathered)
        tensors = self._columns(gathered)
        ok = np.zeros(len(messages), np.bool_)
        rows = np.zeros(len(messages), np.int64)
        ok[gathered.index] = True
        rows[gathered.index] = gathered.rows
        return DecodedColumns(
            ok=ok,
            reasons=tuple(sorted(gathered.reasons.items())),
            rows=rows,
            tensors=tensors,
            specs=self._layout or (),
            request_id=objects_from_strings(ids),
        )

    def _gather(
        self,
        i: int,
        message: bytes,
        descriptors: tuple[bytes, ...],
        raws: tuple[bytes, ...],
        gathered: _Gathered,
    ) -> None:
        in_order: Sequence[bytes]
        try:
            if self._layout is None or len(raws) != len(descriptors):
                rows, in_order = self._read_plainly(message)
            else:
                plan = self._plan(descriptors)
                if plan.reason:
                    gathered.reasons[i] = plan.reason
                    return
                rows = plan.rows
                in_order = raws if plan.order is None else [raws[k] for k in plan.order]
        except MessageError as error:
            gathered.reasons[i] = error.reason
            return
        gathered.index.append(i)
        gathered.rows.append(rows)
        gathered.raws.append(in_order)

    def _plan(self, descriptors: tuple[bytes, ...]) -> _Plan:
        plan = self._plans.get(descriptors)
        if plan is None:
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[descriptors] = self._new_plan(descriptors)
        return plan

    def _new_plan(self, descriptors: tuple[bytes, ...]) -> _Plan:
        layout = self._layout or ()
        try:
            parsed = [self._descriptor.FromString(d) for d in descriptors]
            rows = _rows_in_layout([(d.name, d.datatype, tuple(d.shape)) for d in parsed], layout)
        except DecodeError:
            return _Plan(0, None, "a tensor descriptor cannot be read")
        except MessageError as error:
            return _Plan(0, None, error.reason)
        place = {d.name: k for k, d in enumerate(parsed)}
        order = tuple(place[s.name] for s in layout)
        return _Plan(rows, None if order == tuple(range(len(order))) else order, "")

    def _read_plainly(self, message: bytes) -> tuple[int, list[bytes]]:
        tensors = _tensors(self._kind, message)
        shapes = [(n, datatype_from_array(n, a), a.shape) for n, a in tensors.items()]
        if self._layout is None:
            found = _layout_of(shapes)
            if self._wanted is not None:
                _rows_in_layout(shapes, self._wanted)
                by_name = {s.name: s for s in found}
                found = tuple(by_name[s.name] for s in self._wanted)
            self._layout = found
        rows = _rows_in_layout(shapes, self._layout)
        return rows, [raw_from_array(s.name, tensors[s.name]) for s in self._layout]

    def _columns(self, gathered: _Gathered) -> Tensors:
        if self._layout is None:
            return {}
        self._drop_misfits(gathered)
        rows = sum(gathered.rows)
        columns = list(zip(*gathered.raws, strict=True)) or [()] * len(self._layout)
        return {
            spec.name: self._column(spec, column, rows)
            for spec, column in zip(self._layout, columns, strict=True)
        }

    def _drop_misfits(self, gathered: _Gathered) -> None:
        """Takes out messages whose raw contents do not hold what their descriptors say."""
        rows = np.array(gathered.rows, np.int64)
        bad: dict[int, str] = {}
        columns = zip(*gathered.raws, strict=True)
        for spec, column in zip(self._layout or (), columns, strict=False):
            if spec.datatype == "BYTES":
                bad |= self._unreadable_strings(spec, column, rows)
                continue
            size = _elements(spec) * NUMPY_DTYPES[spec.datatype].itemsize
            lengths = np.fromiter(map(len, column), np.int64, len(column))
            for k in np.flatnonzero(lengths != rows * size).tolist():
                bad[k] = (
                    f"tensor '{spec.name}': {lengths[k]} raw bytes where "
                    f"{rows[k]} rows of {spec.shown()} need {rows[k] * size}"
                )
        if not bad:
            return
        keep = [k for k in range(len(rows)) if k not in bad]
        gathered.reasons |= {gathered.index[k]: reason for k, reason in bad.items()}
        gathered.index = [gathered.index[k] for k in keep]
        gathered.rows = [gathered.rows[k] for k in keep]
        gathered.raws = [gathered.raws[k] for k in keep]

    def _unreadable_strings(
        self, spec: TensorSpec, column: Sequence[bytes], rows: Ints
    ) -> dict[int, str]:
        bad: dict[int, str] = {}
        words = self._words
        counts = []
        for k, raw in enumerate(column):
            strings = words.get(raw)
            if strings is None:
                try:
                    strings = self._learn(spec.name, raw)
                except MessageError as error:
                    bad[k] = error.reason
                    strings = ()
            counts.append(len(strings))
        elements = _elements(spec)
        for k in np.flatnonzero(np.array(counts, np.int64) != rows * elements).tolist():
            bad.setdefault(
                k, f"tensor '{spec.name}': {counts[k]} strings for {rows[k]} rows of {spec.shown()}"
            )
        return bad

    def _learn(self, name: str, raw: bytes) -> tuple[str, ...]:
        strings = strings_from_all_raw(name, raw)
        if len(raw) <= _WORD_BYTES:
            if len(self._words) >= _WORDS_KEPT:
                self._words.clear()
            self._words[raw] = strings
        return strings

    def _column(self, spec: TensorSpec, column: Sequence[bytes], rows: int) -> Array:
        shape = (rows, *(d or 0 for d in spec.shape))
        if spec.datatype == "BYTES":
            words = self._words
            parsed = [words.get(raw) or self._learn(spec.name, raw) for raw in column]
            return objects_from_strings(list(chain.from_iterable(parsed))).reshape(shape)
        joined = b"".join(column)
        flat: Array = (
            np.frombuffer(joined, np.uint8) != 0
            if spec.datatype == "BOOL"
            else np.frombuffer(joined, NUMPY_DTYPES[spec.datatype].newbyteorder("<"))
        )
        return flat.reshape(shape)


def most_common_layout(kind: Kind, messages: Sequence[bytes]) -> Layout | None:
    """The layout that most of these messages have; None when none of them is readable.

    One odd message at the start of a recording must not decide what the window holds.
    """
    seen: Counter[Layout] = Counter()
    for message in messages:
        try:
            shapes = [
                (n, datatype_from_array(n, a), a.shape) for n, a in _tensors(kind, message).items()
            ]
            seen[_layout_of(shapes)] += 1
        except MessageError:
            continue
    return seen.most_common(1)[0][0] if seen else None


_Shapes = Sequence[tuple[str, str, tuple[int, ...]]]


def _tensors(kind: Kind, message: bytes) -> Tensors:
    return tensors_from_request(message) if kind == "request" else tensors_from_response(message)


def _elements(spec: TensorSpec) -> int:
    return math.prod(d or 0 for d in spec.shape)


def _layout_of(shapes: _Shapes) -> Layout:
    layout = tuple(TensorSpec(name=n, datatype=d, shape=s[1:]) for n, d, s in shapes)
    _rows_in_layout(shapes, layout)
    return layout


def _rows_in_layout(shapes: _Shapes, layout: Layout) -> int:
    """The message's model rows.

    Raises:
      MessageError: the first difference from the layout, named.
    """
    given = {n: (d, s) for n, d, s in shapes}
    if len(given) != len(shapes):
        msg = "a tensor appears twice"
        raise MessageError(msg)
    if given and not layout:
        # Where no message has a layout, what is wrong with this one says more than that it is none of theirs.
        _layout_of(shapes)
    wanted = {s.name for s in layout}
    for name in given:
        if name not in wanted:
            msg = f"tensor '{name}' is not in the window's layout"
            raise MessageError(msg)
    rows: set[int] = set()
    for spec in layout:
        if spec.name not in given:
            msg = f"no tensor '{spec.name}'"
            raise MessageError(msg)
        datatype, shape = given[spec.name]
        rows.add(_rows_of(spec, datatype, shape))
    if len(rows) != 1:
        msg = f"tensors disagree on the number of rows: {sorted(rows)}" if rows else "no tensors"
        raise MessageError(msg)
    return rows.pop()


def _rows_of(spec: TensorSpec, datatype: str, shape: tuple[int, ...]) -> int:
    if not shape:
        msg = f"tensor '{spec.name}' has no batch axis"
        raise MessageError(msg)
    if min(shape) < 0:
        msg = f"tensor '{spec.name}': shape {list(shape)} has a negative dimension"
        raise MessageError(msg)
    if 0 in shape[1:]:
        # Without elements a message could claim any number of rows at no cost.
        msg = f"tensor '{spec.name}': shape {list(shape)} holds no elements per row"
        raise MessageError(msg)
    fits = len(shape) == len(spec.shape) + 1 and all(
        want is None or want == got for want, got in zip(spec.shape, shape[1:], strict=True)
    )
    if datatype != spec.datatype or not fits:
        shown = TensorSpec(name=spec.name, datatype=datatype, shape=shape[1:]).shown()
        msg = f"tensor {shown} where the window has {spec.shown()}"
        raise MessageError(msg)
    return shape[0]

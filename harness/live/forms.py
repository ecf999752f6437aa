"""Whether an answer has the form that was asked for, and one that the baseline's answers have.

A client that named an output, or sent four rows, cannot use an answer without them: it is a failure,
whatever its scores are. What a right form is, the protocol leaves open in part (a server need not
repeat the request's id, nor answer row by row), so the baseline's earlier answers to the same question
say it. Rows, id and name are rules for both arms alike: an answer is held only to what came before it, so
two equal versions break them equally often. A layout is right once the baseline has given it; of a rare
one two equal versions make at most a failure or so each, where the candidate happens to give it first.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.core.tensors import Tensors, TensorSpec
from harness.live.layouts import NO_LAYOUT, Answered, Sorted
from harness.wire.contents import MessageError, datatype_from_array
from harness.wire.facts import RequestFacts, request_facts
from harness.wire.messages import tensors_from_response
from harness.wire.scan import MODEL_NAME, REQUEST_ID, bytes_field

MOST_QUESTIONS = 256
"""Questions told apart; answers to further ones are not measured."""
_MOST_SHAPES = 8
"""The baseline's trailing shapes for one question beyond which they follow from the inputs."""
_MOST_LAYOUTS = 64
"""Of the baseline's layouts for one question, so many are known."""
_HOLDS = 0.95
"""A rule holds while so many of the baseline's answers have kept it."""

_Layout = frozenset[tuple[str, str, tuple[int | None, ...]]]


class Fit(enum.IntEnum):
    """What an answer's form says of it."""

    FITS = 0
    """It can be measured; also where there is no answer, whose form says nothing."""
    UNKNOWN = 1
    """The baseline has not answered this question yet: nothing to hold it to."""
    BROKEN = 2
    """A failure of its arm."""


@dataclass(slots=True)
class _Rule:
    """Something that the baseline's answers to one question keep, or do not."""

    asked: int = 0
    kept: int = 0

    def broken(self, keeps: bool | None) -> bool:
        """Whether an answer breaks it; None = it cannot be told."""
        return keeps is False and self.asked > 0 and self.kept >= _HOLDS * self.asked

    def add(self, keeps: bool | None) -> None:
        if keeps is not None:
            self.asked += 1
            self.kept += keeps


@dataclass(slots=True)
class _Shown:
    """What the baseline has shown for one question."""

    layouts: set[_Layout] = field(default_factory=set)
    rules: tuple[_Rule, _Rule, _Rule] = field(default_factory=lambda: (_Rule(), _Rule(), _Rule()))
    """Rows are the request's; its id is; its model's name is."""

    def knows(self, layout: _Layout) -> bool:
        if layout in self.layouts:
            return True
        if len(self.layouts) < _MOST_SHAPES:
            return False
        return _shapeless(layout) in {_shapeless(known) for known in self.layouts}

    def add(self, layout: _Layout, keeps: tuple[bool | None, ...]) -> None:
        if len(self.layouts) < _MOST_LAYOUTS and not self.knows(layout):
            self.layouts.add(layout)
        for rule, kept in zip(self.rules, keeps, strict=True):
            rule.add(kept)


class Forms:
    """Holds both arms' answers to what the baseline has shown."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str, frozenset[str]], _Shown] = {}

    def fit(
        self, answered: Sequence[Answered], found: Sorted, *, candidate: bool
    ) -> NDArray[np.int8]:
        """`Fit` of each answer, in their order; the baseline's become what the next ones are held to.

        Args:
          answered: n answers of one arm.
          found: the same by their layouts.
          candidate: the arm.

        Returns:
          Shape (n,).
        """
        fits = np.full(len(answered), Fit.FITS, np.int8)
        layouts: list[tuple[_Layout, int | None] | None] = [None] * len(answered)
        for decoded in found.decoded.values():
            layout = _layout_of(decoded.specs)
            for i, rows in zip(decoded.at.tolist(), decoded.rows.tolist(), strict=True):
                layouts[i] = layout, rows
        for i, answer in enumerate(answered):
            if found.layout[i] == NO_LAYOUT:
                layouts[i] = _read(answer.response)
            form = layouts[i]
            if form is not None:
                fits[i] = self._one(answer, *form, candidate=candidate)
        return fits

    def _one(self, answer: Answered, layout: _Layout, rows: int | None, *, candidate: bool) -> Fit:
        asked = _facts(answer.request)
        outputs = frozenset(asked.outputs)
        if outputs - {name for name, _, _ in layout}:
            return Fit.BROKEN
        keeps = _keeps(asked, answer.response, rows)
        question = asked.model, asked.version, outputs
        shown = self._shown.get(question)
        if shown is None:
            if candidate or len(self._shown) >= MOST_QUESTIONS:
                return Fit.UNKNOWN
            # The first answer is the measure itself.
            shown = self._shown[question] = _Shown()
            shown.add(layout, keeps)
            return Fit.FITS
        broken = (candidate and not shown.knows(layout)) or any(
            rule.broken(kept) for rule, kept in zip(shown.rules, keeps, strict=True)
        )
        if not candidate:
            shown.add(layout, keeps)
        return Fit.BROKEN if broken else Fit.FITS


def _keeps(asked: RequestFacts, response: bytes, rows: int | None) -> tuple[bool | None, ...]:
    """Which of `_Shown.rules` an answer keeps; None = the request says nothing of it."""
    named, model = bytes_field(response, REQUEST_ID), bytes_field(response, MODEL_NAME)
    return (
        None if asked.rows is None else rows == asked.rows,
        (named or b"") == asked.request_id.encode() if asked.request_id else None,
        (model or b"") == asked.model.encode() if asked.model else None,
    )


def _facts(request: bytes) -> RequestFacts:
    try:
        return request_facts(request)
    except MessageError:
        return request_facts(b"")


def _layout_of(specs: Sequence[TensorSpec]) -> _Layout:
    return frozenset((spec.name, spec.datatype, spec.shape) for spec in specs)


def _shapeless(layout: _Layout) -> frozenset[tuple[str, str, int]]:
    return frozenset((name, datatype, len(shape)) for name, datatype, shape in layout)


def _read(response: bytes) -> tuple[_Layout, int | None]:
    """Layout and rows of an answer that is in no table of columns."""
    try:
        tensors: Tensors = tensors_from_response(response)
    except MessageError:
        return frozenset(), None
    rows = {array.shape[:1] for array in tensors.values()}
    one = rows.pop() if len(rows) == 1 else ()
    layout = frozenset(
        (name, datatype_from_array(name, array), array.shape[1:]) for name, array in tensors.items()
    )
    return layout, one[0] if one else None

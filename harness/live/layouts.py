"""Answers sorted by their layout: names, datatypes and trailing shapes of what they hold.

Clients may ask for different outputs, so good answers of one version differ in form. A form is no
failure: an answer counts as unreadable only where its bytes contradict themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.observations import Outcome
from harness.core.tensors import Ints, Tensors, TensorSpec
from harness.core.traffic import OK_CODE
from harness.wire.columns import ColumnDecoder
from harness.wire.contents import MessageError
from harness.wire.messages import tensors_from_response

MOST = 16
"""Layouts told apart; answers of further ones are not measured."""
NO_LAYOUT, UNREADABLE, FAILED = -1, -2, -3
"""A good answer that is not measured; bytes that are no answer; no answer."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one request in one version."""

    response: bytes
    """Serialized ModelInferResponse; empty on failure."""
    code: int
    """gRPC status code."""
    latency_s: float
    """Until it was there."""
    request: bytes = b""
    """Serialized ModelInferRequest, for what its client asked for; empty where that is not told."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Good answers of one layout as columns; R = rows.sum() model rows."""

    at: Ints
    """Which of the answers, ascending, shape (k,)."""
    rows: Ints
    """Model rows of each, shape (k,)."""
    tensors: Tensors
    """Per output, shape (R, *trailing), in order of the answers."""
    specs: tuple[TensorSpec, ...]
    """The layout."""

    def only(self, at: Ints) -> Decoded:
        """Some of them.

        Args:
          at: a subset of `at`, ascending.
        """
        if len(at) == len(self.at):
            return self
        kept = np.isin(self.at, at, assume_unique=True)
        rows = np.repeat(kept, self.rows)
        tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        return Decoded(at, self.rows[kept], tensors, self.specs)


@dataclass(frozen=True, slots=True)
class Sorted:
    """n answers by their layouts, each decoded once."""

    layout: Ints
    """The layout's number of each answer, or why it has none, shape (n,)."""
    decoded: dict[int, Decoded]
    """Layout's number → its answers; only layouts that came."""


class Layouts:
    """The layouts of one version's answers, in the order in which they came."""

    def __init__(self) -> None:
        self._decoders: list[ColumnDecoder] = []

    def sort(self, answered: Sequence[Answered]) -> Sorted:
        """Decodes answers.

        Args:
          answered: n of them.
        """
        found = Sorted(np.full(len(answered), FAILED, np.int64), {})
        left = np.array([i for i, a in enumerate(answered) if a.code == OK_CODE], np.int64)
        for number, decoder in enumerate(self._decoders):
            left = _fitted(decoder, answered, left, number, found)
        while len(left) and len(self._decoders) < MOST:
            decoder, before = ColumnDecoder("response"), len(left)
            left = _fitted(decoder, answered, left, len(self._decoders), found)
            if len(left) == before:
                break
            self._decoders.append(decoder)
        for i in left.tolist():
            found.layout[i] = NO_LAYOUT if _readable(answered[i].response) else UNREADABLE
        return found

    def nothing(self) -> Decoded:
        """No answers, with the columns of the first layout; without columns before there is one."""
        decoder = self._decoders[0] if self._decoders else ColumnDecoder("response")
        decoded = decoder.decode([])
        return Decoded(np.zeros(0, np.int64), decoded.rows, decoded.tensors, decoded.specs)


def outcomes(layout: Ints) -> NDArray[np.int8]:
    """`Outcome` of each answer.

    Args:
      layout: from `Layouts.sort`.
    """
    bad = np.where(layout == FAILED, Outcome.ERROR, Outcome.INVALID)
    return np.where(layout >= NO_LAYOUT, Outcome.OK, bad).astype(np.int8)


def _fitted(
    decoder: ColumnDecoder, answered: Sequence[Answered], left: Ints, number: int, found: Sorted
) -> Ints:
    """Keeps the answers that fit; returns the others."""
    if not len(left):
        return left
    decoded = decoder.decode([answered[i].response for i in left.tolist()])
    at = left[decoded.ok]
    if len(at):
        rows = decoded.rows[decoded.ok]
        found.layout[at] = number
        found.decoded[number] = Decoded(at, rows, decoded.tensors, decoded.specs)
    return left[~decoded.ok]


def _readable(response: bytes) -> bool:
    try:
        tensors_from_response(response)
    except MessageError:
        return False
    return True

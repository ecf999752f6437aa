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
from harness.core.tensors import Ints
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


class Layouts:
    """The layouts of one version's answers, in the order in which they came."""

    def __init__(self) -> None:
        self.decoders: list[ColumnDecoder] = []
        """Of each layout."""

    def sort(self, answered: Sequence[Answered]) -> Ints:
        """The layout's number of each answer, or why it has none.

        Args:
          answered: n of them.
        """
        found = np.full(len(answered), FAILED, np.int64)
        left = np.array([i for i, a in enumerate(answered) if a.code == OK_CODE], np.int64)
        for number, decoder in enumerate(self.decoders):
            left = _fitted(decoder, answered, left, number, found)
        while len(left) and len(self.decoders) < MOST:
            decoder, before = ColumnDecoder("response"), len(left)
            left = _fitted(decoder, answered, left, len(self.decoders), found)
            if len(left) == before:
                break
            self.decoders.append(decoder)
        for i in left.tolist():
            found[i] = NO_LAYOUT if _readable(answered[i].response) else UNREADABLE
        return found


def outcomes(layout: Ints) -> NDArray[np.int8]:
    """`Outcome` of each answer.

    Args:
      layout: from `Layouts.sort`.
    """
    bad = np.where(layout == FAILED, Outcome.ERROR, Outcome.INVALID)
    return np.where(layout >= NO_LAYOUT, Outcome.OK, bad).astype(np.int8)


def _fitted(
    decoder: ColumnDecoder, answered: Sequence[Answered], left: Ints, number: int, found: Ints
) -> Ints:
    """Numbers the answers that fit; returns the others."""
    if not len(left):
        return left
    ok = decoder.decode([answered[i].response for i in left.tolist()]).ok
    found[left[ok]] = number
    return left[~ok]


def _readable(response: bytes) -> bool:
    try:
        tensors_from_response(response)
    except MessageError:
        return False
    return True

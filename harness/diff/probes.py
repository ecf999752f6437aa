"""Answers of the session that returns the features against production's own, bit for bit.

Where that session answers alone, what is judged are its answers. Nothing but equal bits shows that
they are production's: a tolerance would let them stand for something else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from harness.core.counted import counted
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.tensors import Array, Bools, Nested, flat_rows, is_one_value, same_bits
from harness.core.traffic import RequestBatch

_EXAMPLES = 5
_SIDES = ("baseline", "candidate")


@dataclass(slots=True, kw_only=True)
class Guarded:
    """One version's requests."""

    alone: int = 0
    """Answered by the session that returns the features alone."""
    both: int = 0
    """Answered by both sessions."""
    differing: int = 0
    """Of these: with other bits."""
    left: int = 0
    """Answered by both, with an output in several shapes, which was not compared."""
    examples: list[str] = field(default_factory=list)
    """Ids of the first that differ."""
    unseen: list[str] = field(default_factory=list)
    """Sequences and optionals among the outputs: the session that returns the features hands none over."""


class ProbeGuard:
    """Counts by version who answered, and where both sessions did, compares them."""

    def __init__(self) -> None:
        self.sides = {side: Guarded() for side in _SIDES}
        """By version."""

    def update(self, pair: PairBatch) -> None:
        """Takes one batch, as it was answered: of its parts nobody could tell what was not compared."""
        for side, seen in zip(_SIDES, (pair.baseline, pair.candidate), strict=True):
            self._take(self.sides[side], pair.requests, seen)

    @property
    def alike(self) -> bool:
        """Whether every version was asked twice, and gave the same bits both times."""
        return all(g.both and not (g.differing or g.left or g.unseen) for g in self.sides.values())

    @property
    def differ(self) -> bool:
        """Whether any version gave other bits."""
        return any(g.differing for g in self.sides.values())

    def effect(self) -> str:
        """Why answers of the session that returns the features cannot stand for production's; "" = they can."""
        wrong = [
            f"the {side} answers {g.differing:,} of {g.both:,} requests with other bits while its "
            f"features are read ({', '.join(g.examples[:3])})"
            for side, g in self.sides.items()
            if g.differing
        ]
        unseen = [
            f"no answer of the {side} could be compared with production's session, though "
            f"{g.alone:,} came from the other one"
            for side, g in self.sides.items()
            if g.alone and not g.both
        ]
        return "; ".join([*wrong, *unseen])

    def not_compared(self) -> tuple[str, ...]:
        """Of which answers nothing shows whether reading features changes them, as sentences."""
        shapes = tuple(
            f"of {counted(g.left)} that the {side} answered in several shapes: whether reading features changes "
            "outputs that differ in shape"
            for side, g in self.sides.items()
            if g.left
        )
        nested = tuple(
            f"{side}: whether reading features changes {', '.join(g.unseen)}: a sequence or an optional, which "
            "the session that returns features does not hand over"
            for side, g in self.sides.items()
            if g.unseen
        )
        return (*shapes, *nested)

    def state(self) -> dict[str, Any]:
        """Plain values from which `from_state` goes on."""
        return {
            side: [g.alone, g.both, g.differing, g.examples, g.left, g.unseen]
            for side, g in self.sides.items()
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Continues from `state()`."""
        guard = cls()
        for side, (alone, both, differing, examples, *more) in state.items():
            guard.sides[side] = Guarded(
                alone=alone, both=both, differing=differing, examples=list(examples),
                left=more[0] if more else 0, unseen=list(more[1]) if len(more) > 1 else [],
            )  # fmt: skip
        return guard

    @staticmethod
    def _take(guarded: Guarded, requests: RequestBatch, seen: Observations) -> None:
        ok: Bools = np.asarray(seen.outcome == Outcome.OK)
        if seen.alone:
            guarded.alone += int(ok.sum())
            return
        traced = bool(seen.trace_outputs or seen.features or seen.uneven)
        if seen.forms and traced:
            guarded.left += int(ok.sum())
        nested = _not_handed_over(seen) if traced else []
        guarded.unseen += [name for name in nested if name not in guarded.unseen]
        if seen.trace_outputs and ok.any():
            wrong = _unlike(requests, seen, ok)
            guarded.both += int(ok.sum())
            guarded.differing += len(wrong)
            left = _EXAMPLES - len(guarded.examples)
            guarded.examples += [str(i) for i in requests.request_id[wrong][:left]]


def _unlike(requests: RequestBatch, seen: Observations, ok: Bools) -> Array:
    """Indices of answered requests whose outputs are not the same bits in both sessions."""
    found = np.zeros(len(requests), np.bool_)
    owner, nested = requests.row_owner(), _not_handed_over(seen)
    for name, plain in seen.outputs.items():
        traced = seen.trace_outputs.get(name)
        if traced is None:
            # One that has rows would have been handed over, were it the same.
            found |= name not in nested
        elif not same_bits(plain, traced):
            found[owner[_rows_unlike(plain, traced)]] = True
    return np.flatnonzero(found & ok)


def _not_handed_over(seen: Observations) -> list[str]:
    """Outputs that are sequences or optionals, as far as the session that returns the features gave none."""
    return [
        name
        for name, values in seen.outputs.items()
        if name not in seen.trace_outputs
        and values.dtype == object
        and any(isinstance(v, Nested) for v in values.flat)
    ]


def _rows_unlike(plain: Array, traced: Array) -> Bools:
    """Which rows hold other bits, shape (rows,); all where type or shape is another."""
    if plain.dtype != traced.dtype or plain.shape != traced.shape:
        return np.ones(len(plain), np.bool_)
    if is_one_value(plain) and is_one_value(traced):
        return np.full(len(plain), not same_bits(plain, traced))
    if plain.dtype != object:
        plain, traced = (
            np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(len(a), -1)
            for a in (plain, traced)
        )
    unlike = flat_rows(np.asarray(plain != traced, np.bool_))
    return np.asarray(unlike.any(axis=1), np.bool_)

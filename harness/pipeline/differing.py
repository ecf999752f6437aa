"""Requests that got another answer alone than in their batch, and whether they get it again.

They are compared one by one: an answer may have another shape than the next one's, which would be no answer
at all among others. A difference is never dropped because it changes from run to run. Then nothing shows
that the batch changes nothing, and that is what is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from harness.core.observations import Observations, PairBatch
from harness.core.traffic import RequestBatch
from harness.diff.floor_builder import FloorBuilder
from harness.pipeline.company import SINGLES, Company, unlike
from harness.replay.composition import joined, requests_at
from harness.replay.legs import Leg


class Differing:
    """What one version answered otherwise so far."""

    def __init__(self) -> None:
        self._apart = FloorBuilder()
        self._of_another_form: set[str] = set()
        self._held: list[tuple[RequestBatch, Observations, frozenset[str]]] = []
        self._any = False

    def add(
        self, requests: RequestBatch, together: Observations, alone: Sequence[Observations]
    ) -> None:
        """Takes requests of one batch.

        Args:
          requests: n of them.
          together: their answers in the batch.
          alone: the answer to each by itself, in the same order.
        """
        alike = []
        for i, single in enumerate(alone):
            one, inside = requests_at(requests, together, np.array([i]))
            names = unlike(single, inside)
            form = {n for n in names if _of_another_form(single, inside, n)}
            self._of_another_form |= form
            self._any |= bool(names)
            if not form:
                alike.append(i)
            if names and len(self._held) < SINGLES:
                self._held.append((one, single, names))
        if alike:
            some, inside = requests_at(requests, together, np.array(alike))
            pair = PairBatch(
                requests=some, baseline=inside, candidate=joined([alone[i] for i in alike])
            )
            self._apart.update(pair)

    def company(self, leg: Leg, by: str) -> Company:
        """How far the answers are apart; asks for some of them again.

        Args:
          leg: the version, with nothing in flight.
          by: who asks, for the ledger.
        """
        if not self._any:
            return Company.NOTHING
        floor = self._apart.finish()
        beyond = {c.tensor for c in floor.outputs if c.nondeterministic} | self._of_another_form
        if not beyond:
            return Company.ROUNDING
        held = [(one, single) for one, single, names in self._held if names & beyond]
        seen = {n for _, _, names in self._held for n in names}
        steady = (beyond & seen) - _changing(leg, held, by)
        return Company.ANSWERS if steady else Company.UNSHOWN


def _changing(
    leg: Leg, held: Iterable[tuple[RequestBatch, Observations]], by: str
) -> frozenset[str]:
    """Outputs in which requests get other answers when they run alone again, twice; all where one fails."""
    found: frozenset[str] = frozenset()
    kept = list(held)
    for _ in range(2):
        for request, before in kept:
            again = leg.tried(request, usual=False, by=by)
            if again is None:
                return found | before.outputs.keys()
            found |= unlike(again, before)
    return found


def _of_another_form(one: Observations, other: Observations, name: str) -> bool:
    """Whether an output is no tensor of the same kind and shape both times, or was not answered once."""
    if name not in one.outputs or name not in other.outputs:
        return True
    if not np.array_equal(one.outcome, other.outcome):
        return True
    ours, theirs = one.outputs[name], other.outputs[name]
    if name in one.keys and name in other.keys:
        return not set(one.keys[name]) <= set(other.keys[name])
    return ours.dtype != theirs.dtype or ours.shape != theirs.shape

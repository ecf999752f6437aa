"""Which requests share a run of the model: many of them, or each by itself as it was recorded.

Small requests are put together into batches, which is faster by an order of magnitude. That is right only
where a batch changes no answer: a model that subtracts its batch's mean answers production's single
requests otherwise. The A/A leg shows which it is, and a leg with `singly` set replays request by request.
So does every leg whose version returns sequences or optionals: these cannot be shared out among requests.
A leg that ran out of memory over many rows at once gets its batches in parts that fit.
"""

from __future__ import annotations

from collections import deque

from harness.core.observations import Observations
from harness.core.traffic import RequestBatch
from harness.replay.composition import joined, rows_of
from harness.replay.legs import Leg
from harness.replay.trials import AHEAD


class InParts:
    """A leg that takes batches and runs them in the parts that are right for it.

    Args:
      leg: nothing else may be in flight in it.
    """

    def __init__(self, leg: Leg) -> None:
        self._leg = leg
        self._batches: deque[int] = deque()
        self._parts: deque[tuple[RequestBatch, tuple[int, int], bool, bool, bool]] = deque()
        self._in_flight = 0

    def submit(
        self, batch: RequestBatch, *, trace: bool, alone: bool = False, cut: bool = False
    ) -> None:
        """As `Leg.submit`."""
        parts = self._cut(batch)
        self._batches.append(len(parts))
        self._parts.extend((batch, part, trace, alone, cut) for part in parts)
        self._fill()

    def collect(self) -> Observations:
        """As `Leg.collect`."""
        pieces = []
        for _ in range(self._batches.popleft()):
            self._fill()
            pieces.append(self._leg.collect())
            self._in_flight -= 1
        return joined(pieces) if len(pieces) > 1 else pieces[0]

    def _cut(self, batch: RequestBatch) -> list[tuple[int, int]]:
        """Where the parts of a batch begin and end."""
        if self._leg.singly:
            return [(i, i + 1) for i in range(len(batch))]
        return self._leg.parts(batch)

    def _fill(self) -> None:
        while self._parts and self._in_flight < AHEAD:
            batch, (start, stop), trace, alone, cut = self._parts.popleft()
            part = batch if stop - start == len(batch) else rows_of(batch, start, stop)
            self._leg.submit(part, trace=trace, alone=alone, cut=cut)
            self._in_flight += 1


def asked_by(leg: Leg) -> InParts:
    """The leg in the composition that it is to replay."""
    return InParts(leg)

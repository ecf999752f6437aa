"""A batch's requests once more, in other company.

What a version answers may depend on which requests share its batch; a repetition in the same batches
would not show it.
"""

from __future__ import annotations

from harness.core.observations import PairBatch
from harness.core.traffic import RequestBatch
from harness.replay.asked import asked_by
from harness.replay.composition import cuts, joined, rows_of
from harness.replay.legs import Leg


def repeated(legs: tuple[Leg, Leg], batch: RequestBatch) -> PairBatch:
    """The same requests through both versions once more, in processes of their own.

    Args:
      legs: second legs of baseline and candidate; one that has ended gives NOT_RUN.
      batch: as the first legs had it.
    """
    pieces = [rows_of(batch, start, stop) for start, stop in cuts(len(batch))]
    asked = [asked_by(leg) for leg in legs]
    for leg in asked:
        for piece in pieces:
            leg.submit(piece, trace=False)
    baseline, candidate = (joined([leg.collect() for _ in pieces]) for leg in asked)
    return PairBatch(requests=batch, baseline=baseline, candidate=candidate)

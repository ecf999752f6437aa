"""Requests in which a matched feature has no value on one side or both: counted, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.counted import counted
from harness.core.observations import Observations
from harness.core.tensors import Bools, Ints
from harness.diff.reports import NO_ROWS


class Absences:
    """Counts by feature and side.

    Args:
      pairs: (baseline's, candidate's) names of matched features.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = tuple(pairs)
        self._place = {ours: i for i, (ours, _) in enumerate(self._pairs)}
        self._lost: Ints = np.zeros((len(self._pairs), 2), dtype=np.int64)
        self._uneven: Ints = np.zeros((len(self._pairs), 2), dtype=np.int64)
        self._requests: Ints = np.zeros(len(self._pairs), dtype=np.int64)

    def note(self, baseline: Observations, candidate: Observations, requests: int) -> Bools:
        """Takes a batch.

        Args:
          baseline: the old version's.
          candidate: the new version's.
          requests: how many of the batch both answered.

        Returns:
          Which features have no value on some side, shape (pairs,).
        """
        sides = (baseline, candidate)
        lost = _marks([[n not in o.features for n, o in zip(p, sides, strict=True)] for p in self._pairs])  # fmt: skip
        uneven = _marks([[n in o.uneven for n, o in zip(p, sides, strict=True)] for p in self._pairs])  # fmt: skip
        self._lost = self._lost + requests * (lost & ~uneven)
        self._uneven = self._uneven + requests * uneven
        missing: Bools = np.asarray((lost | uneven).any(axis=1))
        self._requests = self._requests + requests * missing
        return missing

    def why(self, feature: str) -> str:
        """Why a feature has no row on both sides; a shape that changes within a batch first."""
        place = self._place[feature]
        for counts, words in ((self._uneven, _UNEVEN), (self._lost, _LOST)):
            ours, theirs = counts[place] > 0
            if ours or theirs:
                return words[bool(ours), bool(theirs)]
        return NO_ROWS

    def uneven(self, feature: str) -> bool:
        """Whether its shape changed within a batch on some side."""
        return bool(self._uneven[self._place[feature]].any())

    def partly(self, feature: str, answered: int) -> str:
        """What is said of a feature that was compared in other requests; "" where none lacks it.

        Args:
          feature: the baseline's name.
          answered: requests that both versions answered.
        """
        requests = int(self._requests[self._place[feature]])
        if not requests:
            return ""
        whole = counted(answered)
        return f"{feature}: not compared in {requests:,} of {whole}: {self.why(feature)}"

    def state(self) -> Ints:
        """Everything so far, shape (pairs, 5)."""
        parts = (self._lost, self._uneven, self._requests[:, None])
        return np.concatenate(parts, axis=1)

    def restore(self, state: Ints) -> None:
        """Continues from `state()` of one with the same pairs."""
        self._lost, self._uneven = state[:, :2], state[:, 2:4]
        self._requests = state[:, 4]


def _marks(rows: list[list[bool]]) -> Bools:
    return np.array(rows, dtype=np.bool_).reshape(-1, 2)


_LOST = {
    (True, True): "neither version's trace returns it",
    (True, False): "the baseline's trace does not return it",
    (False, True): "the candidate's trace does not return it",
}
_WHY_UNEVEN = "its shape differs among the requests of a batch (or rows that nobody answered would take too much memory)"
_UNEVEN = {
    (True, True): f"in both versions {_WHY_UNEVEN}",
    (True, False): f"in the baseline {_WHY_UNEVEN}",
    (False, True): f"in the candidate {_WHY_UNEVEN}",
}
"""By side: baseline, candidate."""
UNTRACED = frozenset(_LOST.values())
"""Reasons of a feature that both declare and that some trace does not return."""

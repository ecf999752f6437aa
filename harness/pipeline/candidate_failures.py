"""Requests that the baseline answers and the candidate does not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.tensors import Bools

LISTED = 20
NAN = "NAN"
"""Kind of failure: an answer that is not a number where the baseline's is one."""


@dataclass(slots=True)
class CandidateFailures:
    """Counts by kind and by leg, with the first ids."""

    kinds: Counter[str] = field(default_factory=Counter)
    """Outcome name, or NAN → requests that only the candidate fails."""
    ids: list[str] = field(default_factory=list)
    """The first of them in test order."""
    messages: list[str] = field(default_factory=list)
    """What the candidate said, the first different ones."""
    baseline: int = 0
    """Requests that the baseline fails."""
    both: int = 0
    """Of these: the candidate fails, too."""
    both_said: str = ""
    """What the baseline said about the first of these."""

    def update(self, pair: PairBatch) -> None:
        """Takes one batch."""
        base = pair.baseline.outcome
        cand = pair.candidate.outcome
        run = (base != Outcome.NOT_RUN) & (cand != Outcome.NOT_RUN)
        base_failed = run & (base != Outcome.OK)
        cand_failed = run & (cand != Outcome.OK)
        self.baseline += int(base_failed.sum())
        twice = base_failed & cand_failed
        self.both += int(twice.sum())
        if not self.both_said:
            self.both_said = next((text for i, text in pair.baseline.messages if twice[i]), "")
        alone = cand_failed & ~base_failed
        for code, count in zip(*np.unique(cand[alone], return_counts=True), strict=True):
            self.kinds[Outcome(int(code)).name] += int(count)
        nan = run & ~base_failed & ~cand_failed & _only_candidate_nan(pair)
        if nan.any():
            self.kinds[NAN] += int(nan.sum())
        for i in np.flatnonzero(alone | nan)[: LISTED - len(self.ids)]:
            self.ids.append(str(pair.requests.request_id[i]))
        for index, message in pair.candidate.messages:
            if alone[index] and message not in self.messages and len(self.messages) < LISTED:
                self.messages.append(message)

    def count(self) -> int:
        """Requests that only the candidate fails."""
        return sum(self.kinds.values())

    def state(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kinds": dict(self.kinds), "ids": list(self.ids), "messages": list(self.messages),
            "baseline": self.baseline, "both": self.both, "both_said": self.both_said,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Goes on from `state()`."""
        return cls(
            kinds=Counter(state["kinds"]), ids=list(state["ids"]), messages=list(state["messages"]),
            baseline=state["baseline"], both=state["both"], both_said=state["both_said"],
        )  # fmt: skip


def _nan_rows(seen: Observations, name: str) -> Bools | None:
    values = seen.outputs.get(name)
    if values is None or values.dtype.kind != "f":
        return None
    return np.asarray(np.isnan(values.reshape(len(values), -1)).any(axis=1))


def _only_candidate_nan(pair: PairBatch) -> Bools:
    """Requests with a NaN in an output where the baseline has none, shape (n,)."""
    rows = np.zeros(int(pair.requests.rows.sum()), np.bool_)
    for name in pair.candidate.outputs:
        theirs, ours = _nan_rows(pair.candidate, name), _nan_rows(pair.baseline, name)
        if theirs is not None:
            rows |= theirs & ~ours if ours is not None else theirs
    return np.bincount(pair.row_owner(), weights=rows, minlength=len(pair)) > 0

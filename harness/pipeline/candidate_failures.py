"""Requests that the baseline answers and the candidate does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from harness.core.observations import Outcome, PairBatch
from harness.core.tensors import Bools, Ints
from harness.replay.forms import in_forms
from harness.replay.looks import look_of, newly_nan

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
    shapeless: int = 0
    """Of these: both answer, and with outputs whose rows are not the request's."""
    anchor: int = 0
    """Requests that the anchor fails, where there is one."""
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
        if pair.anchor is not None:
            third = pair.anchor.outcome
            self.anchor += int(((third != Outcome.NOT_RUN) & (third != Outcome.OK)).sum())
        twice = base_failed & cand_failed
        self.both += int(twice.sum())
        self.shapeless += int((twice & (base == Outcome.INVALID) & (cand == Outcome.INVALID)).sum())
        if not self.both_said:
            self.both_said = next((text for i, text in pair.baseline.messages if twice[i]), "")
        alone = cand_failed & ~base_failed
        found = failing(pair)
        self.kinds.update({kind: int(which.sum()) for kind, which in found.items()})
        if found:
            for i in np.flatnonzero(np.any([*found.values()], axis=0))[: LISTED - len(self.ids)]:
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
            "baseline": self.baseline, "both": self.both, "shapeless": self.shapeless, "both_said": self.both_said,
            "anchor": self.anchor,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Goes on from `state()`."""
        return cls(
            kinds=Counter(state["kinds"]), ids=list(state["ids"]), messages=list(state["messages"]),
            baseline=state["baseline"], both=state["both"], shapeless=state.get("shapeless", 0), both_said=state["both_said"],
            anchor=state.get("anchor", 0),
        )  # fmt: skip


def failing(pair: PairBatch) -> dict[str, Bools]:
    """Requests that only the candidate fails.

    Another shape is left out: clients may be ready for it, which the comparison of outputs knows.

    Args:
      pair: a batch, outputs under the baseline's names.

    Returns:
      Outcome name, or NAN → which requests, shape (n,); kinds that do not occur are left out.
    """
    parts = in_forms(pair)
    if len(parts) > 1:
        return _gathered(len(pair), [(at, failing(part)) for at, part, _ in parts])
    ((_, pair, _),) = parts
    base, cand = pair.baseline.outcome, pair.candidate.outcome
    answered = base == Outcome.OK
    failed = answered & (cand != Outcome.NOT_RUN) & (cand != Outcome.OK)
    found = {Outcome(int(code)).name: failed & (cand == code) for code in np.unique(cand[failed])}
    theirs = look_of(pair.candidate)
    if theirs.nan:
        rows = newly_nan(look_of(pair.baseline), theirs, int(pair.requests.rows.sum()))
        nan = np.bincount(pair.row_owner(), weights=rows, minlength=len(pair)) > 0
        nan &= answered & (cand == Outcome.OK)
        if nan.any():
            found[NAN] = nan
    return found


def _gathered(n: int, parts: Iterable[tuple[Ints, dict[str, Bools]]]) -> dict[str, Bools]:
    """What was found in parts of n requests, as of all of them."""
    found: dict[str, Bools] = {}
    for at, kinds in parts:
        for kind, which in kinds.items():
            found.setdefault(kind, np.zeros(n, np.bool_))[at] = which
    return found

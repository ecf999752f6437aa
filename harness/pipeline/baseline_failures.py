"""Requests that the baseline does not answer, by window."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from harness.core.observations import Outcome, PairBatch
from harness.decide.facts import BaselineFailures

_Counts = dict[str, dict[str, int]]


@dataclass(slots=True)
class BaselineTally:
    """Counts by window."""

    failed: Counter[str] = field(default_factory=Counter)
    """Requests that the baseline fails; not those in `refused`."""
    answered: Counter[str] = field(default_factory=Counter)
    """Requests that it answers."""
    both: Counter[str] = field(default_factory=Counter)
    """Of those that it fails: the candidate fails them, too."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests that both versions' runtimes refuse."""

    def update(self, window: str, pair: PairBatch) -> None:
        """Takes one batch; what a version was never given says nothing.

        Args:
          window: newest or matured.
          pair: n requests through both versions.
        """
        base, cand = pair.baseline.outcome, pair.candidate.outcome
        if not (base.any() or cand.any()):
            self.answered[window] += len(pair)
            return
        run = (base != Outcome.NOT_RUN) & (cand != Outcome.NOT_RUN)
        refused = pair.both_refused()
        failed = run & (base != Outcome.OK) & ~refused
        self.refused[window] += int(refused.sum())
        self.failed[window] += int(failed.sum())
        self.both[window] += int((failed & (cand != Outcome.OK)).sum())
        self.answered[window] += int((run & (base == Outcome.OK)).sum())

    def facts(self) -> tuple[BaselineFailures, ...]:
        """The windows in which it fails something, or both refuse something."""
        return tuple(
            BaselineFailures(
                window=window, failed=failed, asked=failed + self.answered[window],
                both=self.both[window], refused=self.refused[window],
            )
            for window, failed in self.failed.items()
            if failed or self.refused[window]
        )  # fmt: skip

    def state(self) -> _Counts:
        """Plain JSON values."""
        return {
            "failed": dict(self.failed), "answered": dict(self.answered),
            "both": dict(self.both), "refused": dict(self.refused),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: _Counts) -> Self:
        """Goes on from `state()`."""
        return cls(**{name: Counter(counts) for name, counts in state.items()})

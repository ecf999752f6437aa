"""How a gate continues the attempts at the same question before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.core.errors import HarnessError
from harness.core.policies import Policy
from harness.core.verdicts import Decision
from harness.judge.attempts import Again, again
from harness.pipeline.carried import Carried, Used, carried_of
from harness.store.attempts import HELD, OPEN, PROMOTED, Attempt, resumable

_ANSWERS = {HELD: Decision.HOLD, PROMOTED: Decision.PROMOTE, OPEN: None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the attempts before a gate mean for it."""

    how: Again
    """First, gone on, or paid for with a smaller error rate."""
    why: str = ""
    """A sentence; "" for the first."""
    token: str = ""
    """Of the attempt that it goes on from."""
    carried: Carried | None = None
    """Its evidence."""
    used: Used = field(default_factory=dict)
    """Requests that may not be judged again."""

    def paid(self, why: str) -> Past:
        """The same attempts, when their evidence cannot be gone on from after all."""
        return Past(how=Again.SPEND, why=_paid(why))

    def told(self) -> dict[str, Any]:
        """What manifest and decision say about it."""
        run = self.carried.run if self.carried else ""
        return {"how": self.how.value, "why": self.why, "run": run}


def past_of(before: Sequence[Attempt], policy: Policy, lineage: Mapping[str, str]) -> Past:
    """Looks whether there is evidence to go on from.

    Args:
      before: the attempts that count, oldest first.
      policy: its claim and slices.
      lineage: digests of the question.
    """
    open_ = resumable(before)
    if not before:
        return Past(how=Again.FIRST)
    last = open_[-1] if open_ else before[-1]
    evidence: tuple[Carried, Used] | None = None
    why = f"attempt {last.number} ended with an answer, or on evidence that is not sound"
    if last.state == OPEN:
        why = f"attempt {last.number} has not ended, or was killed"
    if last.state == HELD:
        try:
            evidence = carried_of(last, policy)
        except (HarnessError, KeyError, TypeError, ValueError) as error:
            told = error.what if isinstance(error, HarnessError) else "not readable"
            why = f"the run folder of attempt {last.number} cannot be gone on from ({told})"
    how = again(
        lineage,
        lineage,
        answered=_ANSWERS.get(last.state, Decision.ROLLBACK),
        claim=policy.claim,
        same_test=evidence is not None,
    )
    if how is not Again.RESUME or evidence is None:
        return Past(how=Again.SPEND, why=_paid(why))
    carried, used = evidence
    judged = sum(carried.judged.values())
    return Past(
        how=how,
        why=(
            f"goes on from attempt {carried.attempt} (run {carried.run}): its {judged:,} judged pairs "
            "count on at the same error rates, and are not judged again"
        ),
        token=last.token,
        carried=carried,
        used=used,
    )


def _paid(why: str) -> str:
    return f"{why}: new evidence, at half the error rates of the attempt before it"

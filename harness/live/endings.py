"""How a canary or a shadow ends, and what is said of the traffic then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from harness.core.verdicts import Decision

_HELD = {
    "budget_spent": "The budget of {what} is spent and neither harm nor its absence is proven: "
    "traffic goes to the baseline.",
    "state_damaged": "The saved evidence cannot be believed ({what}): traffic goes to the baseline. "
    "Start a new canary in another folder.",
    "state_not_saved": "The evidence cannot be saved ({what}): traffic goes to the baseline. "
    "Make room, then start a new canary in another folder.",
    "version_changed": "A version was changed meanwhile ({what}): the evidence is about neither, and "
    "traffic goes to the baseline. Start a new canary in another folder.",
    "judge_failed": "The judge itself failed ({what}): traffic goes to the baseline. "
    "Please report it.",
    "observations_lost": "{what} requests left no trace when the process ended: what they would have "
    "shown is not known, and traffic goes to the baseline. Start a new canary in another folder.",
}

_OF_A_SHADOW = (
    (", and traffic goes to the baseline", ""),
    (": traffic goes to the baseline", ""),
    ("canary", "shadow"),
)
"""What an ending says of traffic where nobody is split, and what stands there then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A verdict that stands."""

    decision: Decision
    """What was decided."""
    reason: str
    """One word for programs."""
    explanation: str
    """Sentences for people."""

    def state(self) -> list[str]:
        """Plain JSON values from which `from_state` continues."""
        return [self.decision.value, self.reason, self.explanation]

    @classmethod
    def from_state(cls, state: list[str]) -> Self:
        """Continues from `state`."""
        decision, reason, explanation = state
        return cls(decision=Decision(decision), reason=reason, explanation=explanation)


def held(reason: str, what: str, *, split: bool) -> Ending:
    """A HOLD that comes of something else than the tests.

    Args:
      reason: one of those that end a canary by themselves: budget_spent, state_damaged …
      what: completes its sentence.
      split: whether traffic is split; False = of a shadow.
    """
    said = _HELD[reason]
    if not split:
        for of_a_split, instead in _OF_A_SHADOW:
            said = said.replace(of_a_split, instead)
    return Ending(decision=Decision.HOLD, reason=reason, explanation=said.format(what=what))

"""Did every version load? What is decided where one did not, and which limit of the policy kept it from it."""

from __future__ import annotations

from harness.core.policies import Against
from harness.core.verdicts import Decision
from harness.decide.facts import Facts
from harness.decide.fitness import Answer, Case, hold, listed


def more_room(facts: Facts, role: str) -> str:
    """What to do about a version that perhaps not its model kept from loading; "" = nothing else did, as is known.

    Args:
      facts: the run's.
      role: baseline, candidate or anchor.
    """
    key = facts.load_limits.get(role)
    if role in facts.not_tried:
        what = f"Raise {key} in the policy" if key else "Run the gate again, or `harness doctor`"
        return f"{what}: its process was not ready for the model."
    if not key:
        return ""
    return (
        f"Raise {key} in the policy if the model is given more than that where it serves, and run the gate "
        "again; if not, make it load with less."
    )


def baseline_loads(case: Case) -> Answer | None:
    """A version that serves now and does not load here leaves nothing to compare with."""
    why = case.facts.baseline_load_failure
    if not why:
        return None
    return hold(
        "baseline_does_not_load",
        f"The baseline does not load: {why.rstrip('.')}. Nothing can be compared, so nothing is decided.",
        more_room(case.facts, "baseline")
        or "Give the gate the version that serves now, with the requirements it was built with.",
    )


def candidate_loads(case: Case) -> Answer | None:
    """A candidate that does not load could not serve; of one that was not tried nothing is known."""
    why = case.facts.candidate_load_failure
    if not why:
        return None
    if "candidate" in case.facts.not_tried:
        return hold(
            "candidate_not_tried",
            f"No process was ready for the candidate: {why.rstrip('.')}. Its model was not tried.",
            more_room(case.facts, "candidate"),
        )
    able = "It could not serve a single request"
    if "candidate" in case.facts.load_limits:
        able = "With no more than that it could not serve a single request"
    return Answer(
        decision=Decision.ROLLBACK,
        reason="candidate_does_not_load",
        explanation=f"The candidate does not load: {why.rstrip('.')}. {able}.",
        next=more_room(case.facts, "candidate")
        or "Repair the model file or its requirements and register a new version.",
    )


def anchor_loads(case: Case) -> Answer | None:
    """Guardrails against the anchor need it."""
    why = case.facts.anchor_load_failure
    if not why:
        return None
    users = [g.name for g in case.policy.guardrails if g.against is Against.ANCHOR]
    return hold(
        "anchor_does_not_load",
        f"The anchor does not load: {why.rstrip('.')}. {listed(users)} cannot be judged without it.",
        more_room(case.facts, "anchor")
        or "Name another version as `anchor:`, or its requirements as it was built with.",
        users[0] if users else "",
    )

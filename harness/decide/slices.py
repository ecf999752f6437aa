"""Slices too small for a claim of their own: neither their harm nor their share may stay unsaid."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.policies import Policy
from harness.core.verdicts import Evidence, Verdict
from harness.decide.crossed import beyond
from harness.decide.facts import Facts, Unclaimed
from harness.decide.integrity import Unfit


def harm_in_small_slices(policy: Policy, evidence: Sequence[Evidence]) -> tuple[Unfit, str] | None:
    """Harm that a pooled rest proves though it was thought too small to prove anything.

    Each such test holds a harmless candidate with a probability of at most α_R. None rolls back:
    the weights of the rollback average are fixed without them, so that its level stays what it is.

    Returns:
      Why to hold, and the evidence's name; None when there is no such harm.
    """
    deciding = {guardrail.name for guardrail in policy.guardrails if guardrail.gating}
    harmed = [
        e for e in evidence
        if e.slice and not e.gating and e.verdict is Verdict.FAIL and e.guardrail in deciding
    ]  # fmt: skip
    if not harmed:
        return None
    what = "; ".join(beyond(policy, each) for each in harmed[:3])
    return Unfit(
        reason="slice_harm",
        explanation=f"Slices too small for a claim of their own are proven worse than tolerated: {what}.",
        settle="Find the cause in their requests; with a lower `min_slice` they decide by themselves.",
    ), harmed[0].name


def too_much_without_claim(policy: Policy, facts: Facts) -> tuple[Unfit, str] | None:
    """Slices of which a promotion would say nothing, where they are more than the policy allows.

    Returns:
      Why to hold, and the guardrail's name; None where they are few enough.
    """
    found = largest_without_claim(facts)
    if found is None or found.share <= policy.most_without_claim:
        return None
    once = f"units of {policy.unit}" if policy.unit else "requests"
    return Unfit(
        reason="too_much_without_claim",
        explanation=(
            f"Everything that was tested is within its margin, but {found.share:.1%} of the {once} "
            f"have a {found.column} too rare for any claim by '{found.guardrail}', even together; the "
            f"policy allows {policy.most_without_claim:.1%} (`most_without_claim`)."
        ),
        settle="Record more traffic, or lower the guardrail's `min_slice`.",
    ), found.guardrail


def largest_without_claim(facts: Facts) -> Unclaimed | None:
    """The largest share of the traffic that no test of a deciding guardrail is about."""
    return max(facts.without_claim, key=lambda each: each.share, default=None)

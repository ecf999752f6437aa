"""What a plan says beside its figures: what they rest on, and what would make them fewer."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.policies import LATENCY_METRICS, Claim, Metric, Policy, Weight, WindowName
from harness.judge.planning import POWER
from harness.pipeline.at_hand import AtHand
from harness.pipeline.plan_result import LEGEND, TestNeeds

ZERO_ONE = (0.0, 1.0)
"""Bounds of values that are a share or a yes or no."""


def notes_of_plan(policy: Policy, hand: AtHand, tests: Sequence[TestNeeds]) -> tuple[str, ...]:
    """Sentences beside a gate's or a table's plan.

    Args:
      policy: what is planned for.
      hand: the traffic, as far as there is any.
      tests: what each needs.
    """
    notes = [LEGEND]
    notes += [f"{test.name}: {test.basis}" for test in tests if not test.name.endswith("]")]
    for guardrail in (g for g in policy.guardrails if g.effect is None):
        # Bets are planned from an effect and a spread; that of zeros and ones is known.
        spread = guardrail.bounds() == ZERO_ONE and guardrail.metric is not Metric.COLUMN
        known = spread or policy.windows.planning or guardrail.metric is Metric.CALIBRATION_SHIFT
        remedy = "`effect:`" if known else "`effect:` and `windows: {planning: N}` together"
        # Units that are drawn with replacement cannot plan: they would be evidence at once.
        fewer = (
            f"; {remedy} may make them fewer"
            if known or policy.weight is Weight.UNIT or not policy.unit
            else ""
        )
        notes.append(
            f"no effect is declared for {guardrail.name}: no change is planned for, and the bets "
            f"are spread over all sizes{fewer}"
        )
    notes += [
        f"{g.name}: figures are for each of {g.bins} bins at once, of which all have to be proven"
        for g in policy.guardrails
        if g.metric is Metric.CALIBRATION_SHIFT
    ]
    sampled = [g.name for g in policy.guardrails if g.metric in LATENCY_METRICS]
    if sampled and all(g.window is not WindowName.TABLE for g in policy.guardrails):
        notes.append(
            f"{', '.join(sampled)}: requests are those replayed singly, `latency: {{sample: "
            f"{policy.latency.sample}}}` by the policy"
        )
    if policy.unit:
        once = ", each once" if policy.weight is Weight.UNIT else ", drawn by their size"
        notes.append(f"what is counted are units of {policy.unit}{once}")
    if policy.claim is Claim.WINDOW:
        notes.append(
            "claim: window needs fewer: the figures are those of a claim about the process; a window "
            "that is read to its end is known exactly, whatever they say"
        )
    notes += [f"at hand: {what}" for what in hand.findings]
    if hand.words:
        notes.append(f"at hand: {hand.words}; \"seen from\": the smallest harmful mean that it shows "
                     f"with probability {POWER:.0%}")  # fmt: skip
    elif any(g.slice_by for g in policy.guardrails):
        notes.append("slices are planned only with --traffic, which says how large they are")
    return tuple(notes)

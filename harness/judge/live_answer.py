"""A live judge's numbers as values with words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from harness.core.live import LiveGuardrail, LiveKind
from harness.core.scales import limit_on_scale
from harness.core.verdicts import Decision, Evidence, Verdict
from harness.judge.counts import ErrorRatio
from harness.judge.cycles import CyclesSeen
from harness.judge.live_plan import LiveAnswer, LivePlan
from harness.judge.overlap import OverlapTrack
from harness.judge.track import Track

_LARGEST = 1e300

_SENTENCES = {
    "guardrail_failed": "Harm beyond the margin is proven{so_far}: return traffic to the baseline.",
    "all_guardrails_pass": "Every gating guardrail has proven its margin{cycles}.",
    "sample_ratio_mismatch": (
        "Units do not fall to the arms as declared (p ≤ {p:.2g}): the arms cannot be compared. "
        "Return traffic to the baseline and look for lost or doubled records."
    ),
    "labels_unequal": (
        "Labels do not come from the arms as units did: labelled units cannot be compared. "
        "Return traffic to the baseline and look at how labels are collected."
    ),
    "undecided": "Neither harm nor its absence is proven yet; go on, or return to the baseline.",
}

_SUBJECTS = {
    LiveKind.PAIRED: "mean over units like those seen",
    LiveKind.SHIFT: "overlap-weighted mean difference over units like those seen",
    LiveKind.ERRORS: "ratio of the arms' rates of units with errors, bursts counted once",
}

_OF_BLOCKS = "mean over time blocks like those seen"

_MEASURED = {
    LiveKind.PAIRED: "mean",
    LiveKind.SHIFT: "difference",
    LiveKind.ERRORS: "ratio",
}


_OPENINGS = {
    Verdict.FAIL: "Proven beyond the tolerated {what}",
    Verdict.PASS: "Proven within the tolerated {what}",
    Verdict.INCONCLUSIVE: "Neither within nor beyond the tolerated {what} is proven",
}


def answer_of(
    plan: LivePlan,
    decided: tuple[Decision, str],
    *,
    culprits: tuple[str, ...],
    cycles: CyclesSeen,
    units: tuple[int, int],
    sample_ratio_p: float,
    logs: Mapping[str, Mapping[str, float]],
    promote_at: Mapping[str, float],
    ignored: Mapping[str, int],
) -> LiveAnswer:
    """Puts an answer into words.

    Args:
      plan: what is asked.
      decided: answer and its stable reason.
      culprits: guardrails named by e-BH.
      cycles: what was seen of them.
      units: (exposed, closed).
      sample_ratio_p: of the split.
      logs: clock → guardrail → log rollback e-value.
      promote_at: guardrail → log promotion e-value at promotion's last look.
      ignored: reason → count.
    """
    decision, reason = decided
    so_far = bool(plan.cycle_s)
    sentence = _SENTENCES[reason].format(
        so_far=" on the traffic so far" if so_far else "",
        cycles=f" over {cycles.whole} whole cycle{'' if cycles.whole == 1 else 's'}"
        if so_far
        else "",
        p=sample_ratio_p,
    )
    if cycles.in_part:
        sentence += (
            f" Seen in part: {cycles.in_part} cycle{'' if cycles.in_part == 1 else 's'}, with more than "
            f"{cycles.quiet_s:g} s without a request (`quiet`); no promotion after such a one."
        )
    averages = [
        (clock, float(np.logaddexp.reduce(list(found.values()))) - math.log(len(found)))
        for clock, found in logs.items()
        if found
    ]
    return LiveAnswer(
        decision=decision,
        reason=reason,
        explanation=sentence,
        culprits=culprits,
        so_far=so_far and decision is not Decision.PROMOTE,
        whole_cycles=cycles.whole,
        n_units=units[0],
        n_closed=units[1],
        sample_ratio_p=sample_ratio_p,
        log_e_rollback=tuple(averages),
        promote_at=tuple(promote_at.items()),
        ignored=tuple(sorted(ignored.items())),
    )


def evidence_of_live(
    guardrail: LiveGuardrail,
    test: Track | OverlapTrack | ErrorRatio,
    plan: LivePlan,
    *,
    n_exposed: int,
    proven_harm: bool,
    promote_at: float,
) -> Evidence:
    """One guardrail's numbers, verdict and reason.

    Args:
      guardrail: what was asked.
      test: what was seen.
      plan: levels and clocks.
      n_exposed: units exposed.
      proven_harm: whether e-BH names it; one that only reports is judged by its own e-value.
      promote_at: its log promotion e-value where promotion looked last.
    """
    lower, upper = test.interval()
    alone = test.log_e_rollback() >= -math.log(plan.alpha_rollback)
    if not test.n:
        verdict = Verdict.NO_DATA
    elif proven_harm or (alone and not guardrail.gating):
        verdict = Verdict.FAIL
    elif promote_at >= -math.log(plan.alpha_promote):
        verdict = Verdict.PASS
    else:
        verdict = Verdict.INCONCLUSIVE
    mates = [g for g in plan.guardrails if g.gating and g.clock() == guardrail.clock()]
    clocks = max(len(plan.levels()), 1)
    return Evidence(
        name=guardrail.name,
        guardrail=guardrail.name,
        metric=f"live_{guardrail.kind.value}",
        window="live",
        slice="",
        margin=guardrail.margin,
        direction=guardrail.direction.value,
        gating=guardrail.gating,
        verdict=verdict,
        reason=_reason(guardrail, verdict, (lower, upper), plan),
        subject=_OF_BLOCKS if plan.block_s else _SUBJECTS[guardrail.kind],
        n=test.n,
        n_available=n_exposed,
        n_failed=test.n_failed,
        e_promote=_capped(test.log_e_promote()),
        e_rollback=_capped(test.log_e_rollback()),
        lower=lower,
        upper=upper,
        weight=1.0 / (len(mates) * clocks) if guardrail.gating else 0.0,
        path=test.path(),
    )


def _reason(
    guardrail: LiveGuardrail, verdict: Verdict, interval: tuple[float, float], plan: LivePlan
) -> str:
    if verdict is Verdict.NO_DATA:
        return "No unit has entered, so nothing is proven."
    measured = _MEASURED[guardrail.kind]
    limit = limit_on_scale("", guardrail.margin, guardrail.direction)
    opening = _OPENINGS[verdict].format(what=f"{measured} ({limit})")
    # Each end is missed with at most the level of the process that sets it.
    missed = plan.alpha_promote + plan.levels().get(guardrail.clock(), plan.alpha_rollback)
    return (
        f"{opening}: it lies in [{interval[0]:.4g}, {interval[1]:.4g}] "
        f"({100.0 * (1.0 - missed):.4g}% at every look)."
    )


def _capped(log_e: float) -> float:
    return math.exp(log_e) if log_e < math.log(_LARGEST) else _LARGEST

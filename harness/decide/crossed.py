"""A crossed guardrail in a release manager's words."""

from __future__ import annotations

import math

from harness.core.counted import counted
from harness.core.policies import (
    Against,
    Direction,
    Guardrail,
    Metric,
    Policy,
    Weight,
    WindowName,
)
from harness.core.verdicts import Evidence


def judged_as(policy: Policy, n: int) -> str:
    """What counts once, by its name: requests, rows of a table, units, draws of them."""
    many = "" if n == 1 else "s"
    table = all(guardrail.window is WindowName.TABLE for guardrail in policy.guardrails)
    if not policy.unit:
        return f"{n:,} row{many}" if table else counted(n)
    if policy.weight is Weight.REQUEST:
        return f"{n:,} draw{many} from the units of {policy.unit}"
    return f"{n:,} unit{many} of {policy.unit}"


def beyond(policy: Policy, evidence: Evidence) -> str:
    """A guardrail that was crossed, in a release manager's words."""
    guardrail = next(g for g in policy.guardrails if g.name == evidence.guardrail)
    where = f" for {evidence.slice}" if evidence.slice else ""
    where += " since the anchor" if guardrail.against is Against.ANCHOR else ""
    seen = evidence.proven or evidence
    text = (
        f"after {judged_as(policy, seen.n)} {_measured(guardrail)}{where} "
        f"{_lay(guardrail, seen.lower, seen.upper)}"
    )
    if seen.n < evidence.n:
        text += f" (after {evidence.n:,} it {_lay(guardrail, evidence.lower, evidence.upper)})"
    limit = _limit(guardrail, evidence.margin)
    return f"{text}, and {limit} is tolerated ('{evidence.name}')"


def _lay(guardrail: Guardrail, lower: float, upper: float) -> str:
    """Between which ends a mean lay; a clipped growth only bounds the real one."""
    low, high = _shown(guardrail, lower), _shown(guardrail, upper)
    if guardrail.metric is Metric.LATENCY_RATIO:
        if lower >= 0.0:
            return f"was at least {low}"
        if upper <= 0.0:
            return f"was at most {high}"
    return f"lay between {low} and {high}"


def _limit(guardrail: Guardrail, margin: float) -> str:
    """What is tolerated, on the scale of `_shown`."""
    low, high = _shown(guardrail, 0.0 - margin), _shown(guardrail, margin)
    found = {
        Direction.INCREASE: f"at most {high}",
        Direction.DECREASE: f"at least {low}",
        Direction.BOTH: f"between {low} and {high}",
    }[guardrail.direction]
    if guardrail.metric is Metric.LATENCY_P99:
        return f"{found} more than of a baseline slowed by {100.0 * guardrail.margin:g} %"
    return found


_MEASURED = {
    Metric.PARITY_MISMATCH: "the share of requests whose {} differ",
    Metric.FAILURE: "the extra share of requests that fail",
    Metric.NAN_RATE: "the extra share of answers that are not a number",
    Metric.DECISION_FLIP: "the share of requests whose decision changes",
    Metric.DECISION_RATE_SHIFT: "the change of the share of positive decisions",
    Metric.SCORE_SHIFT: "the change of the mean score",
    Metric.LOSS_DIFFERENCE: "the change of the {} loss on labelled requests",
    Metric.EXCESS_FLIP: "the share of flips beyond both versions' own noise",
    Metric.CALIBRATION_SHIFT: "the mean outcome minus the candidate's score, in a bin of scores,",
    Metric.LATENCY_RATIO: "the growth of the typical time of one request (clipped mean)",
    Metric.LATENCY_P99: "the extra share of requests slower than the cut-off",
    Metric.RATIO: "the mean of numerator less tolerated ratio times denominator ({})",
    Metric.COLUMN: "the clipped mean of column '{}'",
}


def _measured(guardrail: Guardrail) -> str:
    """What a guardrail's mean is; the braces take what it compares."""
    if guardrail.column:
        own = guardrail.range or guardrail.columns
        words = _MEASURED[guardrail.metric] if own else "the mean of column '{}'"
        return words.format(guardrail.column)
    compared = guardrail.scope or guardrail.loss
    return _MEASURED[guardrail.metric].format(compared.value if compared else "mean")


_SCALES = {
    Metric.SCORE_SHIFT,
    Metric.LOSS_DIFFERENCE,
    Metric.CALIBRATION_SHIFT,
    Metric.RATIO,
    Metric.COLUMN,
}
"""Metrics shown as they are; the others are shares and shown in percent."""


def _shown(guardrail: Guardrail, value: float) -> str:
    if guardrail.metric is Metric.LATENCY_RATIO:
        return f"{100.0 * math.expm1(value):.4g} %"
    return f"{value:.4g}" if guardrail.metric in _SCALES else f"{100.0 * value:.4g} %"

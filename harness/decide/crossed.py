"""A crossed guardrail in a release manager's words."""

from __future__ import annotations

import math

from harness.core.policies import Against, Guardrail, Metric, Policy
from harness.core.verdicts import Evidence


def counted(n: int) -> str:
    """1 request, 2,048 requests."""
    return f"{n:,} request{'' if n == 1 else 's'}"


def beyond(policy: Policy, evidence: Evidence) -> str:
    """A guardrail that was crossed, in a release manager's words."""
    guardrail = next(g for g in policy.guardrails if g.name == evidence.guardrail)
    where = f" for {evidence.slice}" if evidence.slice else ""
    where += " since the anchor" if guardrail.against is Against.ANCHOR else ""
    lower, upper, margin = (
        _shown(guardrail, v) for v in (evidence.lower, evidence.upper, evidence.margin)
    )
    return (
        f"{_measured(guardrail)}{where} lies between {lower} and {upper} after "
        f"{counted(evidence.n)}, and at most {margin} is tolerated ('{evidence.name}')"
    )


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
    Metric.LATENCY_RATIO: "the growth of the typical time of one request",
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

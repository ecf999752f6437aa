"""Mirrored requests, compared → the values of the policy's paired guardrails."""

from __future__ import annotations

import numpy as np

from harness.core.errors import HarnessError
from harness.core.live import Live, LiveGuardrail, LiveMetric
from harness.core.observations import Outcome
from harness.core.policies import DecisionRule, Guardrail, Metric
from harness.core.tensors import Bools, Floats
from harness.judge.metrics import observe
from harness.live.diffing import Diffed


def paired_values(live: Live, diffed: Diffed) -> tuple[dict[str, Floats], Bools, dict[str, str]]:
    """Candidate minus baseline, per guardrail.

    Args:
      live: the policy's live section, without steps.
      diffed: n requests.

    Returns:
      (guardrail → values, shape (n,), NaN = it failed or cannot be compared; requests that enter:
      all but those that neither version answers, shape (n,); guardrail → why it is not measured).
    """
    pair = diffed.pair
    enter = np.asarray(
        (pair.baseline.outcome == Outcome.OK) | (pair.candidate.outcome == Outcome.OK)
    )
    values: dict[str, Floats] = {}
    unfit: dict[str, str] = {}
    for rail in live.guardrails:
        try:
            values[rail.name] = _values(rail, live.decision, diffed)
        except HarnessError as problem:
            # Another signature than the policy's: nothing can be measured, which is no pass.
            values[rail.name] = np.full(len(pair), np.nan)
            unfit[rail.name] = problem.what
    return values, enter, unfit


def _values(rail: LiveGuardrail, rule: DecisionRule | None, diffed: Diffed) -> Floats:
    if rail.metric is LiveMetric.GIVEN:
        return np.full(len(diffed.pair), np.nan)
    asked = Guardrail(
        name=rail.name, metric=Metric(rail.metric.value), margin=rail.margin,
        direction=rail.direction,
    )  # fmt: skip
    compared = np.where(diffed.compared | diffed.mismatch, diffed.mismatch, True)
    return observe(asked, diffed.pair, rule, None, compared.astype(np.bool_), None).x

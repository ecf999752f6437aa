"""Mirrored requests, compared → the values of the policy's paired guardrails."""

from __future__ import annotations

import numpy as np

from harness.core.errors import HarnessError
from harness.core.live import Live, LiveGuardrail, LiveMetric
from harness.core.observations import PairBatch
from harness.core.policies import DecisionRule, Guardrail, Metric
from harness.core.tensors import Bools, Floats
from harness.judge.metrics import observe, sides_of
from harness.live.diffing import Diffed
from harness.live.unusable import unusable
from harness.live.values import enters


def paired_values(
    live: Live, diffed: Diffed, other_outputs: dict[str, Bools]
) -> tuple[dict[str, Floats], Bools, dict[str, str]]:
    """Candidate minus baseline, per guardrail.

    Args:
      live: the policy's live section, without steps.
      diffed: n requests.
      other_outputs: guardrail → requests whose clients asked for other outputs, from `other_outputs`.

    Returns:
      (guardrail → values, shape (n,), NaN = it failed or cannot be compared; requests that enter:
      all but those that neither version answers, shape (n,); guardrail → why it is not measured).
    """
    values: dict[str, Floats] = {}
    unfit: dict[str, str] = {}
    for rail in live.guardrails:
        values[rail.name] = column = np.full(len(diffed.mismatch), np.nan)
        for at, pair in diffed.parts:
            try:
                column[at] = _values(
                    rail, live.decision, pair, diffed.compared[at], diffed.mismatch[at]
                )
                if rail.metric is LiveMetric.NAN:
                    silent = {name: asked[at] for name, asked in other_outputs.items()}
                    baseline, candidate = unusable(live, pair, silent)
                    column[at] = np.where(np.isnan(column[at]), np.nan, candidate - baseline)
            except HarnessError as problem:
                # Another signature than the policy's: nothing can be measured, which is no pass.
                if enters(other_outputs, rail.name, at).any():
                    unfit[rail.name] = problem.what
        if rail.metric is not LiveMetric.FAILURE:
            column[diffed.left_out] = np.nan
        if rail.name in other_outputs:
            column[other_outputs[rail.name]] = np.nan
    return values, np.asarray(diffed.ok[0] | diffed.ok[1]), unfit


def _values(
    rail: LiveGuardrail,
    rule: DecisionRule | None,
    pair: PairBatch,
    compared: Bools,
    mismatch: Bools,
) -> Floats:
    if rail.metric is LiveMetric.GIVEN:
        return np.full(len(pair), np.nan)
    asked = Guardrail(
        name=rail.name, metric=Metric(rail.metric.value), margin=rail.margin,
        direction=rail.direction,
    )  # fmt: skip
    unlike = np.where(compared | mismatch, mismatch, True)
    x = observe(asked, pair, rule, None, unlike.astype(np.bool_), None).x
    if asked.metric is not Metric.PARITY_MISMATCH:
        return x
    # Nothing bounds what the baseline fails here: an answer of the candidate alone is another one.
    return np.where(sides_of(pair).baseline_failed, 1.0, x)

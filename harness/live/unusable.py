"""Answers that came and hold no usable value: a NaN, or a score outside of 0 and 1.

Such an answer has no value in the guardrail that reads the score, and a missing value never rolls back
by itself. So `nan_rate` counts it, in whichever arm it comes.
"""

from __future__ import annotations

import numpy as np

from harness.core.errors import HarnessError
from harness.core.live import Live, LiveGuardrail, LiveKind, LiveMetric
from harness.core.observations import PairBatch
from harness.core.policies import DecisionRule, Loss
from harness.core.tensors import Bools, Floats
from harness.judge.answers import RowPair, decisions, positives, scores
from harness.judge.metrics import nan_rows, request_means

READING = {LiveMetric.SCORE, LiveMetric.RATE, LiveMetric.LOSS}
"""Metrics of split traffic whose values come of one output."""


def sent_unusable(live: Live, values: dict[str, Floats]) -> dict[str, Floats]:
    """Values that somebody else measured, with `nan_rate` 1 where a score is missing of what has not failed.

    Args:
      live: the policy's live section.
      values: guardrail → shape (n,); NaN = failed, or no usable value.
    """
    counting = [g.name for g in live.guardrails if g.metric is LiveMetric.NAN and g.name in values]
    reading = [g.name for g in live.guardrails if g.metric in READING and g.name in values]
    if not counting or not reading:
        return values
    failures = [
        values[g.name]
        for g in live.guardrails
        if g.name in values and (g.metric is LiveMetric.FAILURE or g.kind is LiveKind.ERRORS)
    ]
    if len({len(column) for column in values.values()}) > 1:
        return values  # refused by the judge
    missing = np.any([np.isnan(values[name]) for name in reading], axis=0)
    for column in failures:
        missing &= ~(column > 0.0)
    return values | {
        name: np.where(missing & ~np.isnan(values[name]), 1.0, values[name]) for name in counting
    }


def read_rows(rail: LiveGuardrail, rule: DecisionRule, pair: PairBatch) -> RowPair | None:
    """What a guardrail reads of each row of both sides; None = no output in particular.

    Raises:
      PolicyError: the outputs are not what the policy's decision reads.
    """
    match rail.metric:
        case LiveMetric.SCORE:
            return scores(pair, rule)
        case LiveMetric.RATE:
            return positives(pair, rule)
        case LiveMetric.FLIP:
            return decisions(pair, rule)
        case LiveMetric.LOSS:
            return decisions(pair, rule) if rail.loss is Loss.ZERO_ONE else scores(pair, rule)
        case _:
            return None


def unusable(live: Live, pair: PairBatch, left_out: dict[str, Bools]) -> tuple[Floats, Floats]:
    """Share of each answer's rows with NaN in any output, or without a value that a guardrail reads.

    Args:
      live: the policy's live section.
      pair: n requests.
      left_out: guardrail → requests whose clients asked for other outputs, shape (n,).

    Returns:
      (baseline's, candidate's), shape (n,) each; NaN without rows.
    """
    found = (nan_rows(pair.baseline, pair) > 0.0, nan_rows(pair.candidate, pair) > 0.0)
    for rail in live.guardrails if live.decision is not None else ():
        try:
            rows = None if live.decision is None else read_rows(rail, live.decision, pair)
        except HarnessError:
            # Another signature than the policy's, in both arms alike: said elsewhere.
            continue
        if rows is None:
            continue
        asked: Bools | bool = True
        if rail.name in left_out:
            asked = ~left_out[rail.name][pair.row_owner()]
        for at, side in zip(found, (rows.baseline, rows.candidate), strict=True):
            at[np.isnan(side) & asked] = True
    baseline, candidate = (request_means(pair, at.astype(np.float64)) for at in found)
    return baseline, candidate

"""The pairs table: one row a request, with what both versions said and what each guardrail saw."""

from __future__ import annotations

import numpy as np

from harness.core.observations import PairBatch
from harness.core.policies import Policy
from harness.core.tensors import Array, CodedText, Columns, Floats, PackedText
from harness.judge.answers import read_by
from harness.judge.metrics import Values
from harness.replay.order import Batch


def decided(pair: PairBatch, policy: Policy) -> dict[str, Array]:
    """What both versions' answers mean: scores and decisions, NaN where there are none, shape (n,) each.

    Raises:
      PolicyError: the answers are not what the policy's decision reads.
    """
    parts = ("baseline_score", "candidate_score", "baseline_decision", "candidate_decision")
    table: dict[str, Array] = {name: np.full(len(pair), np.nan) for name in parts}
    rule = policy.decision
    if rule is not None:
        ok = np.repeat(pair.both_answered(), pair.requests.rows)
        for name, seen in read_by(rule, pair).items():
            for leg, side in (("baseline", seen.baseline), ("candidate", seen.candidate)):
                table[f"{leg}_{name}"] = _request_means(pair, np.where(ok, side, np.nan))
    return table


def pairs_table(
    batch: Batch,
    pair: PairBatch,
    policy: Policy,
    label: Floats,
    columns: dict[str, Array],
    values: dict[str, Values],
) -> Columns:
    """A batch's rows: who, what both said, what each guardrail saw.

    Args:
      batch: which window it is of.
      pair: both versions' observations of n requests.
      policy: its guardrails.
      label: y per request, NaN where none counts, shape (n,).
      columns: of `decided` and the diffs, shape (n,) each.
      values: what the guardrails of this window saw.
    """
    n = len(pair)
    nothing: Floats = np.full(n, np.nan)
    table: dict[str, Array | CodedText | PackedText] = {
        "request_id": pair.requests.request_id,
        "seq": pair.requests.seq,
        "window": CodedText(codes=np.zeros(n, np.int32), words=np.array([batch.window], object)),
        "batch": np.full(n, batch.index, np.int64),
        "ts_ns": pair.requests.ts_ns,
        "rows": pair.requests.rows,
        "label": label,
        "baseline_outcome": pair.baseline.outcome,
        "candidate_outcome": pair.candidate.outcome,
        "baseline_latency_s": pair.baseline.latency_s,
        "candidate_latency_s": pair.candidate.latency_s,
        **columns,
    }
    # Every chunk has the columns of every guardrail; one that reads another window saw nothing here.
    for guardrail in policy.guardrails:
        observed = values.get(guardrail.name)
        table[f"x:{guardrail.name}"] = nothing if observed is None else observed.x
        table[f"failed:{guardrail.name}"] = (
            np.zeros(n, np.bool_) if observed is None else observed.failed
        )
    coded = pair.requests.coded_context
    for name in pair.requests.context:
        table[f"cx:{name}"] = coded[name] if name in coded else pair.requests.context[name]
    return table


def _request_means(pair: PairBatch, rows: Floats) -> Floats:
    """Mean over each request's rows; NaN without rows, shape (n,)."""
    if len(rows) == len(pair) and pair.requests.single:
        # A sum that begins at 0 is never −0.
        return rows + 0.0
    counts = pair.requests.rows.astype(np.float64)
    sums = np.bincount(pair.row_owner(), weights=rows, minlength=len(pair))
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = sums / counts
    return means

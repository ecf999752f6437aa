"""Answers that came → the values of the policy's guardrails, a batch at a time, off the path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.errors import GateError, HarnessError
from harness.core.live import Live, LiveGuardrail, LiveKind, LiveMetric
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.policies import DecisionRule, Loss
from harness.core.tensors import Bools, Floats, Ints, Strings, Tensors, TensorSpec
from harness.core.traffic import OK_CODE, RequestBatch
from harness.judge.answers import decisions, positives, scores
from harness.judge.metrics import nan_rows, request_means
from harness.wire.columns import ColumnDecoder


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one request in one version."""

    response: bytes
    """Serialized ModelInferResponse; empty on failure."""
    code: int
    """gRPC status code."""
    latency_s: float
    """Until it was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """n answers of one version as the judge takes them."""

    values: dict[str, Floats]
    """Guardrail whose values come with the answer → shape (n,); NaN = failed."""
    answers: dict[str, Floats]
    """Guardrail with a loss → score or decision, shape (n,); NaN = failed."""
    unfit: tuple[tuple[str, str], ...]
    """(guardrail, why) where the policy's decision does not fit the answers: all values are NaN."""


class Measurer:
    """Measures the answers of one version; its outputs' layout is that of its first good answer.

    Args:
      live: the policy's live section.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._decoder = ColumnDecoder("response")

    def measure(self, answered: Sequence[Answered]) -> Measured:
        """Values of each answer.

        Args:
          answered: n of them.
        """
        observed, rows, _ = observations(self._decoder, answered)
        pair = paired(observed, observed, rows)
        values: dict[str, Floats] = {}
        answers: dict[str, Floats] = {}
        unfit: list[tuple[str, str]] = []
        for rail in self._live.guardrails:
            try:
                found = _measured(rail, self._live.decision, pair)
            except HarnessError as problem:
                # Another signature than the policy's: nothing can be measured, which is no pass.
                found = np.full(len(answered), np.nan)
                unfit.append((rail.name, problem.what))
            (answers if rail.metric is LiveMetric.LOSS else values)[rail.name] = found
        return Measured(values=values, answers=answers, unfit=tuple(unfit))


def observations(
    decoder: ColumnDecoder, answered: Sequence[Answered]
) -> tuple[Observations, Ints, tuple[TensorSpec, ...]]:
    """Answers as columns.

    Args:
      decoder: of this version's responses.
      answered: n of them.

    Returns:
      (the columns, model rows of each answer, of which failed ones own none, the outputs' layout).
    """
    decoded = decoder.decode([a.response for a in answered])
    code = np.array([a.code for a in answered], np.int64)
    ok: Bools = decoded.ok & (code == OK_CODE)
    rows = np.where(ok, decoded.rows, 0)
    kept = np.repeat(ok[decoded.ok], decoded.rows[decoded.ok])
    outcome = np.where(code != OK_CODE, Outcome.ERROR, np.where(ok, Outcome.OK, Outcome.INVALID))
    latency = np.array([a.latency_s for a in answered], np.float64)
    observed = Observations(
        outcome=outcome.astype(np.int8),
        outputs={name: tensor[kept] for name, tensor in decoded.tensors.items()},
        features={},
        trace_outputs={},
        latency_s=np.where(ok, latency, np.nan),
    )
    return observed, rows, decoded.specs


def paired(baseline: Observations, candidate: Observations, rows: Ints) -> PairBatch:
    """A pair of the same requests, of which only the answers are known.

    Args:
      baseline: n answers whose tensors have sum(rows) rows.
      candidate: the same.
      rows: model rows of each request, shape (n,).
    """
    n = len(rows)
    nothing: Tensors = {}
    empty: Strings = np.full(n, "", object)
    requests = RequestBatch(
        seq=np.arange(n), request_id=empty, ts_ns=np.zeros(n, np.int64), rows=rows,
        inputs=nothing, recorded=nothing, answered=baseline.outcome == Outcome.OK, context={},
    )  # fmt: skip
    return PairBatch(requests=requests, baseline=baseline, candidate=candidate)


def _measured(rail: LiveGuardrail, rule: DecisionRule | None, pair: PairBatch) -> Floats:
    """One guardrail's values, shape (n,)."""
    ok: Bools = pair.candidate.outcome == Outcome.OK
    if rail.kind is LiveKind.ERRORS or rail.metric is LiveMetric.FAILURE:
        return (~ok).astype(np.float64)
    match rail.metric:
        case LiveMetric.LATENCY:
            return latency_values(rail, pair.candidate)
        case LiveMetric.NAN:
            rows = nan_rows(pair.candidate, pair)
        case LiveMetric.SCORE:
            rows = scores(pair, _needed(rule)).candidate
        case LiveMetric.RATE:
            rows = positives(pair, _needed(rule)).candidate
        case LiveMetric.LOSS if rail.loss is Loss.ZERO_ONE:
            rows = decisions(pair, _needed(rule)).candidate
        case LiveMetric.LOSS:
            rows = scores(pair, _needed(rule)).candidate
        case _:
            return np.full(len(ok), np.nan)
    return request_means(pair, rows)


def latency_values(rail: LiveGuardrail, observed: Observations) -> Floats:
    """1 where it took longer than the policy says, or seconds up to the range's end; NaN = failed."""
    seconds = observed.latency_s
    if rail.slower_than_s is None:
        return np.clip(seconds, *rail.bounds)
    slower = (seconds > rail.slower_than_s).astype(np.float64)
    return np.where(np.isnan(seconds), np.nan, slower)


def _needed(rule: DecisionRule | None) -> DecisionRule:
    if rule is None:
        raise GateError("live", "the policy was read without its decision", "Report this.")
    return rule

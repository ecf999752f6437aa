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
from harness.live.layouts import NO_LAYOUT, Answered, Layouts
from harness.wire.columns import ColumnDecoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """n answers of one version as the judge takes them."""

    values: dict[str, Floats]
    """Guardrail whose values come with the answer → shape (n,); NaN = failed."""
    answers: dict[str, Floats]
    """Guardrail with a loss → score or decision, shape (n,); NaN = failed."""
    unfit: tuple[tuple[str, str], ...]
    """(guardrail, why) where the policy's decision does not fit some answers: their values are NaN."""
    failed: int
    """Answers that are none: an error, or bytes that contradict themselves."""
    unmeasured: int
    """Good answers of which a guardrail of the policy has no value: another form, or NaN."""


class Measurer:
    """Measures the answers of one version, whatever outputs their clients asked for.

    Args:
      live: the policy's live section.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._layouts = Layouts()

    def measure(self, answered: Sequence[Answered]) -> Measured:
        """Values of each answer.

        Args:
          answered: n of them.
        """
        layout = self._layouts.sort(answered)
        ok: Bools = layout >= NO_LAYOUT
        found = {g.name: _without_outputs(g, ok, answered) for g in self._live.guardrails}
        unfit: dict[str, str] = {}
        for number in np.unique(layout[layout >= 0]).tolist():
            at = np.flatnonzero(layout == number)
            part = [answered[i] for i in at.tolist()]
            observed, rows, _ = observations(self._layouts.decoders[number], part)
            pair = paired(observed, observed, rows)
            for rail in self._live.guardrails:
                try:
                    values = _of_outputs(rail, self._live.decision, pair)
                except HarnessError as problem:
                    # Not what the policy's decision reads: nothing can be measured, which is no pass.
                    unfit[rail.name] = problem.what
                    continue
                if values is not None:
                    found[rail.name][at] = values
        mine = [g.name for g in self._live.guardrails if g.metric is not LiveMetric.GIVEN]
        lost = np.any([np.isnan(found[name]) for name in mine], axis=0)
        losses = {g.name for g in self._live.guardrails if g.metric is LiveMetric.LOSS}
        return Measured(
            values={name: column for name, column in found.items() if name not in losses},
            answers={name: column for name, column in found.items() if name in losses},
            unfit=tuple(unfit.items()),
            failed=int(np.count_nonzero(~ok)),
            unmeasured=int(np.count_nonzero(ok & lost)),
        )


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


def _without_outputs(rail: LiveGuardrail, ok: Bools, answered: Sequence[Answered]) -> Floats:
    """One guardrail's values as far as they need no output, shape (n,); else NaN."""
    if rail.kind is LiveKind.ERRORS or rail.metric is LiveMetric.FAILURE:
        return (~ok).astype(np.float64)
    if rail.metric is LiveMetric.LATENCY:
        seconds = np.array([a.latency_s for a in answered], np.float64)
        return latency_values(rail, np.where(ok, seconds, np.nan))
    return np.full(len(ok), np.nan)


def _of_outputs(rail: LiveGuardrail, rule: DecisionRule | None, pair: PairBatch) -> Floats | None:
    """One guardrail's values of good answers, shape (n,); None where it needs no output."""
    if rail.kind is LiveKind.ERRORS:
        return None
    match rail.metric:
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
            return None
    return request_means(pair, rows)


def latency_values(rail: LiveGuardrail, seconds: Floats) -> Floats:
    """1 where it took longer than the policy says, or seconds up to the range's end; NaN = failed."""
    if rail.slower_than_s is None:
        return np.clip(seconds, *rail.bounds)
    slower = (seconds > rail.slower_than_s).astype(np.float64)
    return np.where(np.isnan(seconds), np.nan, slower)


def _needed(rule: DecisionRule | None) -> DecisionRule:
    if rule is None:
        raise GateError("live", "the policy was read without its decision", "Report this.")
    return rule

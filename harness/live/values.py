"""Answers that came → the values of the policy's guardrails, a batch at a time, off the path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import GateError, HarnessError
from harness.core.live import Live, LiveGuardrail, LiveKind, LiveMetric
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.policies import DecisionRule, Loss
from harness.core.tensors import Bools, Floats, Ints, Strings, Tensors
from harness.core.traffic import RequestBatch
from harness.judge.metrics import request_means
from harness.live.forms import Fit, Forms
from harness.live.layouts import NO_LAYOUT, Answered, Decoded, Layouts
from harness.live.unusable import READING, read_rows, unusable
from harness.wire.facts import outputs_asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """n answers of one version as the judge takes them."""

    values: dict[str, Floats]
    """Guardrail whose values come with the answer → shape (n,); NaN = failed."""
    answers: dict[str, Floats]
    """Guardrail with a loss → score or decision, shape (n,); NaN = failed."""
    left_out: dict[str, Bools]
    """Guardrail → answers whose clients had asked for other outputs, shape (n,); only where there are."""
    unfit: tuple[tuple[str, str], ...]
    """(guardrail, why) where the policy's decision does not fit some answers: their values are NaN."""
    counts: dict[str, int]
    """`WITHOUT_VALUE` → how many answers; an answer is in one of them at most, but for `other_outputs`."""


WITHOUT_VALUE = {
    "failed": "failed",
    "broken_form": "had an answer of another form than was asked for, or than the baseline ever gives, "
    "and count as failed",
    "unknown_form": "were answered before the baseline had shown what an answer to such a request looks like",
    "other_form": "had an answer of a form that is not measured",
    "without_output": "had an answer without the measured output, which was asked for",
    "nan": "had NaN, or a score outside of 0 and 1, in its answer",
    "other_outputs": "asked for other outputs than a guardrail measures and do not enter it",
}
"""Why a guardrail has no value of an answer: word → what is said of the requests."""


class Measurer:
    """Measures the answers of one version, whatever outputs their clients asked for.

    Args:
      live: the policy's live section.
      forms: what both versions' answers are held to, in common; None = its own.
      candidate: whose answers they are.
    """

    def __init__(self, live: Live, forms: Forms | None = None, *, candidate: bool = False) -> None:
        self._live = live
        self._layouts = Layouts()
        self._forms = Forms() if forms is None else forms
        self._candidate = candidate

    def measure(self, answered: Sequence[Answered]) -> Measured:
        """Values of each answer.

        Args:
          answered: n of them.
        """
        rails = self._live.guardrails
        answers = self._layouts.sort(answered)
        fits = self._forms.fit(answered, answers, candidate=self._candidate)
        broken, unknown = fits == Fit.BROKEN, fits == Fit.UNKNOWN
        came: Bools = answers.layout >= NO_LAYOUT
        found = {g.name: _without_outputs(g, came & ~broken, answered) for g in rails}
        left_out = other_outputs(self._live, [a.request for a in answered])
        without, no_one = np.zeros((2, len(answered)), np.bool_)
        unfit: dict[str, str] = {}
        for decoded in answers.decoded.values():
            at = decoded.at
            observed = observations(decoded, answered)
            pair = paired(observed, observed, decoded.rows)
            silent = {name: asked[at] for name, asked in left_out.items()}
            for rail in rails:
                try:
                    values = _of_outputs(rail, self._live, pair, silent)
                except HarnessError as problem:
                    # Not what the policy's decision reads: nothing can be measured, which is no pass.
                    wanted = enters(left_out, rail.name, at) & (fits[at] == Fit.FITS)
                    without[at[wanted]] = True
                    if wanted.any():
                        unfit[rail.name] = problem.what
                    continue
                if values is not None:
                    found[rail.name][at] = values
        for rail in rails:
            found[rail.name][left_out.get(rail.name, no_one)] = np.nan
            _leave_unmeasured(rail, found[rail.name], broken, unknown)
        losses = {g.name for g in rails if g.metric is LiveMetric.LOSS}
        return Measured(
            values={name: column for name, column in found.items() if name not in losses},
            answers={name: column for name, column in found.items() if name in losses},
            left_out=left_out,
            unfit=tuple(unfit.items()),
            counts=self._counts(answers.layout, fits, found, left_out, without),
        )

    def _counts(
        self, layout: Ints, fits: NDArray[np.int8], found: dict[str, Floats],
        left_out: dict[str, Bools], without: Bools,
    ) -> dict[str, int]:  # fmt: skip
        n = len(layout)
        came, fit = layout >= NO_LAYOUT, fits == Fit.FITS
        ok, other = came & fit, (layout == NO_LAYOUT) & fit
        nan = np.zeros(n, np.bool_)
        for rail in self._live.guardrails:
            if rail.metric is LiveMetric.NAN:
                nan |= found[rail.name] > 0.0
            if rail.metric is not LiveMetric.GIVEN:
                silent = left_out.get(rail.name, np.zeros(n, np.bool_))
                nan |= np.isnan(found[rail.name]) & ~silent
        others = np.any(list(left_out.values()), axis=0) if left_out else np.zeros(n, np.bool_)
        by_reason = {
            "failed": ~came,
            "broken_form": came & (fits == Fit.BROKEN),
            "unknown_form": came & (fits == Fit.UNKNOWN),
            "other_form": other,
            "without_output": ok & ~other & without,
            "nan": ok & ~other & ~without & nan,
            "other_outputs": others,
        }
        return {reason: int(np.count_nonzero(at)) for reason, at in by_reason.items()}


def other_outputs(live: Live, requests: Sequence[bytes]) -> dict[str, Bools]:
    """Requests that name the outputs they want, and not the one that a guardrail reads.

    What a client asks for is known before a version is chosen, so to leave these out favours neither;
    to take them for failures would count against the version that did what it was asked.

    Args:
      live: the policy's live section.
      requests: serialized, n of them.

    Returns:
      Guardrail → which of them, shape (n,); only guardrails of which there are any.
    """
    read = {g.name: _output_read(g, live.decision) for g in live.guardrails}
    if not any(read.values()):
        return {}
    asked = [outputs_asked(request) for request in requests]
    found: dict[str, Bools] = {}
    for name, output in read.items():
        at = np.array([bool(names) and output not in names for names in asked], np.bool_)
        if output and at.any():
            found[name] = at
    return found


def _output_read(rail: LiveGuardrail, rule: DecisionRule | None) -> str:
    """The output that a guardrail's values come from; "" = none in particular."""
    if rule is None or rail.kind is LiveKind.ERRORS:
        return ""
    match rail.metric:
        case LiveMetric.RATE | LiveMetric.FLIP:
            return rule.output
        case LiveMetric.LOSS if rail.loss is Loss.ZERO_ONE:
            return rule.output
        case LiveMetric.LOSS | LiveMetric.SCORE:
            return rule.score or rule.output
        case _:
            return ""


def enters(left_out: dict[str, Bools], name: str, at: Ints) -> Bools:
    """Which of some answers are not left out of a guardrail."""
    silent = left_out.get(name)
    return np.ones(len(at), np.bool_) if silent is None else ~silent[at]


def observations(decoded: Decoded, answered: Sequence[Answered]) -> Observations:
    """Good answers of one layout as one version's observations.

    Args:
      decoded: k of the answers.
      answered: all of them.
    """
    latency = np.array([answered[i].latency_s for i in decoded.at.tolist()], np.float64)
    return Observations(
        outcome=np.full(len(decoded.at), Outcome.OK, np.int8),
        outputs=dict(decoded.tensors),
        features={},
        trace_outputs={},
        latency_s=latency,
    )


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


def _leave_unmeasured(rail: LiveGuardrail, values: Floats, broken: Bools, unknown: Bools) -> None:
    """Takes values back that say nothing of what a client got, in place."""
    if rail.kind is LiveKind.ERRORS:
        return
    if rail.metric is not LiveMetric.FAILURE:
        values[broken] = np.nan
    values[unknown] = np.nan


def _of_outputs(
    rail: LiveGuardrail, live: Live, pair: PairBatch, left_out: dict[str, Bools]
) -> Floats | None:
    """One guardrail's values of good answers, shape (n,); None where it needs no output."""
    if rail.kind is LiveKind.ERRORS:
        return None
    if rail.metric is LiveMetric.NAN:
        return unusable(live, pair, left_out)[1]
    if rail.metric not in READING:
        return None
    rows = read_rows(rail, _needed(live.decision), pair)
    return None if rows is None else request_means(pair, rows.candidate)


def latency_values(rail: LiveGuardrail, seconds: Floats) -> Floats:
    """1 where it took longer than the policy says, or seconds up to the range's end; NaN = failed."""
    if rail.slower_than_s is None:
        return np.clip(seconds, *rail.bounds)
    slower = (seconds > rail.slower_than_s).astype(np.float64)
    return np.where(np.isnan(seconds), np.nan, slower)


def of_silence(live: Live) -> dict[str, float]:
    """What is known of a split request that had no answer within the patience; NaN elsewhere.

    It has failed, and took longer than the patience: a latency is known where no longer one has
    another value.

    Args:
      live: the policy's live section.

    Returns:
      Guardrail → value, where there is one.
    """
    found = {}
    for rail in live.guardrails:
        if rail.kind is LiveKind.ERRORS or (
            rail.kind is LiveKind.SHIFT and rail.metric is LiveMetric.FAILURE
        ):
            found[rail.name] = 1.0
        elif rail.metric is LiveMetric.LATENCY:
            longer = np.array([np.nextafter(live.patience_s, np.inf), np.inf])
            least, most = latency_values(rail, longer).tolist()
            if least == most:
                found[rail.name] = least
    return found


def _needed(rule: DecisionRule | None) -> DecisionRule:
    if rule is None:
        raise GateError("live", "the policy was read without its decision", "Report this.")
    return rule

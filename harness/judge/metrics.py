"""One number per request and guardrail, within mathematical bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from harness.core.errors import GateError, PolicyError, TrafficError
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.policies import (
    DecisionRule,
    Guardrail,
    Loss,
    Metric,
    Scope,
)
from harness.core.tensors import Bools, Floats, rows_with_nan
from harness.judge.answers import RowPair, decisions, positives, scores
from harness.judge.excess import excess_flips


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """One guardrail's observations of n requests."""

    x: Floats
    """Shape (n,), within `bounds`; NaN = this request does not enter, unless it failed."""
    failed: Bools
    """Shape (n,): enters as the bound that speaks against whatever is to be proven."""
    score: Floats | None = None
    """The baseline's score of each request, shape (n,), for a test in bins of it; None otherwise."""
    left_out: tuple[tuple[str, int], ...] = ()
    """(reason, requests) that do not enter: no_label, both_failed, baseline_failed, not_run, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """How each request ended, shape (n,) each; at most one is true."""

    both: Bools
    """Both answered, with at least one row."""
    candidate_failed: Bools
    """The baseline answered."""
    baseline_failed: Bools
    """The candidate answered."""
    both_failed: Bools
    not_run: Bools
    no_rows: Bools
    every: bool = False
    """Both answered every request, each with at least one row."""


def bounds(guardrail: Guardrail) -> tuple[float, float]:
    """(lo, hi) of a guardrail's observations: mathematical, or a declared range that clips."""
    return guardrail.bounds()


def observe(
    guardrail: Guardrail,
    pair: PairBatch,
    decision: DecisionRule | None,
    labels: Floats | None,
    output_mismatch: Bools | None,
    feature_mismatch: Bools | None,
    *,
    again: PairBatch | None = None,
    sides: Sides | None = None,
) -> Values:
    """Measures one guardrail on a batch.

    A request that carries k rows is one unit: its value is the mean over its rows. Where the
    candidate fails and the baseline answers, or a value is NaN or outside its range, the request
    failed. Where both fail it does not enter. Where only the baseline fails it does not enter
    either, except for failure (−1): there is nothing to compare with. Parity is not known, and failed,
    where production may serve answers that nobody could compare: the baseline's has no row for each row,
    or both versions fail and not both runtimes refuse.

    Args:
      guardrail: what to measure.
      pair: n requests through both versions.
      decision: needed by decision, score and loss metrics.
      labels: y per request, shape (n,), NaN = none that counts; None = no labels at all.
      output_mismatch: outputs differ beyond the floor, shape (n,); None = not compared.
      feature_mismatch: the same for features.
      again: the same requests through both versions a second time, for excess flips; None = they
        were not repeated, and nothing is measured.
      sides: what `sides_of` says of this pair, where several guardrails are measured; None = found here.

    Returns:
      Values for the n requests.

    Raises:
      PolicyError: the decision rule does not fit the model's outputs.
      TrafficError: a label that the loss cannot take.
      GateError: arrays of another length.
    """
    sides = sides_of(pair) if sides is None else sides
    _same_batch(pair, labels, output_mismatch, feature_mismatch)
    match guardrail.metric:
        case Metric.FAILURE:
            return _failure(sides, pair)
        case Metric.PARITY_MISMATCH:
            features = guardrail.scope is Scope.FEATURES
            return _parity(sides, pair, feature_mismatch if features else output_mismatch)
        case Metric.NAN_RATE:
            return _entered(sides, request_means(pair, _nan_difference(pair)))
        case Metric.LOSS_DIFFERENCE:
            return _loss(guardrail, pair, _needed(decision, guardrail), labels, sides)
        case Metric.CALIBRATION_SHIFT:
            return _calibration(pair, _needed(decision, guardrail), labels, sides)
        case _:
            return _unlabelled(guardrail, pair, decision, again, sides)


def _unlabelled(
    guardrail: Guardrail,
    pair: PairBatch,
    decision: DecisionRule | None,
    again: PairBatch | None,
    sides: Sides,
) -> Values:
    """What needs only answers."""
    if guardrail.metric is Metric.EXCESS_FLIP:
        return _excess(pair, again, _needed(decision, guardrail), sides)
    if guardrail.metric not in _ROW_VALUES:
        raise GateError(
            "judge",
            f"guardrail '{guardrail.name}' ({guardrail.metric.value}) is not made from a pair of "
            "answers",
            "Report this: a gate's policy refuses a table's guardrails, and latency is measured "
            "beside the replay.",
        )
    rows = _ROW_VALUES[guardrail.metric](pair, _needed(decision, guardrail))
    return _entered(sides, request_means(pair, rows))


def _same_batch(pair: PairBatch, *columns: Floats | Bools | None) -> None:
    for given in columns:
        if given is not None and len(given) != len(pair):
            what = f"{len(given)} labels or mismatches for {len(pair)} requests"
            raise GateError("judge", what, "Report this: they must belong to the same batch.")


def sides_of(pair: PairBatch) -> Sides:
    """How each request of a pair ended."""
    base, cand = pair.baseline.outcome, pair.candidate.outcome
    if not (base.any() or cand.any()) and (pair.requests.rows > 0).all():
        nobody = np.zeros(len(pair), np.bool_)
        return Sides(
            both=~nobody, candidate_failed=nobody, baseline_failed=nobody, both_failed=nobody,
            not_run=nobody, no_rows=nobody, every=True,
        )  # fmt: skip
    not_run = (base == Outcome.NOT_RUN) | (cand == Outcome.NOT_RUN)
    no_rows = ~not_run & (pair.requests.rows == 0)
    base_ok, cand_ok = base == Outcome.OK, cand == Outcome.OK
    ran = ~not_run
    return Sides(
        both=base_ok & cand_ok & ~no_rows,
        candidate_failed=ran & base_ok & ~cand_ok,
        baseline_failed=ran & ~base_ok & cand_ok,
        both_failed=ran & ~base_ok & ~cand_ok,
        not_run=not_run,
        no_rows=no_rows & base_ok & cand_ok,
    )


def _needed(decision: DecisionRule | None, guardrail: Guardrail) -> DecisionRule:
    if decision is None:
        raise PolicyError(
            "decision",
            f"guardrail '{guardrail.name}' ({guardrail.metric.value}) needs one",
            "Add `decision: {output: …, rule: …}` to the policy.",
        )
    return decision


def _failure(sides: Sides, pair: PairBatch) -> Values:
    """The candidate's failures less the baseline's; no answer where production serves an odd one is the worst."""
    x = sides.candidate_failed.astype(np.float64) - sides.baseline_failed
    silent = _odd(pair) & np.isin(pair.candidate.outcome, _SILENT)
    return Values(
        x=np.where(sides.not_run | silent, np.nan, x),
        failed=silent,
        left_out=_counts(not_run=sides.not_run),
    )


_SILENT = (Outcome.ERROR, Outcome.CRASH, Outcome.TIMEOUT)


def _odd(pair: PairBatch) -> Bools:
    """Requests that the baseline answers with what cannot be compared, shape (n,)."""
    return np.asarray(pair.baseline.outcome == Outcome.INVALID)


def _parity(sides: Sides, pair: PairBatch, mismatch: Bools | None) -> Values:
    if mismatch is None:
        nothing = np.full(len(sides.both), np.nan)
        return _entered(sides, nothing, not_measured=sides.both | sides.baseline_failed)
    unknown = (sides.both_failed & ~pair.both_refused()) | (sides.baseline_failed & _odd(pair))
    x = np.where(sides.both, mismatch.astype(np.float64), np.nan)
    return _entered(sides, x, unknown=unknown)


def _loss(
    guardrail: Guardrail,
    pair: PairBatch,
    decision: DecisionRule,
    labels: Floats | None,
    sides: Sides,
) -> Values:
    n = len(pair)
    y = np.full(n, np.nan) if labels is None else labels
    odd = ~np.isnan(y) & (y != 0.0) & (y != 1.0)
    if guardrail.loss is not Loss.ZERO_ONE and odd.any():
        raise TrafficError(
            f"guardrail {guardrail.name}, labels",
            f"label {y[odd][0]:g} is neither 0 nor 1",
            "Import 0/1 labels, or use `loss: zero_one`.",
        )
    rows = _loss_rows(guardrail, pair, decision, np.repeat(y, pair.requests.rows))
    values = request_means(pair, rows)
    return _entered(sides, values, no_label=np.isnan(y))


def _loss_rows(guardrail: Guardrail, pair: PairBatch, decision: DecisionRule, y: Floats) -> Floats:
    """Candidate's loss minus baseline's per row, shape (R,)."""
    if guardrail.loss is Loss.ZERO_ONE:
        taken = decisions(pair, decision)
        return _different(taken.candidate, y) - _different(taken.baseline, y)
    score = scores(pair, decision)
    if guardrail.loss is Loss.ABSOLUTE:
        return np.abs(score.candidate - y) - np.abs(score.baseline - y)
    return np.square(score.candidate - y) - np.square(score.baseline - y)


def _calibration(
    pair: PairBatch, decision: DecisionRule, labels: Floats | None, sides: Sides
) -> Values:
    """The outcome minus the candidate's score, with the baseline's score to sort it by.

    A label that is neither 0 nor 1 has no calibration and does not enter.
    """
    y = np.full(len(pair), np.nan) if labels is None else labels
    odd: Bools = ~np.isnan(y) & (y != 0.0) & (y != 1.0)
    score = scores(pair, decision)
    residual = np.repeat(y, pair.requests.rows) - score.candidate
    values = _entered(sides, request_means(pair, residual), no_label=np.isnan(y) | odd)
    counts = dict(values.left_out)
    n_odd = int(np.count_nonzero(odd & ~sides.not_run))
    if n_odd:
        counts["no_label"] -= n_odd
        counts["label_of_no_two"] = n_odd
    return Values(
        x=values.x,
        failed=values.failed,
        score=request_means(pair, score.baseline),
        left_out=tuple((reason, n) for reason, n in counts.items() if n),
    )


def _excess(
    pair: PairBatch, again: PairBatch | None, decision: DecisionRule, sides: Sides
) -> Values:
    """Flips between the versions, less half of each version's flips from itself."""
    if again is None:
        nothing = np.full(len(pair), np.nan)
        return _entered(sides, nothing, not_measured=sides.both | sides.baseline_failed)
    ours = replace(pair, candidate=again.baseline)
    theirs = replace(pair, baseline=pair.candidate, candidate=again.candidate)
    parts = [request_means(p, _flips(p, decision)) for p in (pair, ours, theirs)]
    repeated = (ours.candidate.outcome == Outcome.OK) & (theirs.candidate.outcome == Outcome.OK)
    # A version that answers once and fails once has failed: its answers cannot be told apart.
    x = np.where(repeated, excess_flips(*parts), np.nan)
    return _entered(sides, x)


def _flips(pair: PairBatch, decision: DecisionRule) -> Floats:
    taken = decisions(pair, decision)
    return _different(taken.candidate, taken.baseline)


def _rate(pair: PairBatch, decision: DecisionRule) -> Floats:
    return _difference(positives(pair, decision))


def _score(pair: PairBatch, decision: DecisionRule) -> Floats:
    return _difference(scores(pair, decision))


_ROW_VALUES: dict[Metric, Callable[[PairBatch, DecisionRule], Floats]] = {
    Metric.DECISION_FLIP: _flips,
    Metric.DECISION_RATE_SHIFT: _rate,
    Metric.SCORE_SHIFT: _score,
}


def _difference(rows: RowPair) -> Floats:
    return rows.candidate - rows.baseline


def _different(left: Floats, right: Floats) -> Floats:
    """1[left ≠ right], NaN where either is."""
    unknown = np.isnan(left) | np.isnan(right)
    return np.where(unknown, np.nan, (left != right).astype(np.float64))


def _nan_difference(pair: PairBatch) -> Floats:
    """1[any output value of the row is NaN], candidate's minus baseline's, shape (R,)."""
    return nan_rows(pair.candidate, pair) - nan_rows(pair.baseline, pair)


def nan_rows(observed: Observations, pair: PairBatch) -> Floats:
    """1 where any output value of a row is NaN, else 0, shape (R,)."""
    found = np.zeros(int(pair.requests.rows.sum()), np.bool_)
    for values in observed.outputs.values():
        if values.dtype.kind == "f":
            found |= rows_with_nan(values)
    return found.astype(np.float64)


def request_means(pair: PairBatch, rows: Floats) -> Floats:
    """Mean over each request's rows, shape (n,); NaN without rows."""
    k = pair.requests.rows
    if len(rows) == len(k) and pair.requests.single:
        return rows
    sums = np.bincount(pair.row_owner(), rows, len(k))
    return np.where(k > 0, sums / np.maximum(k, 1), np.nan)


def _entered(
    sides: Sides,
    x: Floats,
    *,
    no_label: Bools | None = None,
    not_measured: Bools | None = None,
    unknown: Bools | None = None,
) -> Values:
    """Applies who enters, who failed and who is left out; what is unknown has failed."""
    if sides.every and no_label is None and not_measured is None:
        return Values(x=x, failed=np.isnan(x))
    nobody = np.zeros(len(x), np.bool_)
    out = nobody if no_label is None else no_label
    blind = nobody if not_measured is None else not_measured
    unseen = nobody if unknown is None else unknown
    enters = sides.both & ~out & ~blind
    failed = (sides.candidate_failed & ~out) | (enters & np.isnan(x)) | unseen
    return Values(
        x=np.where(enters, x, np.nan),
        failed=failed,
        left_out=_counts(
            no_label=out & ~sides.not_run,
            both_failed=sides.both_failed & ~out & ~unseen,
            baseline_failed=sides.baseline_failed & ~out & ~blind & ~unseen,
            not_run=sides.not_run,
            no_rows=sides.no_rows & ~out,
            not_measured=blind,
        ),
    )


def _counts(**reasons: Bools) -> tuple[tuple[str, int], ...]:
    counted = ((reason, int(np.count_nonzero(mask))) for reason, mask in reasons.items())
    return tuple((reason, n) for reason, n in counted if n)

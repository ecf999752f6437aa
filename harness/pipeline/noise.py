"""How far the baseline differs from itself in the units that the guardrails are judged in.

A margin bounds a mean, so a guardrail's noise is the mean |value| that its own metric gives to the
baseline against itself: score differences of the score output for score and loss guardrails, changed
decisions for those about decisions. The largest difference over all outputs was left: one changed
0/1 label is a difference of 1, which no margin of a score survives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harness.core.observations import Outcome, PairBatch
from harness.core.policies import DecisionRule, Guardrail, Loss, Metric, Policy, Rule, Scope
from harness.core.tensors import Array, Bools
from harness.diff.feature_match import match_features
from harness.diff.floor import ColumnFloor, Floor
from harness.judge.answers import read_by, without_column
from harness.judge.metrics import observe
from harness.pipeline.evidence import Terms, expected_changes

_DECISIONS = (Metric.DECISION_FLIP, Metric.DECISION_RATE_SHIFT)


@dataclass(slots=True)
class _Sum:
    """One guardrail's running mean."""

    total: float = 0.0
    count: int = 0


class NoiseLevels:
    """Collects the guardrails' noise from A/A pairs, batch by batch.

    Args:
      policy: its guardrails about scores, losses and decisions are measured; None = nothing is.
    """

    def __init__(self, policy: Policy | None) -> None:
        self._rule = policy.decision if policy else None
        guardrails = policy.guardrails if policy else ()
        measured = ((g.name, _measured(g, self._rule)) for g in guardrails)
        self._measured = {name: found for name, found in measured if found is not None}
        self._sums = {name: _Sum() for name in self._measured}

    def update(self, pair: PairBatch, *, whole: bool = True) -> None:
        """Adds A/A pairs: `candidate` holds the baseline's second leg.

        Args:
          pair: requests, whose answers have one shape.
          whole: of a batch, so that a rule that does not fit the answers is a mistake in it.

        Raises:
          PolicyError: it does not, whatever reads it: before the replay.
        """
        if self._rule is not None and not whole:
            pair = without_column(pair, self._rule)
        if self._rule is not None and pair.both_answered().any():
            read_by(self._rule, pair)
        for name, guardrail in self._measured.items():
            values = observe(guardrail, pair, self._rule, None, None, None)
            # An answer on one side only is as different as answers can be; one that no value can be
            # made of, and that comes again, is no noise.
            unlike = values.failed & ~self._same(pair)
            size = np.where(values.failed, unlike.astype(np.float64), np.abs(values.x))
            entered = ~np.isnan(size)
            self._sums[name].total += float(size[entered].sum())
            self._sums[name].count += int(entered.sum())

    def _same(self, pair: PairBatch) -> Bools:
        """Requests answered twice with the same numbers, NaN for NaN, shape (n,)."""
        both = (pair.baseline.outcome == Outcome.OK) & (pair.candidate.outcome == Outcome.OK)
        same: Bools = np.asarray(both, np.bool_)
        rule = self._rule
        owner = pair.row_owner()
        for name in {rule.output, rule.score or rule.output} if rule else set():
            first, second = pair.baseline.outputs.get(name), pair.candidate.outputs.get(name)
            if first is None or second is None or not len(first) == len(second) == len(owner):
                return np.zeros(len(pair), np.bool_)
            same &= np.bincount(owner, ~_equal_rows(first, second), len(pair)) == 0
        return same

    def finish(self) -> tuple[tuple[str, float], ...]:
        """(guardrail, mean |value|) so far."""
        return tuple((name, s.total / max(s.count, 1)) for name, s in self._sums.items())


def _equal_rows(first: Array, second: Array) -> Bools:
    """Rows with the same values, NaN equal to NaN; of two tensors with as many rows."""
    if first.shape != second.shape:
        return np.zeros(len(first), np.bool_)
    both_nan = np.isnan(first) & np.isnan(second) if first.dtype.kind == "f" else False
    same = (first == second) | both_nan
    return np.asarray(same.all(axis=tuple(range(1, first.ndim))), np.bool_)


def _measured(guardrail: Guardrail, rule: DecisionRule | None) -> Guardrail | None:
    """What measures a guardrail's noise; a loss, without labels, by what it is made of."""
    if rule is None:
        return None
    if guardrail.metric in _DECISIONS:
        return guardrail
    if guardrail.metric is Metric.LOSS_DIFFERENCE and guardrail.loss is Loss.ZERO_ONE:
        return replace(guardrail, metric=Metric.DECISION_FLIP)
    scored = rule.score is not None or rule.rule is not Rule.NONE
    if guardrail.metric in {Metric.SCORE_SHIFT, Metric.LOSS_DIFFERENCE} and scored:
        return replace(guardrail, metric=Metric.SCORE_SHIFT)
    return None


def floor_above_margin(terms: Terms) -> tuple[str, ...]:
    """Gating guardrails that the baseline's difference from itself leaves without a meaning.

    Its level lies above the margin: the share of requests that differ for parity, the mean change of
    scores or decisions for the others. Or, for parity, it widens the tolerance of a compared column
    until no difference would show.
    """
    return tuple(
        g.name
        for g in terms.policy.guardrails
        if g.gating and (_noise(g, terms.floor) > g.margin or _hides(g, terms))
    )


def answers_vary(guardrail: Guardrail, floor: Floor) -> bool:
    """Whether what a guardrail reads came out otherwise when the baseline ran a second time.

    By more than rounding, or so that a decision changed. Reading every request of a window then does
    not settle what the window's mean is: the next run would give another one.
    """
    columns = floor.features if guardrail.scope is Scope.FEATURES else floor.outputs
    decides = guardrail.metric in _DECISIONS and floor.level(guardrail.name) > 0.0
    return decides or any(column.nondeterministic for column in columns)


def _noise(guardrail: Guardrail, floor: Floor) -> float:
    """What a guardrail would measure between two runs of the baseline."""
    if guardrail.scope is None:
        return floor.level(guardrail.name)
    of_outputs = guardrail.scope is Scope.OUTPUTS
    return floor.output_mismatch_share if of_outputs else floor.feature_mismatch_share


def _hides(guardrail: Guardrail, terms: Terms) -> bool:
    """Whether a column that counts for parity has a tolerance that hides differences."""
    if guardrail.scope is None:
        return False
    # What a random operator is before is not compared at all: it is missing, not hidden.
    expected = {*expected_changes(terms.policy, guardrail.scope), *dict(terms.floor.random)}
    return any(
        column.unprovable and expected.isdisjoint({column.tensor, column.name})
        for column in _compared(guardrail.scope, terms)
    )


def _compared(scope: Scope, terms: Terms) -> list[ColumnFloor]:
    """The floors of the columns that a scope's parity is about."""
    if scope is Scope.OUTPUTS:
        columns, pairs = terms.floor.outputs, terms.match.outputs
    else:
        columns = terms.floor.features
        pairs = match_features(*terms.graphs, terms.policy.mapping).raw
    names = {ours for ours, _ in pairs}
    return [column for column in columns if column.tensor in names]

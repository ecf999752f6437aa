"""A table of two arms: each row is the outcome of the version that answered, and the split is known.

Nothing pairs the arms but the coin that sent a request to one of them, so the test is the live one:
overlap-weighted differences, which stay valid while the split changes, behind a check that units
fell to the arms as declared (judge.live).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.core.errors import PolicyError, TrafficError
from harness.core.live import LiveGuardrail, LiveKind
from harness.core.policies import Direction, Policy
from harness.core.tensors import Bools, Floats
from harness.core.verdicts import Decision, DecisionRecord, Evidence
from harness.decide.crossed import judged_as
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import LiveAnswer, LiveBatch, LivePlan
from harness.judge.metrics import Values
from harness.judge.overlap import MAX_STEPS
from harness.judge.planned_bets import set_aside
from harness.judge.tables import ColumnValues, looks
from harness.judge.units import unit_arms, unit_means
from harness.pipeline.observed import ObservedTable
from harness.pipeline.table_units import columns_seen, units_of

ARM, PROPENSITY = "arm", "propensity"
COLUMNS = (ARM, PROPENSITY)
"""What a table of two arms carries besides its outcomes."""

_ARMS = ("baseline", "candidate")
_SECOND_NS = 1_000_000_000
_HALF_A_SECOND = 0.5
_REASONS = {"undecided": "not_enough_evidence"}
_EXPLANATIONS = {
    "sample_ratio_mismatch": "Units do not fall to the arms as the column `propensity` says, so the arms "
    "cannot be compared: look for lost or doubled rows, and for a split that was not as declared.",
    "guardrail_failed": "The candidate's arm is proven worse than the policy tolerates.",
    "undecided": "Neither harm nor its absence is proven.",
}
"""A table has no traffic that could be returned to the baseline."""
_NEXT = {
    Decision.PROMOTE: "Move the alias to the candidate.",
    Decision.ROLLBACK: "The baseline stays.",
    Decision.HOLD: "Collect more units, or reconsider the margin.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmsVerdict:
    """What a table of two arms proves."""

    record: DecisionRecord
    evidence: tuple[Evidence, ...]
    n: int
    """Units, or rows without a unit."""
    fixed_sample: tuple[dict[str, Any], ...]
    """Arms' sizes and sums of 0/1 outcomes, for an interval of one planned look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Units:
    """One entry a unit, in order of first row."""

    candidate: Bools
    propensity: Floats
    values: dict[str, Floats]
    n_ignored: int
    """Rows that came after their unit had changed arms."""


def judge_arms(
    policy: Policy, observed: ObservedTable, seen: Mapping[str, ColumnValues]
) -> ArmsVerdict:
    """Judges outcomes of two arms, a unit entering once with the arm and split of its first row.

    Args:
      policy: with unpaired guardrails: margins are differences of means, candidate − baseline.
      observed: a table with the columns `arm` (baseline or candidate) and `propensity`, the
        probability of the candidate's arm that was in force.
      seen: guardrail name → its outcomes.

    Raises:
      TrafficError: a row without an arm or a propensity in [0, 1].
    """
    units = _units(policy, observed, seen)
    n = len(units.candidate)
    n0 = min(policy.windows.planning, n)
    judge = LiveJudge(_plan(policy, {name: x[:n0] for name, x in units.values.items()}))
    cut = [(n0 + a, n0 + b) for a, b in looks(n - n0)]
    for number, (start, stop) in enumerate(cut):
        at = slice(start, stop)
        requests = Requests(
            ts_ns=np.arange(start, stop, dtype=np.int64) * _SECOND_NS,
            unit=np.array([f"u{i}" for i in range(start, stop)], dtype=object),
            candidate=units.candidate[at],
            propensity=units.propensity[at],
            values={name: x[at] for name, x in units.values.items()},
        )
        judge.update(LiveBatch(number=number, until_ns=stop * _SECOND_NS, requests=requests))
    rows = tuple(_of_the_table(policy, row) for row in judge.evidence())
    return ArmsVerdict(
        record=_record(policy, judge.answer(), rows, units, n0),
        evidence=rows,
        n=n,
        fixed_sample=tuple(_counts(units)),
    )


def _plan(policy: Policy, earlier: Mapping[str, Floats]) -> LivePlan:
    """The tests; units that are not tested say how outcomes spread."""
    return LivePlan(
        guardrails=tuple(
            LiveGuardrail(
                name=g.name,
                kind=LiveKind.SHIFT,
                margin=g.margin,
                bounds=g.bounds(),
                direction=g.direction,
                gating=g.gating,
                gap=None if g.effect is None else g.margin - _towards(g.direction, g.effect),
                second_moment=_variance(earlier[g.name]),
            )
            for g in policy.guardrails
        ),
        # Rows stand a second apart, so each closes at the look it came with.
        maturity_s=_HALF_A_SECOND,
        alpha_promote=policy.alpha_promote,
        alpha_rollback=policy.alpha_rollback,
    )


def _variance(outcomes: Floats) -> float | None:
    """Of outcomes that are not tested; None where they say nothing."""
    known = outcomes[~np.isnan(outcomes)]
    return (float(known.var()) or None) if len(known) else None


def _towards(direction: Direction, effect: float) -> float:
    match direction:
        case Direction.INCREASE:
            return effect
        case Direction.DECREASE:
            return -effect
        case Direction.BOTH:
            return abs(effect)


def arms_at_hand(policy: Policy, observed: ObservedTable) -> tuple[dict[str, Floats], Floats]:
    """(guardrail → outcome of each unit, the split in force at each) of a table of two arms.

    Raises:
      TrafficError: as in `judge_arms`.
    """
    units = _units(policy, observed, columns_seen(policy, observed))
    return units.values, units.propensity


def _units(policy: Policy, observed: ObservedTable, seen: Mapping[str, ColumnValues]) -> _Units:
    words = observed.words(ARM)
    odd = np.flatnonzero((words != _ARMS[0]) & (words != _ARMS[1]))
    if len(odd):
        raise TrafficError(
            f"{observed.name}, row {odd[0]}",
            f"arm '{words[odd[0]]}' is neither baseline nor candidate",
            "Write which version answered.",
        )
    candidate: Bools = np.asarray(words == _ARMS[1], np.bool_)
    propensity = observed.numbers(PROPENSITY)
    odd = np.flatnonzero(~((propensity >= 0.0) & (propensity <= 1.0)))
    if len(odd):
        raise TrafficError(
            f"{observed.name}, row {odd[0]}",
            f"propensity {propensity[odd[0]]:g} is no probability",
            "Write the candidate's share that was in force.",
        )
    odd = np.flatnonzero(np.where(candidate, propensity, 1.0 - propensity) <= 0.0)
    if len(odd):
        raise TrafficError(
            f"{observed.name}, row {odd[0]}",
            f"it is in the {words[odd[0]]}'s arm, and its propensity {propensity[odd[0]]:g} says that none could be",
            "Write the candidate's share that was in force.",
        )
    steps = len(np.unique(propensity))
    if steps > MAX_STEPS:
        raise TrafficError(
            f"{observed.name}, column '{PROPENSITY}'",
            f"holds {steps:,} different values; a split is compared within at most {MAX_STEPS} steps",
            "Write the share that was in force at each step of the ramp, not a chance of each row's own.",
        )
    values = {name: column.values for name, column in seen.items()}
    ignored = 0
    if policy.unit:
        units = units_of(policy.unit, observed)
        arms = unit_arms(candidate, propensity, units)
        # Rows after a change of arms are no part of the unit: neither values nor failures.
        ignored = int(np.count_nonzero(~arms.counts))
        values = {
            name: unit_means(
                Values(x=np.where(arms.counts, v.x, np.nan), failed=v.failed & arms.counts), units
            )
            for name, v in values.items()
        }
        candidate, propensity = arms.candidate, arms.propensity
    return _Units(
        candidate=candidate,
        propensity=propensity,
        values={name: v.x for name, v in values.items()},
        n_ignored=ignored,
    )


def _record(
    policy: Policy, answer: LiveAnswer, rows: tuple[Evidence, ...], units: _Units, n0: int
) -> DecisionRecord:
    decision, reason = answer.decision, answer.reason
    explanation = _EXPLANATIONS.get(reason, answer.explanation)
    n = answer.n_closed
    if not len(units.candidate):
        decision, reason = Decision.HOLD, "empty_window"
        explanation = "The table holds no rows, and no data is no proof."
    elif decision is Decision.PROMOTE and n < policy.windows.min_requests:
        decision, reason = Decision.HOLD, "too_few_requests"
        explanation = f"{judged_as(policy, n)} {'was' if n == 1 else 'were'} judged; the policy asks for {policy.windows.min_requests:,}."
    elif reason == "undecided" and not np.any((units.propensity > 0) & (units.propensity < 1)):
        explanation = "Every propensity is 0 or 1: no unit could have met the other version."
    gating = [row for row in rows if row.gating]
    weakest = min(gating, key=lambda row: row.e_promote).name if gating else ""
    planned = set_aside(policy.guardrails, f"the first {judged_as(policy, n0)}")
    ignored = f"{units.n_ignored:,} rows of units that had changed arms before"
    return DecisionRecord(
        decision=decision,
        reason=_REASONS.get(reason, reason),
        explanation=explanation,
        binding_guardrail=answer.culprits[0] if answer.culprits else weakest,
        next=_NEXT[decision],
        n_requests=n,
        n_window=len(units.candidate),
        alpha={"promote": policy.alpha_promote, "rollback": policy.alpha_rollback},
        attempt=1,
        not_compared=(
            "where the rows come from: only the table was judged, no model was run",
            "how arms were assigned: the column `propensity` is believed, and checked in total",
            *((planned,) if n0 else ()),
            *((ignored,) if units.n_ignored else ()),
        ),
    )


def _of_the_table(policy: Policy, row: Evidence) -> Evidence:
    subject = f"clipped {row.subject}"
    if policy.unit:
        subject = subject.replace("units like", f"units of {policy.unit} like")
    else:
        subject = subject.replace("units like", "rows like")
    reason = row.reason if policy.unit else row.reason.replace("No unit has", "No row has")
    return replace(row, window="table", subject=subject, reason=reason)


def _counts(units: _Units) -> list[dict[str, Any]]:
    """Per guardrail of zeros and ones: (sum, units) of each arm; nothing where the split changed."""
    if len(np.unique(units.propensity)) != 1:
        return []
    found = []
    for name, x in units.values.items():
        known = ~np.isnan(x)
        if not np.isin(x[known], (0.0, 1.0)).all():
            continue
        arms = [known & units.candidate, known & ~units.candidate]
        found.append(
            {"guardrail": name, "arms": [(int(x[at].sum()), int(at.sum())) for at in arms]}
        )
    return found


def check_arms(policy: Policy, observed: ObservedTable) -> None:
    """Whether policy and table agree on what a row is.

    Raises:
      TrafficError: a table of two arms under a policy for paired rows.
      PolicyError: the other way round.
    """
    found = [column for column in COLUMNS if observed.has(column)]
    if found and not policy.unpaired:
        raise TrafficError(
            f"{observed.name}, column '{found[0]}'",
            "rows of two arms cannot be judged as paired differences",
            "Add `unpaired: true` to the policy, or drop the column if rows are paired.",
        )
    if policy.unpaired and len(found) < len(COLUMNS):
        raise PolicyError(
            "unpaired",
            f"the table lacks {' and '.join(sorted(set(COLUMNS) - set(found)))}",
            "Give each row its `arm` and `propensity`, or leave `unpaired` out.",
        )

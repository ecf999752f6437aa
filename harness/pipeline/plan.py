"""`harness plan`: how many requests a verdict needs, which guardrail binds, which harm can be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import UsageError
from harness.core.places import Place, place_from_text
from harness.core.policies import (
    LATENCY_METRICS,
    Direction,
    Guardrail,
    Metric,
    Policy,
    Weight,
    WindowName,
)
from harness.decide.policy import any_policy_from_yaml
from harness.judge.plan import PlannedTest, WindowCounts, expected_mean, plan_tests
from harness.judge.planned_bets import moments
from harness.judge.planning import POWER, RequestModel, Requirement, require, smallest_harm
from harness.pipeline.at_hand import AtHand, earlier_values, table_at_hand, traffic_at_hand
from harness.pipeline.plan_arms import arms_of_table, plan_arms
from harness.pipeline.plan_notes import ZERO_ONE, notes_of_plan
from harness.pipeline.policy_table import PolicyLike, policy_text

if TYPE_CHECKING:
    from harness.pipeline.observed import TableLike
from harness.pipeline.plan_result import (
    HORIZON,
    LEAST,
    LEGEND,
    PlanResult,
    TestNeeds,
    WindowNeeds,
    write_plan,
)

_SEED = 0
"""A plan of the same policy and traffic says the same."""
_AGAINST_ZERO = (Metric.LATENCY_P99, Metric.RATIO)


def plan(
    policy: PolicyLike,
    traffic: TableLike | Sequence[TableLike] = (),
    *,
    earlier: Path | None = None,
    out: Path | None = None,
) -> PlanResult:
    """Says how many requests a policy's verdict needs.

    Args:
      policy: YAML file, the same content as a mapping, or a Policy; of a gate or of a table.
      traffic: for a gate, traffic folders or one sealed window; for a table's policy, one table, the
        first `windows.planning` rows of which say how the values spread. One need not be in a list.
      earlier: run folder of an earlier comparison, whose values say how they spread.
      out: folder to create for plan.json, plan.txt and plan.svg.

    Raises:
      UsageError: policy, traffic or folder cannot be used.
    """
    asked, where = _read(policy)
    tables = tuple(traffic) if isinstance(traffic, Sequence) and not isinstance(traffic, str) else (traffic,)  # fmt: skip
    if asked.unpaired:
        result = _plan_of_arms(asked, where, tables, out)
        if out is not None:
            write_plan(out, result)
        return result
    for_table = any(g.window is WindowName.TABLE for g in asked.guardrails)
    hand = table_at_hand(asked, tables) if for_table else traffic_at_hand(asked, _paths(tables))
    if earlier is not None and not for_table:
        hand = replace(
            hand,
            planning=earlier_values(earlier, asked),
            basis=f"the spread of values in {earlier.name}",
        )
    tests, needs = _tests(asked, hand)
    windows = _windows(asked, hand, needs)
    binding = max(windows, key=lambda w: w.requests).binding if windows else ""
    result = PlanResult(
        policy=where,
        windows=windows,
        tests=tests,
        requests=sum(w.requests + w.planning for w in windows),
        binding=binding,
        notes=notes_of_plan(asked, hand, tests),
        out=out.resolve() if out is not None else None,
        counted=_counted_as(asked, for_table=for_table),
    )
    if out is not None:
        write_plan(out, result)
    return result


def _read(policy: PolicyLike) -> tuple[Policy, str]:
    if isinstance(policy, Policy):
        return policy, "policy"
    text, where = policy_text(policy)
    return any_policy_from_yaml(text, where), where


def _counted_as(policy: Policy, *, for_table: bool) -> str:
    if policy.unit:
        drawn = policy.weight is Weight.REQUEST
        return f"draws from the units of {policy.unit}" if drawn else f"units of {policy.unit}"
    return "rows" if for_table else "requests"


def _paths(traffic: Sequence[TableLike]) -> tuple[Place, ...]:
    """A gate's traffic lies in folders."""
    for given in traffic:
        if not isinstance(given, str | Path):
            what = f"a {type(given).__name__} is no traffic of a gate"
            raise UsageError("traffic", what, "Give folders, or the path of a sealed window.")
    return tuple(place_from_text(str(given)) for given in traffic)


def _plan_of_arms(
    policy: Policy, where: str, traffic: Sequence[TableLike], out: Path | None
) -> PlanResult:
    """The same answer for rows of two arms."""
    hand = arms_of_table(policy, traffic)
    found = plan_arms(policy, hand, HORIZON, _SEED)
    tests = tuple(
        TestNeeds(
            name=f.guardrail.name,
            window=WindowName.TABLE.value,
            margin=f.guardrail.margin,
            direction=f.guardrail.direction.value,
            gating=f.guardrail.gating,
            mean=f.need.mean,
            declared=f.need.declared,
            basis=f.need.basis,
            share=1.0,
            bound=f.need.bound,
            expected=f.need.expected,
            quantile=f.need.quantile,
            fixed_sample=f.fixed_sample,
            power=None if hand.n is None else float(f.need.power_at(hand.n)),
            harm=None,
            curve=_curve(f.need, 1.0),
        )
        for f in found
    )
    deciding = [f for f in found if f.guardrail.gating]
    binding = max(deciding, key=lambda f: f.need.quantile).guardrail.name
    table = WindowName.TABLE.value
    enough = _sufficient([(f.need, 1.0) for f in deciding])
    together, binding = _with_least(policy, enough, binding, table)
    window = WindowNeeds(
        name=table, requests=together, binding=binding, available=hand.n,
        planning=policy.windows.planning,
    )  # fmt: skip
    counted = _counted_as(policy, for_table=True)
    notes = [
        LEGEND,
        *(f"{test.name}: {test.basis}" for test in tests),
        f"counted are {counted} of both arms together, {hand.propensity:.0%} of them the candidate's",
        "the smallest harm that a table of two arms shows is not computed",
        *((f"at hand: {hand.words}",) if hand.words else ()),
    ]
    return PlanResult(
        policy=where, windows=(window,), tests=tests, requests=together + window.planning,
        binding=binding, notes=tuple(notes), out=out.resolve() if out is not None else None, counted=counted,
    )  # fmt: skip


def _tests(
    policy: Policy, hand: AtHand
) -> tuple[tuple[TestNeeds, ...], list[tuple[PlannedTest, Requirement, float]]]:
    """Needs of each test, and what the totals are made from."""
    # A gate plans its bets only from a planning set; without one they are as the gate will have them.
    first = moments(policy.guardrails, hand.planning) if policy.windows.planning else {}
    planned = plan_tests(policy, hand.counts, first)
    rng = np.random.default_rng(_SEED)
    found: list[TestNeeds] = []
    parts: list[tuple[PlannedTest, Requirement, float]] = []
    for test in planned.tests:
        model = _model(test.guardrail, hand)
        need = require(test, model, policy.alpha_promote, HORIZON, rng)
        window = hand.counts.get(test.guardrail.window.value)
        share = _share(test, window)
        bins = _bins(test.guardrail)
        harm = None
        if window is not None and test.n_available >= bins:
            seen = test.n_available // bins
            part = replace(test, weight=test.weight / bins)
            harm = smallest_harm(part, model, policy.alpha_rollback, seen, rng)
        # Every bin has to be proven, so each counts when the chances of missing one are added up.
        parts += [(test, need, share)] * bins
        found.append(_needs(test, need, share, harm, model, policy, at_hand=window is not None))
    return tuple(found), parts


def _bins(guardrail: Guardrail) -> int:
    """Parts of equal size that a guardrail is tested in."""
    return guardrail.bins if guardrail.metric is Metric.CALIBRATION_SHIFT else 1


def _share(test: PlannedTest, window: WindowCounts | None) -> float:
    """Of a window's requests that one of a guardrail's parts sees, in (0, 1].

    A latency sample is planned in requests of its own: what it holds does not grow with the window.
    """
    if test.guardrail.metric in LATENCY_METRICS:
        return 1.0
    whole = test.n_available / window.n if window and window.n else 1.0
    return whole / _bins(test.guardrail)


def _model(guardrail: Guardrail, hand: AtHand) -> RequestModel:
    """How one request's value is expected to be spread."""
    bounds = guardrail.bounds()
    sample = hand.planning.get(guardrail.name, np.empty(0))
    sample = sample[~np.isnan(sample)]
    if guardrail.effect is not None:
        mean = expected_mean(guardrail, guardrail.effect)
    elif len(sample) and guardrail.metric in _AGAINST_ZERO:
        # No change says nothing about how far below the limit these are today: the sample does.
        mean = float(sample.mean())
    else:
        mean = min(max(0.0, bounds[0]), bounds[1])
    if guardrail.metric is Metric.CALIBRATION_SHIFT and not len(sample):
        basis = "the largest variance of residuals that a calibrated score allows"
        half = RequestModel(
            nodes=np.array([-0.5, 0.5]), p=np.array([0.5, 0.5]), bounds=bounds, basis=basis
        )
        return half.with_mean(mean)
    if len(sample) and bounds != ZERO_ONE:
        return RequestModel.of_sample(sample, bounds, hand.basis).with_mean(mean)
    zero_one = bounds == ZERO_ONE and guardrail.metric is not Metric.COLUMN
    basis = "zeros and ones" if zero_one else "the largest variance that the bounds allow"
    return RequestModel.widest(mean, bounds, basis)


def _needs(
    test: PlannedTest,
    need: Requirement,
    share: float,
    harm: float | None,
    model: RequestModel,
    policy: Policy,
    *,
    at_hand: bool,
) -> TestNeeds:
    return TestNeeds(
        name=test.name,
        window=test.guardrail.window.value,
        margin=test.margin,
        direction=test.guardrail.direction.value,
        gating=test.gating,
        mean=need.mean,
        declared=need.declared,
        basis=need.basis,
        share=share,
        bound=need.bound / share,
        expected=need.expected / share,
        quantile=need.quantile / share,
        fixed_sample=_fixed_sample(test, model, policy.alpha_promote) / share,
        power=_power(test, need) if at_hand else None,
        harm=harm,
        curve=_curve(need, share),
    )


def _curve(need: Requirement, share: float) -> tuple[tuple[float, float], ...]:
    """(requests of the window, probability of being proven) at about 120 looks."""
    stride = max(1, len(need.n) // 120)
    kept = np.unique(np.append(np.arange(0, len(need.n), stride), len(need.n) - 1))
    return tuple((float(need.n[i]) / share, float(need.power[i])) for i in kept)


def _power(test: PlannedTest, need: Requirement) -> float:
    """Probability that every part of a guardrail is proven; at least, where it has several."""
    bins = _bins(test.guardrail)
    one = float(need.power_at(test.n_available // bins))
    return max(0.0, 1.0 - bins * (1.0 - one))


def _fixed_sample(test: PlannedTest, model: RequestModel, alpha: float) -> float:
    """Requests of a one-look z-test, from statsmodels, to check the order of magnitude.

    With `both` each side gets half the missing power, which is what two one-sided tests need at most.
    """
    from statsmodels.stats.power import normal_sample_size_one_tail

    guardrail = test.guardrail
    both = guardrail.direction is Direction.BOTH
    mean = model.mean()
    sign = -1.0 if guardrail.direction is Direction.DECREASE else 1.0
    gap = test.margin - (abs(mean) if both else sign * mean)
    if gap <= 0.0:
        return math.inf
    spread = math.sqrt(max(float(model.p @ np.square(model.nodes - mean)), 0.0))
    # Zeros and ones at the margin have the margin's variance, others are only shifted.
    at_margin = spread
    if guardrail.bounds() == ZERO_ONE:
        at_margin = math.sqrt(test.margin * (1.0 - test.margin))
    power = 0.5 * (1.0 + POWER) if both else POWER
    return float(math.ceil(normal_sample_size_one_tail(gap, power, alpha, at_margin, spread)))


def _windows(
    policy: Policy, hand: AtHand, parts: Sequence[tuple[PlannedTest, Requirement, float]]
) -> tuple[WindowNeeds, ...]:
    found = []
    for name in dict.fromkeys(g.window.value for g in policy.guardrails):
        deciding = [p for p in parts if p[0].gating and p[0].guardrail.window.value == name]
        if not deciding:
            continue
        test, _, _ = max(deciding, key=lambda p: p[1].quantile / p[2])
        counts = hand.counts.get(name)
        enough = _sufficient([(need, share) for _, need, share in deciding])
        requests, binding = _with_least(policy, enough, test.name, name)
        found.append(
            WindowNeeds(
                name=name,
                requests=requests,
                binding=binding,
                min_requests=_least_apart(policy, name),
                available=counts.n if counts else None,
                planning=policy.windows.planning,
            )
        )
    return tuple(found)


def _least_apart(policy: Policy, window: str) -> int:
    """Requests that a gate's policy asks for besides its units; 0 where what counts once is asked for."""
    of_a_gate = window != WindowName.TABLE.value
    return policy.windows.min_requests if policy.unit and of_a_gate else 0


def _with_least(policy: Policy, enough: float, test: str, window: str) -> tuple[float, str]:
    """(what suffices, what asks for it): the tests, or the least that the policy lets decide."""
    least = float(policy.windows.min_requests)
    if enough >= least or _least_apart(policy, window):
        return enough, test
    return least, LEAST


def _sufficient(deciding: Sequence[tuple[Requirement, float]]) -> float:
    """Requests by which the chances of missing a proof add up to at most 1 − POWER (Boole)."""
    ends = np.unique(np.concatenate([need.n / share for need, share in deciding]))
    # A look's share of the window is rounded, and may then lie just before the look.
    missed = sum(1.0 - need.power_at(ends * share * (1.0 + 1e-9)) for need, share in deciding)
    enough = np.flatnonzero(missed <= 1.0 - POWER + 1e-12)
    return float(math.ceil(ends[enough[0]])) if len(enough) else math.inf

"""`harness plan` for a policy whose rows carry one arm's outcome each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import UsageError
from harness.core.policies import Direction, Guardrail, Policy
from harness.core.tensors import Floats
from harness.judge.overlap_planning import ArmsQuestion, require_arms, spread_of
from harness.judge.planning import POWER, RequestModel, Requirement
from harness.pipeline.judge_arms import arms_at_hand
from harness.pipeline.policy_table import observed_of

if TYPE_CHECKING:
    from harness.pipeline.observed import TableLike

_EVEN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmsNeeds:
    """What one guardrail over two arms needs."""

    guardrail: Guardrail
    need: Requirement
    """In units of both arms together."""
    fixed_sample: float
    """Units of one planned z-test of the same level and power."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmsAtHand:
    """What a table of two arms says before it is judged."""

    n: int | None
    """Units after those that plan; None without a table."""
    propensity: float
    """The candidate's share that is planned for."""
    planning: dict[str, Floats]
    """Guardrail → outcomes of the units that plan."""
    words: str
    """Where this comes from; "" = nowhere."""


def arms_of_table(policy: Policy, traffic: Sequence[TableLike]) -> ArmsAtHand:
    """Reads the split, and how outcomes spread in the rows that only plan.

    Raises:
      UsageError: more than one table, or one that cannot be read.
    """
    if not traffic:
        return ArmsAtHand(n=None, propensity=_EVEN, planning={}, words="")
    if len(traffic) > 1:
        raise UsageError("--traffic", "a policy over columns takes one table", "Give one file.")
    observed = observed_of(policy, traffic[0])
    values, propensity = arms_at_hand(policy, observed)
    n0 = min(policy.windows.planning, len(propensity))
    split = float(propensity.mean()) if len(propensity) else _EVEN
    return ArmsAtHand(
        n=len(propensity) - n0,
        propensity=split if 0.0 < split < 1.0 else _EVEN,
        planning={name: x[:n0][~np.isnan(x[:n0])] for name, x in values.items()},
        words=f"{observed.name}: {len(propensity):,} units, {split:.0%} of them the candidate's",
    )


def plan_arms(policy: Policy, hand: ArmsAtHand, horizon: int, seed: int) -> list[ArmsNeeds]:
    """What every guardrail needs, in the policy's order."""
    rng = np.random.default_rng(seed)
    found = []
    for guardrail in policy.guardrails:
        question = _question(guardrail, hand)
        need = require_arms(question, policy.alpha_promote, horizon, rng)
        fixed = _fixed_sample(question, policy.alpha_promote)
        found.append(ArmsNeeds(guardrail=guardrail, need=need, fixed_sample=fixed))
    return found


def _question(guardrail: Guardrail, hand: ArmsAtHand) -> ArmsQuestion:
    lo, hi = guardrail.bounds()
    sample = hand.planning.get(guardrail.name, np.empty(0))
    if len(sample):
        basis = f"the outcomes of the first {len(sample):,} units, which are no evidence"
        outcome = RequestModel.of_sample(sample, (lo, hi), basis)
    else:
        basis = "the largest variance that the range allows"
        outcome = RequestModel.widest(0.5 * (lo + hi), (lo, hi), basis)
    return ArmsQuestion(
        name=guardrail.name, margin=guardrail.margin, direction=guardrail.direction,
        effect=guardrail.effect, planned=len(sample) > 0, outcome=outcome,
        propensity=hand.propensity,
    )  # fmt: skip


def _fixed_sample(question: ArmsQuestion, alpha: float) -> float:
    """Units of a one-look z-test, from statsmodels, to check the order of magnitude."""
    from statsmodels.stats.power import normal_sample_size_one_tail

    mean, spread = spread_of(question)
    if mean <= 0.0:
        return math.inf
    both = question.direction is Direction.BOTH
    power = 0.5 * (1.0 + POWER) if both else POWER
    return float(math.ceil(normal_sample_size_one_tail(mean, power, alpha, spread, spread)))

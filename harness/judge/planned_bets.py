"""What a planning set fixes before anything is judged: second moments, and the bets that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.core.policies import Direction, Guardrail, Metric
from harness.core.tensors import Floats
from harness.judge.betting import OneSided, one_sided
from harness.judge.plan import PlannedTest, TestPlan

SIGNS = {Direction.INCREASE: (1,), Direction.DECREASE: (-1,), Direction.BOTH: (1, -1)}


def second_moment(guardrail: Guardrail, x: Floats) -> float | None:
    """E(y − margin)² over a planning set, y = sign·x; the larger of both sides for `both`.

    Args:
      guardrail: margin and direction.
      x: values of requests that the test never sees, shape (n,), NaN = none.

    Returns:
      None without a value.
    """
    x = x[~np.isnan(x)]
    if not len(x):
        return None
    signs = SIGNS[guardrail.direction]
    margin = guardrail.tolerated_mean(guardrail.margin)
    return max(float(np.mean(np.square(sign * x - margin))) for sign in signs)


def moments(guardrails: Sequence[Guardrail], values: Mapping[str, Floats]) -> dict[str, float]:
    """What a planning set says about each guardrail with a declared effect, for `plan_tests`.

    Args:
      guardrails: the policy's.
      values: guardrail name → values that no test sees, shape (n,), NaN = none.
    """
    found = {
        g.name: second_moment(g, values[g.name])
        for g in guardrails
        if g.effect is not None and g.name in values
    }
    return {name: moment for name, moment in found.items() if moment}


def planning_json(plan: TestPlan, requests: Mapping[str, int]) -> dict[str, Any]:
    """Every test's bets, for a run's manifest, written before anything is judged.

    Args:
      plan: with its second moments.
      requests: window → requests that planned and are no evidence.
    """
    return {"requests": dict(requests), "tests": [bet_grid(test) for test in plan.tests]}


def set_aside(guardrails: Sequence[Guardrail], what: str) -> str:
    """What became of a planning set, in words; without a declared effect there is nothing to plan.

    Args:
      guardrails: the policy's.
      what: how many of what, like 100 requests.
    """
    fixes = any(g.metric is Metric.LATENCY_P99 and g.cutoff_s is None for g in guardrails)
    if any(g.effect is not None for g in guardrails) or fixes:
        return f"{what} planned the bets and are no evidence"
    return (
        f"{what} were put aside by windows.planning and planned nothing, as no guardrail declares an "
        "`effect`; they are no evidence"
    )


def bet_grid(test: PlannedTest) -> dict[str, Any]:
    """The λ of a test and their weights as plain values, for the manifest of a run."""
    rollbacks, promotes = processes_of(test)
    return {
        "name": test.name,
        "gap": test.gap,
        "second_moment": test.second_moment,
        "rollback": [_grid(process) for process in rollbacks],
        "promote": [_grid(process) for process in promotes],
    }


def processes_of(test: PlannedTest) -> tuple[list[OneSided], list[OneSided]]:
    """(rollback, promotion) bets of a test, one a harmful side, as the judge chooses them."""
    bounds = test.guardrail.bounds()
    plan = (test.gap, test.second_moment)
    signs = SIGNS[test.guardrail.direction]
    return (
        [one_sided(s, test.margin, bounds, *plan) for s in signs],
        [one_sided(-s, -test.margin, bounds, *plan) for s in signs],
    )


def _grid(process: OneSided) -> dict[str, Any]:
    return {
        "sign": process.sign,
        "m": process.m,
        "lambda": process.lam.tolist(),
        "weight": np.exp(process.log_weight).tolist(),
    }

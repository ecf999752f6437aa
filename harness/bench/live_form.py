"""Case (c) as a canary meets it: the whole live judge, fed in batches, against the same bound.

The other figures of (c) are of its bets alone, with the outcomes' mean known. Here units fall to the
arms, are closed and predicted from those before them, and the answer is read where a batch ends.
"""

from __future__ import annotations

import math

import numpy as np

from harness.bench.efficiency import PLANNED_LIMIT, cases
from harness.bench.figures import Figure
from harness.core.live import LiveGuardrail, LiveKind
from harness.core.verdicts import Decision
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import LiveBatch, LivePlan

_BATCH = 500
_SECOND_NS = 1_000_000_000
_LONGEST = 8
"""Runs end undecided after this many bounds."""
_RATES = (0.10, 0.11)
_SHARE = 0.5
_NO_MARGIN = 1e-9
"""A live margin is above 0; this one is 0 for every purpose."""


def live_form(runs: int, seed: int) -> Figure:
    """Mean units until the live judge answers ROLLBACK, as a multiple of the bound of case (c).

    Args:
      runs: simulated canaries.
      seed: of the simulations.
    """
    bound = cases()[2].bound
    rng = np.random.default_rng(seed)
    plan = _plan()
    needed = np.array([_units_needed(plan, bound, rng) for _ in range(runs)])
    mean, error = float(needed.mean()), float(needed.std(ddof=1)) / math.sqrt(runs)
    late = int(np.count_nonzero(needed >= _LONGEST * bound))
    undecided = f"; {late} of {runs} undecided at {_LONGEST}×" if late else ""
    return Figure(
        name="(c) unpaired .10 v .11, live judge, planned", value=mean / bound, unit="× bound",
        limit=PLANNED_LIMIT,
        note=f"{mean:,.0f} units, batches of {_BATCH}, ± {error / bound:.2f}{undecided}",
    )  # fmt: skip


def _plan() -> LivePlan:
    middle = 0.5 * sum(_RATES)
    rail = LiveGuardrail(
        name="rate", kind=LiveKind.SHIFT, margin=_NO_MARGIN, gap=_RATES[1] - _RATES[0],
        second_moment=middle * (1.0 - middle),
    )  # fmt: skip
    return LivePlan(guardrails=(rail,), maturity_s=0.0)


def _units_needed(plan: LivePlan, bound: float, rng: np.random.Generator) -> float:
    """Units seen at the end of the batch that answers; the longest where none does."""
    judge = LiveJudge(plan)
    for number in range(math.ceil(_LONGEST * bound / _BATCH)):
        seen = (number + 1) * _BATCH
        arm = rng.random(_BATCH) < _SHARE
        y = (rng.random(_BATCH) < np.where(arm, _RATES[1], _RATES[0])).astype(np.float64)
        at = np.arange(seen - _BATCH, seen, dtype=np.int64)
        requests = Requests(
            ts_ns=at * _SECOND_NS, unit=at.astype(str).astype(object), candidate=arm,
            propensity=np.full(_BATCH, _SHARE), values={plan.guardrails[0].name: y},
        )  # fmt: skip
        batch = LiveBatch(number=number, until_ns=seen * _SECOND_NS, requests=requests)
        if judge.update(batch).decision is Decision.ROLLBACK:
            return float(seen)
    return _LONGEST * bound

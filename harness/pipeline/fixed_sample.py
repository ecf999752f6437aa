"""Fixed-sample intervals beside the sequential ones, for readers who know those.

They hold for one look that was planned beforehand, and for nothing else: a repeated 5 % z-test with
100 looks raises 37 % false alarms. Nothing is decided by them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.core.policies import Policy
from harness.judge.metrics import Values


def fixed_sample(policy: Policy, judged: Mapping[str, Values]) -> list[dict[str, Any]]:
    """One interval a guardrail at the sequential interval's level, 1 − α_P − α_R.

    Columns of zeros and ones get Clopper and Pearson's (1934) exact interval, others the normal one.
    Failed and missing ones do not enter.

    Args:
      policy: guardrails and levels.
      judged: guardrail name → what the sequential test saw: rows or units, those that planned left out.

    Returns:
      Plain values for summary.json; guardrails without two values are left out.
    """
    from scipy.special import ndtri
    from statsmodels.stats.proportion import proportion_confint

    miss = policy.alpha_promote + policy.alpha_rollback
    found = []
    for guardrail in policy.guardrails:
        values = judged[guardrail.name]
        x = values.x[~np.isnan(values.x) & ~values.failed]
        n = len(x)
        if n < 2:  # noqa: PLR2004 - a variance needs two
            continue
        if np.isin(x, (0.0, 1.0)).all():
            lower, upper = proportion_confint(int(x.sum()), n, alpha=miss, method="beta")
            method = "Clopper–Pearson"
        else:
            half = float(ndtri(1.0 - miss / 2.0)) * float(x.std(ddof=1)) / math.sqrt(n)
            lower, upper = float(x.mean()) - half, float(x.mean()) + half
            method = "normal"
        found.append(
            {
                "guardrail": guardrail.name,
                "n": n,
                "mean": float(x.mean()),
                "lower": float(lower),
                "upper": float(upper),
                "level": 1.0 - miss,
                "method": method,
            }
        )
    return found


def fixed_sample_of_arms(arms: Sequence[Mapping[str, Any]], miss: float) -> list[dict[str, Any]]:
    """Newcombe's (1998) interval of candidate − baseline, for shares under one constant split.

    Args:
      arms: per guardrail ((sum, units) of the candidate, of the baseline).
      miss: 1 − level.

    Returns:
      As `fixed_sample`; guardrails with an empty arm are left out.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep

    found = []
    for row in arms:
        (up, n_up), (down, n_down) = row["arms"]
        if not (n_up and n_down):
            continue
        lower, upper = confint_proportions_2indep(
            up, n_up, down, n_down, compare="diff", method="newcomb", alpha=miss
        )
        found.append(
            {
                "guardrail": row["guardrail"],
                "n": n_up + n_down,
                "mean": up / n_up - down / n_down,
                "lower": float(lower),
                "upper": float(upper),
                "level": 1.0 - miss,
                "method": "Newcombe, difference of two shares",
            }
        )
    return found

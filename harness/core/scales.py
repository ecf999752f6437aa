"""Values of a guardrail on the scale on which its margin was written.

A latency ratio is tested by its logarithm and asked for as a growth: who wrote 0.1 reads 10 %.
"""

from __future__ import annotations

import math

from harness.core.policies import Direction, Metric

_SLOWED = "more than a baseline slowed by the margin"


def on_scale(metric: str, value: float) -> str:
    """A mean, or an end of its interval."""
    return _growth(value) if metric == Metric.LATENCY_RATIO else f"{value:.4g}"


def limit_on_scale(metric: str, margin: float, direction: str) -> str:
    """What is tolerated: at most 0.05, at least −0.05, between −0.05 and 0.05.

    Args:
      metric: the guardrail's.
      margin: tolerated mean of its observations, ≥ 0.
      direction: increase, decrease or both.
    """
    # 0 − 0 is 0, and −0 would read as a number of its own.
    low, high = _limit(metric, 0.0 - margin), _limit(metric, margin)
    found = {
        Direction.INCREASE: f"at most {high}",
        Direction.DECREASE: f"at least {low}",
        Direction.BOTH: f"between {low} and {high}",
    }[Direction(direction)]
    return f"{found} {_SLOWED}" if metric == Metric.LATENCY_P99 else found


def _limit(metric: str, value: float) -> str:
    return _growth(value) if metric == Metric.LATENCY_RATIO else f"{value:g}"


def _growth(logarithm: float) -> str:
    return f"{100.0 * math.expm1(logarithm):.4g} %"

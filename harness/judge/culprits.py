"""Which guardrails a proven harm is put down to: the e-BH procedure (Wang & Ramdas 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping


def named(logs: Mapping[str, float], alpha: float) -> tuple[str, ...]:
    """Guardrails proven beyond their margin, at a false discovery rate ≤ alpha under any dependence.

    The largest k whose k-th largest K·w·E reaches K/(k·α); K cancels. It names none unless the weighted
    average reaches 1/α, and may name none then.

    Args:
      logs: guardrail → natural log of w·E, the weights summing to at most 1.
      alpha: in (0, 1).

    Returns:
      Names, strongest first.
    """
    ordered = sorted(logs.items(), key=lambda item: -item[1])
    bar = -math.log(alpha)
    reached = [k for k, (_, log_e) in enumerate(ordered, 1) if log_e + math.log(k) >= bar]
    return tuple(name for name, _ in ordered[: max(reached, default=0)])

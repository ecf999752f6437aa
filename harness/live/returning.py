"""Requests of units that came before: the tests leave them out, and they may keep the ramp where it is.

A unit enters the tests once, or their error rates would not hold. So a harm that shows only when users
come back is in no test. It is looked at here, without a claim: where the later requests of the candidate
are worse than the baseline's by more than the margin and twice the standard error, nobody else is moved
to the candidate and nothing is promoted. It never rolls back, and never lets anything go up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harness.core.live import Live, LiveGuardrail, LiveKind
from harness.core.policies import Direction
from harness.core.tensors import Bools, Floats
from harness.judge.exposures import Requests, Units

_LEAST = 100
"""Later requests of each arm before anything is said of them."""
_SURE = 2.0
"""Standard errors."""
_NONE_NEW = 500
"""Requests in a row without a new unit after which it is said."""


class Returning:
    """Sums over later requests, by guardrail and arm.

    Args:
      live: the policy's live section.
    """

    def __init__(self, live: Live) -> None:
        self._rails = [g for g in live.guardrails if g.gating and g.label_maturity_s is None]
        if not any(live.steps):  # a shadow
            self._rails = []
        # Per arm: how many, their sum, the sum of their squares.
        self._sums = {rail.name: np.zeros((2, 3)) for rail in self._rails}
        self._since_new = 0

    def add(self, requests: Requests, opened: Units) -> None:
        """Takes a batch in.

        Args:
          requests: of the batch.
          opened: units first seen in it.
        """
        later = _later(requests, opened)
        self._count(later)
        for rail in self._rails:
            values = requests.values[rail.name]
            counts = later & ~np.isnan(values)
            left_out = requests.left_out.get(rail.name)
            counts = counts if left_out is None else counts & ~left_out
            for arm, its in enumerate((~requests.candidate, requests.candidate)):
                self._sums[rail.name][arm] += _moments(values[counts & its])

    def _count(self, later: Bools) -> None:
        new = np.flatnonzero(~later)
        self._since_new = (
            len(later) - 1 - int(new[-1]) if len(new) else self._since_new + len(later)
        )

    def missing(self) -> list[str]:
        """What keeps the ramp where it is, each as a sentence; none = nothing does."""
        return [
            f"Guardrail {rail.name} is worse by more than its margin in requests of units that came "
            "before, which the tests leave out (a unit enters once): no more traffic goes to the candidate."
            for rail in self._rails
            if _harmed(rail, self._sums[rail.name])
        ]

    def none_new(self) -> list[str]:
        """That no new units come, as a sentence; none = some do."""
        if self._since_new < _NONE_NEW:
            return []
        said = (
            f"No new units come: the last {self._since_new:,} requests are of units that came before, "
            "and a unit enters once."
        )
        return [said]

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues."""
        sums = {name: found.tolist() for name, found in self._sums.items()}
        return {"sums": sums, "since_new": self._since_new}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._sums = {name: np.array(state["sums"][name], np.float64) for name in self._sums}
        self._since_new = int(state["since_new"])


def _later(requests: Requests, opened: Units) -> Bools:
    """Requests that are not the first of their unit, shape (n,)."""
    first = set(opened.unit)
    later = np.ones(len(requests), np.bool_)
    for i, unit in enumerate(requests.unit.tolist()):
        if unit in first:
            first.remove(unit)
            later[i] = False
    return later


def _moments(values: Floats) -> Floats:
    return np.array([len(values), values.sum(), (values * values).sum()])


def _harmed(rail: LiveGuardrail, sums: Floats) -> bool:
    n = sums[:, 0]
    if n.min() < _LEAST:
        return False
    mean = sums[:, 1] / n
    spread = np.maximum(sums[:, 2] / n - mean * mean, 0.0) / n
    if rail.kind is LiveKind.ERRORS:
        beyond = mean[1] - rail.margin * mean[0]
        return bool(beyond > _SURE * math.sqrt(spread[1] + rail.margin**2 * spread[0]))
    sides = {Direction.INCREASE: (1,), Direction.DECREASE: (-1,), Direction.BOTH: (1, -1)}
    worst = max(side * (mean[1] - mean[0]) for side in sides[rail.direction])
    return bool(worst - rail.margin > _SURE * math.sqrt(spread.sum()))

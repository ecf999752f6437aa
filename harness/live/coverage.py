"""How much of each arm has been measured: without it nobody is moved to the candidate.

A value that is missing counts against a promotion in the tests, and not for a rollback. So an arm
whose answers are never measured would neither be proven harmless nor harmful, while the ramp goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.core.live import Live
from harness.judge.exposures import Requests

LEAST = 0.95
"""Of an arm's requests must have a value of every gating guardrail whose values come with them.

Those that asked for other outputs are not counted."""
_ARMS = ("baseline", "candidate")


class Coverage:
    """Counts requests and those with a value, by arm and guardrail.

    Args:
      live: the policy's live section.
    """

    def __init__(self, live: Live) -> None:
        # A shadow has one arm, with a share of 0.
        self._split = any(live.steps)
        self._names = [g.name for g in live.guardrails if g.gating and g.label_maturity_s is None]
        self._all = {name: [0, 0] for name in self._names}
        self._with_value = {name: [0, 0] for name in self._names}

    def add(self, requests: Requests) -> None:
        """Takes requests in.

        Args:
          requests: as the judge takes them; NaN = no value.
        """
        arms = (~requests.candidate, requests.candidate)
        for name in self._names:
            left_out = requests.left_out.get(name)
            for arm, its in enumerate(arms):
                at = its if left_out is None else its & ~left_out
                there = ~np.isnan(requests.values[name][at])
                self._all[name][arm] += int(np.count_nonzero(at))
                self._with_value[name][arm] += int(np.count_nonzero(there))

    def missing(self) -> list[str]:
        """Arms of which too little is measured, each as a sentence; none = enough is."""
        return [
            self._said(name, arm)
            for name, counts in self._with_value.items()
            for arm in (0, 1)
            if counts[arm] < LEAST * self._all[name][arm] or (self._split and not counts[arm])
        ]

    def _said(self, name: str, arm: int) -> str:
        there, of = self._with_value[name][arm], self._all[name][arm]
        if not self._split:
            return f"Guardrail {name} has a value for only {there:,} of {of:,} requests ({LEAST:.0%} are needed)."
        if not of:
            return (
                f"Guardrail {name} has no value of the {_ARMS[arm]} yet: no more traffic goes to the "
                "candidate."
            )
        return (
            f"Guardrail {name} has a value for only {there:,} of {of:,} requests of "
            f"the {_ARMS[arm]} ({LEAST:.0%} are needed): no more traffic goes to the candidate."
        )

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues."""
        return {"all": self._all, "with_value": self._with_value}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        for kept, counts in (("all", self._all), ("with_value", self._with_value)):
            for name in self._names:
                counts[name] = [int(n) for n in state[kept][name]]


def labels_missing(labelled: Mapping[str, tuple[tuple[int, int], tuple[int, int]]]) -> list[str]:
    """Arms too few of whose units have a label that can be believed, each as a sentence.

    Labels that are missing may well differ from those that are there.

    Args:
      labelled: see `judge.live.LiveJudge.labelled`.
    """
    return [
        f"Guardrail {name} has one undisputed label for only {good:,} of {mature:,} units of the "
        f"{_ARMS[arm]} that are old enough ({LEAST:.0%} are needed): no more traffic goes to the candidate."
        for name, arms in labelled.items()
        for arm, (mature, good) in enumerate(arms)
        if good < LEAST * mature
    ]

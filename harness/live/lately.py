"""Whether the candidate is alive at this moment, as far as its last requests tell.

A test sums over all traffic, so a candidate that dies late is still proven harmless by what it did
before. No claim is made here: while too many of its last requests failed, or have no usable value,
nobody else is moved to it and nothing is promoted. It never rolls back, and never lets anything go up.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from harness.core.live import Live, LiveGuardrail, LiveKind, LiveMetric
from harness.core.tensors import Bools, Floats
from harness.judge.exposures import Requests
from harness.live.unusable import READING

_LAST = 50
"""Requests of the candidate that are looked at; fewer where fewer came."""
_IN_A_ROW = 10
"""So many in a row without an answer are enough."""
_AFTER_A_START = 20
"""Usable answers since a restart; fewer where a whole stay at the step brings fewer."""


class Lately:
    """The candidate's last requests.

    Args:
      live: the policy's live section.
    """

    def __init__(self, live: Live) -> None:
        rails = live.guardrails
        self._failures = [
            g.name for g in rails if g.metric is LiveMetric.FAILURE or g.kind is LiveKind.ERRORS
        ]
        readers = [g for g in rails if g.metric in READING]
        self._needed = [g.name for g in rails if _is_needed(g)]
        # Outputs that nothing reads may well be NaN; where one is read, its guardrail says so.
        self._nan = [g.name for g in rails if g.metric is LiveMetric.NAN and not readers]
        self._split = any(live.steps)
        self._stay_requests = live.ramp.stay_requests
        self._last: deque[bool] = deque(maxlen=_LAST)
        self._since_start: int | None = None

    def restart(self) -> None:
        """What was before the process ended says nothing of now."""
        self._last.clear()
        self._since_start = 0

    def add(self, requests: Requests, answers: dict[str, Floats]) -> None:
        """Takes a batch in.

        Args:
          requests: of the batch, in order of arrival; NaN = no value.
          answers: guardrail with a loss → NaN = no value; one a request.
        """
        bad = self._bad(requests, answers)
        # In a shadow every request is the candidate's, too.
        its = bad[requests.candidate] if self._split else bad
        self._last.extend(its[-_LAST:].tolist())
        if self._since_start is not None:
            good = len(its) - int(np.count_nonzero(its))
            self._since_start = min(self._since_start + good, _AFTER_A_START)

    def _bad(self, requests: Requests, answers: dict[str, Floats]) -> Bools:
        bad, alone = np.zeros((2, len(requests)), np.bool_)
        values = dict(requests.values) | answers
        for name in self._failures:
            bad |= values[name] > 0.0
            alone |= values[name] < 0.0  # the baseline failed, and only it
        for name in self._nan:
            bad |= values[name] > 0.0
        for name in self._needed:
            if name in values:
                left_out = requests.left_out.get(name, np.zeros(len(requests), np.bool_))
                bad |= np.isnan(values[name]) & ~left_out & ~alone
        return bad

    @property
    def failing(self) -> bool:
        """Half of the candidate's last requests, or all of the very last ones, have no usable answer."""
        last = list(self._last)
        newest = last[-_IN_A_ROW:]
        return bool(last) and (2 * sum(last) >= len(last) or all(newest))

    def missing(self, share: float) -> list[str]:
        """What keeps the ramp where it is, each as a sentence; none = nothing does.

        Args:
          share: the candidate's share of units in force.
        """
        said = []
        then = "no more traffic goes to the candidate, and nothing is promoted"
        if not self._split:
            then = "nothing is promoted"
        if self.failing:
            said.append(
                f"Of the candidate's last {len(self._last):,} requests {sum(self._last):,} failed or have no "
                f"usable value: {then}."
            )
        needed = self._needed_after_a_start(share)
        if self._since_start is not None and self._since_start < needed:
            said.append(
                f"Since the last start the candidate has given {self._since_start:,} usable answers, and "
                f"{needed:,} are needed: {then}."
            )
        return said

    def _needed_after_a_start(self, share: float) -> int:
        its = self._stay_requests * (share if self._split else 1.0)
        return min(_AFTER_A_START, max(round(its), 1)) if its else _AFTER_A_START

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues."""
        return {"last": [int(bad) for bad in self._last], "since_start": self._since_start}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._last.extend(bool(bad) for bad in state["last"])
        since = state["since_start"]
        self._since_start = None if since is None else int(since)


def _is_needed(rail: LiveGuardrail) -> bool:
    """Whether a request without a value of it has no usable answer."""
    if rail.metric in READING:
        return True
    return rail.gating and rail.label_maturity_s is None

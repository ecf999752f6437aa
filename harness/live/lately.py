"""Whether the candidate is alive at this moment, as far as its last requests tell.

A test sums over all traffic, so a candidate that dies late is still proven harmless by what it did
before. No claim is made here: unless its last answers are usable and recent, and while too many of its
last requests failed or have no usable value, nobody else is moved to it and nothing is promoted. What
the baseline does as often is no trouble of the candidate's. It never rolls back, and never lets anything
go up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

import numpy as np

from harness.core.live import Live, LiveKind, LiveMetric
from harness.core.tensors import Bools, Floats
from harness.judge.exposures import Requests
from harness.live.unusable import READING

_LAST = 50
"""Requests of each arm that are looked at; fewer where fewer came."""
_NEWEST = 3
"""The candidate's very last answers, each of which must be usable; fewer where fewer came."""
_OLDEST_S = 60.0
"""The candidate's last answer may be so old, or as old as an answer may take where that is longer."""
_GAPS = 4.0
"""Of batches that somebody sends, it may be so many times older than usually lies between two."""
_WORSE = 0.25
"""The candidate's share of unusable answers may be so far above that of the baseline's last ones."""
_BAD = 0.5
"""`failure` or `nan_rate` of a request from which on its answer is not usable."""
_AFTER_A_START = 20
"""Usable answers since a restart; fewer where a whole stay at the step brings fewer."""


class Lately:
    """The last requests of both arms.

    Args:
      live: the policy's live section.
      sent: batches come from elsewhere, as rarely as it pleases their sender: the candidate's last answer
        is as old as it is at the batch's last request, and may be older where its requests are rare.
    """

    def __init__(self, live: Live, *, sent: bool = False) -> None:
        self._sent = sent
        gating = [g for g in live.guardrails if g.gating]
        self._failed = [
            g.name for g in gating if g.metric is LiveMetric.FAILURE or g.kind is LiveKind.ERRORS
        ]
        self._nan = [g.name for g in gating if g.metric is LiveMetric.NAN]
        self._needed = [g.name for g in gating if g.metric in READING or g.label_maturity_s is None]
        self._differences = [g.name for g in live.guardrails if g.metric is LiveMetric.FAILURE]
        self._split = any(live.steps)
        self._stay_requests = live.ramp.stay_requests
        self._oldest_ns = round(max(_OLDEST_S, live.patience_s) * 1e9)
        self._candidate: deque[bool] = deque(maxlen=_LAST)
        self._baseline: deque[bool] = deque(maxlen=_LAST)
        self._dead: deque[bool] = deque(maxlen=_NEWEST)
        self._last_ns: int | None = None
        self._times: deque[int] = deque(maxlen=_LAST)
        self._batch_ns: int | None = None
        """The last request of the last batch; None = it had none."""
        self._since_start: int | None = None

    def restart(self) -> None:
        """What was before the process ended says nothing of now."""
        self._candidate.clear()
        self._baseline.clear()
        self._dead.clear()
        self._times.clear()
        self._since_start = 0

    def add(self, requests: Requests, answers: dict[str, Floats]) -> None:
        """Takes a batch in.

        Args:
          requests: of the batch, in order of arrival; NaN = no value.
          answers: guardrail with a loss → NaN = no value; one a request.
        """
        bad, failed = self._bad(requests, answers)
        # In a shadow every request is the candidate's, and the values are differences.
        at = requests.candidate if self._split else np.ones(len(requests), np.bool_)
        its, dead = bad[at], failed[at]
        self._candidate.extend(its[-_LAST:].tolist())
        self._baseline.extend(bad[~at][-_LAST:].tolist())
        self._dead.extend(dead[-_NEWEST:].tolist())
        if len(its):
            self._last_ns = int(requests.ts_ns[at][-1])
            self._times.extend(requests.ts_ns[at][-_LAST:].tolist())
        self._batch_ns = int(requests.ts_ns[-1]) if len(requests) else None
        if self._since_start is not None:
            # Where the baseline's are hardly ever usable either, all that can be asked for is an answer.
            unusable = its if self._is_worse([True]) else dead
            good = self._since_start + int(np.count_nonzero(~unusable))
            self._since_start = min(good, _AFTER_A_START)

    def _bad(self, requests: Requests, answers: dict[str, Floats]) -> tuple[Bools, Bools]:
        """(no usable answer, no answer at all as far as a guardrail counts them), shape (n,) each."""
        bad, failed, alone = np.zeros((3, len(requests)), np.bool_)
        values = dict(requests.values) | answers
        for name in self._differences:
            alone |= values[name] <= -_BAD  # the baseline failed, and only it
        for name in self._failed:
            failed |= values[name] >= _BAD
        for name in self._nan:
            bad |= values[name] >= _BAD
        for name in self._needed:
            if name in values:
                left_out = requests.left_out.get(name, np.zeros(len(requests), np.bool_))
                bad |= np.isnan(values[name]) & ~left_out & ~alone
        return bad | failed, failed

    def _is_worse(self, its: Collection[bool]) -> bool:
        """Whether some of the candidate's answers are less often usable than the baseline's last ones."""
        return bool(its) and _share(its) > _share(self._baseline) + _WORSE

    @property
    def failing(self) -> bool:
        """Half of the candidate's last requests, or all of the very last ones, have no usable answer."""
        if self._dead and all(self._dead):
            return True  # also where the baseline is dead, too
        newest = list(self._candidate)[-_NEWEST:]
        halved = self._is_worse(self._candidate) and 2 * sum(self._candidate) >= len(
            self._candidate
        )
        return halved or (all(newest) and self._is_worse(newest))

    def missing(self, share: float, now_ns: int, stay_over_ns: int) -> list[str]:
        """What keeps the ramp where it is, each as a sentence; none = nothing does.

        Args:
          share: the candidate's share of units in force.
          now_ns: the instant up to which all requests have been taken in; 0 = none were.
          stay_over_ns: the instant at which the step has had its least time.
        """
        if not now_ns:
            return []
        then = "nothing is promoted"
        if self._split:
            then = "no more traffic goes to the candidate, and nothing is promoted"
        said = [self._trouble(now_ns, stay_over_ns)]
        needed = self._needed_after_a_start(share)
        if self._since_start is not None and self._since_start < needed:
            said.append(
                f"Since the last start the candidate has given {self._since_start:,} usable answers, and "
                f"{needed:,} are needed"
            )
        return [f"{what}: {then}." for what in said if what]

    def _trouble(self, now_ns: int, stay_over_ns: int) -> str:
        """Why the candidate may be dead, in words; "" = its last answers were usable, and are recent."""
        last, newest = list(self._candidate), list(self._candidate)[-_NEWEST:]
        if self.failing:
            return (
                f"Of the candidate's last {len(last):,} requests {sum(last):,} failed or have no usable "
                f"value, of the last {len(newest)} {sum(newest)}"
            )
        if self._is_worse(newest):
            return (
                f"Of the candidate's last {len(newest)} requests {sum(newest)} failed or have no usable "
                "value, and nobody else is moved to it on such an answer"
            )
        if self._last_ns is None:
            return "The candidate has answered nothing yet"
        age_ns, most_ns = self._seen_ns(now_ns) - self._last_ns, self._most_age_ns()
        if age_ns > most_ns:
            return (
                f"The candidate's last answer is {age_ns / 1e9:,.0f} s old, and may be "
                f"{most_ns / 1e9:,.0f} s old"
            )
        if self._last_ns < stay_over_ns <= now_ns:
            return "The candidate has answered nothing since the step's least time was over"
        return ""

    def _seen_ns(self, now_ns: int) -> int:
        """The instant that is now, as far as requests tell."""
        return self._batch_ns if self._sent and self._batch_ns is not None else now_ns

    def _most_age_ns(self) -> float:
        if not self._sent or len(self._times) < 2:  # noqa: PLR2004 - no gap
            return self._oldest_ns
        mean = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return max(self._oldest_ns, _GAPS * mean)

    def _needed_after_a_start(self, share: float) -> int:
        its = self._stay_requests * (share if self._split else 1.0)
        return min(_AFTER_A_START, max(round(its), 1)) if its else _AFTER_A_START

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues."""
        return {
            "dead": [int(failed) for failed in self._dead],
            "candidate": [int(bad) for bad in self._candidate],
            "baseline": [int(bad) for bad in self._baseline],
            "last_ns": self._last_ns,
            "times": list(self._times),
            "batch_ns": self._batch_ns,
            "since_start": self._since_start,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._candidate.extend(bool(bad) for bad in state["candidate"])
        self._baseline.extend(bool(bad) for bad in state["baseline"])
        self._dead.extend(bool(failed) for failed in state["dead"])
        self._times.extend(int(at) for at in state.get("times", ()))
        self._last_ns, self._batch_ns, self._since_start = (
            None if state.get(name) is None else int(state[name])
            for name in ("last_ns", "batch_ns", "since_start")
        )


def _share(bad: Collection[bool]) -> float:
    return sum(bad) / max(len(bad), 1)

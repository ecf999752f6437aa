"""The steps of a canary: how long it has been at one, and whether it may go on.

Going up needs time and requests, never a good interim result: a step that waited for one would look
at the outcomes that the tests are about.
"""

from __future__ import annotations

from typing import Any

from harness.core.live import Ramp


class Ascent:
    """Where on the ramp a canary is.

    Args:
      shares: candidate's share of units at each step, ascending.
      ramp: least stay and budget.
    """

    def __init__(self, shares: tuple[float, ...], ramp: Ramp) -> None:
        self._shares = shares
        self._ramp = ramp
        self.step = 0
        """From 0."""
        self._since_ns: int | None = None
        self._start_ns: int | None = None
        self._at_step = 0
        self._requests = 0

    @property
    def share(self) -> float:
        """Candidate's share of units in force."""
        return self._shares[self.step]

    def count(self, requests: int, at_step: int, now_ns: int) -> None:
        """Adds requests that entered; the first ones start the clocks.

        Args:
          requests: how many, of any step.
          at_step: how many units first came in them and were split by the step in force.
          now_ns: the instant up to which all have entered.
        """
        if self._start_ns is None and requests:
            self._start_ns = self._since_ns = now_ns
        self._requests += requests
        self._at_step += at_step

    def stayed(self, now_ns: int) -> bool:
        """Whether the step has had its least time and requests, each of a unit that enters the tests."""
        if self._since_ns is None:
            return False
        return self._stayed_s(now_ns) >= self._ramp.stay_s and (
            self._at_step >= self._ramp.stay_requests
        )

    def _stayed_s(self, now_ns: int) -> float:
        return 0.0 if self._since_ns is None else (now_ns - self._since_ns) / 1e9

    @property
    def stay_over_ns(self) -> int:
        """The instant at which the step has had its least time; 0 = it needs none, or has not begun."""
        if self._since_ns is None or not self._ramp.stay_s:
            return 0
        return self._since_ns + round(self._ramp.stay_s * 1e9)

    def resume(self, now_ns: int, down_ns: int) -> None:
        """Goes on after a stop: the time in which nothing was served is no stay.

        Args:
          now_ns: the instant now.
          down_ns: how long nothing was served.
        """
        if self._since_ns is not None:
            self._since_ns = min(now_ns, self._since_ns + down_ns)

    def missing(self, now_ns: int) -> list[str]:
        """What the step's least stay still lacks, each as a sentence."""
        said = []
        left = self._ramp.stay_requests - self._at_step
        if left > 0:
            said.append(f"The step still needs {left:,} requests of new units.")
        left_s = self._ramp.stay_s - self._stayed_s(now_ns)
        if left_s > 0.0:
            said.append(f"The step still needs {left_s:.3g} s.")
        return said

    def at_top(self) -> bool:
        """Whether there is no higher step."""
        return self.step == len(self._shares) - 1

    def advance(self, now_ns: int) -> bool:
        """Goes one step up where that is due; says whether it did."""
        if self.at_top() or not self.stayed(now_ns):
            return False
        self.step += 1
        self._since_ns, self._at_step = now_ns, 0
        return True

    def spent(self, now_ns: int) -> str:
        """Which budget is used up, in words; "" while none is."""
        budget_s, most = self._ramp.budget_s, self._ramp.budget_requests
        if most is not None and self._requests >= most:
            return f"{most:,} requests"
        start_ns = now_ns if self._start_ns is None else self._start_ns
        if budget_s is not None and now_ns - start_ns >= budget_s * 1e9:
            return f"{budget_s:g} s"
        return ""

    def state(self) -> list[Any]:
        """Plain JSON values from which `restore` continues."""
        return [self.step, self._since_ns, self._start_ns, self._at_step, self._requests]

    def restore(self, state: list[Any]) -> None:
        """Continues from `state`."""
        self.step, self._since_ns, self._start_ns, self._at_step, self._requests = state

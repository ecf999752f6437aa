"""Whole declared cycles: when a live promotion may look.

A night's traffic may be harmless and the day's not. Over whole cycles the running average is the
one that is meant; in between it is the average of "the night so far". So promotion is looked at only
where a cycle of exposures is complete. Rollback may look at any time, and then says "so far".

Cycles are counted from the first exposure: any 24 hours are a whole day, and what a look then sees
is whole cycles and nothing else.

Time that passes is no traffic: fifty minutes of requests and then ten silent days are no ten days. A
cycle counts only where no stretch of it longer than `quiet_s` was without requests; after one that
was seen in part promotion takes no look, and none at all while more than a tenth of all units came
in such cycles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from harness.core.errors import PolicyError
from harness.core.tensors import Ints

_MOST_IN_PART = 0.1
"""Share of the units that cycles which were seen in part may have; they tilt the average."""
_PARTS = 24
"""Parts of a cycle, each as long as a silence may be where the plan does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """A declared period of traffic: a day, a week."""

    length_s: float
    """Its length; 0 = none is declared, and every look is whole."""

    def __post_init__(self) -> None:
        """Checks.

        Raises:
          PolicyError: a negative length.
        """
        if not self.length_s >= 0.0:
            what = f"a length of {self.length_s:g} s"
            raise PolicyError("cycle", what, "Write it like 24h; leave it out for none.")

    def number(self, ts_ns: Ints, start_ns: int) -> Ints:
        """Cycle of each instant, counted from 0 at `start_ns`, shape (n,); 0 without a cycle."""
        length_ns = round(self.length_s * 1e9)
        if not length_ns:
            return np.zeros(len(ts_ns), np.int64)
        return np.asarray((ts_ns - start_ns) // length_ns, np.int64)

    def completed(self, start_ns: int, until_ns: int) -> int:
        """Whole cycles in [start_ns, until_ns); 0 without a cycle."""
        length_ns = round(self.length_s * 1e9)
        return max(0, (until_ns - start_ns) // length_ns) if length_ns else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CyclesSeen:
    """How much of the declared cycles the tests have seen."""

    whole: int
    """Cycles that were seen through."""
    in_part: int
    """Cycles with units and too long a silence."""
    quiet_s: float
    """Longest silence of one that counts."""


class Silences:
    """Which cycles hold a stretch without requests that is longer than a quiet night."""

    def __init__(self, cycle: Cycle, quiet_s: float | None) -> None:
        """Starts without requests.

        Args:
          cycle: what is declared.
          quiet_s: longest stretch without requests in a cycle that counts; None = a 24th of it.
        """
        self._length_ns = round(cycle.length_s * 1e9)
        self.quiet_s = cycle.length_s / _PARTS if quiet_s is None else quiet_s
        self._quiet_ns = round(self.quiet_s * 1e9)
        self._start_ns = 0
        self._last_ns: int | None = None
        self._broken: set[int] = set()

    def add(self, ts_ns: Ints, start_ns: int) -> None:
        """Takes arrivals in.

        Args:
          ts_ns: later than all before, ascending, shape (n,).
          start_ns: where cycle 0 begins; always the same.
        """
        if not self._length_ns or not len(ts_ns):
            return
        self._start_ns = start_ns
        before = start_ns if self._last_ns is None else self._last_ns
        times = np.append(before, ts_ns)
        long = np.flatnonzero(np.diff(times) > self._quiet_ns)
        for i in long.tolist():
            self._broken |= self._of_silence(int(times[i]), int(times[i + 1]))
        self._last_ns = int(ts_ns[-1])

    def _of_silence(self, begin_ns: int, end_ns: int) -> set[int]:
        """Cycles with too much of a silence; those within it hold no unit, and need no mark."""
        first, last = self._number(begin_ns), self._number(end_ns)
        if first == last:
            return {first}
        border = self._start_ns + (first + 1) * self._length_ns
        found = {first} if border - begin_ns > self._quiet_ns else set()
        border = self._start_ns + last * self._length_ns
        return found | ({last} if end_ns - border > self._quiet_ns else set())

    def _number(self, at_ns: int) -> int:
        return (at_ns - self._start_ns) // self._length_ns

    def whole(self, number: int) -> bool:
        """Whether a cycle with requests, all of which were added, was seen through."""
        end_ns = self._start_ns + (number + 1) * self._length_ns
        last_ns = self._start_ns if self._last_ns is None else self._last_ns
        return number not in self._broken and end_ns - last_ns <= self._quiet_ns

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "start_ns": self._start_ns, "last_ns": self._last_ns, "broken": sorted(self._broken)
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of silences with the same arguments."""
        self._start_ns, self._last_ns = int(state["start_ns"]), state["last_ns"]
        self._broken = set(state["broken"])
        return self


class CycleLooks:
    """When promotion looks at one test, and at how many cycles."""

    def __init__(self) -> None:
        """Starts in cycle 0, without units."""
        self.number = 0
        """Every unit so far came before this cycle's end."""
        self.whole = 0
        """Cycles that were seen through and have units in the test."""
        self.in_part = 0
        """The others that have units."""
        self._units = self._units_in_part = self._units_here = 0

    def enter(self, units: int) -> None:
        """Counts units of the present cycle that enter the test."""
        self._units += units
        self._units_here += units

    def finish(self, number: int, whole: Callable[[int], bool]) -> bool:
        """Ends the cycles before `number`.

        Args:
          number: cycle of what enters next.
          whole: whether a cycle was seen through.

        Returns:
          Whether promotion may look now.
        """
        if number <= self.number:
            return False
        last, self.number = self.number, number
        here, self._units_here = self._units_here, 0
        if not here:
            return False
        seen = whole(last)
        self.whole += seen
        self.in_part += not seen
        self._units_in_part += 0 if seen else here
        return seen and self._units_in_part <= _MOST_IN_PART * self._units

    def state(self) -> list[int]:
        """Plain JSON values from which `restore` continues identically."""
        return [
            self.number, self.whole, self.in_part,
            self._units, self._units_in_part, self._units_here,
        ]  # fmt: skip

    def restore(self, state: list[int]) -> Self:
        """Continues from `state`."""
        self.number, self.whole, self.in_part = (int(n) for n in state[:3])
        self._units, self._units_in_part, self._units_here = (int(n) for n in state[3:])
        return self

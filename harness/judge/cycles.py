"""Whole declared cycles: when a live promotion may look.

A night's traffic may be harmless and the day's not. Over whole cycles the running average is the
one that is meant; in between it is the average of "the night so far". So promotion is looked at only
where a cycle of exposures is complete. Rollback may look at any time, and then says "so far".

Cycles are counted from the first exposure: any 24 hours are a whole day, and what a look then sees
is whole cycles and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.errors import PolicyError
from harness.core.tensors import Ints


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

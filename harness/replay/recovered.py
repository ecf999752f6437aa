"""What a leg knows of a batch that failed, and of its version's speed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.core.observations import Cause
from harness.replay.assembly import Part
from harness.replay.poison import Found
from harness.sandbox.answers import BatchAnswer, BatchFault


@dataclass(slots=True)
class Speed:
    """What a leg knows of its version's speed."""

    slowest_s_per_row: float = 0.0
    """In a batch that was answered; 0 = none was."""

    def learn(self, answer: BatchAnswer) -> None:
        """Takes over the time of an answer to a batch or a part of one."""
        if answer.rows:
            self.slowest_s_per_row = max(self.slowest_s_per_row, answer.service_s / answer.rows)


@dataclass(slots=True)
class Recovered:
    """What is known of a batch afterwards."""

    found: Found = field(default_factory=Found)
    """What the search knows."""
    singles: dict[int, BatchFault] = field(default_factory=dict)
    """Requests that failed when they were tried alone, also when the search was cut short then."""
    whole: Part | None = None
    """The answers of everything that is no poison, from one run; None = only the pieces."""
    passed: list[int] = field(default_factory=list)
    """Requests that were known to fail by themselves and did not this time."""
    together: list[tuple[int, int]] = field(default_factory=list)
    """(start, stop) of what fails only as such: each part of it passes."""
    most_rows: int = 0
    """So many fit into the memory at once, where the batch did only in parts; 0 = nothing is known."""

    def poison(self) -> dict[int, BatchFault]:
        """Index → how the request fails by itself."""
        return (
            {}
            if self.whole and not self.found.poison
            else {**self.singles, **dict(self.found.poison)}
        )

    def parts(self) -> list[Part]:
        """The answers to keep."""
        if self.whole is not None:
            return [self.whole]
        return [(np.arange(a, b), answer) for a, b, answer in self.found.pieces]


def is_flaky(fault: BatchFault, requests: int) -> bool:
    """Whether what failed so and passed unchanged the second time says something of the version.

    A host without a processor says nothing, nor does a memory that several requests at once have filled:
    how many is the harness's choice, and so is what it asks after that. A process that needs more and more for single requests does.

    Args:
      fault: the first time.
      requests: that shared the batch.
    """
    if fault.after_short:
        return False
    if fault.short_of_memory:
        return requests == 1 and (fault.grown or fault.seq == 1)
    return fault.cause is not Cause.HOST_STARVED

"""Which requests of a failing batch make it fail: adaptive halving with inference.

A range that is known to fail is split; when its left half passes, the right half must fail, and is split
without being tried as a whole. One poison request in 1,024 costs about ten tries that pass and five
that fail — only the latter may cost a new process. What one try showed is never tried again, so the
ranges that passed and the poison found cover the batch exactly.

Tried and left: trying both halves on every level (twice the failing tries); one poison at a time with
the rest re-run in between (the same for one, worse from two on).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.sandbox.answers import BatchAnswer, BatchFault

Attempt = Callable[[int, int], BatchAnswer | BatchFault]
"""Runs requests start..stop of the batch alone."""


@dataclass(slots=True)
class Found:
    """What a search knows, also when it is cut short."""

    pieces: list[tuple[int, int, BatchAnswer]] = field(default_factory=list)
    """(start, stop, answer) of ranges that pass by themselves."""
    poison: list[tuple[int, BatchFault]] = field(default_factory=list)
    """(index, fault) of requests that fail by themselves."""


def locate(count: int, fault: BatchFault, attempt: Attempt, found: Found) -> None:
    """Finds every request that fails by itself.

    Requests that fail only together with others end up in `pieces`.

    Args:
      count: requests in the batch, ≥ 1, known to fail as a whole.
      fault: how the whole failed.
      attempt: tries a range; whatever it raises ends the search.
      found: filled on the way, so that a search that ends early leaves what it knows.
    """
    # Each entry: start, stop, the fault it showed; None = not tried; the flag = must fail by inference.
    waiting: list[tuple[int, int, BatchFault | None, bool]] = [(0, count, fault, True)]
    while waiting:
        start, stop, shown, must_fail = waiting.pop()
        if shown is None and (not must_fail or stop - start == 1):
            result = attempt(start, stop)
            if isinstance(result, BatchAnswer):
                found.pieces.append((start, stop, result))
                continue
            shown = result
        if stop - start == 1 and shown is not None:
            found.poison.append((start, shown))
            continue
        middle = (start + stop) // 2
        left = attempt(start, middle)
        if isinstance(left, BatchAnswer):
            found.pieces.append((start, middle, left))
            waiting.append((middle, stop, None, True))
        else:
            waiting.append((middle, stop, None, False))
            waiting.append((start, middle, left, True))

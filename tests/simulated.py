"""Seeded simulations: how many runs they draw, and what they need not compute.

The test command draws a part of the runs, `-m long` all of them, in the same test. A bound follows from the
number that was drawn: fewer runs may err in a larger share, never by a looser rule.
"""

from __future__ import annotations

from typing import Any

import pytest

PART = 4
"""The test command draws one run in so many, where a test says nothing else."""
SELDOM = 1e9
"""By so much the observations have to grow until a report draws another point."""


def part_and_all(runs: int, part: int = PART) -> list[Any]:
    """Parameters of a test: one run in `part`, and as a long test all of them."""
    return [runs // part, pytest.param(runs, marks=pytest.mark.long)]


def simulated(runs: int, part: int = PART) -> pytest.MarkDecorator:
    """Gives a test its number of `runs`: one in `part` of them, and as a long test all."""
    return pytest.mark.parametrize("runs", part_and_all(runs, part))


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge's tests keep their first look for a report's drawing and no later one.

    A point's limits are searched for, which is most of a simulated run's time; what is answered follows from
    the evidence alone, which is computed at every look as ever.
    """
    from harness.judge import looks, track

    monkeypatch.setattr(looks, "_STRIDE", SELDOM)
    monkeypatch.setattr(track, "_WHOLE_STRIDE", SELDOM)
    monkeypatch.setattr(track, "_SLICE_STRIDE", SELDOM)

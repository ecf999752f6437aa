"""What a plan says: values, a table, a picture."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.jsonable import jsonable
from harness.judge.planning import (
    POWER,
)

LEAST = "windows.min_requests"
"""What binds where the tests need fewer than the policy lets decide."""
HORIZON = 20_000_000
"""Requests beyond which a plan says "more than"."""


LEGEND = (
    "bound: log(1/α)/KL, below which no sequential test can go on average; expected and 90 %: "
    "simulated with the judge's bets; z-test: one planned look (statsmodels), same power"
)
"""What the columns of a plan say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestNeeds:
    """What one guardrail, or one of its slices, needs."""

    name: str
    """Evidence name."""
    window: str
    margin: float
    direction: str
    gating: bool
    """Whether it decides; others are no part of the totals."""
    mean: float
    """Planned mean: the declared effect, or no change where none is declared."""
    declared: bool
    """Whether the policy declares the effect."""
    basis: str
    """What the spread of the values rests on."""
    share: float
    """Of the window's requests that it sees, in (0, 1]."""
    bound: float
    """Requests of the window that no sequential test of this level can go below on average."""
    expected: float
    """Mean requests of the window until it is proven; inf = beyond the horizon."""
    quantile: float
    """Requests of the window that suffice with probability 0.9."""
    fixed_sample: float
    """Requests that a single-look z-test of the same level needs for the same power."""
    power: float | None
    """Probability of being proven with the traffic at hand; None without traffic."""
    harm: float | None
    """Smallest mean beyond the margin that the traffic at hand shows with probability 0.9."""
    curve: tuple[tuple[float, float], ...]
    """(requests of the window, probability of being proven)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowNeeds:
    """What all deciding guardrails of one window need together."""

    name: str
    requests: float
    """Suffice for all of them with probability ≥ 0.9, whatever their dependence."""
    binding: str
    """Evidence name that asks for the most, or windows.min_requests."""
    available: int | None
    """Requests at hand after those that plan; None without traffic."""
    planning: int
    """Requests that only plan the bets."""
    min_requests: int = 0
    """Requests that a gate's policy asks for, whatever its units are; 0 = `requests` says it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """What a policy asks of traffic."""

    policy: str
    """File."""
    windows: tuple[WindowNeeds, ...]
    tests: tuple[TestNeeds, ...]
    """In the policy's order."""
    requests: float
    """Judged requests of all windows together, planning ones among them; inf = beyond the horizon."""
    binding: str
    """Evidence name that asks for the most, or windows.min_requests."""
    notes: tuple[str, ...]
    """What the figures rest on."""
    out: Path | None = None
    """Folder with plan.json, plan.txt and plan.svg."""
    counted: str = "requests"
    """What counts once: requests, rows of a table, or units."""

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(jsonable(self), indent=2)

    def to_text(self) -> str:
        """A table and what it rests on."""
        asked = f"{_count(self.requests)} {self.counted} prove all deciding guardrails"
        if math.isinf(self.requests):
            asked = f"Not even {HORIZON:,} {self.counted} prove all deciding guardrails"
        lines = [f"{asked} with probability {POWER:.0%}; '{self.binding}' binds."]
        for window in self.windows:
            at_hand = "" if window.available is None else f", {window.available:,} at hand"
            lines.append(
                f"  {window.name}: {_count(window.requests)}{at_hand}"
                + (f", {window.planning:,} more to plan" if window.planning else "")
                + (
                    f"; min_requests asks for {window.min_requests:,} requests among them"
                    if window.min_requests
                    else ""
                )
            )
        head = ("guardrail", "margin", "planned", "bound", "expected", "90 %", "z-test", "power", "seen from")  # fmt: skip
        rows = [head, *(_row(test) for test in self.tests)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])


def _row(test: TestNeeds) -> tuple[str, ...]:
    return (
        test.name if test.gating else f"{test.name} (reported)",
        f"{test.margin:g}",
        f"{test.mean:g}" if test.declared else f"{test.mean:g} (none declared)",
        _count(test.bound),
        _count(test.expected),
        _count(test.quantile),
        _count(test.fixed_sample),
        "" if test.power is None else f"{test.power:.0%}",
        "" if test.harm is None else f"{test.harm:.3g}",
    )


def _count(n: float) -> str:
    return f"{math.ceil(n):,}" if math.isfinite(n) else f"over {HORIZON:,}"


def write_plan(out: Path, result: PlanResult) -> None:
    """Write the plan as plot, JSON and text into a new folder.

    Raises:
      UsageError: the folder exists and is not empty.
    """
    from harness.report.power import PowerCurve, render_power

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(str(out), "exists and is not an empty folder", "Name a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    ordered = sorted((t for t in result.tests if t.gating), key=lambda t: -t.quantile)
    curves = [
        PowerCurve(name=t.name, n=[n for n, _ in t.curve], power=[p for _, p in t.curve])
        for t in ordered
    ]
    at_hand = [w.available for w in result.windows if w.available]
    files: dict[str, Any] = {
        "plan.svg": render_power(
            curves, POWER, min(at_hand) if at_hand else None, counted=result.counted
        ),
        "plan.json": result.to_json() + "\n",
        "plan.txt": result.to_text() + "\n",
    }
    for name, content in files.items():
        (out / name).write_text(content, encoding="utf-8")

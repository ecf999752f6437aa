"""A measured figure beside the limit it must keep."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from harness.core.jsonable import jsonable


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement."""

    name: str
    """What was measured."""
    value: float
    """In `unit`."""
    unit: str
    """s, requests/s, MB, × …"""
    limit: float | None = None
    """What it must keep; None = for information."""
    at_most: bool = True
    """Whether the limit is an upper one."""
    note: str = ""
    """How it was measured, in a few words."""
    spoiled: str = ""
    """Why other work on the machine makes the value worth nothing; "" = it does not."""

    @property
    def kept(self) -> bool:
        """Whether the limit holds; of a spoiled value that is not known, and so not kept."""
        if self.limit is None:
            return True
        if self.spoiled:
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one benchmark."""

    title: str
    figures: tuple[Figure, ...]
    left_out: tuple[str, ...] = ()
    """What was not measured, each with its reason."""

    @property
    def within_limits(self) -> bool:
        """Whether every limit holds."""
        return all(f.kept for f in self.figures)

    def to_json(self) -> str:
        """All figures as JSON."""
        rows = [{**jsonable(f), "kept": f.kept} for f in self.figures]
        found = {"title": self.title, "figures": rows, "left_out": list(self.left_out)}
        return json.dumps(found, indent=2)

    def to_text(self) -> str:
        """One line a figure."""
        width = max(len(f.name) for f in self.figures)
        lines = [self.title]
        for f in self.figures:
            sign = "≤" if f.at_most else "≥"
            word = "not measurable beside other work" if f.spoiled else "NOT KEPT"
            limit = "" if f.limit is None else f"  {sign} {f.limit:,g} {'kept' if f.kept else word}"
            notes = "; ".join(filter(None, (f.spoiled, f.note)))
            note = f"  ({notes})" if notes else ""
            lines.append(f"  {f.name:<{width}}  {f.value:>12,.4g} {f.unit}{limit}{note}")
        lines += [f"  not measured  {reason}" for reason in self.left_out]
        return "\n".join(lines)


def load_figure() -> Figure:
    """How busy the machine is; ask before measuring, so that the benchmark's own work is not in it."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    busy = "busy: measure again on a machine of your own" if load > _BUSY * processors else "calm"
    return Figure(
        name="load average before it",
        value=load,
        unit="processes",
        note=f"{processors} processors; {busy}",
    )


_BUSY = 0.5
"""Load average for each processor above which seconds by the clock say little."""

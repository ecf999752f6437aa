"""A measured figure beside the limit it must keep."""

from __future__ import annotations

import json
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

    @property
    def kept(self) -> bool:
        """Whether the limit holds."""
        if self.limit is None:
            return True
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
            limit = (
                ""
                if f.limit is None
                else f"  {sign} {f.limit:,g} {'kept' if f.kept else 'NOT KEPT'}"
            )
            note = f"  ({f.note})" if f.note else ""
            lines.append(f"  {f.name:<{width}}  {f.value:>12,.4g} {f.unit}{limit}{note}")
        lines += [f"  not measured  {reason}" for reason in self.left_out]
        return "\n".join(lines)

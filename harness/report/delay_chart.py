"""The delay curves as one SVG drawing: share of requests with a label over the time since the request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 36, 72
_COLOURS = ("#1f5f99", "#b3541e", "#3b7d3b", "#7a4b94", "#8a6d1d", "#5b6770")
_UNITS = (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0), ("seconds", 1.0))
_TICKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnCurve:
    """One step curve."""

    name: str
    """As the legend says."""
    delay_s: tuple[float, ...]
    """Ascending, seconds."""
    share: tuple[float, ...]
    """In [0, 1]."""
    error: tuple[float, ...]
    """Standard errors; not finite = not drawn."""


def delay_svg(title: str, curves: Sequence[DrawnCurve]) -> str:
    """Draws curves with bands of two standard errors.

    Args:
      title: what it shows.
      curves: at least one.

    Returns:
      A whole SVG document without scripts or links.
    """
    longest = max((d for c in curves for d in c.delay_s), default=1.0) or 1.0
    unit, size = next(((u, s) for u, s in _UNITS if longest >= 2 * s), _UNITS[-1])
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="12" fill="#222">'
        ),
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
        *_axes(longest / size, unit),
    ]
    for i, curve in enumerate(curves):
        parts += _curve(curve, longest, _COLOURS[i % len(_COLOURS)], i)
    return "\n".join([*parts, "</svg>", ""])


def _x(part: float) -> float:
    return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(share: float) -> float:
    return round(_TOP + (1 - min(max(share, 0.0), 1.0)) * (_HEIGHT - _TOP - _BOTTOM), 1)


def _axes(longest: float, unit: str) -> list[str]:
    lines = []
    for k in range(_TICKS + 1):
        part = k / _TICKS
        lines += [
            f'<path d="M{_LEFT} {_y(part)}H{_WIDTH - _RIGHT}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{_y(part) + 4}" text-anchor="end">{part:.0%}</text>',
            f'<text x="{_x(part)}" y="{_y(0) + 16}" text-anchor="middle">{longest * part:.3g}</text>',
        ]
    lines.append(
        f'<text x="{_x(0.5)}" y="{_y(0) + 34}" text-anchor="middle">{unit} since the request</text>'
    )
    return lines


def _curve(curve: DrawnCurve, longest: float, colour: str, row: int) -> list[str]:
    path, band, at = f"M{_x(0)} {_y(0)}", [], _y(0)
    for delay, share, error in zip(curve.delay_s, curve.share, curve.error, strict=True):
        x = _x(delay / longest)
        path += f"V{at}H{x}V{_y(share)}"
        at = _y(share)
        if math.isfinite(error):
            band.append((x, _y(share - 2 * error), _y(share + 2 * error)))
    path += f"H{_x(1)}"
    outline = [*((x, low) for x, low, _ in band), *((x, high) for x, _, high in reversed(band))]
    drawn = []
    if outline:
        points = " ".join(f"{x},{y}" for x, y in outline)
        drawn.append(f'<polygon points="{points}" fill="{colour}" opacity="0.15"/>')
    drawn.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    legend_x, legend_y = _LEFT + (row % 3) * 220, _HEIGHT - 24 + (row // 3) * 14
    drawn.append(f'<path d="M{legend_x} {legend_y - 4}h16" stroke="{colour}" stroke-width="3"/>')
    drawn.append(f'<text x="{legend_x + 22}" y="{legend_y}">{escape(curve.name[:32])}</text>')
    return drawn

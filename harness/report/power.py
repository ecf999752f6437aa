"""A drawing of power against requests, as one SVG file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from harness.report.read import visible
from harness.report.words import count, percent

MOST_CURVES = 8
"""Guardrails drawn; more cannot be told apart."""

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 48, 56
_LINE = 18
_COLOURS = ("#1b6ca8", "#b3541e", "#2d7d46", "#7a4a9c", "#8a6d00", "#a4313f", "#36727c", "#525b67")
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCurve:
    """One guardrail's probability of being proven."""

    name: str
    """As in the policy."""
    n: Sequence[float]
    """Requests of the window, ascending, > 0."""
    power: Sequence[float]
    """Probability by then, in [0, 1]; as long as `n`."""


def render_power(
    curves: Sequence[PowerCurve], wanted: float, available: int | None, *, counted: str
) -> str:
    """Draws curves over a logarithmic axis of requests.

    Args:
      curves: the ones that bind first; those beyond MOST_CURVES are left out and counted.
      wanted: the power that is asked for, drawn as a line.
      available: requests at hand, drawn as a line; None or 0 = unknown.
      counted: what counts once, like requests or units of 1h.

    Returns:
      An SVG document that needs nothing else.
    """
    shown = [curve for curve in curves if len(curve.n)][:MOST_CURVES]
    spans = [n for curve in shown for n in (curve.n[0], _last(curve))] or [10.0, 1000.0]
    low = 10.0 ** math.floor(math.log10(max(min(spans), 1.0)))
    high = 10.0 ** math.ceil(math.log10(max(*spans, available or 1, low * 10.0)))
    height = _HEIGHT + _LINE * len(shown)

    def x(n: float) -> float:
        share = math.log(max(n, low) / low) / math.log(high / low)
        return _LEFT + min(share, 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def y(power: float) -> float:
        return _TOP + (1.0 - power) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [*_axes(x, y, low, high, counted), _across(y(wanted), f"{percent(wanted)} power")]
    if available and low <= available <= high:
        parts.append(_down(x(available), f"{count(available)} at hand"))
    for i, curve in enumerate(shown):
        points = " ".join(
            f"{x(n):.1f},{y(p):.1f}" for n, p in zip(curve.n, curve.power, strict=True)
        )
        style = f'stroke="{_COLOURS[i]}" stroke-dasharray="{_DASHES[i]}"'
        parts.append(f'<polyline points="{points}" fill="none" stroke-width="2" {style}/>')
        top = _HEIGHT + _LINE * i
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + 36}" y1="{top}" y2="{top}" stroke-width="2" {style}/>')  # fmt: skip
        parts.append(_text(_LEFT + 44, top + 4, visible(curve.name)))
    left_out = len(curves) - len(shown)
    title = "Probability that a guardrail is proven, by {counted} judged"
    note = f" ({left_out} more are not drawn)" if left_out > 0 else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#1d2329">'
        f"<title>{escape(title + note)}</title>"
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="{_LEFT}" y="26" font-size="15" font-weight="600">{escape(title + note)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def _last(curve: PowerCurve) -> float:
    """Where a curve is as good as 1, or ends."""
    return next((n for n, p in zip(curve.n, curve.power, strict=True) if p > 0.995), curve.n[-1])  # noqa: PLR2004


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _across(y: float, label: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#525b67" '
        f'stroke-dasharray="4 3"/>{_text(_WIDTH - _RIGHT, y - 5, label, "end")}'
    )


def _down(x: float, label: str) -> str:
    side = "end" if x > _WIDTH / 2 else "start"
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#525b67"/>'
        f"{_text(x + (-6 if side == 'end' else 6), _HEIGHT - _BOTTOM - 8, label, side)}"
    )


def _axes(
    x: Callable[[float], float],
    y: Callable[[float], float],
    low: float,
    high: float,
    counted: str,
) -> list[str]:
    parts = []
    for power in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = y(power)
        line = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"'
        parts.append(f'<line {line} stroke="#dde1e6"/>')
        parts.append(_text(_LEFT - 8, at + 4, percent(power), "end"))
    decades = round(math.log10(high / low))
    for n in (low * 10.0**i for i in range(decades + 1)):
        bottom = _HEIGHT - _BOTTOM
        line = f'x1="{x(n):.1f}" x2="{x(n):.1f}" y1="{_TOP}" y2="{bottom}"'
        parts.append(f'<line {line} stroke="#dde1e6"/>')
        parts.append(_text(x(n), bottom + 18, count(n), "middle"))
    parts.append(_text(_WIDTH / 2, _HEIGHT - 18, f"{counted} of the window", "middle"))
    return parts

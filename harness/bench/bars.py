"""Figures as one SVG of horizontal bars with their limits."""

from __future__ import annotations

from html import escape

from harness.bench.figures import Figure, Figures

_ROW, _LEFT, _WIDTH = 22, 380, 420
_COLOURS = {True: "#2f6f8f", False: "#b3423a"}


def bars_svg(figures: Figures, unit: str) -> str:
    """Bars of the figures that carry one unit, to one scale.

    Args:
      figures: of one benchmark.
      unit: which of them to draw.

    Returns:
      A whole SVG document; the title alone when none has the unit.
    """
    drawn = [f for f in figures.figures if f.unit == unit]
    largest = max((max(f.value, f.limit or 0.0) for f in drawn), default=1.0)
    height = _ROW * (len(drawn) + 2)
    rows = [_row(figure, 1 + i, largest) for i, figure in enumerate(drawn)]
    title = f"{figures.title} ({unit})"
    size = f'width="{_LEFT + _WIDTH + 80}" height="{height}"'
    look = f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}>'
    head = f'<text x="8" y="16" font-size="14">{escape(title)}</text>'
    return "\n".join([start, head, *rows, "</svg>\n"])


def _row(figure: Figure, index: int, largest: float) -> str:
    top = index * _ROW + 8
    long = _WIDTH * figure.value / largest
    bar = f'x="{_LEFT}" y="{top}" width="{long:.1f}" height="{_ROW - 8}"'
    parts = [
        f'<text x="{_LEFT - 8}" y="{top + 12}" text-anchor="end">{escape(figure.name)}</text>',
        f'<rect {bar} fill="{_COLOURS[figure.kept]}"><title>{escape(figure.note)}</title></rect>',
        f'<text x="{_LEFT + long + 6:.1f}" y="{top + 12}">{figure.value:.3g}</text>',
    ]
    if figure.limit is not None:
        at = _LEFT + _WIDTH * figure.limit / largest
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top - 2}" y2="{top + _ROW - 6}" '
            f'stroke="#222" stroke-dasharray="3 2"><title>limit {figure.limit:g}</title></line>'
        )
    return "\n".join(parts)

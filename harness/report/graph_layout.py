"""Boxes in layers: where each box of a small graph is drawn, and along which points its wires run.

Layers by longest path, wires through layers they pass by as narrow places of their own, order in a
layer by the mean place of the neighbours (Sugiyama, Tagawa, Toda 1981), columns pulled towards them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 216.0, 62.0
"""Of a box, in pixels."""
_GAP, _LAYER_GAP, _WIRE = 26.0, 38.0, 14.0
_SWEEPS = 8

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Everything's place; (0, 0) is the top left corner."""

    width: float
    """Of the drawing."""
    height: float
    """Of the drawing."""
    corners: dict[str, Point]
    """Box → its top left corner."""
    wires: tuple[tuple[str, str, tuple[Point, ...]], ...]
    """(from, to, points from the bottom of one to the top of the other)."""


def laid_out(reads: Mapping[str, Sequence[str]]) -> Layout:
    """Places boxes top down.

    Args:
      reads: box → the boxes it reads, all of them keys; in topological order, without circles.
    """
    if not reads:
        return Layout(width=0.0, height=0.0, corners={}, wires=())
    layer: dict[str, int] = {}
    for box, sources in reads.items():
        layer[box] = max((layer[s] + 1 for s in sources), default=0)
    # A source that only late boxes read stands just above them, not at the top.
    readers: dict[str, list[str]] = {box: [] for box in reads}
    for box, sources in reads.items():
        for source in sources:
            readers[source].append(box)
    for box, sources in reads.items():
        if not sources and readers[box]:
            layer[box] = min(layer[r] for r in readers[box]) - 1
    grid = _Grid(reads, layer)
    grid.sort()
    return grid.layout()


class _Grid:
    """Boxes and the places of passing wires, layer by layer."""

    def __init__(self, reads: Mapping[str, Sequence[str]], layer: Mapping[str, int]) -> None:
        self._rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
        self._widths: dict[str, float] = {}
        self._above: dict[str, list[str]] = {}
        self._below: dict[str, list[str]] = {}
        self._chains: list[tuple[str, str, list[str]]] = []
        for box in reads:
            self._put(box, layer[box], WIDTH)
        for box, sources in reads.items():
            for source in sources:
                passing = [f"{source}\0{box}\0{i}" for i in range(layer[source] + 1, layer[box])]
                for place, name in enumerate(passing, start=layer[source] + 1):
                    self._put(name, place, _WIRE)
                chain = [source, *passing, box]
                for upper, lower in pairwise(chain):
                    self._below[upper].append(lower)
                    self._above[lower].append(upper)
                self._chains.append((source, box, passing))
        self._x: dict[str, float] = {}

    def _put(self, name: str, row: int, width: float) -> None:
        self._rows[row].append(name)
        self._widths[name] = width
        self._above[name], self._below[name] = [], []

    def sort(self) -> None:
        """Orders every layer by its neighbours, down and up in turn, and finds the columns."""
        for row in self._rows:
            self._pack(row, {})
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            near = self._above if down else self._below
            for row in self._rows if down else reversed(self._rows):
                wish = {
                    n: sum(self._x[o] for o in near[n]) / len(near[n]) if near[n] else self._x[n]
                    for n in row
                }
                row.sort(key=lambda name: wish[name])
                self._pack(row, wish)

    def _pack(self, row: Sequence[str], wish: Mapping[str, float]) -> None:
        """Centres as wished, pushed apart to the right, then all moved back by the mean push."""
        edge, pushed = float("-inf"), 0.0
        for name in row:
            half = self._widths[name] / 2
            wanted = wish.get(name, edge if edge > float("-inf") else 0.0)
            self._x[name] = max(wanted, edge + half)
            pushed += self._x[name] - wanted if name in wish else 0.0
            edge = self._x[name] + half + _GAP
        for name in row:
            self._x[name] -= pushed / len(row)

    def layout(self) -> Layout:
        """The places in pixels."""
        left = min(x - self._widths[n] / 2 for n, x in self._x.items())
        right = max(x + self._widths[n] / 2 for n, x in self._x.items())
        tops = {n: k * (HEIGHT + _LAYER_GAP) for k, row in enumerate(self._rows) for n in row}
        wires = []
        for source, box, passing in self._chains:
            points = [(self._x[source] - left, tops[source] + HEIGHT)]
            for name in passing:
                points += [(self._x[name] - left, tops[name] + y) for y in (0.0, HEIGHT)]
            points.append((self._x[box] - left, tops[box]))
            wires.append((source, box, tuple(points)))
        return Layout(
            width=right - left,
            height=len(self._rows) * (HEIGHT + _LAYER_GAP) - _LAYER_GAP,
            corners={
                n: (x - left - WIDTH / 2, tops[n])
                for n, x in self._x.items()
                if self._widths[n] == WIDTH
            },
            wires=tuple(wires),
        )

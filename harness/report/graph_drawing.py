"""The graph about the divergence as a drawing: where each box stands, what it says, what its look means.

Every kind has a sign, a shape and a word besides its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.graph_boxes import INPUT, Node, boxes
from harness.report.graph_layout import Point, laid_out
from harness.report.read import Doc
from harness.report.tones import Tone
from harness.report.words import count, number

_MARGIN = 12.0
_LONGEST = 25
"""Characters of a name that fit into a box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a kind of box looks like."""

    kind: str
    """Part of its class."""
    tone: Tone
    """Its colour."""
    sign: str
    """In the box's corner."""
    word: str
    """What it means."""
    many: str = ""
    """The same of several, where it is another word."""


LOOKS = {
    look.kind: look
    for look in (
        Look(kind="first", tone=Tone.BAD, sign="1≠", word="first to differ"),
        Look(kind="differs", tone=Tone.WAIT, sign="≠", word="differs", many="differ"),
        Look(kind="equal", tone=Tone.GOOD, sign="=", word="equal"),
        Look(kind="unmatched", tone=Tone.INFO, sign="?", word="without a partner"),
        Look(kind="not_compared", tone=Tone.MUTED, sign="–", word="not compared"),
        Look(kind=INPUT, tone=Tone.MUTED, sign="in", word="input"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One box of the drawing."""

    x: float
    """Left edge, in pixels."""
    y: float
    """Upper edge."""
    look: Look
    """Its kind's."""
    lines: tuple[str, ...]
    """Operator, tensor, largest difference; of a stretch how many and which."""
    stretch: bool
    """Several tensors in one box."""
    text: str
    """Everything about it, unshortened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A graph with its legend."""

    width: float
    """In pixels."""
    height: float
    """In pixels."""
    boxes: tuple[Box, ...]
    """Every box."""
    wires: tuple[str, ...]
    """SVG paths."""
    legend: tuple[Look, ...]
    """Kinds that occur."""
    text: str
    """What is drawn, in words."""


def drawing(states: Sequence[Doc], firsts: Sequence[str]) -> Drawing | None:
    """Draws a baseline's graph; None where there is nothing to draw.

    Args:
      states: of its tensors, in topological order.
      firsts: the first to differ.
    """
    nodes = boxes(states, firsts)
    if not nodes:
        return None
    layout = laid_out({node.name: node.reads for node in nodes})
    kinds = {node.kind for node in nodes}
    return Drawing(
        width=layout.width + 2 * _MARGIN,
        height=layout.height + 2 * _MARGIN,
        boxes=tuple(_box(node, layout.corners[node.name]) for node in nodes),
        wires=tuple(_path(points) for _, _, points in layout.wires),
        legend=tuple(look for look in LOOKS.values() if look.kind in kinds),
        text=f"The baseline's graph, inputs first: {count(len(states))} tensors in {count(len(nodes))} "
        "boxes; stretches of the same kind are one box.",
    )


def _box(node: Node, corner: Point) -> Box:
    look = LOOKS[node.kind]
    lines, text = _said(node)
    return Box(
        x=round(corner[0] + _MARGIN, 1),
        y=round(corner[1] + _MARGIN, 1),
        look=look,
        lines=tuple(_fit(line) for line in lines),
        stretch=not node.alone,
        text=text,
    )


def _said(node: Node) -> tuple[tuple[str, ...], str]:
    word, many = LOOKS[node.kind].word, LOOKS[node.kind].many
    names = tuple(m.at("baseline").text() for m in node.members)
    if node.kind == INPUT and node.alone:
        return ("input", node.name), f"input {node.name}"
    if not node.alone:
        head = f"{count(len(names))} {many or word}" if names else "inputs"
        ends = f"{names[0]} … {names[-1]}" if names else ""
        return (head, ends, _furthest(node.members)), f"{head}: {', '.join(names[:40])}"
    state = node.members[0]
    made = state.at("operator").text()
    unit = "batches" if state.at("by_batch").flag(default=False) else "rows"
    rows = (
        f"{count(state.at('differing').whole())} of {count(state.at('rows').whole())} {unit} differ"
    )
    why = state.at("why").text()
    far = _furthest(node.members)
    full = "; ".join(
        t for t in (f"{made} → {names[0]}: {word}", rows if far else "", far, why) if t
    )
    return (made, names[0], far or (word if node.kind != "equal" else "")), full


def _furthest(members: Sequence[Doc]) -> str:
    """By how much the furthest of them differs."""
    differing = [m for m in members if m.at("verdict").text() == "differs"]
    if not differing:
        return ""
    relative = max(m.at("relative").number() or 0.0 for m in differing)
    absolute = max(m.at("absolute").number() or 0.0 for m in differing)
    return f"by {number(absolute)}, relative {number(relative)}"


def _fit(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    # The end of a tensor's name tells more than its beginning: it is a path.
    head = _LONGEST // 3
    return f"{text[:head]}…{text[-(_LONGEST - head - 1) :]}"


def _path(points: Sequence[Point]) -> str:
    (x, y), *rest = [(round(px + _MARGIN, 1), round(py + _MARGIN, 1)) for px, py in points]
    parts = [f"M{x} {y}"]
    for nx, ny in rest:
        if nx == x:
            parts.append(f"V{ny}")
        else:
            middle = round((y + ny) / 2, 1)
            parts.append(f"C{x} {middle} {nx} {middle} {nx} {ny}")
        x, y = nx, ny
    return "".join(parts)

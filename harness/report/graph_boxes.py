"""Which boxes a drawing of a graph has: the tensors about the divergence, and stretches of all others.

A thousand boxes tell nobody anything. What lies within a few steps of a first divergence has a box of its
own; all else is joined with its like (equal with equal, differing with differing) in one box that says
how many. Stretches are cut so that the drawing has no circles: a stretch is numbered by how often the
way to it changed between kinds, so a wire only ever leads to a higher number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.read import Doc

MOST_OWN = 48
"""Tensors with a box of their own."""
_STEPS = 3
_FIRSTS = 8

INPUT = "input"
KINDS = ("first", "differs", "unmatched", "not_compared", "equal", INPUT)
"""What a box can be, most telling first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A box before it is worded."""

    name: str
    """Unique."""
    kind: str
    """Of KINDS."""
    members: tuple[Doc, ...]
    """States of its tensors; () for inputs."""
    alone: bool
    """One tensor or input, not a stretch."""
    reads: tuple[str, ...]
    """Boxes that it reads."""


def kind_of(state: Doc, firsts: Sequence[str]) -> str:
    """What a tensor's box is."""
    verdict = state.at("verdict").text()
    if state.at("baseline").text() in firsts:
        return "first"
    if verdict in ("equal", "differs"):
        return verdict
    return "not_compared" if state.at("tier").text() else "unmatched"


def boxes(states: Sequence[Doc], firsts: Sequence[str]) -> tuple[Node, ...]:
    """Tensors as boxes, in topological order.

    Args:
      states: of the report, in topological order.
      firsts: baseline's tensors of the frontier, in topological order.
    """
    by_name = {state.at("baseline").text(): state for state in states}
    reads = {
        name: tuple(source.text() for source in state.at("reads").items())
        for name, state in by_name.items()
    }
    inputs = dict.fromkeys(s for sources in reads.values() for s in sources if s not in by_name)
    kinds = dict.fromkeys(inputs, INPUT) | {n: kind_of(s, firsts) for n, s in by_name.items()}
    own = _own(reads, [f for f in firsts if f in by_name])
    group = _groups({**dict.fromkeys(inputs, ()), **reads}, kinds, own)
    members: dict[str, list[str]] = {}
    for name in (*inputs, *reads):
        members.setdefault(group[name], []).append(name)
    found = {}
    for box, names in members.items():
        sources = dict.fromkeys(group[s] for n in names for s in reads.get(n, ()))
        found[box] = Node(
            name=names[0] if len(names) == 1 else box,
            kind=kinds[names[0]],
            members=tuple(by_name[n] for n in names if n in by_name),
            alone=len(names) == 1,
            reads=tuple(s for s in sources if s != box),
        )
    return _ordered(found)


def _own(reads: dict[str, tuple[str, ...]], firsts: Sequence[str]) -> set[str]:
    """The first divergences and what is near them, step by step until there are enough."""
    readers: dict[str, list[str]] = {}
    for name, sources in reads.items():
        for source in sources:
            readers.setdefault(source, []).append(name)
    own = dict.fromkeys(firsts[:_FIRSTS])
    edge = list(own)
    for _ in range(_STEPS):
        near = dict.fromkeys(
            n for name in edge for n in (*reads.get(name, ()), *readers.get(name, ()))
        )
        edge = [n for n in near if n not in own][: max(MOST_OWN - len(own), 0)]
        own |= dict.fromkeys(edge)
    return set(own)


def _groups(
    reads: dict[str, tuple[str, ...]], kinds: dict[str, str], own: set[str]
) -> dict[str, str]:
    """Tensor → box; see the module's docstring."""
    turn: dict[str, int] = {}
    group = {}
    for name, sources in reads.items():
        turn[name] = max(
            (
                turn[s] + (name in own or s in own or kinds[s] != kinds[name])
                for s in sources
                if s in turn
            ),
            default=0,
        )
        group[name] = f"\0{name}" if name in own else f"{kinds[name]}\0{turn[name]}"
    return group


def _ordered(found: dict[str, Node]) -> tuple[Node, ...]:
    """Boxes after all that they read."""
    done: dict[str, Node] = {}
    left = dict(found)
    while left:
        ready = [box for box, node in left.items() if all(s in done for s in node.reads)]
        if not ready:
            # Only a damaged file has circles: the rest is left out rather than drawn wrongly.
            break
        done |= {box: left.pop(box) for box in ready}
    names = {box: node.name for box, node in done.items()}
    return tuple(
        Node(
            name=node.name, kind=node.kind, members=node.members, alone=node.alone,
            reads=tuple(names[s] for s in node.reads),
        )
        for node in done.values()
    )  # fmt: skip

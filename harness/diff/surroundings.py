"""What the values on the requests say for and against a pair of tensors.

Looks mislead where a graph repeats itself: of two branches that are written otherwise in turn, the inside of the one
looks like the inside of the other. Values do not. Tensors whose values nobody else has stand for each other, and a
pair that looks alike and differs is refused where what is equal about it speaks against it:

- the one has an equal partner elsewhere;
- they flow into other equal tensors;
- they are inside of linear steps that flow into the same ones and into nothing else, by other operators or constants:
  where two differences make up for each other, a step is written otherwise, and nothing in it stands for anything.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping
from dataclasses import replace

from harness.core.graphs import Graph, Node
from harness.diff.graph_hashes import COMMUTATIVE, digest
from harness.diff.linear_steps import Steps
from harness.diff.uses import made_by

Fingerprints = Mapping[str, Hashable]
"""Tensor → something that is equal for equal values and hardly ever for others."""
_MOST_ENDS = 32
"""Equal tensors that are kept apart of those that one flows into; of more nothing is known."""


class Surroundings:
    """Two graphs, the values of their tensors, and the pairs that stand fast.

    Args:
      graphs: the baseline's and the candidate's, without copies.
      values: the same order.
      taken: of each, its tensors that have partners; read as they grow.
    """

    def __init__(
        self,
        graphs: tuple[Graph, Graph],
        values: tuple[Fingerprints, Fingerprints],
        taken: tuple[Container[str], Container[str]],
    ) -> None:
        self._graphs, self._values, self._taken = graphs, values, taken
        self._holders: tuple[dict[Hashable, list[str]], dict[Hashable, list[str]]] = ({}, {})
        for graph, known, holders in zip(graphs, values, self._holders, strict=True):
            for name in graph.computed():
                if name in known:
                    holders.setdefault(known[name], []).append(name)
        self._flows: tuple[_Flow, _Flow] | None = None
        self._equal_pairs: dict[str, str] = {}

    def alone(self) -> list[tuple[str, str]]:
        """Tensors without partners whose values nobody else without a partner has, on both sides."""
        found = []
        for value in self._holders[0]:
            ours, theirs = self._free(0, value), self._free(1, value)
            if len(ours) == len(theirs) == 1:
                found.append((ours[0], theirs[0]))
        return found

    def stand_fast(self, pairs: Mapping[str, str], ends: Mapping[str, str]) -> None:
        """Takes the pairs so far for what all others are judged by.

        Args:
          pairs: baseline's tensor → candidate's.
          ends: baseline's output → candidate's.
        """
        fixed = {ours: theirs for ours, theirs in ends.items() if ours not in pairs} | dict(pairs)
        self._equal_pairs = {a: b for a, b in pairs.items() if self._equal(a, b)}
        equal = set(self._equal_pairs.values())
        self._flows = (
            _Flow(self._graphs[0], fixed, equal),
            _Flow(self._graphs[1], {theirs: theirs for theirs in fixed.values()}, equal),
        )

    def without_rewritten(self) -> tuple[Graph, Graph]:
        """The graphs without what is inside of linear steps that make equal tensors in one version's way only."""
        return self._left(0), self._left(1)

    def _left(self, side: int) -> Graph:
        if self._flows is None:
            return self._graphs[side]
        ours, theirs = self._flows[side], self._flows[1 - side]
        known = {(theirs.ends[name], theirs.ways[name]) for name in theirs.inside}
        rewritten = {
            name
            for name in ours.inside
            if name not in self._taken[side]
            and ours.closed(name)
            and (ours.ends[name], ours.ways[name]) not in known
        }
        graph = self._graphs[side]
        nodes = (n for n in graph.nodes if any(o not in rewritten for o in made_by(n)))
        return replace(graph, nodes=tuple(nodes))

    def equal_pairs(self) -> dict[str, str]:
        """Baseline's tensor → candidate's, of those that stand fast and are equal."""
        return self._equal_pairs

    def against(self, ours: str, theirs: str) -> bool:
        """Whether a pair by looks is contradicted by what is equal."""
        values = self._values[0].get(ours), self._values[1].get(theirs)
        if values[0] is not None and values[0] == values[1]:
            return False
        if any(v is not None and self._free(1 - side, v) for side, v in enumerate(values)):
            return True
        if self._flows is None:
            return False
        ends = self._flows[0].ends.get(ours), self._flows[1].ends.get(theirs)
        if ends[0] is None or ends[1] is None or not (ends[0] or ends[1]):
            return False
        if not ends[0] & ends[1]:
            return True
        both = list(zip(self._flows, (ours, theirs), strict=True))
        closed = all(flow.closed(name) for flow, name in both) and any(
            n in f.inside for f, n in both
        )
        return closed and self._flows[0].ways[ours] != self._flows[1].ways[theirs]

    def _equal(self, ours: str, theirs: str) -> bool:
        value = self._values[0].get(ours)
        return value is not None and value == self._values[1].get(theirs)

    def _free(self, side: int, value: Hashable) -> list[str]:
        return [n for n in self._holders[side].get(value, ()) if n not in self._taken[side]]


class _Flow:
    """Into which fixed tensors each other tensor of a graph flows, and by which operators."""

    def __init__(self, graph: Graph, fixed: Mapping[str, str], equal: Container[str]) -> None:
        self._equal = equal
        steps = Steps(graph, {})
        self.inside: set[str] = set()
        """Made by one linear operator on constants, and read by another."""
        self._exact = {constant.name: constant.exact for constant in graph.constants}
        self.ends: dict[str, frozenset[str] | None] = {}
        """Tensor → the nearest fixed ones behind it, in the candidate's names; None = too many."""
        self.ways: dict[str, bytes] = {}
        """Tensor → digest of the linear operators on constants on the way to these, and of what reads their results."""
        for node in reversed(graph.nodes):
            for name in made_by(node):
                readers = graph.consumers(name)
                found: frozenset[str] | None = frozenset()
                ways = []
                for reader in readers:
                    for made in made_by(reader):
                        more = frozenset([fixed[made]]) if made in fixed else self.ends.get(made)
                        found = None if found is None or more is None else found | more
                        goes_on = steps.source(made) == name
                        if goes_on and steps.source(name) is not None:
                            self.inside.add(name)
                        way = b""
                        if goes_on:
                            way = digest("end", fixed[made]) if made in fixed else self.ways[made]
                        ways.append(digest(way, *self._step(reader, name)))
                if found is not None and len(found) > _MOST_ENDS:
                    found = None
                self.ends[name] = found
                self.ways[name] = digest(*sorted(ways))

    def closed(self, tensor: str) -> bool:
        """Whether it flows into equal tensors alone."""
        ends = self.ends[tensor]
        return bool(ends) and all(end in self._equal for end in ends or ())

    def _step(self, node: Node, tensor: str) -> list[str]:
        """An operator, its attributes and constants, and in which place it reads a tensor."""
        read = [
            "it" if source == tensor else self._exact.get(source, "another")
            for source in (*node.inputs, *node.captures)
        ]
        if node.op in COMMUTATIVE:
            read.sort()
        return [node.op, *(f"{a.name}={a.exact}" for a in node.attributes), *read]

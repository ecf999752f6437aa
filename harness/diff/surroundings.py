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

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.core.graphs import Graph, Node
from harness.diff.graph_hashes import COMMUTATIVE, digest, own_parts
from harness.diff.linear_steps import Steps
from harness.diff.uses import made_by, use_of

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
        if any(v is not None and self._has_free(1 - side, v) for side, v in enumerate(values)):
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

    def _has_free(self, side: int, value: Hashable) -> bool:
        """As `_free`, for many questions about a value that many tensors have: what is taken stays taken."""
        holders = self._holders[side].get(value, [])
        while holders and holders[-1] in self._taken[side]:
            holders.pop()
        return bool(holders)


class _Flow:
    """Into which fixed tensors each other tensor of a graph flows, and by which operators."""

    def __init__(self, graph: Graph, fixed: Mapping[str, str], equal: Container[str]) -> None:
        self._fixed, self._equal = fixed, equal
        self._steps = Steps(graph, {})
        self.inside: set[str] = set()
        """Made by one linear operator on constants, and read by another."""
        self._exact = {constant.name: constant.exact for constant in graph.constants}
        self.ends: dict[str, frozenset[str] | None] = {}
        """Tensor → the nearest fixed ones behind it, in the candidate's names; None = too many."""
        self.ways: dict[str, bytes] = {}
        """Tensor → digest of the linear operators on constants on the way to these, and of what reads their results."""
        readers: dict[str, _Reader] = {}
        for node in reversed(graph.nodes):
            made = made_by(node)
            for name in made:
                found = [(r, readers[m[0]]) for r in graph.consumers(name) if (m := made_by(r))]
                self.ends[name] = _together(reader.ends for _, reader in found)
                self.ways[name] = digest(*sorted(self._way(name, *one) for one in found))
            if made:
                readers[made[0]] = self._reader(node, made)

    def closed(self, tensor: str) -> bool:
        """Whether it flows into equal tensors alone."""
        ends = self.ends[tensor]
        return bool(ends) and all(end in self._equal for end in ends or ())

    def _way(self, tensor: str, node: Node, reader: _Reader) -> bytes:
        """Digest of the way that begins with one operator that reads a tensor."""
        goes_on = reader.goes_on_from == tensor
        if goes_on and self._steps.source(tensor) is not None:
            self.inside.add(tensor)
        return digest(reader.way if goes_on else b"", reader.step, repr(use_of(node, tensor)))

    def _reader(self, node: Node, made: Sequence[str]) -> _Reader:
        """What is told of an operator once, however many tensors it reads."""
        read = [self._exact.get(name, "another") for name in (*node.inputs, *node.captures)]
        if node.op in COMMUTATIVE:
            read.sort()
        first = made[0]
        ends = _together(
            frozenset([self._fixed[n]]) if n in self._fixed else self.ends[n] for n in made
        )
        return _Reader(
            ends=ends,
            step=digest(*own_parts(node, exact=True), str(len(made)), *read),
            goes_on_from=self._steps.source(first),
            way=digest("end", self._fixed[first]) if first in self._fixed else self.ways[first],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """An operator, as those see it that it reads."""

    ends: frozenset[str] | None
    """As `_Flow.ends`, of all that it makes, itself included."""
    step: bytes
    """Digest of it and of the constants that it reads."""
    goes_on_from: str | None
    """The tensor that it makes something of by constants alone; None = it is no such step."""
    way: bytes
    """As `_Flow.ways`, of what it makes, itself included."""


def _together(parts: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """All ends of all parts; None = too many."""
    found: set[str] = set()
    for part in parts:
        found.update(part or ())
        if part is None or len(found) > _MOST_ENDS:
            return None
    return frozenset(found)

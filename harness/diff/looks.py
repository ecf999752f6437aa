"""What a tensor is computed like, but for weights: keys that both graphs share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from harness.core.graphs import Graph
from harness.diff.changes import is_one_number
from harness.diff.graph_hashes import upstream
from harness.diff.uses import made_as


class Looks:
    """One graph.

    Args:
      side: 0 baseline, 1 candidate: in keys that nothing of the other side may equal.
      graph: nodes in topological order, without aliases.
      inputs: input → the name under which both versions know it.
      equal: computed tensor → the same, of those that hold the same values in both.
    """

    def __init__(
        self, side: int, graph: Graph, inputs: Mapping[str, str], equal: Mapping[str, str]
    ) -> None:
        self._side, self._graph = side, graph
        self._loose = upstream(graph, exact=False, inputs=inputs, equal=equal)
        self._exact = {c.name: c.exact for c in graph.constants}
        self._plain = {c.name for c in graph.constants if is_one_number(c.text)}

    def like(self, name: str) -> Hashable:
        """The same computation but for weights."""
        return self._loose[name]

    def named(self, name: str) -> Hashable:
        """The same under the same name."""
        return self._loose[name], name

    def by_constants(self, name: str) -> tuple[Hashable, Hashable]:
        """The same, with the constants that its operator itself reads; of none, the tensor itself."""
        node = self._graph.producer(name)
        own = [self._exact[s] for s in node.sources() if s in self._exact] if node else []
        return (self._loose[name], tuple(own)) if own else (self._side, name)

    def constants_alone(self, name: str) -> Hashable:
        """These without what came before: an operator inserted upstream must not shift all that follow.

        Not of single numbers: every other graph adds 1 in places that have nothing to do with each other.
        """
        key = self.by_constants(name)
        node = self._graph.producer(name)
        read = [s for s in node.sources() if s in self._exact] if node else []
        if key[0] == self._side or self._plain.issuperset(read):
            return self._side, name
        return made_as(self._graph, name), key[1]

"""Constants of equal values in two graphs: which of several is which, their value does not say.

They count as one. (Paired one by one, in some order, the readers of one stood for those of another: of
`(x · 5) · 5` the first product became the second.)
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.core.graphs import Graph, Node


class EqualConstants:
    """Constants that both graphs hold.

    Args:
      graphs: the baseline's and the candidate's.
      exact: name → digest of type, shape and values, of each.
    """

    def __init__(
        self, graphs: tuple[Graph, Graph], exact: tuple[Mapping[str, bytes], Mapping[str, bytes]]
    ) -> None:
        ours, theirs = (_by_value(graph, known) for graph, known in zip(graphs, exact, strict=True))
        self.partners: dict[str, str] = {}
        """Baseline's constant → the first of the candidate's that equal it."""
        self.pairs: list[tuple[str, str]] = []
        """(baseline's, candidate's), one for each value."""
        self._first: dict[str, str] = {}
        self._like: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
        for value, names in ours.items():
            equal = theirs.get(value)
            if equal is None:
                continue
            self.partners |= dict.fromkeys(names, equal[0])
            self._first |= dict.fromkeys(equal, equal[0])
            self._like[0][names[0]], self._like[1][equal[0]] = names, equal
            self.pairs.append((names[0], equal[0]))

    def all_like(self, side: int, tensor: str) -> list[str]:
        """A tensor, or all constants that equal it, where it is one of `pairs`; side 0 is the baseline."""
        return self._like[side].get(tensor, [tensor])

    def reads(self, node: Node) -> list[str]:
        """What an operator of the candidate reads; of equal constants the first."""
        return [self._first.get(s, s) for s in node.sources()]


def _by_value(graph: Graph, exact: Mapping[str, bytes]) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    for constant in graph.constants:
        found.setdefault(exact[constant.name], []).append(constant.name)
    return found

"""How operators use tensors."""

from __future__ import annotations

from collections.abc import Container, Sequence

from harness.core.graphs import Graph, Node
from harness.diff.graph_hashes import COMMUTATIVE


def use_of(node: Node, tensor: str) -> tuple[str, tuple[int, ...]]:
    """Operator and the places in which it reads a tensor; places of swappable inputs do not count."""
    places = node.places(tensor)
    return node.op, (len(places),) if node.op in COMMUTATIVE else places


def made_by(node: Node) -> Sequence[str]:
    """The tensors that an operator makes."""
    return [name for name in node.outputs if name]


def made_as(graph: Graph, tensor: str) -> tuple[str, int] | None:
    """Operator and output number; None for what is not computed."""
    node = graph.producer(tensor)
    return None if node is None else (node.op, node.outputs.index(tensor))


def unmatched_readers(graph: Graph, tensor: str, taken: Container[str]) -> list[Node]:
    """Operators that read a tensor and make nothing that is taken."""
    return [n for n in graph.consumers(tensor) if not any(o in taken for o in made_by(n))]

"""A copy of a model that computes some of its outputs and nothing else. In the child.

onnxruntime computes a whole graph whichever outputs it is asked for. Features come early: without what
lies behind them (trees, a network) they cost a small part of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.sandbox.graph_bodies import bodies

if TYPE_CHECKING:
    import onnx


def cut(model: onnx.ModelProto, outputs: Sequence[str]) -> bool:
    """Leaves out every node and constant that the named outputs do not need; inputs stay.

    Args:
      model: changed in place.
      outputs: of the model; the only ones that it has afterwards.

    Returns:
      Whether any node was left out.
    """
    graph = model.graph
    before = len(graph.node)
    needed = set(outputs)
    # ONNX requires nodes to be sorted: whoever reads a tensor comes after the node that makes it.
    for place in reversed(range(before)):
        node = graph.node[place]
        if needed.intersection(node.output):
            needed.update(_read(node))
        else:
            del graph.node[place]
    _thin(graph.output, lambda value: value.name in outputs)
    _thin(graph.initializer, lambda constant: constant.name in needed)
    _thin(graph.sparse_initializer, lambda constant: constant.values.name in needed)
    _thin(graph.value_info, lambda value: value.name in needed)
    return len(graph.node) < before


def _thin(field: Any, wanted: Callable[[Any], bool]) -> None:  # noqa: ANN401 - protobuf has no common type
    for place in reversed(range(len(field))):
        if not wanted(field[place]):
            del field[place]


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node and its bodies read; some may be the bodies' own."""
    yield from node.input
    for body in bodies(node):
        for inner in body.node:
            yield from _read(inner)
        yield from (output.name for output in body.output)

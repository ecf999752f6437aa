"""The names in a graph: of tensors, operators and nodes. Runs in a sandboxed child."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.sandbox.graph_bodies import every

if TYPE_CHECKING:
    import onnx

MAX_NAME = 10_000
"""Characters of a name, at most: longer ones are read nowhere."""


def fault_of_names(model: onnx.ModelProto) -> str:
    """What keeps a graph's names from being read; "" where nothing does.

    Args:
      model: parsed, which onnxruntime loads: it takes names of any length and any bytes.
    """
    for name in _names(model.graph):
        if not isinstance(name, str):
            return "a name in the graph is not UTF-8: rename it"
        if len(name) > MAX_NAME:
            return f"a name in the graph has {len(name):,} characters, and {MAX_NAME:,} are read: shorten it"
    return ""


def _names(graph: onnx.GraphProto) -> Iterator[object]:
    """The main graph's own, which are told; what stands in bodies is not."""
    for values in (graph.input, graph.output, graph.initializer):
        yield from (value.name for value in values)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for node in every(graph.node):
        yield from node.input

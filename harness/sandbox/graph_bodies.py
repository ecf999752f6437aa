"""The graphs inside nodes: branches of If, bodies of Loop and Scan. Runs in a sandboxed child."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def every(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their bodies."""
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting.extend(body.node for body in bodies(node))

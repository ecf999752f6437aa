"""The order in which the operators of a graph run. In the child for a model, in the parent for its description."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def running_order(before: Sequence[Collection[int]]) -> list[int]:
    """Places of nodes so that each comes after those it reads from; where they are given so, as they are.

    Args:
      before: of each node, the places of the nodes that make what it reads.

    Raises:
      graphlib.CycleError: a node reads, directly or through others, what it makes.
    """
    if all(place > max(read, default=-1) for place, read in enumerate(before)):
        return list(range(len(before)))
    return [*graphlib.TopologicalSorter(dict(enumerate(before))).static_order()]


def put_in_order(model: onnx.ModelProto) -> None:
    """Puts the nodes of a model, of its bodies and of its functions in the order in which they run.

    ONNX asks for that order, and onnxruntime does not: a model that it runs may have another one. A graph
    that has none, which onnxruntime refuses, stays as it is.

    Args:
      model: changed in place.
    """
    _put_in_order(model.graph)
    for function in model.functions:
        _put_in_order(function)


def _put_in_order(held: onnx.GraphProto | onnx.FunctionProto) -> None:
    from harness.sandbox.graph_bodies import bodies
    from harness.sandbox.graph_description import captured

    for node in held.node:
        for body in bodies(node):
            _put_in_order(body)
    maker = {name: place for place, node in enumerate(held.node) for name in node.output if name}
    read = [(*node.input, *captured(node)) for node in held.node]
    try:
        order = running_order([{maker[n] for n in names if n in maker} for names in read])
    except graphlib.CycleError:
        return
    if order != list(range(len(order))):
        # Sorted as they lie, by their ranks in turn: copies of nodes hold their constants once more.
        rank = {place: at for at, place in enumerate(order)}
        ranks = iter([rank[place] for place in range(len(order))])
        held.node.sort(key=lambda _: next(ranks))

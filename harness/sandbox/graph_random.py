"""Operators whose result differs from run to run, and every tensor that is computed from one.

It is told from the graph alone. Two runs tell less: an operator with a seed gives the same values to two
processes that ran equally often, and others as soon as one of them ran once more. Runs in a sandboxed child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.sandbox.graph_bodies import every
from harness.sandbox.graph_description import captured

if TYPE_CHECKING:
    import onnx

_GENERATORS = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Sampling",
    }
)
_DROPOUTS = {"Dropout": 2, "BiasDropout": 4, "BitmaskDropout": 2, "BitmaskBiasDropout": 4}
"""Operator → the place of training_mode among its inputs; without it they do nothing."""

_ABOUT_SHAPES = ("Shape", "Size")
"""What these return does not depend on any value."""


class RandomNodes:
    """Tells which nodes of a model are random.

    Args:
      model: parsed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._functions = {(f.domain, f.name): f for f in model.functions}
        self._known: dict[tuple[str, str], str] = {}
        self._off = {
            t.name
            for t in model.graph.initializer
            if not (t.data_location or any(t.raw_data) or any(t.int32_data))
        }
        for node in every(model.graph.node):
            if node.op_type == "Constant" and not node.domain:
                tensors = [a.t for a in node.attribute if a.name == "value"]
                if tensors and not any(tensors[0].raw_data) and not any(tensors[0].int32_data):
                    self._off.add(node.output[0])

    def operator(self, node: onnx.NodeProto) -> str:
        """The random operator that a node is, or has in its bodies or its function; "" = none."""
        for inner in every([node]):
            found = self._called(inner) or self._own(inner)
            if found:
                return found
        return ""

    def operators(self) -> list[str]:
        """All of the model, wherever they stand, sorted."""
        nodes = [*self._model.graph.node, *(n for f in self._model.functions for n in f.node)]
        return sorted({found for n in every(nodes) if (found := self._own(n))})

    def tensors(self) -> list[list[str]]:
        """[tensor of the main graph, `operator → what it makes`] of all that a random node is before."""
        found: dict[str, str] = {}
        for node in self._model.graph.node:
            operator = self.operator(node)
            outputs = [name for name in node.output if name]
            before = [found[n] for n in (*node.input, *captured(node)) if n in found]
            if not node.domain and node.op_type in _ABOUT_SHAPES:
                continue
            why = f"{operator} → {outputs[0]}" if operator and outputs else next(iter(before), "")
            if why:
                found |= dict.fromkeys(outputs, why)
        return [[name, why] for name, why in found.items()]

    def _own(self, node: onnx.NodeProto) -> str:
        if (node.domain, node.op_type) in self._functions:
            return ""
        if node.op_type in _GENERATORS:
            return node.op_type
        place = _DROPOUTS.get(node.op_type, len(node.input))
        training = node.input[place] if len(node.input) > place else ""
        return node.op_type if training and training not in self._off else ""

    def _called(self, node: onnx.NodeProto) -> str:
        key = (node.domain, node.op_type)
        if key not in self._functions:
            return ""
        self._learn(key)
        return self._known[key]

    def _learn(self, key: tuple[str, str]) -> None:
        """Looks into a function and those that it calls; a loop, for chains are as long as one likes."""
        waiting = [key] if key not in self._known else []
        begun: set[tuple[str, str]] = set()
        while waiting:
            now = waiting[-1]
            nodes = [*every(self._functions[now].node)]
            called = [(n.domain, n.op_type) for n in nodes]
            begun.add(now)
            # A function that calls itself adds nothing to what it has.
            first = [k for k in called if k in self._functions and k not in {*self._known, *begun}]
            if first:
                waiting += dict.fromkeys(first)
                continue
            found = (
                self._known.get(k, "") or self._own(n) for k, n in zip(called, nodes, strict=True)
            )
            self._known.setdefault(now, next(filter(None, found), ""))
            waiting.pop()

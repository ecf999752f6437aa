"""Runs of linear operators on constants, in one graph: where they begin, where they end, and who reads that."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from harness.core.graphs import Graph, Node
from harness.diff.graph_hashes import digest, own_parts
from harness.diff.uses import made_by, use_of

_LINEAR = frozenset(
    {
        "Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "Flatten", "Gemm", "MatMul", "Mul",
        "Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze", "ai.onnx.ml.Scaler",
    }
)  # fmt: skip
"""What a converter merges with its neighbours, or puts around them: sums, products and other shapes."""
_SAME_USE = {"Gemm": "MatMul"}
"""Operators that read a tensor to the same end."""
MOST_STEPS = 8
"""Operators of a run that are followed."""


class Steps:
    """The linear steps of one graph.

    Args:
      graph: nodes in topological order, without aliases.
      ends: output → the name that both versions have for it.
    """

    def __init__(self, graph: Graph, ends: Mapping[str, str]) -> None:
        self._graph = graph
        self._ends = ends
        self._outputs = frozenset(graph.outputs)
        self._exact = {constant.name: constant.exact for constant in graph.constants}
        self._held = set(self._exact)
        self._uses: dict[str, bytes] = {}
        random = dict(graph.random)
        for node in graph.nodes:
            made = made_by(node)
            if node.sources() and self._held.issuperset(node.sources()) and made[0] not in random:
                self._held.update(made)

    def source(self, tensor: str) -> str | None:
        """What a tensor is made from by one linear operator on constants; None = not so."""
        node = self._graph.producer(tensor)
        if node is None or node.op not in _LINEAR or len(made_by(node)) != 1:
            return None
        computed = [s for s in node.sources() if s not in self._held]
        return computed[0] if len(computed) == 1 else None

    def root(self, tensor: str, taken: Collection[str]) -> str:
        """What the run that ends in a tensor begins from; a tensor with other readers, or taken, ends it, too."""
        found = tensor
        while (before := self.source(found)) is not None:
            found = before
            if found in taken or not self._graph.is_read_once(found) or found in self._outputs:
                break
        return found

    def run(self, tensor: str) -> list[str]:
        """A tensor and what linear operators make of it, as long as nothing else reads it."""
        found = [tensor]
        while len(found) < MOST_STEPS and found[-1] not in self._outputs:
            readers = self._graph.consumers(found[-1])
            made = made_by(readers[0]) if len(readers) == 1 else ()
            if len(made) != 1 or self.source(made[0]) != found[-1]:
                break
            found.append(made[0])
        return found

    def uses(self, tensor: str) -> bytes:
        """Digest of who reads a tensor, and as which operand; an output is read by whoever asks; b"" = nobody."""
        # Once for each: a tensor may have many thousands of readers, and each of these may ask.
        if tensor not in self._uses:
            own = [use_of(node, tensor) for node in self._graph.consumers(tensor)]
            if tensor in self._outputs:
                own.append((f"output {self._ends.get(tensor, tensor)}", ()))
            told = sorted(repr((_SAME_USE.get(op, op), places)) for op, places in own)
            self._uses[tensor] = digest(*told) if told else b""
        return self._uses[tensor]

    def step(self, tensor: str) -> tuple[str, list[str], list[str]]:
        """Operator, attributes and constants that make a tensor: all but what it is made from."""
        node = self._graph.producer(tensor)
        if node is None:
            return "", [], []
        constants = [self._exact.get(s, s) for s in node.sources() if s in self._held]
        return node.op, list(own_parts(node, exact=True)), sorted(constants)

    def readers(self, tensor: str, taken: Collection[str]) -> list[Node]:
        """Linear operators that read a tensor and make nothing that is taken."""
        return [
            node
            for node in self._graph.consumers(tensor)
            if (made := made_by(node)) and made[0] not in taken and self.source(made[0]) == tensor
        ]

"""A copy of a model whose sums go in another order: equal in exact arithmetic, and else apart by rounding alone.

What is summed over a constant of known length is picked by a drawn permutation on both sides before it is
multiplied: MatMul, Gemm, convolutions over channels, recurrent layers over their inputs, linear and support vector
models. MatMul may be cut in two halves as well, and what is reduced over named axes is turned round. Nothing else
changes, so whatever stands before no such sum keeps its bits. Runs in a sandboxed child.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import default_rng

from harness.sandbox.graph_bodies import bodies

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_SLICE_WITH_STEPS = 11
_FIRST = -(2**63)
_MATRIX = 2
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_REDUCTIONS = frozenset({"ReduceSum", "ReduceMean"})


def reordered(model: onnx.ModelProto, seed: int, *, halved: bool, returned: bool = False) -> int:
    """Gives sums another order.

    Args:
      model: changed in place.
      seed: of the permutations; all of one length are the same.
      halved: also cut every MatMul into the sum of two.
      returned: return what was picked and both halves of the main graph, too. onnxruntime keeps more digits of
        float16 from one operator to the next where nothing between them is returned, and a copy that returns every
        tensor rounds where another one does not.

    Returns:
      How many sums have another order.
    """
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if not opset:
        return 0
    orders = _Orders(model, seed, halved=halved, opset=opset)
    orders.walk(model.graph, {})
    orders.finish(returned=returned)
    return orders.count


class _Orders:
    """One copy in the making."""

    def __init__(self, model: onnx.ModelProto, seed: int, *, halved: bool, opset: int) -> None:
        self.count = 0
        self._model = model
        self._rng = default_rng(seed)
        self._halved = halved
        self._opset = opset
        self._made: dict[tuple[Any, ...], str] = {}
        self._constants: list[onnx.NodeProto] = []
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._added: list[str] = []
        self._names = 0
        taken = {name for node in model.graph.node for name in node.output}
        taken |= {t.name for t in model.graph.initializer}
        self._prefix = "order"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"

    def finish(self, *, returned: bool) -> None:
        """Puts the permutations in front, and what was added among the outputs."""
        import onnx

        graph = self._model.graph
        if returned:
            made = {name for node in graph.node for name in node.output}
            added = [name for name in self._added if name in made]
            graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
        nodes = list(graph.node)
        del graph.node[:]
        graph.node.extend([*self._constants, *nodes])

    def walk(self, graph: onnx.GraphProto, outer: Mapping[str, Sequence[int]]) -> None:
        """Changes one graph and its bodies.

        Args:
          graph: changed in place.
          outer: shapes of constants around it.
        """
        shapes = {**outer, **{t.name: list(t.dims) for t in graph.initializer}}
        values = {t.name: t for t in graph.initializer}
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            for body in bodies(node):
                self.walk(body, shapes)
            _learn(node, shapes, values)
            nodes += self._changed(node, shapes, values)
        del graph.node[:]
        graph.node.extend(nodes)

    def _changed(
        self,
        node: onnx.NodeProto,
        shapes: Mapping[str, Sequence[int]],
        values: Mapping[str, onnx.TensorProto],
    ) -> list[onnx.NodeProto]:
        """The nodes that stand for one."""
        if node.domain == "ai.onnx.ml":
            found = self._learned(node)
        elif node.domain not in ("", "ai.onnx"):
            found = None
        elif node.op_type == "MatMul":
            found = self._product(node, shapes)
        elif node.op_type in _REDUCTIONS:
            found = self._reduced(node, values)
        else:
            found = self._weighted(node, _contracted(node, shapes))
        if found is None:
            return [node]
        self.count += 1
        return found

    def _product(
        self, node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]
    ) -> list[onnx.NodeProto] | None:
        shape = shapes.get(node.input[1])
        if not shape:
            return None
        axis = max(len(shape) - _MATRIX, 0)
        length = shape[axis]
        if not self._halved or length <= _MATRIX:
            return self._weighted(node, ((0, -1), (1, axis), length))
        import onnx

        order = self._order(length)
        parts: list[onnx.NodeProto] = []
        sums = []
        for part in (order[: length // 2], order[length // 2 :]):
            name = self._constant(part)
            picked = [self._fresh(), self._fresh()]
            for source, target, at in zip(node.input, picked, (-1, axis), strict=True):
                parts.append(onnx.helper.make_node("Gather", [source, name], [target], axis=at))
            sums.append(self._fresh())
            parts.append(onnx.helper.make_node("MatMul", picked, [sums[-1]]))
            self._added += [picked[0], sums[-1]]
        return [*parts, onnx.helper.make_node("Add", sums, list(node.output))]

    def _weighted(
        self, node: onnx.NodeProto, about: tuple[tuple[int, int], tuple[int, int], int] | None
    ) -> list[onnx.NodeProto] | None:
        """Picks two inputs of a node along the axis that is summed over."""
        import onnx

        if about is None or about[2] < _MATRIX:
            return None
        name = self._constant(self._order(about[2]))
        picks = []
        for place, axis in about[:2]:
            target = self._fresh()
            picks.append(
                onnx.helper.make_node("Gather", [node.input[place], name], [target], axis=axis)
            )
            node.input[place] = target
        return [*picks, node]

    def _learned(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Linear and support vector models hold their numbers in an attribute, a row after the other."""
        import onnx

        attributes = {a.name: a for a in node.attribute}
        name, rows = _rows_of(node, attributes)
        if name not in attributes or not rows:
            return None
        numbers = np.array(list(attributes[name].floats), dtype=np.float32)
        if len(numbers) % rows or len(numbers) < _MATRIX * rows:
            return None
        matrix = numbers.reshape(rows, -1)
        order = self._order(matrix.shape[1])
        del attributes[name].floats[:]
        attributes[name].floats.extend(matrix[:, order].reshape(-1).tolist())
        target = self._fresh()
        pick = onnx.helper.make_node(
            "Gather", [node.input[0], self._constant(order)], [target], axis=-1
        )
        node.input[0] = target
        return [pick, node]

    def _reduced(
        self, node: onnx.NodeProto, values: Mapping[str, onnx.TensorProto]
    ) -> list[onnx.NodeProto] | None:
        import onnx

        axes = [int(i) for a in node.attribute if a.name == "axes" for i in a.ints]
        if len(node.input) > 1 and node.input[1] in values:
            tensor = values[node.input[1]]
            # Named only where they are at hand; what is not is left as it is.
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                axes = onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()
        if not axes or self._opset < _SLICE_WITH_STEPS:
            return None
        target = self._fresh()
        ends = ([-1] * len(axes), [_FIRST] * len(axes), axes, [-1] * len(axes))
        told = [self._constant(np.array(numbers, dtype=np.int64)) for numbers in ends]
        turned = onnx.helper.make_node("Slice", [node.input[0], *told], [target])
        node.input[0] = target
        return [turned, node]

    def _order(self, length: int) -> NDArray[np.int64]:
        if length not in self._orders:
            order = self._rng.permutation(length).astype(np.int64)
            # Of short sums most draws move little.
            self._orders[length] = order[::-1] if (order == np.arange(length)).all() else order
        return self._orders[length]

    def _constant(self, numbers: NDArray[np.int64]) -> str:
        import onnx

        key = tuple(numbers.tolist())
        if key not in self._made:
            self._made[key] = self._fresh()
            tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(numbers))
            made = onnx.helper.make_node("Constant", [], [self._made[key]], value=tensor)
            self._constants.append(made)
        return self._made[key]

    def _fresh(self) -> str:
        self._names += 1
        return f"{self._prefix}.{self._names}"


def _learn(
    node: onnx.NodeProto,
    shapes: dict[str, Sequence[int]],
    values: dict[str, onnx.TensorProto],
) -> None:
    """Enters the shape of a constant that a node holds, or makes of another without changing its shape."""
    if node.op_type == "Constant":
        for attribute in node.attribute:
            if attribute.name == "value":
                shapes[node.output[0]] = list(attribute.t.dims)
                values[node.output[0]] = attribute.t
    elif node.op_type in ("Identity", "Cast", "DequantizeLinear") and node.input[0] in shapes:
        shapes[node.output[0]] = shapes[node.input[0]]
    elif node.op_type == "Transpose" and node.input[0] in shapes:
        shape = shapes[node.input[0]]
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        shapes[node.output[0]] = [shape[i] for i in order or reversed(range(len(shape)))]


def _contracted(
    node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]
) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    """((input, axis), (input, axis), length) of what a node sums over; None = nothing that is known."""
    shape = shapes.get(node.input[1]) if len(node.input) > 1 else None
    if not shape:
        return None
    numbers = {a.name: a.i for a in node.attribute}
    if node.op_type == "Gemm" and len(shape) == _MATRIX:
        axis = 1 if numbers.get("transB") else 0
        return (0, 0 if numbers.get("transA") else 1), (1, axis), shape[axis]
    if node.op_type == "Conv" and numbers.get("group", 1) == 1:
        return (0, 1), (1, 1), shape[1]
    if node.op_type in _RECURRENT:
        return (0, 2), (1, 2), shape[2]
    return None


def _rows_of(
    node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]
) -> tuple[str, int]:
    """(attribute, how many rows its numbers make) of a linear or support vector model."""

    def number(name: str, usual: int) -> int:
        return int(attributes[name].i) if name in attributes else usual

    if node.op_type == "LinearRegressor":
        return "coefficients", number("targets", 1)
    if node.op_type == "LinearClassifier":
        return "coefficients", len(
            attributes["intercepts"].floats
        ) if "intercepts" in attributes else 0
    if node.op_type == "SVMRegressor":
        return "support_vectors", number("n_supports", 0)
    if node.op_type == "SVMClassifier":
        return "support_vectors", sum(
            attributes["vectors_per_class"].ints
        ) if "vectors_per_class" in attributes else 0
    return "", 0

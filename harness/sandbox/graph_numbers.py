"""Which numbers a model holds, and how: two digests, by which a re-export is told from other weights.

Re-exports hold the same numbers arranged otherwise: columns permuted together with the rows of the weights,
matrices cut into pieces or put together. So the first digest is about all numbers that may be weights, in any
order and cut into tensors in any way, each as often as it is there: a changed weight is another number. What
exporters share or repeat freely counts once: a tensor with the values of another. A number that fills a whole
tensor, of whatever size, counts as often as operators read it, and by the place where they do. Whole numbers that are only places, shapes or axes are no weights. The second digest is about
the graph as it stands, names apart.
Runs in a sandboxed child.

The numbers of a tensor are added up, each through a hash, so that no order matters and nothing is sorted: a
net of 100 MB takes a fraction of a second. Sums of hashes are no proof against someone who seeks two sets
with the same sum; all that could be gained by it is the tolerance of the baseline's own sums.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.sandbox.graph_bodies import bodies

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from harness.sandbox.child.external import Files

_MOST_BYTES = 1 << 30
"""Of larger models nothing is told: it would take seconds in every look."""
_CHUNK = 1 << 16
_SALTS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_MODULO = 1 << 64
_INT32, _INT64, _STRING = 6, 7, 8
_PLACES: Mapping[str, frozenset[int]] = {
    op: frozenset(places)
    for op, places in {
        "ArrayFeatureExtractor": [1],
        "Col2Im": [1, 2],
        "ConstantOfShape": [0],
        "CumSum": [1],
        "Expand": [1],
        "Gather": [1],
        "GatherElements": [1],
        "GatherND": [1],
        "OneHot": [1],
        "Pad": [1, 3],
        "Reshape": [1],
        "Resize": [3],
        "Scatter": [1],
        "ScatterElements": [1],
        "ScatterND": [1],
        "Slice": [1, 2, 3, 4],
        "Split": [1],
        "SplitToSequence": [1],
        "Squeeze": [1],
        "Tile": [1],
        "TopK": [1],
        "Trilu": [1],
        "Unsqueeze": [1],
    }.items()
}
"""Operator → its inputs that say where, or how many."""
_ANY_ORDER = frozenset(["Add", "Max", "Mean", "Min", "Mul", "Sum"])
"""Operators whose inputs may stand in any order."""
_NEUTRAL = {"Gemm": {"alpha": 1.0, "beta": 1.0}}
"""Attributes that exporters write or leave out, as long as they are this."""


def held_numbers(model: onnx.ModelProto, files: Files) -> str:
    """A digest that two models share when they hold the same numbers; "" where that cannot be told.

    Args:
      model: the model.
      files: external data.
    """
    nodes = list(_nodes(model))
    read = {name for node in nodes for name in node.input}
    read |= {value.name for graph in _graphs(model) for value in graph.output}
    placed = _only_places(nodes)
    roles = _roles(nodes)
    held = _Held()
    for name, value in _constants(model, nodes):
        # What nobody reads is nowhere in the answers.
        if name and (name not in read or (name in placed and value.data_type in (_INT32, _INT64))):
            continue
        values = _values(value, files)
        if values is None or not held.add(*values, roles.get(name, [""])):
            return ""
    for node in nodes:
        for name, kind, array in _attributes(node):
            if not held.add(kind, array, [f"{node.op_type} {name}"]):
                return ""
    return held.digest()


def arrangement(described: Mapping[str, Any]) -> str:
    """A digest of a graph as `graph_description` has it, with names numbered in the order of their use."""
    numbers: dict[str, int] = {}
    exact = {name: digest for name, _, digest, _ in described["constants"]}
    found = hashlib.sha256()

    def known(name: str) -> str:
        return exact.get(name) or (str(numbers.setdefault(name, len(numbers))) if name else "")

    for name in described["inputs"]:
        known(name)
    for op, _, inputs, outputs, captures, attributes, _ in described["nodes"]:
        told = [[name, digest] for name, _, digest, _ in attributes]
        read = [[known(name) for name in names] for names in (inputs, captures)]
        found.update(repr([op, read, [known(name) for name in outputs], told]).encode())
    found.update(repr([[known(n) for n in described["outputs"]], described["opsets"]]).encode())
    return found.hexdigest()


class _Held:
    """Numbers so far: per type how many, and two sums of their hashes."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, int, int]] = {}
        self._seen: set[tuple[str, int, int, int]] = set()
        self._filling: Counter[tuple[str, int, str]] = Counter()
        self._bytes = 0

    def add(self, kind: str, bits: NDArray[np.unsignedinteger[Any]], roles: Sequence[str]) -> bool:
        """Takes a tensor's bits, and where it is read; whether there is room for more."""
        self._bytes += bits.nbytes
        if self._bytes > _MOST_BYTES:
            return False
        if len(bits) and (bits == bits[0]).all():
            self._filling.update((kind, int(bits[0]), role) for role in roles)
            return True
        tensor = (kind, len(bits), _sum(bits, _SALTS[0]), _sum(bits, _SALTS[1]))
        if tensor not in self._seen:
            self._seen.add(tensor)
            before = self._sums.get(kind, (0, 0, 0))
            count, first, second = (a + b for a, b in zip(before, tensor[1:], strict=True))
            self._sums[kind] = count, first % _MODULO, second % _MODULO
        return True

    def digest(self) -> str:
        """Of everything; "" = there are no numbers."""
        if not self._sums and not self._filling:
            return ""
        found = [sorted(self._sums.items()), sorted(self._filling.items())]
        return hashlib.sha256(repr(found).encode()).hexdigest()


def _sum(bits: NDArray[np.unsignedinteger[Any]], salt: int) -> int:
    """The sum of the hashes (splitmix64) of some numbers, modulo 2⁶⁴."""
    total = 0
    for at in range(0, len(bits), _CHUNK):
        z = bits[at : at + _CHUNK].astype(np.uint64)
        z += np.uint64(salt)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        total += int(z.sum(dtype=np.uint64))
    return total % _MODULO


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and all bodies."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [body for node in graph.node for body in bodies(node)]
    for function in model.functions:
        waiting = [body for node in function.node for body in bodies(node)]
        while waiting:
            graph = waiting.pop()
            yield graph
            waiting += [body for node in graph.node for body in bodies(node)]


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _roles(nodes: list[onnx.NodeProto]) -> dict[str, list[str]]:
    """Name → the operators that read it, each with the place of the input."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        for place, name in enumerate(node.input):
            where = "" if node.op_type in _ANY_ORDER else str(place)
            found.setdefault(name, []).append(f"{node.op_type} {where}")
    return found


def _only_places(nodes: list[onnx.NodeProto]) -> set[str]:
    """Names that are read as places and shapes alone."""
    found: set[str] = set()
    other: set[str] = set()
    for node in nodes:
        places = _PLACES.get(node.op_type, frozenset())
        if node.op_type.startswith("Reduce"):
            places = frozenset({1})
        for place, name in enumerate(node.input):
            (found if place in places else other).add(name)
    return found - other


def _constants(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto]
) -> Iterator[tuple[str, onnx.TensorProto]]:
    """(name, tensor) of all initialisers and Constant nodes; "" = an attribute of another operator."""
    for graph in _graphs(model):
        yield from ((t.name, t) for t in graph.initializer)
        yield from ((s.values.name, s.values) for s in graph.sparse_initializer)
    for node in nodes:
        name = node.output[0] if node.op_type == "Constant" and node.output else ""
        for attribute in node.attribute:
            yield from ((name, t) for t in attribute.tensors)
            if attribute.HasField("t"):
                yield name, attribute.t
            if attribute.HasField("sparse_tensor"):
                yield name, attribute.sparse_tensor.values


def array_of(tensor: onnx.TensorProto, files: Files) -> NDArray[Any] | None:
    """A constant's values, wherever they are stored; None where they cannot be read."""
    import onnx

    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            whole = onnx.TensorProto()
            whole.CopyFrom(tensor)
            del whole.external_data[:]
            whole.data_location = onnx.TensorProto.DEFAULT
            whole.raw_data = _external(tensor, files)
            tensor = whole
        return onnx.numpy_helper.to_array(tensor)
    except (TypeError, ValueError, KeyError):
        return None


def _values(
    tensor: onnx.TensorProto, files: Files
) -> tuple[str, NDArray[np.unsignedinteger[Any]]] | None:
    """(type, bits of every value) of a tensor; None where they cannot be read."""
    import onnx

    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if tensor.data_type == _STRING:
        return kind, _words(tensor.string_data)
    array = array_of(tensor, files)
    if array is None:
        return None
    array = np.ascontiguousarray(array).reshape(-1)
    if array.itemsize > np.dtype(np.uint64).itemsize:
        array = array.view(np.float64)
    return kind, array.view(f"u{array.itemsize}")


def _external(tensor: onnx.TensorProto, files: Files) -> bytes:
    """Raises KeyError or ValueError where they are not there."""
    where = {e.key: e.value for e in tensor.external_data}
    content = files[where["location"].removeprefix("./")]
    start = int(where.get("offset", "0"))
    length = int(where["length"]) if "length" in where else len(content) - start
    return bytes(content[start : start + length])


def _attributes(
    node: onnx.NodeProto,
) -> Iterator[tuple[str, str, NDArray[np.unsignedinteger[Any]]]]:
    """(attribute, type, bits) of numbers that stand in attributes: of encoders whole numbers and words, too."""
    import onnx

    kinds = onnx.AttributeProto
    trees = node.op_type.startswith("TreeEnsemble")
    coded = (node.domain == "ai.onnx.ml" and not trees) or node.op_type == "TfIdfVectorizer"
    for attribute in node.attribute:
        if attribute.type in (kinds.FLOAT, kinds.FLOATS):
            floats = list(attribute.floats) if attribute.type == kinds.FLOATS else [attribute.f]
            if floats == [_NEUTRAL.get(node.op_type, {}).get(attribute.name)]:
                continue
            yield attribute.name, "FLOAT", np.array(floats, dtype=np.float32).view(np.uint32)
        elif attribute.type == kinds.INTS and coded:
            yield (
                attribute.name,
                "INT64",
                np.array(list(attribute.ints), dtype=np.int64).view(np.uint64),
            )
        elif attribute.type == kinds.STRINGS and coded:
            yield attribute.name, "STRING", _words(attribute.strings)


def _words(words: Any) -> NDArray[np.uint64]:  # noqa: ANN401 - protobuf's lists have no type of their own
    digests = (hashlib.sha256(word).digest()[:8] for word in words)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)

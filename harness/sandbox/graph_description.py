"""A model's graph as JSON: operators, wiring, and digests of its constants. Runs in a sandboxed child.

The parent reads the answer with `graphs.graph_from_description`; it never parses the model. Values stay
here: a constant is a digest, and a short text for people.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.sandbox.graph_bodies import bodies, every
from harness.sandbox.graph_called import CalledFunctions
from harness.sandbox.graph_defaults import Defaults

if TYPE_CHECKING:
    import onnx

    from harness.sandbox.child.external import Files

_FEW = 16
"""So many elements are shown, and of whole numbers (axes, shapes) taken for structure."""
_LONG_LIST = 8
"""Longer lists of numbers in an attribute are weights: tree ensembles keep theirs there."""
_MOST_TEXT = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beside:
    """What belongs to a node and stands elsewhere."""

    files: Files
    """External data."""
    functions: CalledFunctions
    """Functions of the model."""
    defaults: Defaults
    """What its operators take an attribute to be that is left out."""

    def attributes(self, node: onnx.NodeProto) -> list[onnx.AttributeProto]:
        """By name, with defaults; of a call as they are, as the function may go by an operator's name."""
        if self.functions.digest(node):
            return sorted(node.attribute, key=lambda a: a.name)
        return self.defaults.attributes(node)


def described_graph(model: onnx.ModelProto, files: Files) -> dict[str, Any]:
    """The main graph, Constant nodes among the constants.

    Args:
      model: parsed; nodes are in topological order, as ONNX requires.
      files: external data that it may use.

    Returns:
      inputs, outputs, nodes [op, name, inputs, outputs, captures, attributes, since], constants
      [name, text, exact, loose] and opsets [domain, version]; an attribute is like a constant, and
      told with its default where it is left out (`Defaults`). What a body or a function computes
      goes by several operators: since is "" there.
    """
    graph = model.graph
    functions = CalledFunctions(model, lambda t: _external(t, files))
    beside = _Beside(files=files, functions=functions, defaults=Defaults(model))
    constants = [[t.name, *_tensor(t, files)] for t in graph.initializer]
    constants += [[s.values.name, *_sparse(s)] for s in graph.sparse_initializer]
    given = {c[0] for c in constants}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and not node.domain:
            constants.append([node.output[0], *_value(node, node.attribute[0], beside)])
            continue
        attributes = [[a.name, *_value(node, a, beside)] for a in beside.attributes(node)]
        if digest := beside.functions.digest(node):
            count = beside.functions.operators(node)
            attributes.append(["function", f"{count} operators", digest, digest])
        nodes.append(
            [
                node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}",
                node.name,
                list(node.input),
                list(node.output),
                captured(node),
                sorted(attributes),
                "" if digest or any(True for _ in bodies(node)) else beside.defaults.since(node),
            ]
        )
    return {
        "inputs": [i.name for i in graph.input if i.name not in given],
        "outputs": [o.name for o in graph.output],
        "nodes": nodes,
        "constants": constants,
        "opsets": _opsets(model),
    }


def _opsets(model: onnx.ModelProto) -> list[list[str]]:
    """What is imported; of what no operator comes from, nothing: onnxruntime imports all that it knows."""
    used = {node.domain or "ai.onnx" for node in every(model.graph.node)}
    used |= {node.domain or "ai.onnx" for f in model.functions for node in every(f.node)}
    found = ([o.domain or "ai.onnx", str(o.version)] for o in model.opset_import)
    return sorted(opset for opset in found if opset[0] in used)


def captured(node: onnx.NodeProto) -> list[str]:
    """Outer tensors that the bodies of a node read, in the order of their first use."""
    found: dict[str, None] = {}
    for body in bodies(node):
        _captured(body, frozenset(), found)
    return list(found)


def _captured(body: onnx.GraphProto, bound: frozenset[str], found: dict[str, None]) -> None:
    own = bound | {i.name for i in body.input} | {i.name for i in body.initializer}
    own |= {i.values.name for i in body.sparse_initializer}
    for node in body.node:
        for name in node.input:
            if name and name not in own:
                found[name] = None
        for inner in bodies(node):
            _captured(inner, own, found)
        own |= set(node.output)
    for output in body.output:
        if output.name not in own:
            found[output.name] = None


def _value(
    node: onnx.NodeProto, attribute: onnx.AttributeProto, beside: _Beside
) -> tuple[str, str, str]:
    """(text, exact, loose) of an attribute."""
    import onnx

    kinds = onnx.AttributeProto
    if attribute.type in (kinds.GRAPH, kinds.GRAPHS):
        graphs = list(attribute.graphs) if attribute.type == kinds.GRAPHS else [attribute.g]
        return _bodies(graphs, captured(node), beside)
    if attribute.type == kinds.TENSOR:
        return _tensor(attribute.t, beside.files)
    if attribute.type not in _PLAIN:
        digest = hashlib.sha256(attribute.SerializeToString(deterministic=True)).hexdigest()
        return "", digest, digest
    value = onnx.helper.get_attribute_value(attribute)
    plain = (
        list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value
    )
    text, exact = _shown(plain), _digest(attribute.type, _bytes(plain))
    if (
        attribute.name in _TYPES.get(node.op_type, ())
        and plain in onnx.TensorProto.DataType.values()
    ):
        text = onnx.TensorProto.DataType.Name(plain).lower()
    # Words are never weights: the keys of an encoder are what its codes mean.
    numbers = attribute.type in (kinds.FLOATS, kinds.INTS)
    many = numbers and isinstance(plain, list) and len(plain) > _LONG_LIST
    fitted = node.domain == "ai.onnx.ml" and attribute.type in (kinds.FLOAT, kinds.FLOATS)
    weights = many or fitted
    count = len(plain) if isinstance(plain, list) else 1
    return text, exact, _digest(attribute.type, str(count).encode()) if weights else exact


_TYPES = {"Cast": ("to",), "EyeLike": ("dtype",), "SequenceEmpty": ("dtype",)}
"""Operator → its attributes that number a tensor's type."""
_PLAIN = frozenset({1, 2, 3, 6, 7, 8})
"""float, int, string and lists of these, as AttributeProto numbers them."""


def _bodies(
    graphs: list[onnx.GraphProto], captures: list[str], beside: _Beside
) -> tuple[str, str, str]:
    """Bodies by their nodes, with inner tensors numbered: names inside a body mean nothing outside.

    What they read from outside goes by its place among all that the node captures, the same in each body.
    """
    body = _Bodies({name: f"outer {place}" for place, name in enumerate(captures)}, beside)
    for graph in graphs:
        body.add(graph, {})
    count = sum(len(g.node) for g in graphs)
    return f"a body of {count} operators", body.exact.hexdigest(), body.loose.hexdigest()


class _Bodies:
    """Digests of one attribute's bodies."""

    def __init__(self, outside: dict[str, str], beside: _Beside) -> None:
        self.exact = hashlib.sha256()
        self.loose = hashlib.sha256()
        self._outside = outside
        self._beside = beside

    def add(self, graph: onnx.GraphProto, known: dict[str, str]) -> None:
        """A body within others.

        Args:
          graph: the body.
          known: tensors of the bodies around it → how they are numbered.
        """
        names = known | {value.name: f"input {place}" for place, value in enumerate(graph.input)}
        held = graph.input, graph.initializer, graph.sparse_initializer, graph.node, graph.output
        self._told(str([len(kept) for kept in held]))
        for place, tensor in enumerate(graph.initializer):
            names[tensor.name] = f"constant {place}"
            self._told(*_tensor(tensor, self._beside.files)[1:])
        for place, sparse in enumerate(graph.sparse_initializer):
            names[sparse.values.name] = f"sparse {place}"
            self._told(*_sparse(sparse)[1:])
        for place, node in enumerate(graph.node):
            self._node(node, names)
            names |= {name: f"node {place} {slot}" for slot, name in enumerate(node.output) if name}
        for output in graph.output:
            self._told(self._name(output.name, names))

    def _node(self, node: onnx.NodeProto, names: dict[str, str]) -> None:
        # What an operator returns may depend on how many outputs it has: Split's.
        attributes = self._beside.attributes(node)
        self._told(str([len(node.input), len(node.output), len(attributes)]))
        read = (self._name(name, names) for name in node.input)
        for text in (node.domain, node.op_type, *read, self._beside.functions.digest(node)):
            self._told(text)
        for attribute in attributes:
            self._told(attribute.name)
            inner = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            self._told(str(len(inner)))
            for body in inner:
                self.add(body, names)
            if not inner:
                self._told(*_value(node, attribute, self._beside)[1:])

    def _name(self, name: str, names: dict[str, str]) -> str:
        return names.get(name) or self._outside.get(name, name)

    def _told(self, exact: str, loose: str | None = None) -> None:
        """A text, with its length before it: no other texts are the same bytes one after the other."""
        for digest, text in ((self.exact, exact), (self.loose, exact if loose is None else loose)):
            data = text.encode()
            digest.update(len(data).to_bytes(8, "little") + data)


def _tensor(tensor: onnx.TensorProto, files: Files) -> tuple[str, str, str]:
    """(text, exact, loose) of a tensor; of external data the bytes that it refers to."""
    import onnx

    kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    shape = list(tensor.dims)
    text = f"{kind}{shape}"
    base = f"{kind} {shape}".encode()
    size = 1
    for extent in shape:
        size *= extent
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        exact = _digest(0, base + _external(tensor, files))
        return text, exact, _digest(0, base)
    if tensor.data_type == onnx.TensorProto.STRING:
        data = b"".join(len(s).to_bytes(8, "little") + s for s in tensor.string_data)
        shown = _cut(f"{text} {_shown(list(tensor.string_data))}") if size <= _FEW else text
        return shown, _digest(0, base + data), _digest(0, base)
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except (TypeError, ValueError, KeyError):
        exact = hashlib.sha256(tensor.SerializeToString(deterministic=True)).hexdigest()
        return text, exact, _digest(0, base)
    exact = _digest(0, base + array.tobytes())
    few = size <= _FEW
    whole = array.dtype.kind in "iub"
    shown = _cut(f"{text} {_shown(array.reshape(-1).tolist())}") if few else text
    return shown, exact, exact if few and whole else _digest(0, base)


def _external(tensor: onnx.TensorProto, files: Files) -> bytes:
    where = {e.key: e.value for e in tensor.external_data}
    content = files.get(where.get("location", ""))
    if content is None:
        return repr(sorted(where.items())).encode()
    start = int(where.get("offset", "0"))
    length = int(where["length"]) if "length" in where else len(content) - start
    return hashlib.sha256(content[start : start + length]).digest()


def _sparse(sparse: onnx.SparseTensorProto) -> tuple[str, str, str]:
    import onnx

    digest = hashlib.sha256(sparse.SerializeToString(deterministic=True)).hexdigest()
    kind = onnx.TensorProto.DataType.Name(sparse.values.data_type).lower()
    return f"sparse {kind}{list(sparse.dims)}", digest, _digest(0, kind.encode())


def _digest(kind: int, data: bytes) -> str:
    return hashlib.sha256(kind.to_bytes(4, "little") + data).hexdigest()


def _bytes(value: object) -> bytes:
    """A scalar or a list so that equal values give equal bytes; repr of a float is exact."""
    return repr(value).encode()


def _quoted(text: bytes) -> str:
    """Text so that two values that differ look different, though a reader sees no NUL and no composed letter."""
    word = text.decode(errors="backslashreplace")
    return repr(word) if unicodedata.is_normalized("NFC", word) else ascii(word)


def _shown(value: object) -> str:
    """A value for people."""
    if isinstance(value, bytes):
        return _cut(value.decode(errors="replace"))
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, list):
        shown = ", ".join(_quoted(v) if isinstance(v, bytes) else _shown(v) for v in value[:_FEW])
        more = f", … {len(value):,} in all" if len(value) > _FEW else ""
        return _cut(f"[{shown}{more}]")
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"

"""What one node of a graph holds, as digests, and what is known of one tensor: for `graph_function`.

Runs in a sandboxed child.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.sandbox.graph_numbers import array_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from harness.sandbox.child.external import Files

MAIN = ("", "ai.onnx")
"""Names of the main domain."""
_MOST_BYTES = 1 << 28
"""Of larger models nothing is told: it would take seconds in every look."""
_NODE_FIELDS = frozenset(
    ["input", "output", "name", "op_type", "domain", "overload", "attribute", "doc_string", "metadata_props"]
)  # fmt: skip
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS, _STRINGS, _TENSORS = 1, 2, 3, 4, 6, 7, 8, 9
_VALUE_FIELDS = {
    _FLOAT: "f", _INT: "i", _STRING: "s", _TENSOR: "t", _FLOATS: "floats", _INTS: "ints", _STRINGS: "strings",
    _TENSORS: "tensors",
}  # fmt: skip
"""Type of an attribute, as AttributeProto numbers it → where its value is."""
_WORDS = 8
"""Type of a tensor of strings, as TensorProto numbers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node is, but for what it reads."""

    key: str
    """A digest of all of it."""
    operator: str
    """In the main domain; "" = of another one."""
    named: frozenset[str]
    """Its attributes."""
    axis: int
    """0 where it is not told."""
    outputs: int
    """How many it lists, those that are left out, too."""

    def digest(self, given: Sequence[str], place: int = 0) -> str:
        """Of its output there, from digests of what it reads."""
        return digest_of(self.key, list(given), place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known of one tensor."""

    digest: str
    """Of it, or of what it permutes."""
    rank: int | None = None
    """Its number of axes; None = not known."""
    order: NDArray[np.int64] | None = None
    """Its column i is column order[i] of what the digest is of; None = it is that itself."""
    value: NDArray[Any] | None = None
    """Of a constant."""
    piece: tuple[str, int, int, int] | None = None
    """(digest of what it is cut from, from column, to column, columns in all)."""
    products: tuple[Node, str, int, tuple[tuple[int, int, NDArray[Any]], ...]] | None = None
    """(product, digest, columns in all, (from column, to column, weights)) of pieces whose products it sums."""


class Reader:
    """Reads what nodes hold.

    Args:
      opsets: domain → version.
      files: external data.
    """

    def __init__(self, opsets: Mapping[str, int], files: Files) -> None:
        self._opsets = opsets
        self._files = files
        self._read = 0

    def constant(self, tensor: onnx.TensorProto) -> Told | None:
        """None where it cannot be read, or where more was read than is looked at."""
        if tensor.data_type == _WORDS:
            # By its bytes: an array of words drops what NUL they end with.
            words = [list(tensor.dims), list(tensor.string_data)]
            self._read += sum(map(len, tensor.string_data))
            whole = tensor.string_data and not tensor.data_location and self._read <= _MOST_BYTES
            return Told(digest=digest_of("words", *words), rank=len(tensor.dims)) if whole else None
        value = array_of(tensor, self._files)
        self._read += 0 if value is None else value.nbytes
        return None if value is None or self._read > _MOST_BYTES else constant_told(value)

    def node(self, node: onnx.NodeProto) -> Node | None:
        """None where it has anything that is not understood."""
        if not {field.name for field, _ in node.ListFields()} <= _NODE_FIELDS:
            return None
        domain = "" if node.domain in MAIN else node.domain
        version = self._version(domain, node.op_type)
        if version is None:
            return None
        attributes: dict[str, str] = {}
        axis = 0
        for attribute in node.attribute:
            value = self._value(attribute)
            if value is None or attribute.name in attributes:
                return None
            attributes[attribute.name] = value
            if attribute.name == "axis":
                axis = attribute.i
        given = tuple(bool(name) for name in node.output)
        return Node(
            key=digest_of("node", domain, node.op_type, version, node.overload, sorted(attributes.items()), given),
            operator="" if domain else node.op_type, named=frozenset(attributes), axis=axis, outputs=len(given),
        )  # fmt: skip

    def _version(self, domain: str, operator: str) -> int | None:
        """Since when the operator is what it is; of other domains than the main one their version."""
        import onnx

        version = self._opsets.get(domain)
        if domain or version is None:
            return version
        try:
            return int(onnx.defs.get_schema(operator, version, domain).since_version)
        except onnx.defs.SchemaError:
            return version

    def _value(self, attribute: onnx.AttributeProto) -> str | None:
        """A digest of an attribute's value; None = it is of another kind, or has more than that."""
        kind = attribute.type
        where = _VALUE_FIELDS.get(kind)
        fields = {field.name for field, _ in attribute.ListFields()}
        if where is None or not fields <= {"name", "type", "doc_string", where}:
            return None
        if kind in (_TENSOR, _TENSORS):
            tensors = [attribute.t] if kind == _TENSOR else list(attribute.tensors)
            constants = [self.constant(tensor) for tensor in tensors]
            read = [told.digest for told in constants if told is not None]
            return digest_of(kind, read) if len(read) == len(tensors) else None
        value = getattr(attribute, where)
        listed = list(value) if kind in (_FLOATS, _INTS, _STRINGS) else [value]
        if kind in (_FLOAT, _FLOATS):
            return digest_of(kind, np.array(listed, np.float32).tobytes())
        return digest_of(kind, listed)


def constant_told(value: NDArray[Any]) -> Told:
    """What is known of a constant: its values, by their bytes, and its type and shape."""
    if value.dtype == object:
        content = repr(value.tolist()).encode()
    else:
        content = np.ascontiguousarray(value).tobytes()
    digest = digest_of("constant", str(value.dtype), value.shape, hashlib.blake2b(content).digest())
    return Told(digest=digest, rank=value.ndim, value=value)


def digest_of(*parts: object) -> str:
    """A digest of parts whose repr tells them apart."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=20).hexdigest()

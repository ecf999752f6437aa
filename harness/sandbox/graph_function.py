"""Which function a graph computes, as a digest: names, the order of nodes and of what is summed told apart from it.

Every tensor has a digest of its operator, its attributes and the digests of what it reads. Three things that
re-exports do, and that exact arithmetic does not see, are undone first: columns of the last axis that are picked
by a permutation and multiplied by rows picked alike, matrices cut into pieces whose products are added, and copies
that Identity makes. A permutation is kept beside a tensor until a product over that axis takes it up; what else
reads the tensor reads it as permuted. So two models of one digest return the same numbers but for the rounding of
sums, whatever the type: a weight that changed places, or another permutation, is another digest.

It is a proof, and fails closed. Only operators that are listed here are looked through; the digest of any other one
holds the whole node. Of a graph with anything else that has a meaning (bodies, functions, random operators, sparse
constants, a name that is given twice, a field that is not listed here) nothing is told. Inputs, outputs and declared
features go by their names: digests say nothing of versions whose names are mapped. Runs in a sandboxed child.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.sandbox.graph_nodes import MAIN, Node, Reader, Told, constant_told, digest_of
from harness.sandbox.graph_random import RandomNodes

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from harness.sandbox.child.external import Files

_MATRIX = 2
_OLDEST = 7
"""Operator set from which on onnxruntime answers for operators; earlier sums have a `broadcast` and an `axis`."""
_MODEL_FIELDS = frozenset(
    ["ir_version", "opset_import", "producer_name", "producer_version", "domain", "model_version", "doc_string",
     "graph", "metadata_props"]
)  # fmt: skip
_GRAPH_FIELDS = frozenset(
    ["node", "name", "initializer", "doc_string", "input", "output", "value_info", "metadata_props"]
)  # fmt: skip
_ALONE = frozenset(
    ["Abs", "Cast", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "LeakyRelu", "Log", "Neg", "Relu", "Selu", "Sigmoid",
     "Softplus", "Sqrt", "Tanh"]
)  # fmt: skip
"""Operators that do the same to every value, alone."""
_WITH = frozenset(["Add", "Sub", "Mul", "Div"])
"""Operators that do the same to every value, with a constant of its column."""


def function_of(model: onnx.ModelProto, files: Files, declared: Collection[str] = ()) -> str:
    """A digest that two models share only where they compute the same but for the order of sums; "" = not told.

    Args:
      model: the model.
      files: external data.
      declared: tensors that are compared beside the outputs.
    """
    graph = model.graph
    opsets = _opsets(model)
    plain = _has_only(model, _MODEL_FIELDS) and _has_only(graph, _GRAPH_FIELDS)
    if not opsets or not plain or RandomNodes(model).operators() or not _is_single(graph):
        return ""
    reader = Reader(opsets, files)
    known = _given(model, reader)
    if known is None:
        return ""
    for node in graph.node:
        own = reader.node(node)
        if own is None or not all(name in known for name in node.input):
            return ""
        made = _made(node, own, [known[name] for name in node.input], reader)
        if made is None:
            return ""
        known |= {name: told for name, told in zip(node.output, made, strict=True) if name}
    wanted = [o.name for o in graph.output]
    if not all(name and name in known for name in wanted):
        return ""
    shown = [(n, _plain(known[n]).digest if n in known else "") for n in sorted({*declared})]
    return digest_of("model", [(name, _plain(known[name]).digest) for name in wanted], shown)


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Domain → version; none where one is told twice, or the main one is not known."""
    import onnx

    listed = [("" if o.domain in MAIN else o.domain, o.version) for o in model.opset_import]
    found = dict(listed)
    known = _OLDEST <= found.get("", 0) <= onnx.defs.onnx_opset_version()
    return found if known and len(found) == len(listed) else {}


def _has_only(message: onnx.ModelProto | onnx.GraphProto, fields: frozenset[str]) -> bool:
    return {field.name for field, _ in message.ListFields()} <= fields


def _is_single(graph: onnx.GraphProto) -> bool:
    """Whether every tensor has one name and one maker; an initialiser may stand among the inputs, too."""
    constants, inputs, outputs = (
        [v.name for v in listed] for listed in (graph.initializer, graph.input, graph.output)
    )
    made = [name for node in graph.node for name in node.output if name]
    every = [*{*constants, *inputs}, *made]
    alone = all(len({*names}) == len(names) for names in (constants, inputs, outputs, every))
    return alone and "" not in every


def _given(model: onnx.ModelProto, reader: Reader) -> dict[str, Told] | None:
    """Constants and inputs, and what stands for an input that is left out; None where they cannot be told."""
    known = {"": Told(digest="")}
    for tensor in model.graph.initializer:
        constant = reader.constant(tensor)
        if constant is None:
            return None
        known[tensor.name] = constant
    for given in model.graph.input:
        if given.type.WhichOneof("value") != "tensor_type":
            return None
        shape = given.type.tensor_type
        # No extents at all: a runtime takes any number of them.
        rank = len(shape.shape.dim) or None
        # An initialiser that is an input, too, is what a request may put in its place: no constant to be moved.
        instead = known[given.name].digest if given.name in known else ""
        digest = digest_of("input", given.name, shape.elem_type, instead)
        known[given.name] = Told(digest=digest, rank=rank)
    return known


def _made(
    node: onnx.NodeProto, own: Node, reads: Sequence[Told], reader: Reader
) -> list[Told] | None:
    """What is known of a node's outputs; None where nothing can be told."""
    if own.operator == "Constant" and own.named == {"value"} and own.outputs == 1 and not reads:
        constant = reader.constant(node.attribute[0].t)
        return None if constant is None else [constant]
    if reads and reads[0].digest and own.operator == "Split":
        return _cut(own, reads)
    found = _undone(own, reads) if own.outputs == 1 and reads and reads[0].digest else None
    return _usual(own, reads) if found is None else [found]


def _undone(own: Node, reads: Sequence[Told]) -> Told | None:
    """A node's only output without an arrangement, or with one beside it; None = there is none."""
    operator = own.operator
    if len(reads) == 1:
        return _of_one(own, reads[0])
    if len(reads) != 2:  # noqa: PLR2004 - operators of two inputs
        return None
    if operator == "Gather" and own.named <= {"axis"}:
        return _picked(own, reads)
    if operator == "MatMul" and not own.named:
        return _product(own, reads)
    if operator in _WITH and not own.named:
        return _sum_of_pieces(own, reads) or _beside_constant(own, reads)
    return None


def _of_one(own: Node, read: Told) -> Told | None:
    """The same for operators of one input."""
    if own.operator == "Identity" and not own.named:
        return read
    if own.operator not in _ALONE or read.order is None:
        return None
    return Told(digest=own.digest([read.digest]), rank=read.rank, order=read.order)


def _usual(own: Node, reads: Sequence[Told]) -> list[Told]:
    """A node that is what it is."""
    given = [_plain(told).digest for told in reads]
    rank = None
    ranks = [told.rank for told in reads]
    if (own.operator in _WITH or own.operator in _ALONE) and None not in ranks:
        rank = max((r for r in ranks if r is not None), default=None)
    elif own.operator == "MatMul" and len(ranks) > 1 and ranks[1] == _MATRIX:
        rank = ranks[0]
    return [Told(digest=own.digest(given, place), rank=rank) for place in range(own.outputs)]


def _picked(own: Node, reads: Sequence[Told]) -> Told | None:
    """Columns of the last axis in another order; None = it picks something else."""
    data, places = reads
    axis = own.axis
    order = places.value
    if order is None or order.ndim != 1 or data.value is not None:
        return None
    last = axis == -1 or (data.rank is not None and axis == data.rank - 1)
    if not last or not np.array_equal(np.sort(order), np.arange(len(order))):
        return None
    inner = data.order
    if inner is not None and len(inner) != len(order):
        return None
    picked = order.astype(np.int64)
    return Told(
        digest=data.digest, rank=data.rank, order=picked if inner is None else inner[picked]
    )


def _product(own: Node, reads: Sequence[Told]) -> Told | None:
    """A product with a constant matrix, its rows where the columns stood; None = nothing is to be undone."""
    data, weights = reads
    matrix = weights.value
    if matrix is None or matrix.ndim != _MATRIX:
        return None
    if data.order is not None:
        if len(data.order) != len(matrix):
            return None
        rows = np.empty_like(matrix)
        rows[data.order] = matrix
        return _multiplied(own, data.digest, rows, data.rank)
    if data.piece is None or data.piece[2] - data.piece[1] != len(matrix):
        return None
    base, start, stop, width = data.piece
    plain = _multiplied(own, data.digest, matrix, data.rank)
    return replace(plain, products=(own, base, width, ((start, stop, matrix),)))


def _multiplied(own: Node, digest: str, matrix: NDArray[Any], rank: int | None) -> Told:
    return Told(digest=own.digest([digest, constant_told(matrix).digest]), rank=rank)


def _sum_of_pieces(own: Node, reads: Sequence[Told]) -> Told | None:
    """The product of a whole from the products of its pieces; None = the node adds something else."""
    one, other = (told.products for told in reads)
    if own.operator != "Add" or one is None or other is None or one[:3] != other[:3]:
        return None
    product, base, width, _ = one
    parts = sorted((*one[3], *other[3]), key=lambda part: part[:2])
    # Products of one column are added to each of several: no product of a whole.
    if len({(rows.shape[1], rows.dtype) for _, _, rows in parts}) > 1:
        return None
    ends = [0, *(stop for _, stop, _ in parts)]
    if [start for start, _, _ in parts] == ends[:-1] and ends[-1] == width:
        rows = np.concatenate([rows for _, _, rows in parts])
        return _multiplied(product, base, rows, reads[0].rank)
    if any(after[0] < before[1] for before, after in pairwise(parts)):
        return None
    given = [told.digest for told in reads]
    products = (product, base, width, tuple(parts))
    return Told(digest=own.digest(given), rank=reads[0].rank, products=products)


def _beside_constant(own: Node, reads: Sequence[Told]) -> Told | None:
    """A permuted tensor with a constant of every column, or of all; None = nothing is to be undone."""
    place = next((i for i, told in enumerate(reads) if told.order is not None), None)
    if place is None:
        return None
    data, constant = reads[place], reads[1 - place].value
    order = data.order
    if constant is None or order is None or (data.rank or 0) < constant.ndim:
        return None
    if constant.size > 1:
        if constant.shape[-1] != len(order):
            return None
        moved = np.empty_like(constant)
        moved[..., order] = constant
        constant = moved
    given = [data.digest, constant_told(constant).digest]
    digest = own.digest(given if place == 0 else given[::-1])
    return Told(digest=digest, rank=data.rank, order=order)


def _cut(own: Node, reads: Sequence[Told]) -> list[Told]:
    """Pieces of the last axis, which know what they were cut from."""
    found = _usual(own, reads)
    axis = own.axis
    data, sizes = _plain(reads[0]), reads[1].value if len(reads) > 1 else None
    last = axis == -1 or (data.rank is not None and axis == data.rank - 1)
    if not own.named <= {"axis"} or sizes is None or not last or sizes.shape != (len(found),):
        return found
    ends = [0, *np.cumsum(sizes).tolist()]
    return [
        replace(told, rank=data.rank, piece=(data.digest, ends[i], ends[i + 1], ends[-1]))
        for i, told in enumerate(found)
    ]


def _plain(told: Told) -> Told:
    """The tensor itself, where a permutation was kept beside another one."""
    if told.order is None:
        return told
    return Told(digest=digest_of("permuted", told.digest, told.order.tolist()), rank=told.rank)

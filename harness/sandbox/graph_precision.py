"""Which float64 tensors carry no more digits than float32: some float32 arithmetic is before them.

Told from the graph alone, without shape inference: types follow from inputs, constants and the few
operators that name or change a type. Operators that move or pick values round nothing. A type that cannot
be told counts as float32's, which is the wider tolerance. Runs in a sandboxed child.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.sandbox.graph_bodies import bodies
from harness.sandbox.graph_description import captured
from harness.sandbox.graph_types import BOOL, DOUBLE, FLOATS, INT64, SINGLE, STRING, UNKNOWN, WHOLE

if TYPE_CHECKING:
    import onnx

MOVES = frozenset(
    [
        "Abs",
        "ArrayFeatureExtractor",
        "CastMap",
        "CategoryMapper",
        "Ceil",
        "Clip",
        "Compress",
        "Concat",
        "ConcatFromSequence",
        "Constant",
        "ConstantOfShape",
        "DepthToSpace",
        "DictVectorizer",
        "Dropout",
        "Expand",
        "EyeLike",
        "FeatureVectorizer",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "LabelEncoder",
        "Max",
        "MaxPool",
        "Min",
        "Neg",
        "OneHot",
        "OneHotEncoder",
        "Optional",
        "OptionalGetElement",
        "Pad",
        "Relu",
        "Reshape",
        "ReverseSequence",
        "Round",
        "Scatter",
        "ScatterElements",
        "ScatterND",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "Sign",
        "Slice",
        "SpaceToDepth",
        "Split",
        "SplitToSequence",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unique",
        "Unsqueeze",
        "Where",
        "ZipMap",
        "ReduceMax",
        "ReduceMin",
        "Imputer",
    ]
)
"""Operators that return values they were given, or whole numbers: they round nothing."""
_TRUTHS = frozenset(
    [
        "And",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Not",
        "Or",
        "Xor",
        "OptionalHasElement",
        "RegexFullMatch",
    ]
)
_COUNTS = frozenset(
    ["ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "SequenceLength", "Shape", "Size"]
)
_TYPED_BY = {"Where": 1, "OneHot": 2, "CastLike": 1, "DequantizeLinear": 1, "QuantizeLinear": 2}
"""Operator → the place of the input whose type it returns, where that is not the first."""
_SECOND_WHOLE = frozenset({"TopK", "Unique", "MaxPool"})
"""Operators whose outputs after the first are places or counts."""


@dataclass(slots=True)
class _Known:
    """What is known of the tensors of one graph."""

    kinds: dict[str, int] = field(default_factory=dict)
    """Tensor → its element type."""
    coarse: set[str] = field(default_factory=set)
    """Tensors with float32 arithmetic before them."""

    def inner(self) -> _Known:
        """What a body starts from."""
        return _Known(kinds=dict(self.kinds), coarse=set(self.coarse))


def doubles_from_singles(model: onnx.ModelProto) -> list[str]:
    """Tensors of the main graph that are float64, or may be, and carry float32's digits only."""
    known = _looked_through(model)
    return [n for n in known.coarse if known.kinds.get(n, UNKNOWN) in (UNKNOWN, DOUBLE)]


def known_kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Tensors of the main graph → element types; UNKNOWN, or none at all, where they cannot be told."""
    return _looked_through(model).kinds


def _looked_through(model: onnx.ModelProto) -> _Known:
    functions = _Functions({(f.domain, f.name): f for f in model.functions})
    known = _Known()
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type:
            known.kinds[value.name] = value.type.tensor_type.elem_type
    _constants(model.graph, known)
    # Functions that call functions: a chain of them is as long as one likes, our stack is not.
    walks = [_walk(model.graph.node, known, functions, frozenset())]
    while walks:
        inner = next(walks[-1], None)
        if inner is None:
            walks.pop()
        else:
            walks.append(inner)
    return known


Walk = Iterator["Walk"]
"""A walk that gives out those which are to be made before it goes on."""


@dataclass(slots=True)
class _Functions:
    """The model's functions, and what was found of them: a call of a call twice over is walked once."""

    bodies: dict[tuple[str, str], onnx.FunctionProto]
    """(domain, name) → the function."""
    results: dict[tuple[object, ...], list[tuple[int, bool]]] = field(default_factory=dict)
    """(domain, name, type and coarseness of every input) → the same of every output."""


def _constants(graph: onnx.GraphProto, known: _Known) -> None:
    known.kinds |= {t.name: t.data_type for t in graph.initializer}
    known.kinds |= {s.values.name: s.values.data_type for s in graph.sparse_initializer}


def _walk(
    nodes: Iterable[onnx.NodeProto],
    known: _Known,
    functions: _Functions,
    within: frozenset[tuple[str, str]],
) -> Walk:
    for node in nodes:
        body = functions.bodies.get((node.domain, node.op_type))
        inner = [*bodies(node)]
        if body is not None and (node.domain, node.op_type) not in within:
            yield _call(node, body, known, functions, within)
        elif inner:
            yield _enter(node, inner, known, functions, within)
        else:
            _one(node, known)


def _one(node: onnx.NodeProto, known: _Known) -> None:
    """A node without a body."""
    reads = [name for name in node.input if name]
    kind = _kind(node, known)
    coarse = any(name in known.coarse for name in reads)
    if node.op_type == "Cast":
        # The digits of a float64 end here; whole numbers and words become the same float anywhere.
        coarse |= kind in FLOATS and known.kinds.get(reads[0], UNKNOWN) in (DOUBLE, UNKNOWN)
    elif node.op_type not in MOVES:
        coarse |= kind in FLOATS or kind == UNKNOWN
    for place, name in enumerate(node.output):
        if not name:
            continue
        whole = place and node.op_type in _SECOND_WHOLE
        known.kinds.setdefault(name, INT64 if whole else kind)
        if coarse and known.kinds[name] not in WHOLE:
            known.coarse.add(name)


def _kind(node: onnx.NodeProto, known: _Known) -> int:
    """Element type of a node's first output; UNKNOWN where it cannot be told."""
    attributes = {a.name: a for a in node.attribute}
    named = next((attributes[k].i for k in ("to", "dtype") if k in attributes), None)
    if named is not None:
        return int(named)
    if node.op_type in _TRUTHS:
        return BOOL
    if node.op_type in _COUNTS:
        return INT64
    if node.domain == "ai.onnx.ml":
        return _learned_kind(node, attributes, known)
    if node.op_type in ("Constant", "ConstantOfShape"):
        return _constant_kind(attributes)
    place = _TYPED_BY.get(node.op_type, 0)
    return known.kinds.get(node.input[place], UNKNOWN) if len(node.input) > place else UNKNOWN


def _constant_kind(attributes: dict[str, onnx.AttributeProto]) -> int:
    for name, kind in (("value_int", INT64), ("value_string", STRING)):
        if name in attributes or f"{name}s" in attributes:
            return kind
    return attributes["value"].t.data_type if "value" in attributes else SINGLE


def _learned_kind(
    node: onnx.NodeProto, attributes: dict[str, onnx.AttributeProto], known: _Known
) -> int:
    if node.op_type in ("LabelEncoder", "CategoryMapper"):
        if "values_tensor" in attributes:
            return attributes["values_tensor"].t.data_type
        if "values_floats" in attributes:
            return SINGLE
        return INT64 if "values_int64s" in attributes else STRING
    if node.op_type in ("ArrayFeatureExtractor", "Imputer", "TreeEnsemble", "Binarizer"):
        return known.kinds.get(node.input[0], UNKNOWN)
    return SINGLE


def _enter(
    node: onnx.NodeProto,
    inner: list[onnx.GraphProto],
    known: _Known,
    functions: _Functions,
    within: frozenset[tuple[str, str]],
) -> Walk:
    """If, Loop, Scan: coarse where anything before it or any result of a body is.

    Any result: what a Loop carries over may make the others so the next time round.
    """
    coarse = any(name in known.coarse for name in (*node.input, *captured(node)) if name)
    kinds: dict[str, int] = {}
    for body in inner:
        own = known.inner()
        own.kinds |= {i.name: i.type.tensor_type.elem_type for i in body.input}
        own.coarse -= {i.name for i in body.input}
        _constants(body, own)
        yield _walk(body.node, own, functions, within)
        # A Loop's first result is its condition; the last ones of all are the node's outputs.
        results = [o.name for o in body.output][-len(node.output) :]
        for name, result in zip(node.output, results, strict=False):
            kinds.setdefault(name, own.kinds.get(result, UNKNOWN))
        coarse |= not own.coarse.isdisjoint(results)
    known.kinds |= kinds
    if coarse:
        known.coarse |= {n for n in node.output if n and kinds.get(n, UNKNOWN) not in WHOLE}


def _call(
    node: onnx.NodeProto,
    body: onnx.FunctionProto,
    known: _Known,
    functions: _Functions,
    within: frozenset[tuple[str, str]],
) -> Walk:
    """A function of the model: its parameters are what the node reads."""
    given = list(zip(body.input, node.input, strict=False))
    own = _Known(
        kinds={ours: known.kinds.get(theirs, UNKNOWN) for ours, theirs in given},
        coarse={ours for ours, theirs in given if theirs in known.coarse},
    )
    inputs = tuple((own.kinds[ours], ours in own.coarse) for ours, _ in given)
    called = (node.domain, node.op_type, *inputs)
    if called not in functions.results:
        yield _walk(body.node, own, functions, within | {(node.domain, node.op_type)})
        functions.results[called] = [
            (own.kinds.get(name, UNKNOWN), name in own.coarse) for name in body.output
        ]
    for (kind, coarse), name in zip(functions.results[called], node.output, strict=False):
        known.kinds[name] = kind
        if coarse:
            known.coarse.add(name)

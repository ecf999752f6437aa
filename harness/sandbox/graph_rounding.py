"""How far each tensor of a graph may move when its sums are made in another order, told from the graph alone.

A sum of n terms rounds about √n times as much as one operation does, relative to its terms; layers add up as
squares do. So each tensor gets a count of squared roundings by working precision: those before it, and its own.
Operators that move or pick values add none: what comes of these alone is exact, and says so with 0.
A tensor after something that cannot be looked through (a body, a function, an unknown type) is left out.
Runs in a sandboxed child.

Tried and left: the bound of the worst case (n roundings, not √n: it hides whole features of wide nets); the
magnitudes of the terms, which nothing but a run of the model tells (`diff.scales` takes them from the values).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.sandbox.graph_description import bodies
from harness.sandbox.graph_precision import DOUBLE, FLOATS, MOVES, UNKNOWN, WHOLE, known_kinds

if TYPE_CHECKING:
    import onnx

_SINGLE = 1
_ROUNDINGS = 4.0
"""Roundings of the usual size that the largest of some hundred thousand values is."""
_SINGLE_UNIT = 2.0**-24
_DOUBLE_UNIT = 2.0**-53
_HALF_ROUNDING = 2.0**-10
"""One float16 unit at the scale. Runtimes add up float16 in float32, so that terms add none."""
_MOST_SINGLE = 1e-5
"""However deep and wide a net: faults of this size are to be seen."""
_MOST_HALF = 2.0**-8
_TERMS = 16
"""Taken for a sum whose length the graph does not say."""
_STEEP = 16.0
"""Exponentials make of an error of their argument one of the whole value, some four times as large."""
_EXPONENTIALS = frozenset(["Exp", "Softmax", "Pow", "Sigmoid", "Softplus"])
_PRODUCTS = frozenset(["MatMul", "Gemm", "FusedMatMul"])
_CONVOLUTIONS = frozenset(["Conv", "ConvTranspose"])
_RECURRENT = frozenset(["LSTM", "GRU", "RNN"])
_SUMS = frozenset(
    [
        "AveragePool",
        "BatchNormalization",
        "CumSum",
        "Einsum",
        "GlobalAveragePool",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "Mean",
        "Normalizer",
        "LinearClassifier",
        "LinearRegressor",
        "SVMClassifier",
        "SVMRegressor",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
    ]
)
_Counts = tuple[float, float, float]
"""Squared roundings of float32, of what is narrower, and of float64."""
_NONE: _Counts = (0.0, 0.0, 0.0)


@dataclass(slots=True)
class _Known:
    """What is known of the tensors of the main graph."""

    kinds: dict[str, int]
    """Tensor → its element type."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Constant → its shape."""
    counts: dict[str, _Counts] = field(default_factory=dict)
    """Tensor → its roundings; none of what cannot be told."""


def roundings(model: onnx.ModelProto) -> dict[str, float]:
    """Tensors of the main graph → how far rounding moves them, relative to the scale; 0 = they are exact."""
    graph = model.graph
    known = _Known(kinds=known_kinds(model))
    known.shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    names = (*(i.name for i in graph.input), *known.shapes)
    known.counts = dict.fromkeys(names, _NONE)
    opaque = {(f.domain, f.name) for f in model.functions}
    for node in graph.node:
        if (node.domain, node.op_type) not in opaque and not [*bodies(node)]:
            _one(node, known)
    # Constants are what every file has most of, and nobody asks for theirs.
    told = [(n, c) for n, c in known.counts.items() if n and n not in known.shapes]
    return {name: _relative(counts) for name, counts in told}


def _one(node: onnx.NodeProto, known: _Known) -> None:
    reads = [name for name in node.input if name]
    if any(name not in known.counts for name in reads):
        return
    before = [known.counts[name] for name in reads]
    single, half, double = zip(*before, strict=True) if before else ((0.0,),) * 3
    found = max(single), max(half), max(double)
    if node.op_type == "Constant":
        given = [a.t for a in node.attribute if a.name == "value"]
        known.shapes |= {name: tuple(t.dims) for name in node.output for t in given}
    elif node.op_type in ("Identity", "Cast") and reads[0] in known.shapes:
        known.shapes[node.output[0]] = known.shapes[reads[0]]
    for name in node.output:
        kind = known.kinds.get(name, UNKNOWN)
        if kind != UNKNOWN:
            known.counts[name] = _after(node, found, kind, known)


def _after(node: onnx.NodeProto, found: _Counts, kind: int, known: _Known) -> _Counts:
    """The roundings of one output, with the node's own."""
    single, half, double = found
    if kind in WHOLE or node.op_type in MOVES:
        return found
    if node.op_type == "Cast":
        given = known.kinds.get(node.input[0], UNKNOWN)
        wider = given in (UNKNOWN, DOUBLE) or (given == _SINGLE and kind in FLOATS - {_SINGLE})
        if given == kind or not wider or kind == DOUBLE:
            return found
        own = 1.0
    else:
        own = _terms(node, known)
    if node.op_type in _EXPONENTIALS:
        single, double = _STEEP * single, _STEEP * double
    if kind == DOUBLE:
        return single, half, double + own
    if kind == _SINGLE:
        return single + own, half, double
    return single, half + 1.0, double


def _terms(node: onnx.NodeProto, known: _Known) -> float:
    """How many terms an operator adds up; 1 for what rounds once."""
    shapes = [known.shapes.get(name) for name in node.input]
    operator = node.op_type
    if operator in _PRODUCTS:
        return _product_terms(node, shapes)
    if operator in _CONVOLUTIONS:
        weights = shapes[1] if len(shapes) > 1 else None
        return float(math.prod(weights[1:])) if weights else _TERMS
    if operator in _RECURRENT:
        inner = [shape[-1] for shape in shapes[1:3] if shape]
        return float(_TERMS * sum(inner)) if inner else _TERMS
    return _TERMS if operator in _SUMS or operator.startswith("Reduce") else 1.0


def _product_terms(node: onnx.NodeProto, shapes: list[tuple[int, ...] | None]) -> float:
    turned = {a.name for a in node.attribute if a.name in ("transA", "transB") and a.i}
    right = shapes[1] if len(shapes) > 1 else None
    if right:
        return float(right[-1] if "transB" in turned or len(right) == 1 else right[-2])
    if shapes and shapes[0]:
        left = shapes[0]
        return float(left[0] if "transA" in turned else left[-1])
    return _TERMS


def _relative(counts: _Counts) -> float:
    single, half, double = counts
    return max(
        min(_ROUNDINGS * _SINGLE_UNIT * math.sqrt(single), _MOST_SINGLE),
        min(_HALF_ROUNDING * math.sqrt(half), _MOST_HALF),
        _ROUNDINGS * _DOUBLE_UNIT * math.sqrt(double),
    )

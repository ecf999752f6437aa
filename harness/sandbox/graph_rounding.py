"""Which tensors of a graph nothing rounds, told from the graph alone.

Inputs and constants are what they are, and operators that move or pick values, or give whole numbers, add no
rounding. A tensor after something that cannot be looked through (a body, a function, an unknown type), or of
which any part was rounded, is left out: nothing is known of it.
Runs in a sandboxed child.

Tried and left: a tolerance told from the lengths of the sums before a tensor. Beside float16 or long sums an exact
column of the same tensor moved unseen, and weights and biases that were off by a thousandth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.sandbox.graph_bodies import bodies
from harness.sandbox.graph_precision import MOVES, known_kinds
from harness.sandbox.graph_types import DOUBLE, FLOATS, SINGLE, UNKNOWN, WHOLE, holds

if TYPE_CHECKING:
    import onnx

_STEPS = frozenset(
    [
        "Binarizer",
        "Ceil",
        "Floor",
        "Hardmax",
        "LabelEncoder",
        "Mod",
        "NonMaxSuppression",
        "Round",
        "Shrink",
        "Sign",
        "SVMClassifier",
        "ThresholdedRelu",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
        "Unique",
    ]
)
"""Operators that give fractions and jump: their inputs move by a last digit, and the output by a step."""
_KNOWN = frozenset(["", "ai.onnx", "ai.onnx.ml", "com.microsoft"])
"""Domains whose operators do what their names say."""
_FRACTIONS = (1, 4, 6, 9)
"""Types of attributes that may hold fractions: numbers and tensors, and lists of them."""


def exact_tensors(model: onnx.ModelProto) -> list[str]:
    """Tensors of the main graph that nothing rounds, constants left out."""
    graph = model.graph
    kinds = known_kinds(model)
    constants = {t.name for t in graph.initializer}
    exact = {i.name for i in graph.input} | constants
    opaque = {(f.domain, f.name) for f in model.functions}
    for node in graph.node:
        if (node.domain, node.op_type) in opaque or [*bodies(node)]:
            continue
        if all(name in exact for name in node.input if name):
            exact |= {name for name in node.output if _keeps(node, kinds, name)}
    # Constants are what every file has most of, and nobody asks for theirs.
    return sorted(name for name in exact - constants if name)


def smooth_tensors(model: onnx.ModelProto) -> list[str]:
    """Tensors of the main graph that follow what was rounded without a jump, constants left out.

    After a step (a rounding to whole numbers, a comparison, a tree) of something rounded, a last digit moves
    some rows by a whole step and most by nothing: no measure of the one says how far the others may be. Nothing
    is known after what cannot be looked through.
    """
    graph = model.graph
    kinds = known_kinds(model)
    constants = {t.name for t in graph.initializer} | {
        t.values.name for t in graph.sparse_initializer
    }
    exact = {*exact_tensors(model), *constants}
    known = set(exact)
    opaque = {(f.domain, f.name) for f in model.functions}
    for node in graph.node:
        given = {name for name in node.input if name}
        if (node.domain, node.op_type) in opaque or [*bodies(node)] or not given <= known:
            continue
        if given <= exact:
            known |= {*node.output}
        elif node.op_type not in _STEPS and node.domain in _KNOWN:
            known |= {
                name
                for name in node.output
                if node.op_type == "ZipMap" or kinds.get(name, UNKNOWN) in FLOATS
            }
    return sorted(name for name in known - constants if name)


def handed_on(model: onnx.ModelProto) -> list[str]:
    """Tensors of the main graph that hold values of the inputs as they came: moved and picked, no more.

    Two versions' of the same type and the same requests are equal in every bit. Not so what a constant that
    has fractions takes part in: exporters that fold constants round their last digits, each in its way.
    """
    graph = model.graph
    kinds = known_kinds(model)
    constants = {t.name for t in graph.initializer} | {
        t.values.name for t in graph.sparse_initializer
    }
    found = {i.name for i in graph.input} - constants
    known = found | {name for name in constants if kinds.get(name, UNKNOWN) in WHOLE}
    opaque = {(f.domain, f.name) for f in model.functions}
    for node in graph.node:
        if (node.domain, node.op_type) in opaque or [*bodies(node)]:
            continue
        if not all(name in known for name in node.input if name):
            continue
        for name in node.output:
            kind = kinds.get(name, UNKNOWN)
            if kind in WHOLE or (_keeps(node, kinds, name) and _only_given(node, kinds, kind)):
                known.add(name)
                found.add(name)
    return sorted(name for name in found if name)


def _only_given(node: onnx.NodeProto, kinds: dict[str, int], kind: int) -> bool:
    """Whether an output that is no whole number comes of the node's inputs alone, in their own type."""
    given = {kinds.get(name, UNKNOWN) for name in node.input if name}
    if node.op_type == "Cast":
        return kind in (SINGLE, DOUBLE) or given == {kind}
    own = any(a.type in _FRACTIONS for a in node.attribute)
    return not own and bool(given) and (kind in given or given <= WHOLE)


def _keeps(node: onnx.NodeProto, kinds: dict[str, int], output: str) -> bool:
    """Whether a node rounds nothing on the way to one of its outputs."""
    kind = kinds.get(output, UNKNOWN)
    if kind == UNKNOWN:
        return False
    if kind in WHOLE or node.op_type in MOVES:
        return True
    if node.op_type != "Cast":
        return False
    given = kinds.get(node.input[0], UNKNOWN)
    # Whole numbers and words become the same float32 anywhere; what is narrower must hold each of them.
    if kind == DOUBLE or (kind == SINGLE and given in WHOLE):
        return True
    return holds(kind, given)

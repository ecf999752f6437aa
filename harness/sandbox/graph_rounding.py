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

from harness.sandbox.graph_description import bodies
from harness.sandbox.graph_precision import DOUBLE, FLOATS, MOVES, UNKNOWN, WHOLE, known_kinds

if TYPE_CHECKING:
    import onnx

_SINGLE = 1


def roundings(model: onnx.ModelProto) -> dict[str, float]:
    """Tensors of the main graph that nothing rounds → 0."""
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
    return dict.fromkeys(sorted(name for name in exact - constants if name), 0.0)


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
    wider = given in (UNKNOWN, DOUBLE) or (given == _SINGLE and kind in FLOATS - {_SINGLE})
    return given == kind or not wider or kind == DOUBLE

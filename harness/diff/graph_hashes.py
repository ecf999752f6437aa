"""Digests of what a tensor is computed from, and of what is made of it.

Equal exact digests mean the same computation, weights included, whatever the tensors are called: only
names of the graph's inputs enter. Identity is an alias; the order of inputs that an operator may swap
does not count. Loose digests leave weights out, so that they survive a retrain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.core.graphs import Graph, Node

COMMUTATIVE = frozenset(
    {
        "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Max", "Mean", "Min", "Mul",
        "Or", "Sum", "Xor",
    }
)  # fmt: skip
"""Operators whose inputs may be swapped."""
ALIAS = "Identity"
_BY_COUNT = "Split"
"""What each output holds depends on how many there are."""
_UNKNOWN = b"unknown"


def digest(*parts: bytes | str) -> bytes:
    """A digest of parts that no other list of parts shares."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.digest()


def without_aliases(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph without Identity nodes.

    Returns:
      The graph, in which every tensor is read under the name of the tensor it is a copy of, and
      copy → original for every tensor that an Identity made.
    """
    origin: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        if node.op == ALIAS:
            origin[node.outputs[0]] = origin.get(node.inputs[0], node.inputs[0])
        else:
            inputs = tuple(origin.get(name, name) for name in node.inputs)
            captures = tuple(origin.get(name, name) for name in node.captures)
            kept.append(replace(node, inputs=inputs, captures=captures))
    outputs = tuple(origin.get(name, name) for name in graph.outputs)
    return replace(graph, nodes=tuple(kept), outputs=outputs), origin


def upstream(
    graph: Graph, *, exact: bool, inputs: Mapping[str, str], equal: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """Digest per tensor of everything it is computed from.

    Args:
      graph: nodes in topological order, without aliases.
      exact: with weights; False: with their types and shapes only.
      inputs: input → the name under which both versions know it; others keep their own.
      equal: computed tensor → the name under which both versions know it; whatever computes it, it counts as an input.

    Returns:
      Tensor name → digest; inputs and constants included.
    """
    known = equal or {}
    found = {name: digest("input", inputs.get(name, name)) for name in graph.inputs}
    for constant in graph.constants:
        found[constant.name] = digest("constant", constant.exact if exact else constant.loose)
    for node in graph.nodes:
        base = digest(*own_parts(node, exact=exact), *_sources(node, found))
        for place, name in enumerate(node.outputs):
            if name:
                own = known.get(name)
                found[name] = digest(base, str(place)) if own is None else digest("equal", own)
    return found


def downstream(graph: Graph) -> dict[str, bytes]:
    """Digest per tensor of the operators that it flows into, down to the outputs; weights left out.

    Args:
      graph: nodes in topological order, without aliases.
    """
    ends: dict[str, list[str]] = {}
    for place, name in enumerate(graph.outputs):
        ends.setdefault(name, []).append(str(place))
    found: dict[str, bytes] = {}
    readers: dict[str, list[bytes]] = {}
    for node in reversed(graph.nodes):
        flows = []
        for name in node.outputs:
            if name:
                found[name] = digest(*ends.get(name, ()), "read by", *sorted(readers.get(name, ())))
            flows.append(found.get(name, b""))
        made = digest(node.op, *flows)
        for slot, name in enumerate((*node.inputs, *node.captures)):
            # Which operand a tensor is counts, unless the operator may swap them.
            where = "" if node.op in COMMUTATIVE else str(slot)
            readers.setdefault(name, []).append(digest(made, where))
    return found


def own_parts(node: Node, *, exact: bool) -> Iterable[str]:
    """What an operator does, whatever it reads: two that do the same have equal parts.

    Args:
      node: the operator.
      exact: with its weights; False: with their types and lengths only.
    """
    yield node.op
    if node.op == _BY_COUNT:
        yield str(len(node.outputs))
    for attribute in node.attributes:
        yield attribute.name
        yield attribute.exact if exact else attribute.loose


def _sources(node: Node, found: Mapping[str, bytes]) -> Sequence[bytes]:
    given = [found.get(name, _UNKNOWN) if name else b"" for name in node.inputs]
    if node.op in COMMUTATIVE:
        given.sort()
    return [*given, *(found.get(name, _UNKNOWN) for name in node.captures)]

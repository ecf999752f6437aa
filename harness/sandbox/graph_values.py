"""What `graph_description` wrote → a `core.graphs.Graph`; nothing of it is trusted."""

from __future__ import annotations

import graphlib
import json
from collections.abc import Sequence
from typing import Any

from harness.core.graphs import Attribute, Constant, Graph, Node
from harness.sandbox.child.frames import FrameError
from harness.sandbox.child_texts import MOST_SHOWN, text_from, texts_from
from harness.sandbox.graph_names import MAX_NAME
from harness.sandbox.graph_running import running_order

ALIAS = "Identity"
MOST_NODES = 200_000
"""More operators than any model that a gate can trace has."""


def graph_from_description(data: bytes) -> Graph:
    """Reads a child's description of a graph.

    Raises:
      FrameError: it is none.
    """
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        msg = "the graph is no JSON"
        raise FrameError(msg) from None
    if not isinstance(given, dict):
        msg = "the graph is no table"
        raise FrameError(msg)
    return Graph(
        inputs=texts_from(given.get("inputs"), MAX_NAME),
        outputs=texts_from(given.get("outputs"), MAX_NAME),
        nodes=_in_order([_node(n) for n in _listed(given.get("nodes"))]),
        constants=tuple(_constant(c) for c in _listed(given.get("constants"))),
        random=pairs_from(given.get("random")),
        coarse=frozenset(texts_from(given.get("coarse"), MAX_NAME)),
        opsets=pairs_from(given.get("opsets")),
        exact=frozenset(texts_from(given.get("exact"), MAX_NAME)),
        handed_on=frozenset(texts_from(given.get("handed_on"), MAX_NAME)),
        smooth=frozenset(texts_from(given.get("smooth"), MAX_NAME)),
    )


def _listed(given: object) -> list[Any]:
    if not isinstance(given, list) or len(given) > MOST_NODES:
        msg = "a list of the graph is missing or too long"
        raise FrameError(msg)
    return given


def _node(given: object) -> Node:
    match given:
        case [op, name, inputs, outputs, captures, attributes, since]:
            return Node(
                op=text_from(op, MAX_NAME),
                name=text_from(name, MAX_NAME),
                inputs=texts_from(inputs, MAX_NAME),
                outputs=texts_from(outputs, MAX_NAME),
                captures=texts_from(captures, MAX_NAME),
                attributes=tuple(_attribute(a) for a in _listed(attributes)),
                since=text_from(since, MAX_NAME),
            )
        case _:
            msg = "an operator of the graph is none"
            raise FrameError(msg)


def _in_order(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes so that each comes after what it reads; where they are given so, as they are.

    Raises:
      FrameError: a tensor is made twice or from itself, or an Identity is no copy of one tensor.
    """
    maker = _makers(nodes)
    before = [{maker[name] for name in node.sources() if name in maker} for node in nodes]
    try:
        order = running_order(before)
    except graphlib.CycleError:
        msg = "a tensor of the graph is made from itself"
        raise FrameError(msg) from None
    return tuple(nodes[place] for place in order)


def _makers(nodes: Sequence[Node]) -> dict[str, int]:
    """Tensor → place of the node that makes it; raises as `_in_order`."""
    maker: dict[str, int] = {}
    for place, node in enumerate(nodes):
        if node.op == ALIAS and not (len(node.inputs) == len(node.outputs) == 1):
            msg = "an Identity of the graph is no copy of one tensor"
            raise FrameError(msg)
        for name in filter(None, node.outputs):
            if name in maker:
                msg = f"tensor {name[:MOST_SHOWN]!r} of the graph is made twice"
                raise FrameError(msg)
            maker[name] = place
    return maker


def _attribute(given: object) -> Attribute:
    name, text, exact, loose = _four(given)
    return Attribute(name=name, text=text, exact=exact, loose=loose)


def _constant(given: object) -> Constant:
    name, text, exact, loose = _four(given)
    return Constant(name=name, text=text, exact=exact, loose=loose)


def _four(given: object) -> tuple[str, str, str, str]:
    texts = texts_from(given, MAX_NAME)
    if len(texts) != 4:  # noqa: PLR2004 - name, text, exact, loose
        msg = "a constant of the graph is none"
        raise FrameError(msg)
    return texts[0], texts[1], texts[2], texts[3]


def pairs_from(given: object) -> tuple[tuple[str, str], ...]:
    """A list of pairs of texts, or FrameError."""
    if not isinstance(given, list):
        msg = "a list of pairs is missing"
        raise FrameError(msg)
    pairs = []
    for entry in given:
        texts = texts_from(entry, MAX_NAME)
        if len(texts) != 2:  # noqa: PLR2004 - a pair
            msg = "a pair is no pair"
            raise FrameError(msg)
        pairs.append((texts[0], texts[1]))
    return tuple(pairs)

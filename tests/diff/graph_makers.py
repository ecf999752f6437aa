"""Random graphs, and rewritings that leave what they compute alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.core.graphs import Attribute, Constant, Graph, Node
from harness.diff.graph_hashes import COMMUTATIVE


class Draw:
    """Seeded choices."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def choice(self, things: list | tuple):
        return things[int(self._rng.integers(len(things)))]

    def shuffle(self, things: list) -> None:
        things[:] = [things[i] for i in self._rng.permutation(len(things))]

    def random(self) -> float:
        return float(self._rng.random())


OPERATORS = ("Add", "Mul", "Sub", "Div", "Relu", "MatMul", "Concat", "Where")
ARITY = {"Relu": 1, "Where": 3}


def constant(name: str, value: str, *, whole: bool = False) -> Constant:
    return Constant(name=name, text=value, exact=value, loose=value if whole else "float[8]")


def random_graph(seed: int, size: int = 12) -> Graph:
    """Every tensor reaches an output; constants are floats, some of equal values under several names."""
    draw = Draw(seed)
    inputs = ("x", "y")
    count = size // 2
    constants = tuple(constant(f"w{i}", f"value {draw.choice(range(count))}") for i in range(count))
    known = [*inputs, *(c.name for c in constants)]
    nodes = []
    for place in range(size):
        op = draw.choice(OPERATORS)
        sources = [draw.choice(known) for _ in range(ARITY.get(op, 2))]
        # At least one source is computed or fed: constants alone would be folded by any exporter.
        sources[0] = draw.choice([*inputs, *(n.outputs[0] for n in nodes)])
        nodes.append(
            Node(
                op=op,
                inputs=tuple(sources),
                outputs=(f"t{place}",),
                attributes=(
                    Attribute(name="axis", text=str(place), exact=str(place), loose=str(place)),
                )
                if op == "Concat"
                else (),
            )
        )
        known.append(f"t{place}")
    read = {s for n in nodes for s in n.sources()}
    outputs = tuple(n.outputs[0] for n in nodes if n.outputs[0] not in read)
    return Graph(inputs=inputs, outputs=outputs, nodes=tuple(nodes), constants=constants)


def renamed(graph: Graph, seed: int) -> tuple[Graph, dict[str, str]]:
    """Other names for all but the inputs; old names go to other tensors, as numbering exporters do."""
    draw = Draw(seed)
    names = [*graph.computed(), *(c.name for c in graph.constants)]
    others = names.copy()
    draw.shuffle(others)
    to = dict(zip(names, others, strict=True))
    nodes = tuple(
        replace(
            n,
            inputs=tuple(to.get(i, i) for i in n.inputs),
            outputs=tuple(to[o] for o in n.outputs),
        )
        for n in graph.nodes
    )
    constants = tuple(replace(c, name=to[c.name]) for c in graph.constants)
    outputs = tuple(to[o] for o in graph.outputs)
    return Graph(inputs=graph.inputs, outputs=outputs, nodes=nodes, constants=constants), to


def reordered(graph: Graph, seed: int) -> Graph:
    """Another topological order of nodes, another order of constants."""
    draw = Draw(seed)
    ready = {*graph.inputs, *(c.name for c in graph.constants)}
    left, nodes = list(graph.nodes), []
    while left:
        node = draw.choice([n for n in left if all(s in ready for s in n.sources())])
        left.remove(node)
        nodes.append(node)
        ready |= set(node.outputs)
    constants = list(graph.constants)
    draw.shuffle(constants)
    return replace(graph, nodes=tuple(nodes), constants=tuple(constants))


def swapped(graph: Graph, seed: int) -> Graph:
    """Inputs of operators that may swap them, swapped."""
    draw = Draw(seed)
    nodes = []
    for n in graph.nodes:
        flip = n.op in COMMUTATIVE and draw.random() < 0.5
        nodes.append(replace(n, inputs=n.inputs[::-1]) if flip else n)
    return replace(graph, nodes=tuple(nodes))


def with_copies(graph: Graph, seed: int) -> Graph:
    """Identity between some tensors and their later readers."""
    draw = Draw(seed)
    origin: dict[str, str] = {}
    nodes = []
    for n in graph.nodes:
        inputs = []
        for name in n.inputs:
            if draw.random() < 0.3:
                copy = f"copy{len(origin)}"
                origin[copy] = name
                nodes.append(Node(op="Identity", inputs=(name,), outputs=(copy,)))
                inputs.append(copy)
            else:
                inputs.append(name)
        nodes.append(replace(n, inputs=tuple(inputs)))
    return replace(graph, nodes=tuple(nodes))


def with_constants_split(graph: Graph) -> Graph:
    """Every reader of a constant gets its own equal copy."""
    values = {c.name: c for c in graph.constants}
    constants: list[Constant] = []
    nodes = []
    for place, n in enumerate(graph.nodes):
        inputs = []
        for slot, name in enumerate(n.inputs):
            if name in values:
                constants.append(replace(values[name], name=f"c{place}_{slot}"))
                inputs.append(constants[-1].name)
            else:
                inputs.append(name)
        nodes.append(replace(n, inputs=tuple(inputs)))
    return replace(graph, nodes=tuple(nodes), constants=tuple(constants))

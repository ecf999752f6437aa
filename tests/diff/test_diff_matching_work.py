"""What matching costs where one operator reads thousands of tensors, or one tensor has thousands of readers.

Work is counted, in calls: of functions, of methods, and of what compares and looks up names.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from graph_makers import constant

from harness.core.graphs import Graph, Node
from harness.diff.carried import carried_on
from harness.diff.matching import match_graphs
from harness.diff.regroup import Regrouping
from harness.diff.tensor_trace import TensorTrace

COUNT = 100
MOST = 2.6
"""Times the work of half as many: twice is linear, four times quadratic."""


class Name(str):
    """A name whose comparisons and look-ups are calls."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        return str.__hash__(self)


@contextmanager
def counted() -> Iterator[list[int]]:
    """A list that holds how many calls were made, once it is over."""
    calls, before = [0], sys.getprofile()

    def told(_frame: object, event: str, _argument: object) -> None:
        calls[0] += event in ("call", "c_call")

    sys.setprofile(told)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def made(op: str, inputs: list[str], *outputs: str) -> Node:
    return Node(op=op, inputs=tuple(map(Name, inputs)), outputs=tuple(map(Name, outputs)))


def net(nodes: list[Node], held: dict[str, str]) -> Graph:
    constants = tuple(constant(Name(name), value) for name, value in held.items())
    return Graph(
        inputs=(Name("x"),), outputs=nodes[-1].outputs, nodes=tuple(nodes), constants=constants
    )


def joined(op: str, count: int, changed: str) -> Graph:
    """One operator that reads many tensors, one of which has another constant."""
    names = [f"a{i}" for i in range(count)]
    nodes = [made("Add", ["x", f"c{i}"], name) for i, name in enumerate(names)]
    held = {f"c{i}": f"{i}{changed if i == 3 else ''}" for i in range(count)}
    return net([*nodes, made(op, names, "s"), made("Tanh", ["s"], "y")], held)


def concat(count: int, changed: str) -> Graph:
    return joined("Concat", count, changed)


def total(count: int, changed: str) -> Graph:
    return joined("Sum", count, changed)


def read_by_many(count: int, changed: str) -> Graph:
    """What one version fuses, and very many read."""
    first = [made("MatMul", ["x", "w"], "m"), made("Add", ["m", "b"], "u")]
    first = [made("Gemm", ["x", "w", "b"], "u")] if changed else first
    names = [f"a{i}" for i in range(count)]
    nodes = [made("Add", ["u", f"c{i}"], name) for i, name in enumerate(names)]
    held = {"w": "w", "b": "b"} | {f"c{i}": f"{i}{changed}" for i in range(count)}
    return net([*first, *nodes, made("Concat", names, "s"), made("Tanh", ["s"], "y")], held)


def repeated(count: int, changed: str) -> Graph:
    """One computation very many times."""
    names = [f"a{i}" for i in range(count)]
    nodes = [made("Tanh", ["x"], f"t{i}") for i in range(count)]
    nodes += [made("Add", [f"t{i}", f"c{i}"], name) for i, name in enumerate(names)]
    held = {f"c{i}": f"{i}{changed}" for i in range(count)}
    return net([*nodes, made("Concat", names, "s"), made("Tanh", ["s"], "y")], held)


@pytest.mark.parametrize(
    ("shape", "alike"),
    [(concat, "none"), (total, "each"), (read_by_many, "none"), (repeated, "all")],
)
def test_twice_as_many_operands_are_twice_the_work(shape: Callable[[int, str], Graph], alike: str):
    def work(count: int) -> int:
        old, new = shape(count, ""), shape(count, "other")
        ends = {old.outputs[0]: new.outputs[0]}
        values = tuple(
            {
                name: {"each": name, "none": (side, name), "all": 1}[alike]
                for name in graph.computed()
            }
            for side, graph in enumerate((old, new))
        )
        inputs = {Name("x"): Name("x")}
        with counted() as calls:
            match = match_graphs(
                old, new, inputs=inputs, outputs=ends, values=(values[0], values[1])
            )
            traces = {pair.baseline: TensorTrace() for pair in match.pairs}
            carried_on((old, new), match, traces, list(traces)[::2], inputs)
            pairs = [(pair.baseline, pair.candidate) for pair in match.pairs]
            Regrouping(old, new, match, ends).instead(pairs, set(traces))
        return calls[0]

    assert work(2 * COUNT) < MOST * work(COUNT)

"""What merely carries rounding on, of tensors of which some were not seen."""

import pytest
from graph_makers import constant

from harness.core.graphs import Graph, Node
from harness.diff.carried import carried_on
from harness.diff.graph_match import GraphMatch, TensorMatch, Tier
from harness.diff.tensor_trace import TensorTrace


def net(*, split: bool) -> Graph:
    """x + 3, in one step or in two, of which Relu leaves little; then the sum with what Exp makes of x."""

    def node(op: str, inputs: tuple[str, ...], output: str) -> Node:
        return Node(op=op, inputs=inputs, outputs=(output,))

    first = (
        (node("Add", ("x", "one"), "b"), node("Add", ("b", "two"), "a"))
        if split
        else (node("Add", ("x", "three"), "a"),)
    )
    return Graph(
        inputs=("x",), outputs=("y",),
        nodes=(
            *first, node("Relu", ("a",), "r"), node("Exp", ("x",), "q"),
            node("Add", ("r", "q"), "m"), node("Sigmoid", ("m",), "y"),
        ),
        constants=tuple(constant(name, name) for name in ("one", "two", "three")),
    )  # fmt: skip


def seen(relative: float, absolute: float, *, differs: bool) -> TensorTrace:
    return TensorTrace(
        compared=1, usual=1e-6, relative=relative, absolute=absolute, differing=int(differs)
    )


@pytest.mark.parametrize(("other_seen", "carried"), [(False, {"r"}), (True, set())])
def test_a_large_difference_comes_from_rounding_only_where_all_else_before_it_was_seen_to_be_equal(
    other_seen, carried
):
    traces = {
        "a": seen(1e-7, 1e-6, differs=False),
        "r": seen(1e-3, 1e-6, differs=True),
        "m": seen(1e-1, 1e-1, differs=True),
        "y": seen(1e-1, 1e-1, differs=True),
    }
    if other_seen:
        traces["q"] = seen(0.0, 0.0, differs=False)
    pairs = tuple(TensorMatch(baseline=n, candidate=n, tier=Tier.NAME) for n in "arqmy")
    match = GraphMatch(pairs=pairs, baseline_only=(), candidate_only=("b",))
    graphs = net(split=False), net(split=True)
    divergent = {name for name, trace in traces.items() if trace.differs}
    assert carried_on(graphs, match, traces, divergent, {"x": "x"}) == carried

"""Which tensors of the frontier merely show again what differs before them."""

from dataclasses import replace

from test_diff_matching import FED, matched, net, node

from harness.core.graphs import Graph
from harness.diff.frontier import Regions

OLD = net(
    node("Exp", ["x"], "e"), node("Neg", ["e"], "s"), node("Abs", ["s"], "o"), outputs=("o",)
)  # fmt: skip
COMPARED = {"e", "s", "o"}


def risen(new: Graph, *divergent: str, same: tuple[str, ...] = ()) -> tuple[str, ...]:
    regions = Regions(OLD, new, matched(OLD, new), inputs=FED, compared=COMPARED, same=same)
    return regions.risen(regions.frontier(divergent), divergent)


def test_one_computation_in_two_runtimes_is_told_where_it_first_differs():
    assert risen(OLD, "e", "o") == ("o",)
    assert risen(OLD, "o") == ()


def test_what_comes_of_equal_bits_alone_differs_by_itself():
    assert risen(OLD, "e", "o", same=("s",)) == ()


def test_an_operator_of_another_opset_may_differ_by_itself():
    old = replace(OLD, opsets=(("ai.onnx", "12"),))
    new = replace(OLD, opsets=(("ai.onnx", "13"),))
    regions = Regions(old, new, matched(old, new), inputs=FED, compared=COMPARED)
    assert regions.risen(("e", "o"), {"e", "o"}) == ()

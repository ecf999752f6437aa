"""What merely carries rounding on, of graphs and figures made by hand."""

import pytest
from graph_makers import constant

from harness.core.graphs import Attribute, Graph, Node
from harness.diff.carried import carried_on
from harness.diff.graph_match import GraphMatch, TensorMatch, Tier
from harness.diff.linear_steps import Steps
from harness.diff.matching import match_graphs
from harness.diff.tensor_trace import TensorTrace

FED = {"x": "x"}


def behind(
    *first: Node, op: str = "Gemm", read: tuple[str, ...] = ("u", "c"), named: str = "transA"
) -> Graph:
    """A first step that makes u, and an operator with one attribute that makes a of it, and then y."""
    attribute = Attribute(name=named, text="1", exact="1", loose="1")
    nodes = (
        *first,
        Node(op=op, inputs=read, outputs=("a",), attributes=(attribute,)),
        Node(op="Relu", inputs=("a",), outputs=("y",)),
    )
    held = tuple(constant(name, name) for name in "bcdw")
    return Graph(inputs=("x",), outputs=("y",), nodes=nodes, constants=held)


def fused(**more) -> Graph:
    return behind(Node(op="Gemm", inputs=("x", "w", "b"), outputs=("u",)), **more)


def split(**more) -> Graph:
    return behind(
        Node(op="MatMul", inputs=("x", "w"), outputs=("m",)),
        Node(op="Add", inputs=("m", "b"), outputs=("u",)),
        **more,
    )


def carried(old: Graph, new: Graph, relative: float = 2e-6) -> frozenset[str]:
    """Of a, which differs by more than its tolerance, where u differs by less."""
    pairs = [TensorMatch(baseline=n, candidate=n, tier=Tier.NAME) for n in ("u", "a", "y")]
    match = GraphMatch(pairs=tuple(pairs), baseline_only=(), candidate_only=("m",))
    small = TensorTrace(relative=5e-7, absolute=5e-7, usual=1e-6)
    large = TensorTrace(relative=relative, absolute=relative, usual=1e-6)
    return carried_on((old, new), match, {"u": small, "a": large, "y": small}, ["a"], FED)


BENT = ["Celu", "Elu", "Erf", "HardSigmoid", "LogSoftmax", "Selu", "Softsign"]


@pytest.mark.parametrize("op", BENT)
def test_curves_carry_a_few_times_what_is_before_them_on(op):
    old, new = (make(op=op, read=("u",)) for make in (fused, split))
    assert carried(old, new) == {"a"}
    assert carried(old, new, relative=5e-6) == set()
    assert carried(fused(op="Exp", read=("u",)), split(op="Exp", read=("u",))) == set()


def test_what_an_attribute_is_called_counts_beside_its_value():
    assert carried(fused(), split()) == {"a"}
    assert carried(fused(), split(named="transB")) == set()
    plain, other = fused(), fused(named="transB")
    assert Steps(plain, {}).step("a") == Steps(split(), {}).step("a")
    assert Steps(plain, {}).step("a") != Steps(other, {}).step("a")
    match = match_graphs(plain, other, inputs=FED, outputs={"y": "y"})
    assert {p.baseline for p in match.pairs if p.tier is Tier.IDENTICAL} == {"u"}


def test_an_input_that_one_version_leaves_out_is_no_partner_of_another_tensor():
    assert carried(fused(read=("u", "c", "")), split(read=("u", "c", ""))) == {"a"}
    assert carried(fused(read=("u", "c", "")), split(read=("u", "c", "d"))) == set()
    assert carried(fused(read=("u", "c", "d")), split(read=("u", "c", ""))) == set()


def test_other_tensors_that_a_body_reads_are_another_operator():
    def with_body(graph: Graph, read: str) -> Graph:
        node = Node(op="Gemm", inputs=("u",), outputs=("a",), captures=(read,))
        nodes = tuple(node if n.outputs == ("a",) else n for n in graph.nodes)
        return Graph(
            inputs=graph.inputs, outputs=graph.outputs, nodes=nodes, constants=graph.constants
        )

    assert carried(with_body(fused(), "c"), with_body(split(), "c")) == {"a"}
    assert carried(with_body(fused(), "c"), with_body(split(), "d")) == set()

"""What stands for what inside of steps that are written otherwise, and where an operator was put in."""

import pytest
from graph_makers import constant

from harness.core.graphs import Graph, Node
from harness.diff.fused import Fusions
from harness.diff.graph_match import TensorMatch, Tier
from harness.diff.surroundings import Surroundings


def net(*nodes: tuple[str, str, str], constants: str = "") -> Graph:
    """Nodes as (operator, what it reads, what it makes), of which the last is returned."""
    made = tuple(Node(op=op, inputs=tuple(read.split()), outputs=(out,)) for op, read, out in nodes)
    held = tuple(constant(name, name) for name in constants.split())
    return Graph(inputs=("x",), outputs=made[-1].outputs, nodes=made, constants=held)


WHOLE = net(("Mul", "x two", "p"), ("Add", "p three", "y"), constants="two three")


@pytest.mark.parametrize(
    ("new", "contradicted"),
    [
        (net(("Mul", "x four", "p"), ("Add", "p three", "y"), constants="four three"), False),
        (
            net(
                ("Mul", "x four", "p"), ("Mul", "p half", "q"), ("Add", "q three", "y"),
                constants="four half three",
            ),
            True,
        ),
        (net(("Mul", "x four", "p"), ("Add", "p one", "y"), constants="four one"), True),
    ],
    ids=["alike", "by another operator", "by another constant"],
)  # fmt: skip
def test_what_goes_on_otherwise_to_what_is_equal_stands_for_nothing_inside_of_linear_steps(
    new, contradicted
):
    values = {"p": "one value", "y": "the same"}, {"p": "another", "y": "the same"}
    about = Surroundings((WHOLE, new), values, ({"y"}, {"y"}))
    about.stand_fast({"y": "y"}, {"y": "y"})
    assert about.against("p", "p") is contradicted


@pytest.mark.parametrize(("first", "partner"), [("Tanh", "s"), ("Softplus", "t")])
def test_an_operator_stands_for_the_first_of_its_kind_behind_a_pair(first, partner):
    old = net(("Neg", "x", "a"), ("Tanh", "a", "s"), ("Exp", "s", "y"))
    new = net(("Neg", "x", "a"), (first, "a", "s"), ("Tanh", "s", "t"), ("Exp", "t", "y"))
    pairs = {n: TensorMatch(baseline=n, candidate=n, tier=Tier.NAME) for n in ("a", "y")}
    forth = Fusions((old, new), {}, pairs, {n: n for n in pairs})
    assert forth.lone_readers("a", "a") == [("s", partner)]
    back = Fusions((new, old), {}, pairs, {n: n for n in pairs})
    assert back.lone_readers("a", "a") == [(partner, "s")]

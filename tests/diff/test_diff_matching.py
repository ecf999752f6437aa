import time
from dataclasses import replace

import pytest
from graph_makers import (
    constant,
    random_graph,
    renamed,
    reordered,
    swapped,
    with_constants_split,
    with_copies,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.graphs import Attribute, Graph, Node
from harness.diff.changes import Cause, ChangeKind
from harness.diff.frontier import Regions
from harness.diff.graph_hashes import upstream, without_aliases
from harness.diff.graph_match import GraphMatch, Tier
from harness.diff.matching import match_graphs

SEEDS = st.integers(0, 2**32 - 1)
FED = {"x": "x", "y": "y"}
_ALPHA = (Attribute(name="alpha", text="2", exact="2", loose="2"),)


def matched(old: Graph, new: Graph, **more) -> GraphMatch:
    outputs = dict(zip(old.outputs, new.outputs, strict=False))
    return match_graphs(old, new, inputs=FED, outputs=outputs, **more)


def partners(match: GraphMatch) -> dict[str, str]:
    return {p.baseline: p.candidate for p in match.pairs}


def computations(graph: Graph) -> dict[str, bytes]:
    """A stand-in for values: equal digests, equal values."""
    plain, copies = without_aliases(graph)
    found = upstream(plain, exact=True, inputs={})
    return {**found, **{copy: found[origin] for copy, origin in copies.items()}}


def node(op: str, inputs: list[str], output: str) -> Node:
    return Node(op=op, inputs=tuple(inputs), outputs=(output,))


def net(*nodes: Node, constants: dict[str, str] | None = None, outputs: tuple[str, ...]) -> Graph:
    values = tuple(constant(name, value) for name, value in (constants or {}).items())
    return Graph(inputs=("x", "y"), outputs=outputs, nodes=nodes, constants=values)


@settings(deadline=None)
@given(SEEDS, SEEDS)
def test_what_computes_the_same_is_matched_whatever_it_is_called(seed, other):
    old = random_graph(seed)
    new, _ = renamed(old, other)
    new = with_constants_split(swapped(with_copies(reordered(new, other), other), other))
    match = matched(old, new)
    assert match.baseline_only == ()
    assert match.candidate_only == ()
    ours, theirs = computations(old), computations(new)
    assert all(ours[p.baseline] == theirs[p.candidate] for p in match.pairs)
    assert {p.tier for p in match.pairs} == {Tier.IDENTICAL}


@settings(deadline=None)
@given(SEEDS, SEEDS)
def test_a_graph_matches_in_both_directions_alike(seed, other):
    old, new = random_graph(seed), swapped(random_graph(other), seed)
    forth = partners(match_graphs(old, new, inputs=FED, outputs={}))
    assert len(set(forth.values())) <= len(new.computed())
    assert set(forth) | set(match_graphs(old, new, inputs=FED, outputs={}).baseline_only) == set(
        old.computed()
    )


@settings(deadline=None)
@given(SEEDS, SEEDS)
def test_a_retrain_is_matched_without_its_weights(seed, other):
    old = random_graph(seed)
    new, to = renamed(old, other)
    new = replace(new, constants=tuple(replace(c, exact=f"new {c.exact}") for c in new.constants))
    match = matched(old, new)
    assert match.baseline_only == ()
    # Tensors that only their weights tell apart may stand for each other; all others must not.
    loose = upstream(old, exact=False, inputs={})
    back = {theirs: ours for ours, theirs in to.items()}
    assert all(loose[p.baseline] == loose[back[p.candidate]] for p in match.pairs)


@settings(deadline=None)
@given(SEEDS, SEEDS, st.integers(0, 11))
def test_one_changed_node_is_always_the_frontier(seed, other, place):
    old = random_graph(seed)
    new, to = renamed(old, other)
    target = old.nodes[place].outputs[0]
    changed = tuple(
        replace(n, attributes=(*n.attributes, *_ALPHA)) if n.outputs[0] == to[target] else n
        for n in new.nodes
    )
    new = reordered(swapped(replace(new, nodes=changed), other), other)
    match = matched(old, new)
    ours, theirs = computations(old), computations(new)
    differs = {p.baseline for p in match.pairs if ours[p.baseline] != theirs[p.candidate]}
    everything = {p.baseline for p in match.pairs}
    regions = Regions(old, new, match, inputs=FED, compared=everything)
    front = regions.frontier(differs)
    found = [regions.divergence(name) for name in front]
    # A node that the baseline computes twice has no partner of its own; it is in the region all the same.
    assert any(f"→ {to[target]}" in shown for d in found for shown in d.operators[1])
    if list(ours.values()).count(ours[target]) == 1:
        assert target in front
        told = [c for d in found for c in d.changes]
        assert any(c.kind is ChangeKind.ATTRIBUTE and c.name == "alpha" for c in told)


def test_equal_constants_under_several_names_do_not_lead_crosswise():
    old = net(
        node("Mul", ["x", "a"], "first"), node("Mul", ["first", "b"], "second"),
        node("Neg", ["second"], "end"),
        constants={"a": "5", "b": "5"}, outputs=("end",),
    )  # fmt: skip
    new, _ = renamed(old, 3)
    changed = replace(new.nodes[0], attributes=_ALPHA)
    new = replace(new, nodes=(changed, *new.nodes[1:]))
    match = matched(old, new)
    made = {o.outputs[0]: n.outputs[0] for o, n in zip(old.nodes, new.nodes, strict=True)}
    assert partners(match) == made
    regions = Regions(old, new, match, inputs=FED, compared=set(made))
    assert regions.frontier({"first", "second", "end"}) == ("first",)


def test_numbered_names_do_not_mislead_after_an_insertion():
    old = net(
        node("Mul", ["x", "w0"], "Mul_0"), node("Mul", ["Mul_0", "w1"], "Mul_1"),
        node("Add", ["Mul_1", "w2"], "Add_0"),
        constants={"w0": "a", "w1": "b", "w2": "c"}, outputs=("Add_0",),
    )  # fmt: skip
    new = net(
        node("Mul", ["x", "k"], "Mul_0"), node("Mul", ["Mul_0", "w0"], "Mul_1"),
        node("Mul", ["Mul_1", "w1"], "Mul_2"), node("Add", ["Mul_2", "w2"], "Add_0"),
        constants={"k": "1.609", "w0": "a", "w1": "b", "w2": "c"}, outputs=("Add_0",),
    )  # fmt: skip
    found = partners(matched(old, new))
    assert found["Mul_1"] == "Mul_2"
    assert found["Add_0"] == "Add_0"


@pytest.mark.parametrize(("text", "alone"), [("float[] [1]", False), ("float[2] [1, 2]", True)])
def test_a_single_number_alone_makes_no_pair_of_operators_behind_a_difference(text, alone):
    old = net(
        node("Mul", ["x", "s"], "t"), node("Add", ["t", "v"], "p"), node("Add", ["p", "c"], "q"),
        node("Sub", ["t", "q"], "r"), node("Add", ["r", "w"], "z"), node("Tanh", ["z"], "o"),
        constants={"s": "1", "v": "2", "w": "3", "c": text}, outputs=("o",),
    )  # fmt: skip
    new = net(
        node("Mul", ["x", "s"], "t2"), node("Add", ["t2", "v"], "p2"), node("Sub", ["t2", "p2"], "r2"),
        node("Add", ["r2", "w"], "m2"), node("Add", ["m2", "c"], "z2"), node("Tanh", ["z2"], "o2"),
        constants={"s": "4", "v": "5", "w": "6", "c": text}, outputs=("o2",),
    )  # fmt: skip
    assert (partners(matched(old, new)).get("q") == "z2") is alone


def test_towers_that_look_alike_keep_their_partners_when_listed_the_other_way_round():
    def tower(letter: str) -> list[Node]:
        return [
            node("MatMul", ["t", f"w{letter}"], f"m{letter}"),
            node("Relu", [f"m{letter}"], f"r{letter}"),
        ]

    values = {"s": "old", "wa": "a", "wb": "b"}
    old = net(
        node("Mul", ["x", "s"], "t"), *tower("a"), *tower("b"),
        node("Concat", ["ra", "rb"], "o"), constants=values, outputs=("o",),
    )  # fmt: skip
    new = net(
        node("Mul", ["x", "s"], "t"), *tower("b"), *tower("a"),
        node("Concat", ["ra", "rb"], "o"), constants={**values, "s": "new"}, outputs=("o",),
    )  # fmt: skip
    new, to = renamed(new, 3)
    found = partners(matched(old, new))
    assert {name: found[name] for name in ("ma", "ra", "mb", "rb")} == {
        name: to[name] for name in ("ma", "ra", "mb", "rb")
    }


def test_a_fused_operator_leaves_only_what_it_swallowed_unmatched():
    old = net(
        node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"], "a"), node("Relu", ["a"], "r"),
        constants={"w": "w", "b": "b"}, outputs=("r",),
    )  # fmt: skip
    new = net(
        node("Gemm", ["x", "w", "b"], "a"), node("Relu", ["a"], "r"),
        constants={"w": "w", "b": "b"}, outputs=("r",),
    )  # fmt: skip
    match = matched(old, new)
    assert partners(match) == {"a": "a", "r": "r"}
    assert match.baseline_only == ("m",)
    assert match.coverage() == "2 of 3 tensors of the baseline matched, 2 of 2 of the candidate"


def test_a_name_with_the_same_readers_goes_before_a_neighbour_with_others():
    old = net(
        node("InstanceNormalization", ["x", "g", "b"], "plain"), node("Mul", ["plain", "k"], "scaled"),
        node("Relu", ["scaled"], "r"),
        constants={"g": "1", "b": "2", "k": "3"}, outputs=("r",),
    )  # fmt: skip
    new = net(
        node("InstanceNormalization", ["x", "g", "b"], "scaled"), node("Relu", ["scaled"], "r"),
        constants={"g": "4", "b": "5"}, outputs=("r",),
    )  # fmt: skip
    assert partners(matched(old, new)) == {"scaled": "scaled", "r": "r"}
    assert partners(matched(new, old)) == {"scaled": "scaled", "r": "r"}


def test_folded_nets_of_thousands_of_nodes_are_matched_in_seconds():
    def folded(*, fold: bool, prefix: str) -> Graph:
        nodes, constants, before = [], {}, "x"
        for place in range(1200):
            made = [f"{prefix}{place}.{kind}" for kind in ("sum", "scaled", "end")]
            for name in ("w", "k"):
                constants[f"{name}{place}"] = f"{name} {place} {fold}"
            nodes.append(node("Conv", [before, f"w{place}"], made[fold]))
            if not fold:
                nodes.append(node("Mul", [made[0], f"k{place}"], made[1]))
            nodes.append(node(("Relu", "Tanh")[place % 2], [made[1]], made[2]))
            before = made[2]
        return net(*nodes, constants=constants, outputs=(before,))

    old, new = folded(fold=False, prefix="a"), folded(fold=True, prefix="b")
    began = time.process_time()
    found = partners(matched(old, new))
    assert time.process_time() - began < 5
    assert found["a700.scaled"] == "b700.scaled"
    assert len(found) == 2400


def test_the_users_mapping_goes_before_everything_but_identity():
    old = net(node("Relu", ["x"], "a"), node("Abs", ["y"], "b"), outputs=("a", "b"))
    new = net(node("Abs", ["x"], "p"), node("Relu", ["y"], "q"), outputs=("p", "q"))
    match = match_graphs(old, new, inputs=FED, outputs={}, mapped={"a": "q", "nothing": "p"})
    assert match.by_baseline()["a"].candidate == "q"
    assert match.by_baseline()["a"].tier is Tier.MAPPED


def test_pieces_of_another_number_of_pieces_are_not_identical():
    two, three = (
        net(
            Node(op="Split", inputs=("x",), outputs=("a", "b", "c")[:count]),
            node("Relu", ["a"], "o"),
            outputs=("o",),
        )
        for count in (2, 3)
    )
    assert matched(two, two).tiers() == {Tier.IDENTICAL: 3}
    assert Tier.IDENTICAL not in matched(two, three).tiers()


def test_values_match_what_no_structure_can():
    old = net(
        node("Exp", ["x"], "e"), node("Log", ["e"], "l"), node("Neg", ["l"], "o"), outputs=("o",)
    )
    new = net(
        node("Foo", ["x"], "f"), node("Bar", ["f"], "g"), node("Baz", ["g"], "o2"), outputs=("o2",)
    )
    match = matched(old, new, values=({"e": 1, "l": 2}, {"f": 1, "g": 2}))
    assert partners(match) == {"e": "f", "l": "g", "o": "o2"}


def test_values_that_two_tensors_share_match_nothing():
    old = net(
        node("Exp", ["x"], "e"), node("Log", ["e"], "l"), node("Neg", ["l"], "o"), outputs=("o",)
    )
    new = net(
        node("Foo", ["x"], "f"), node("Bar", ["f"], "g"), node("Baz", ["g"], "o2"), outputs=("o2",)
    )
    match = matched(old, new, values=({"e": 1, "l": 1}, {"f": 1, "g": 1}))
    assert partners(match) == {"o": "o2"}


@pytest.mark.parametrize(
    ("change", "cause", "told"),
    [
        (lambda g: replace(g, constants=(constant("w", "2"), g.constants[1])), Cause.WEIGHTS,
         [(ChangeKind.WEIGHTS, "w", "1", "2")]),
        (lambda g: replace(g, constants=(constant("w", "2", whole=True), g.constants[1])), Cause.GRAPH,
         [(ChangeKind.CONSTANT, "w", "1", "2")]),
        (lambda g: replace(g, nodes=(g.nodes[0], node("Sub", ["m", "b"], "a"), g.nodes[2])), Cause.GRAPH,
         [(ChangeKind.OPERATOR, "", "Add", "Sub")]),
        (lambda g: replace(g, nodes=(node("Mul", ["x", "b"], "m"), *g.nodes[1:])), Cause.WEIGHTS,
         [(ChangeKind.WEIGHTS, "w", "1", "5")]),
        (lambda g: replace(g, nodes=(node("Mul", ["y", "w"], "m"), *g.nodes[1:])), Cause.GRAPH,
         [(ChangeKind.INPUTS, "", "x, w", "y, w")]),
    ],
)  # fmt: skip
def test_the_region_says_what_was_changed(change, cause, told):
    old = net(
        node("Mul", ["x", "w"], "m"), node("Add", ["m", "b"], "a"), node("Relu", ["a"], "r"),
        constants={"w": "1", "b": "5"}, outputs=("r",),
    )  # fmt: skip
    new = change(old)
    match = matched(old, new)
    ours, theirs = computations(old), computations(new)
    differs = {p.baseline for p in match.pairs if ours[p.baseline] != theirs[p.candidate]}
    regions = Regions(old, new, match, inputs=FED, compared=set(partners(match)))
    (first,) = regions.frontier(differs)
    found = regions.divergence(first)
    assert found.cause is cause
    assert [(c.kind, c.name, c.baseline, c.candidate) for c in found.changes] == told


def test_the_same_computation_with_other_values_is_the_runtimes_doing():
    old = net(node("Exp", ["x"], "e"), node("Neg", ["e"], "o"), outputs=("o",))
    match = matched(old, old)
    regions = Regions(old, old, match, inputs=FED, compared={"e", "o"})
    assert regions.frontier({"o"}) == ("o",)
    assert regions.divergence("o").cause is Cause.RUNTIME
    assert regions.divergence("o").last_equal == ("e",)
    assert regions.divergence("o", noisy=True).cause is Cause.NONDETERMINISTIC


def test_an_operator_of_another_opset_may_compute_otherwise_where_nothing_else_differs():
    steps = (
        node("Exp", ["x"], "e"),
        node("ai.onnx.ml.Scaler", ["e"], "s"),
        node("Neg", ["s"], "o"),
    )
    old = replace(net(*steps, outputs=("o",)), opsets=(("ai.onnx", "12"), ("ai.onnx.ml", "2")))
    new = replace(old, opsets=(("ai.onnx", "13"), ("ai.onnx.ml", "2")))
    regions = Regions(old, new, matched(old, new), inputs=FED, compared={"e", "s", "o"})
    found = regions.divergence("o")
    assert (found.cause, found.farther) == (Cause.GRAPH, False)
    assert [(c.kind, c.node, c.name, c.baseline, c.candidate) for c in found.changes] == [
        (ChangeKind.OPSET, "Neg → o", "ai.onnx", "12", "13")
    ]
    assert regions.divergence("s").cause is Cause.RUNTIME


@pytest.mark.parametrize(
    ("since", "cause"),
    [(("13", "13"), Cause.RUNTIME), (("11", "13"), Cause.GRAPH), (("", ""), Cause.GRAPH)],
)
def test_an_opset_that_defines_an_operator_as_the_other_does_is_not_the_cause(since, cause):
    before, after = (
        net(node("Exp", ["x"], "e"), replace(node("Neg", ["e"], "o"), since=s), outputs=("o",))
        for s in since
    )
    old = replace(before, opsets=(("ai.onnx", "12"),))
    new = replace(after, opsets=(("ai.onnx", "17"),))
    regions = Regions(old, new, matched(old, new), inputs=FED, compared={"e", "o"})
    assert regions.divergence("o").cause is cause


def test_a_divergence_goes_through_tensors_that_were_not_compared():
    old = net(
        node("Exp", ["x"], "e"), node("Foo", ["e"], "f"), node("Neg", ["f"], "o"), outputs=("o",)
    )
    match = matched(old, old)
    regions = Regions(old, old, match, inputs=FED, compared={"e", "o"})
    assert regions.frontier({"e", "o"}) == ("e",)
    assert regions.divergence("o").operators == (("Foo → f", "Neg → o"),) * 2


def test_five_thousand_nodes_are_matched_in_seconds():
    old = random_graph(1, 5000)
    new, _ = renamed(old, 2)
    new = replace(new, constants=tuple(replace(c, exact=f"new {c.exact}") for c in new.constants))
    began = time.process_time()
    match = matched(old, new)
    assert time.process_time() - began < 5
    assert len(match.pairs) > 4900


def test_an_operator_that_reads_other_things_is_known_by_its_name_and_its_readers():
    steps = (node("Mul", ["r", "y"], "m"), node("Add", ["m", "b"], "o"))
    old = net(node("Exp", ["x"], "r"), *steps, constants={"b": "1"}, outputs=("o",))
    new = net(node("Neg", ["b"], "r"), *steps, constants={"b": "1"}, outputs=("o",))
    match = matched(old, new)
    assert match.by_baseline()["r"].tier is Tier.PLACE
    regions = Regions(old, new, match, inputs=FED, compared={"r", "m", "o"})
    assert regions.frontier({"r", "m", "o"}) == ("r",)


def test_equal_values_in_another_shape_carry_a_divergence_on():
    old = net(
        node("Neg", ["x"], "n"), node("Abs", ["n"], "a"), node("ReduceMax", ["a"], "o"), outputs=("o",)
    )  # fmt: skip
    match = matched(old, old)
    regions = Regions(old, old, match, inputs=FED, compared={"n", "a", "o"})
    assert regions.frontier({"n", "o"}) == ("n", "o")
    assert regions.frontier({"n", "o"}, {"a"}) == ("n",)
    assert regions.frontier({"o"}, {"a"}) == ("o",)


def test_declared_features_stand_for_each_other_whatever_the_graphs_look_like():
    def degrees(feature: str, other: str) -> Graph:
        """Two tensors of one kind; the names say which of them is the feature."""
        return Graph(
            inputs=("x",),
            outputs=(),
            nodes=(
                Node(op="Neg", inputs=("x",), outputs=(feature,)),
                Node(op="Abs", inputs=("x",), outputs=(other,)),
            ),
        )

    old, new = degrees("f", "g"), degrees("g", "f")
    plain = match_graphs(old, new, inputs={"x": "x"}, outputs={})
    assert plain.by_baseline()["f"].candidate == "g"
    found = match_graphs(old, new, inputs={"x": "x"}, outputs={}, declared={"f": "f"})
    assert found.by_baseline()["f"].candidate == "f"

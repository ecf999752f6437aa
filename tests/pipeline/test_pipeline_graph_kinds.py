"""Generated models with branches, loops, ai.onnx.ml, words and sequences: rewriting moves nothing, an altered node is located."""

from collections import Counter

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from regrouped_models import regrouped
from test_pipeline_graph_rewrites import FEEDS, FLOAT, SEEDS, K, report

from harness.bench.in_process import InProcess

EXAMPLES = 12
ROWS = len(FEEDS["x"])


class Net:
    """A net over (rows, K) matrices that grows block by block; each block has a node that can be altered."""

    def __init__(self, seed: int, altered: int = -1) -> None:
        self.rng = np.random.default_rng(seed)
        self.altered = altered
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.place = 0
        self.kinds: list[str] = []
        self.marks: list[str] = []
        """Of each block: the tensor that its alterable node makes."""

    def add(
        self, op: str, inputs: list[str], domain: str = "", outputs: int = 1, **about: object
    ) -> str:
        made = [f"t{len(self.nodes)}.{i}" if i else f"t{len(self.nodes)}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, domain=domain, **about))
        return made[0]

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def drawn(self) -> str:
        return self.constant(self.rng.normal(size=K))

    @property
    def other(self) -> bool:
        """Whether the block that is being made is the altered one."""
        return self.place == self.altered

    def mark(self, tensor: str) -> str:
        self.marks.append(tensor)
        return tensor

    def block(self, kind: str, source: str) -> str:
        self.kinds.append(kind)
        made = getattr(self, kind)(source)
        self.place += 1
        return made

    def branch(self, source: str) -> str:
        """An If whose condition is known or computed."""
        known = self.constant(True, np.bool_)
        condition = (
            known
            if self.rng.random() < 0.5
            else self.add(
                "ReduceMax", [self.add("Cast", [self.add("IsNaN", [source])], to=1)], keepdims=0
            )
        )
        if condition != known:
            condition = self.add("Cast", [condition], to=9)
        op = "Cos" if self.other else "Tanh"
        weights = self.drawn()
        graphs = {}
        for side in ("then_branch", "else_branch"):
            out = f"{side}{self.place}"
            inner = [
                helper.make_node("Mul", [source, weights], [f"m.{out}"]),
                helper.make_node(op, [f"m.{out}"], [out]),
            ]
            graphs[side] = helper.make_graph(
                inner, side, [], [helper.make_tensor_value_info(out, FLOAT, None)]
            )
        return self.mark(self.add("If", [condition], **graphs))

    def loop(self, source: str) -> str:
        """Three rounds of a body that reads a constant from outside."""
        step, op = self.drawn(), "Sub" if self.other else "Add"
        at = self.place
        body = helper.make_graph(
            [
                helper.make_node("Identity", [f"go{at}"], [f"on{at}"]),
                helper.make_node(op, [f"in{at}", step], [f"out{at}"]),
            ],
            "body",
            [
                helper.make_tensor_value_info(f"i{at}", TensorProto.INT64, []),
                helper.make_tensor_value_info(f"go{at}", TensorProto.BOOL, []),
                helper.make_tensor_value_info(f"in{at}", FLOAT, None),
            ],
            [
                helper.make_tensor_value_info(f"on{at}", TensorProto.BOOL, []),
                helper.make_tensor_value_info(f"out{at}", FLOAT, None),
            ],
        )
        count, go = self.constant(3, np.int64), self.constant(True, np.bool_)
        return self.mark(self.add("Loop", [count, go, source], body=body))

    def scaler(self, source: str) -> str:
        offset = self.rng.normal(size=K) + (1.0 if self.other else 0.0)
        return self.mark(
            self.add(
                "Scaler",
                [source],
                "ai.onnx.ml",
                offset=offset.tolist(),
                scale=self.rng.uniform(0.5, 2, K).tolist(),
            )
        )

    def words(self, source: str) -> str:
        """Whole numbers as words, then as codes of a vocabulary."""
        whole = self.add("Cast", [self.add("Round", [source])], to=7)
        word = self.add("Cast", [whole], to=8)
        values = self.rng.normal(size=7) + (1.0 if self.other else 0.0)
        keys = [str(i) for i in range(-3, 4)]
        coded = self.mark(
            self.add(
                "LabelEncoder",
                [word],
                "ai.onnx.ml",
                keys_strings=keys,
                values_floats=values.tolist(),
                default_float=0.5,
            )
        )
        return self.add("Add", [coded, source])

    def sequence(self, source: str) -> str:
        """Rows cut apart, and put together in the same order."""
        altered = self.mark(self.add("Neg" if self.other else "Abs", [source]))
        pair = self.add("SequenceConstruct", [source, altered])
        both = self.add("ConcatFromSequence", [pair], axis=1)
        half = self.add("MatMul", [both, self.constant(self.rng.normal(size=(2 * K, K)))])
        parts = self.add("SplitToSequence", [half, self.constant(2, np.int64)], axis=1)
        return self.add("ConcatFromSequence", [parts], axis=1)

    def model(self, last: str) -> ModelProto:
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info("x", FLOAT, ["N", K])],
            [helper.make_tensor_value_info("y", FLOAT, None)], self.constants,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


KINDS = ("branch", "loop", "scaler", "words", "sequence")


def drawn(seed: int, altered: int = -1) -> tuple[Net, ModelProto]:
    """Every kind once, in a drawn order, and some once more."""
    net, order = Net(seed, altered), np.random.default_rng(seed + 1)
    kinds = [*order.permutation(KINDS), *order.choice(KINDS, 2)]
    last = "x"
    for kind in kinds:
        last = net.block(str(kind), last)
    return net, net.model(last)


def rewritten(model: ModelProto, seed: int) -> ModelProto:
    """Other names, inside bodies too, copies, Constant nodes for initialisers, swapped inputs."""
    rng = np.random.default_rng(seed)
    new = ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    names = [o for n in graph.node for o in n.output if o != "y"] + [
        t.name for t in graph.initializer
    ]
    to = {name: f"n{i}" for name, i in zip(names, rng.permutation(len(names)), strict=True)}
    for node in graph.node:
        _renamed(node, to)
        if node.op_type in ("Add", "Mul") and rng.random() < 0.5:
            node.input[:] = list(node.input)[::-1]
    for tensor in graph.initializer:
        tensor.name = to[tensor.name]
    kept = [t for t in graph.initializer if rng.random() < 0.5]
    loose = [
        helper.make_node("Constant", [], [t.name], value=t)
        for t in graph.initializer
        if t not in kept
    ]
    nodes: list[NodeProto] = []
    for place, node in enumerate(graph.node):
        if rng.random() < 0.3 and node.op_type != "If":
            nodes.append(helper.make_node("Identity", [node.input[0]], [f"copy{place}"]))
            node.input[0] = f"copy{place}"
        nodes.append(node)
    copies = [type(n).FromString(n.SerializeToString()) for n in (*loose, *nodes)]
    constants = [TensorProto.FromString(t.SerializeToString()) for t in kept]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(constants)
    return new


def _renamed(node: NodeProto, to: dict[str, str]) -> None:
    node.input[:] = [to.get(i, i) for i in node.input]
    node.output[:] = [to.get(o, o) for o in node.output]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _renamed(inner, to)


def test_rewriting_never_makes_a_divergence_whatever_the_nodes():
    seen: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(SEEDS, SEEDS)
    def holds(seed, other):
        net, model = drawn(seed)
        found = report(model, rewritten(model, other), InProcess())
        seen.update(net.kinds)
        assert found.divergences == ()
        assert not found.outputs_differ
        assert found.equal == len(found.states)

    holds()
    assert set(seen) == set(KINDS)


def test_splitting_and_fusing_constants_never_makes_a_divergence_whatever_the_nodes():
    @settings(max_examples=EXAMPLES // 2, deadline=None)
    @given(SEEDS, SEEDS)
    def holds(seed, other):
        _, whole = drawn(seed)
        # To and fro between sequences changes no value: with several of them the same values stand in
        # several places, and which is whose partner cannot be told by values.
        assume(sum(n.op_type == "SplitToSequence" for n in whole.graph.node) < 2)
        parts = rewritten(regrouped(whole, other), other)
        for old, new in ((whole, parts), (parts, whole)):
            found = report(old, new, InProcess())
            assert found.divergences == ()
            assert not found.outputs_differ

    holds()


def test_an_altered_node_is_located_whatever_its_kind():
    seen: Counter[str] = Counter()

    @settings(max_examples=3 * EXAMPLES, deadline=None)
    @given(SEEDS, st.integers(0, len(KINDS) + 1))
    def holds(seed, place):
        net, old = drawn(seed)
        _, new = drawn(seed, place)
        found = report(old, rewritten(new, seed), InProcess())
        assume(found.divergences or found.outputs_differ)
        seen[net.kinds[place]] += 1
        assert len(found.divergences) >= 1
        regions = [o for d in found.divergences for side in d.divergence.operators for o in side]
        made_names = {n for o in regions for n in o.partition(" → ")[2].split(", ")}
        first = {d.divergence.baseline for d in found.divergences}
        inside = {n for n in (*made_names, *first) if n.startswith(f"{net.marks[place]}.")}
        assert net.marks[place] in made_names | first or inside

    holds()
    assert set(seen) == set(KINDS)

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import sandbox_models as models
from onnx import TensorProto, helper

from harness.core.graphs import Graph
from harness.core.policies import SandboxPolicy
from harness.sandbox.child.frames import FrameError
from harness.sandbox.graph_description import described_graph
from harness.sandbox.graph_values import graph_from_description
from harness.sandbox.hello import LoadFailure
from harness.sandbox.tracing import Edit, Edited, edit

LIMITS = SandboxPolicy()
FLIGHTS = Path(__file__).parents[2] / "models" / "flights"


def described(path) -> Graph:
    edited = edit(path, Edit(tensors=()), path.with_suffix(".copy"), LIMITS)
    assert isinstance(edited, Edited), edited
    return edited.graph


def times(
    path, constant, *, as_node: bool = False, more: dict[str, np.ndarray] | None = None
) -> Path:
    """y = x · constant, the constant an initialiser or a node."""
    value = onnx.numpy_helper.from_array(constant, "c")
    nodes = [models.node("Constant", [], ["c"], value=value)] if as_node else []
    return models.saved(
        path,
        [*nodes, models.node("Mul", ["x", "c"], ["y"])],
        [models.tensor("x", TensorProto.FLOAT, 2)],
        [models.tensor("y", TensorProto.FLOAT, 2)],
        constants={**({} if as_node else {"c": constant}), **(more or {})},
    )


def test_wiring_and_constants_are_told(tmp_path):
    graph = described(times(tmp_path / "m.onnx", np.array([60, 1.609], np.float32)))
    assert (graph.inputs, graph.outputs) == (("x",), ("y",))
    assert [(n.op, n.inputs, n.outputs) for n in graph.nodes] == [("Mul", ("x", "c"), ("y",))]
    assert [(c.name, c.text) for c in graph.constants] == [("c", "float[2] [60, 1.609]")]


def test_a_constant_node_is_the_same_as_an_initialiser(tmp_path):
    value = np.array([1, 2], np.float32)
    one = described(times(tmp_path / "a.onnx", value))
    two = described(times(tmp_path / "b.onnx", value, as_node=True))
    assert one.constants == two.constants
    assert one.nodes == two.nodes


@pytest.mark.parametrize(
    ("other", "same_loosely"),
    [(np.array([1, 3], np.float32), True), (np.array([1], np.float32), False)],
)
def test_digests_tell_values_and_shapes_apart(tmp_path, other, same_loosely):
    one = described(times(tmp_path / "a.onnx", np.array([1, 2], np.float32))).constants[0]
    two = described(times(tmp_path / "b.onnx", other)).constants[0]
    assert one.exact != two.exact
    assert (one.loose == two.loose) is same_loosely


def test_a_few_whole_numbers_are_structure(tmp_path):
    axes = [{"axes": np.array([n], np.int64)} for n in (0, 1)]
    one, two = (
        described(times(tmp_path / f"{i}.onnx", np.ones(2, np.float32), more=a)).constants[1]
        for i, a in enumerate(axes)
    )
    assert one.loose != two.loose


def test_a_body_is_digested_whatever_its_tensors_are_called(tmp_path):
    def branching(path: Path, inner: str, factor: float) -> Graph:
        def branch(value: float) -> onnx.GraphProto:
            constant = onnx.numpy_helper.from_array(np.array(value, np.float32), f"{inner}c")
            node = models.node("Mul", ["x", f"{inner}c"], [f"{inner}o"])
            out = helper.make_tensor_value_info(f"{inner}o", TensorProto.FLOAT, None)
            return helper.make_graph([node], "b", [], [out], [constant])

        models.saved(
            path,
            [
                models.node("ReduceSum", ["x"], ["s"], keepdims=0),
                models.node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
                models.node(
                    "If", ["c"], ["y"], then_branch=branch(factor), else_branch=branch(1.0)
                ),
            ],
            [models.tensor("x", TensorProto.FLOAT, 2)],
            [models.tensor("y", TensorProto.FLOAT, 2)],
        )
        return described(path)

    one, two, other = (
        branching(tmp_path / f"{n}{v}.onnx", n, v) for n, v in (("a", 2.0), ("b", 2.0), ("a", 3.0))
    )
    assert one.nodes[2].captures == ("x",)
    assert one.nodes[2].attributes == two.nodes[2].attributes
    exact = [[a.exact for a in g.nodes[2].attributes] for g in (one, other)]
    assert exact[0] != exact[1]
    assert [a.loose for a in one.nodes[2].attributes] == [
        a.loose for a in other.nodes[2].attributes
    ]


def test_trees_are_weights_that_live_in_attributes(tmp_path):
    copied = tmp_path / "gbt.onnx"
    copied.write_bytes((FLIGHTS / "gbt.onnx").read_bytes())
    (trees,) = (n for n in described(copied).nodes if "TreeEnsemble" in n.op)
    values = {a.name: a for a in trees.attributes}
    assert values["nodes_values"].exact != values["nodes_values"].loose
    assert "in all]" in values["nodes_values"].text


def test_a_model_that_does_not_load_has_no_graph(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    edited = edit(tmp_path / "m.onnx", Edit(), tmp_path / "copy.onnx", LIMITS)
    assert isinstance(edited, LoadFailure)


@pytest.mark.parametrize(
    "given", [b"{", b"[]", b'{"inputs": []}', b'{"inputs":[],"outputs":[],"nodes":[1],"constants":[]}']
)  # fmt: skip
def test_a_broken_description_is_refused(given):
    with pytest.raises(FrameError):
        graph_from_description(given)


def wired(*nodes):
    """A description of operators (operator, inputs, outputs)."""
    made = [[op, f"n{i}", read, made, [], [], ""] for i, (op, read, made) in enumerate(nodes)]
    keys = ("constants", "random", "coarse", "opsets", "exact", "handed_on", "smooth")
    lists: dict[str, list[str]] = {key: [] for key in keys}
    return json.dumps({"inputs": ["x"], "outputs": ["y"], "nodes": made, **lists}).encode()


@pytest.mark.parametrize(
    "nodes",
    [
        [("Add", ["q", "x"], ["p"]), ("Mul", ["p", "x"], ["q"]), ("Relu", ["x"], ["y"])],
        [("Add", ["y", "x"], ["y"])],
        [("Relu", ["x"], ["y"]), ("Neg", ["x"], ["y"])],
        [("Split", ["x"], ["y", "y"])],
        [("Identity", ["x"], []), ("Relu", ["x"], ["y"])],
        [("Identity", [], ["y"])],
    ],
)
def test_a_graph_that_cannot_be_is_refused(nodes):
    with pytest.raises(FrameError, match="of the graph"):
        graph_from_description(wired(*nodes))


def test_operators_in_another_order_are_put_in_the_order_in_which_they_run():
    late = [("Relu", ["b"], ["y"]), ("Identity", ["a"], ["b"]), ("Neg", ["x"], ["a"])]
    graph = graph_from_description(wired(*late))
    assert [node.op for node in graph.nodes] == ["Neg", "Identity", "Relu"]
    in_order = [("Neg", ["x"], ["a"]), ("Abs", ["x"], ["c"]), ("Relu", ["a"], ["y"])]
    graph = graph_from_description(wired(*in_order))
    assert [node.op for node in graph.nodes] == ["Neg", "Abs", "Relu"]


def digests_of_body(*operators):
    """Of the body of an If whose operators, by name, each read x; it returns x."""
    nodes = [helper.make_node(op, ["x"], [f"t{i}"], domain="d") for i, op in enumerate(operators)]
    x = models.tensor("x", TensorProto.FLOAT, 2)
    body = helper.make_graph(nodes, "body", [], [x])
    test = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    model = helper.make_model(helper.make_graph([test], "g", [x], []))
    return [a[2:] for node in described_graph(model, {})["nodes"] for a in node[5]]


def test_no_name_in_a_body_stands_for_other_operators():
    one = digests_of_body("A ['outer 0'] 1\nd B")
    assert one != digests_of_body("A", "B")
    assert digests_of_body("A", "B") == digests_of_body("A", "B")

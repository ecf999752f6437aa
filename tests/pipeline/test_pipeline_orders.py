"""Inputs permuted together with the rows of the weights are no divergence; any other number is one."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from harness.core.jsonable import jsonable
from harness.core.policies import GraphPolicy
from harness.diff.floor import floor_from_json
from harness.pipeline import compare, order_pass
from harness.pipeline.compare import compare_models
from harness.sandbox.hello import LoadFailure

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
WIDTH, HIDDEN, ROWS = 120, 64, 300


def net(kind, *, order=None, moved=0.0, bump=(0.0, 0.0), out=5, cut=0):
    """Two layers over permuted inputs, the second perhaps cut in two, beside inputs that a constant is added to."""
    rng = np.random.default_rng(3)
    first = rng.normal(size=(WIDTH, HIDDEN)) / np.sqrt(WIDTH)
    second = rng.normal(size=(HIDDEN, out)) * 2 / np.sqrt(HIDDEN)
    first[5, 7] *= 1 + moved
    pick = ("Identity", ["c"], "p", {})
    if order is None:
        order = np.arange(WIDTH)
    else:
        pick = ("Gather", ["c", "P"], "p", {"axis": 1})
    values = {
        "P": order, "W1": first[order].astype(kind), "W2": second.astype(kind),
        "b1": rng.normal(size=HIDDEN).astype(kind), "bump": np.array(bump, np.float32),
    }  # fmt: skip
    nodes = [
        ("Cast", ["x"], "c", {"to": TYPES[kind]}), pick,
        ("MatMul", ["p", "W1"], "m1", {}), ("Add", ["m1", "b1"], "a1", {}), ("Tanh", ["a1"], "h", {}),
        ("MatMul", ["h", "W2"], "m2", {}), ("Cast", ["m2"], "e", {"to": TensorProto.FLOAT}),
        ("Add", ["plain", "bump"], "kept", {}), ("Concat", ["e", "kept"], "y", {"axis": 1}),
    ]  # fmt: skip
    if cut:
        place = next(i for i, node in enumerate(nodes) if node[2] == "m2")
        whole = values.pop("W2")
        values |= {"W2a": whole[:cut], "W2b": whole[cut:], "sizes": np.array([cut, HIDDEN - cut])}
        nodes[place : place + 1] = [
            ("Split", ["h", "sizes"], ["ha", "hb"], {"axis": 1}), ("MatMul", ["ha", "W2a"], "ma", {}),
            ("MatMul", ["hb", "W2b"], "mb", {}), ("Add", ["ma", "mb"], "m2", {}),
        ]  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node(op, reads, [made] if isinstance(made, str) else made, **how)
            for op, reads, made, how in nodes
        ],
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH]),
            helper.make_tensor_value_info("plain", TensorProto.FLOAT, ["n", 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(v, name) for name, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=9)


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """(the comparison, the floor that it was made with)."""
    floors = []

    def kept(pairing, floor, *rest):
        floors.append(floor)
        return outputs(pairing, floor, *rest)

    outputs = compare.OutputDiff
    monkeypatch.setattr(compare, "OutputDiff", kept)

    def look(*models, requests=32, mapping=(), x=lambda rng: rng.normal(size=(ROWS, WIDTH))):
        for i, model in enumerate(models):
            save_model(model, str(tmp_path / f"{i}.onnx"))
        rng = np.random.default_rng(1)
        wide = x(rng).astype(np.float32)
        plain = rng.integers(80, 2600, (ROWS, 2)).astype(np.float32)
        np.savez(tmp_path / "t.npz", x=wide, plain=plain)
        found = compare_models(
            *(str(tmp_path / f"{i}.onnx") for i in range(2)), inputs=[tmp_path / "t.npz"],
            looked_into=GraphPolicy(requests=requests), cache_dir=tmp_path / "cache", allow_lower_isolation=True,
            mapping=mapping,
        )  # fmt: skip
        return found, floors[-1]

    return look


def permutation(seed=0):
    return np.random.default_rng(seed).permutation(WIDTH)


@pytest.mark.parametrize(("out", "cut"), [(5, 0), (70, 0), (70, 20)])
def test_permuted_inputs_and_weights_are_equal_and_the_floor_says_why(compared, out, cut):
    found, floor = compared(
        net("float32", out=out), net("float32", order=permutation(), out=out, cut=cut)
    )
    assert found.exit_code == 0
    assert found.graph.report.divergences == ()
    assert max(c.ordered for c in floor.outputs) > 0
    assert floor_from_json(jsonable(floor)) == floor
    said = next(f.what for f in found.findings if f.kind == "other_order")
    assert "the candidate holds the baseline's numbers in another arrangement" in said
    assert "measured on 300 requests" in said


@pytest.mark.parametrize(("out", "cut"), [(5, 0), (70, 20)])
def test_of_float16_rounding_is_excused_where_the_graphs_prove_one_function(compared, out, cut):
    found, floor = compared(
        net("float16", out=out), net("float16", order=permutation(), out=out, cut=cut), requests=0
    )
    assert found.exit_code == 0
    assert floor.orders.proven
    assert 0 < max(c.noise for c in floor.outputs) <= 0.01
    assert floor.noisy() == []
    assert floor_from_json(jsonable(floor)) == floor
    said = next(f.what for f in found.findings if f.kind == "other_order")
    assert "shown to compute the same but for that order" in said


def two_exchanged(model):
    """The same, but two of its weights changed places."""
    weights = next(t for t in model.graph.initializer if t.name == "W2")
    values = numpy_helper.to_array(weights).copy()
    values[[3, 9], 2] = values[[9, 3], 2]
    weights.CopyFrom(numpy_helper.from_array(values, "W2"))
    return model


def test_of_float16_nothing_is_excused_where_weights_changed_places(compared):
    """Nothing tells how far its sums move from two weights that changed places."""
    other = two_exchanged(net("float16", order=permutation()))
    found, floor = compared(net("float16"), other, requests=0)
    assert found.exit_code == 1
    assert not floor.orders.proven
    assert max(c.ordered for c in floor.outputs) > 1e-4
    assert max(c.noise for c in floor.outputs) == 0
    said = next(f.what for f in found.findings if f.kind == "other_order")
    assert "holds the baseline's numbers in a graph that is not the baseline's: sums in" in said
    assert "nothing is excused in others" in said


def two_of_a_shape(*copies):
    """Two inputs of one shape, each multiplied with weights of its own."""
    nodes = [
        ("Cast", ["x"], "a", {"to": TYPES["float16"]}), ("Cast", ["plain"], "b", {"to": TYPES["float16"]}),
        ("MatMul", ["a", "A"], "p", {}), ("MatMul", ["b", "B"], "q", {}), ("Add", ["p", "q"], "s", {}),
        *copies, ("Cast", ["c" if copies else "s"], "y", {"to": TensorProto.FLOAT}),
    ]  # fmt: skip
    weights = np.random.default_rng(0).normal(size=(2, 2, 3)).astype(np.float16)
    graph = helper.make_graph(
        [helper.make_node(op, reads, [made], **how) for op, reads, made, how in nodes],
        "net",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in ("x", "plain")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(w, name) for w, name in zip(weights, "AB", strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=9)


@pytest.mark.parametrize("swapped", [False, True])
def test_where_names_are_mapped_the_graphs_prove_nothing(compared, swapped):
    mapping = ["inputs:x=plain", "inputs:plain=x"] if swapped else []
    found, floor = compared(
        two_of_a_shape(), two_of_a_shape(("Identity", ["s"], "c", {})), requests=0, mapping=mapping,
        x=lambda rng: rng.normal(size=(ROWS, 2)),
    )  # fmt: skip
    assert found.exit_code == int(swapped)
    assert floor.orders.proven != swapped


@pytest.mark.parametrize("kind", TYPES)
def test_one_weight_that_moved_too_earns_nothing(compared, kind):
    found, floor = compared(
        net(kind), net(kind, order=permutation(), moved=1e-3 if kind == "float32" else 0.05),
        requests=0,
    )  # fmt: skip
    assert found.exit_code == 1
    assert floor.orders is None


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_that_changed_places_are_found_beside_sums(compared, kind):
    bump = (0.0, 1.0)
    found, floor = compared(
        net(kind, bump=bump), net(kind, order=permutation(), bump=bump[::-1]), requests=0
    )
    assert floor.orders.count == 3
    assert found.exit_code == 1
    kept = [c.ordered for c in floor.outputs if c.column in ("5", "6")]
    assert kept == [0.0, 0.0]
    differ = {r["name"] for r in found.intermediates["outputs"] if r["verdict"] == "differs"}
    assert differ >= {"y[5]", "y[6]"}
    assert kind == "float16" or len(differ) == 2


def test_two_weights_that_changed_places_are_found(compared):
    other = two_exchanged(net("float32", order=permutation()))
    found, floor = compared(net("float32"), other, requests=0)
    assert floor.orders.count == 3
    assert found.exit_code == 1


def test_orders_that_cannot_be_measured_excuse_nothing_and_it_is_said(compared, monkeypatch):
    refused = LoadFailure(kind="load", message="no room")
    monkeypatch.setattr(order_pass, "reordered", lambda *_, **__: refused)
    found, floor = compared(
        net("float16", out=70), net("float16", order=permutation(), out=70), requests=0
    )
    assert found.exit_code == 1
    assert floor.orders.problem == "no room"
    assert any("was not measured (no room)" in f.what for f in found.findings)


def test_the_same_graph_under_other_names_is_not_measured(compared):
    renamed = net("float32")
    for node in renamed.graph.node:
        node.input[:] = ["other" if name == "h" else name for name in node.input]
        node.output[:] = ["other" if name == "h" else name for name in node.output]
    found, floor = compared(net("float32"), renamed, requests=0)
    assert (found.exit_code, floor.orders) == (0, None)


@pytest.mark.parametrize("step", ["Floor", "Round"])
def test_a_row_that_flips_in_another_order_excuses_no_other_row(compared, step):
    """Sums of tenths are whole now and then: in another order a few of them fall below, and jump."""

    def stepped(order):
        weights = np.resize(np.array([0.2, 0.3, 0.1, 0.1, 0.2, 0.4], np.float32), WIDTH)[order]
        graph = helper.make_graph(
            [
                helper.make_node("Sub", ["plain", "plain"], ["none"]),
                helper.make_node("MatMul", ["x", "w"], ["m"]),
                helper.make_node(step, ["m"], ["s"]),
                helper.make_node("Concat", ["s", "none"], ["y"], axis=1),
            ],
            "net",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH]),
                helper.make_tensor_value_info("plain", TensorProto.FLOAT, ["n", 2]),
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
            [numpy_helper.from_array(weights[:, None], "w")],
        )
        opsets = [helper.make_opsetid("", 15)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    other = np.arange(WIDTH)
    other[[0, 1]] = 1, 0
    found, floor = compared(
        stepped(np.arange(WIDTH)), stepped(other), requests=0, x=lambda rng: rng.integers(0, 20, (ROWS, WIDTH))
    )  # fmt: skip
    assert floor.orders.count == 3
    assert max(c.ordered for c in floor.outputs) == 0
    assert found.exit_code == 1
    assert found.intermediates["compared"]["output_mismatches"] > ROWS / 4

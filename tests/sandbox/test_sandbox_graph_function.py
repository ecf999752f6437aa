"""Arrangements that exact arithmetic does not see are one function; anything else is another one."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from harness.sandbox.graph_function import function_of

WIDTH, HIDDEN = 6, 4
RNG = np.random.default_rng(0)
W1, W2 = RNG.normal(size=(WIDTH, HIDDEN)), RNG.normal(size=(HIDDEN, 3))
MEAN, BIAS = RNG.normal(size=WIDTH), RNG.normal(size=HIDDEN)
ORDER = np.array([3, 0, 5, 1, 4, 2])
INVERSE = np.argsort(ORDER)
FIRST = [("Sub", "x mean", "s", {}), ("Neg", "s", "p", {})]
REST = [("Add", "m b", "a", {}), ("Tanh", "a", "h", {}), ("MatMul", "h W2", "y", {})]
PLAIN = [*FIRST, ("MatMul", "p W1", "m", {}), *REST]
VALUES = {"W1": W1, "W2": W2, "mean": MEAN, "b": BIAS, "P": ORDER}


def swapped(values):
    values = values.copy()
    values[0, 0], values[1, 0] = values[1, 0], values[0, 0]
    return values


def model(nodes, shape=("n", WIDTH), out=("n", 3), **values):
    graph = helper.make_graph(
        [
            helper.make_node(
                op, reads.replace("-", "").split(" ") if reads else [], made.split(), **how
            )
            for op, reads, made, how in nodes
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, out)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=9)


def picked(reads, made, axis=1):
    return ("Gather", f"{reads} P", made, {"axis": axis})


ROWS = W1[ORDER]
SAME = {
    "at the input": ([picked("x", "x2"), ("Sub", "x2 mean", "s", {}), *PLAIN[1:]], {"W1": ROWS, "mean": MEAN[ORDER]}),
    "before the sum": ([*FIRST, picked("p", "p2", -1), ("MatMul", "p2 W1", "m", {}), *REST], {"W1": ROWS}),
    "twice": (
        [*FIRST, picked("p", "p2"), picked("p2", "p3"), ("MatMul", "p3 W1", "m", {}), *REST], {"W1": W1[ORDER][ORDER]},
    ),
    "through a copy": ([("Identity", "x", "c", {}), ("Sub", "c mean", "s", {}), *PLAIN[1:]], {}),
    "in three pieces": (
        [
            *FIRST, ("Split", "p sizes", "p1 p2 p3", {"axis": 1}), ("MatMul", "p1 A", "m1", {}),
            ("MatMul", "p2 B", "m2", {}), ("MatMul", "p3 C", "m3", {}), ("Add", "m3 m1", "m13", {}),
            ("Add", "m13 m2", "m", {}), *REST,
        ],
        {"sizes": np.array([1, 2, 3]), "A": W1[:1], "B": W1[1:3], "C": W1[3:]},
    ),
}  # fmt: skip
OTHER = {
    "the permutation the other way": ([picked("x", "x2"), ("Sub", "x2 mean", "s", {}), *PLAIN[1:]], {"W1": W1[INVERSE], "mean": MEAN[INVERSE]}),
    "without the means": ([picked("x", "x2"), ("Sub", "x2 mean", "s", {}), *PLAIN[1:]], {"W1": ROWS}),
    "without the rows": ([*FIRST, picked("p", "p2"), ("MatMul", "p2 W1", "m", {}), *REST], {}),
    "two weights exchanged": ([*FIRST, picked("p", "p2"), ("MatMul", "p2 W1", "m", {}), *REST], {"W1": swapped(ROWS)}),
    "a bias exchanged": (PLAIN, {"b": BIAS[[1, 0, 2, 3]]}),
    "pieces of one another": (
        [
            *FIRST, ("Split", "p sizes", "p1 p2", {"axis": 1}), ("MatMul", "p1 B", "m1", {}),
            ("MatMul", "p2 A", "m2", {}), ("Add", "m1 m2", "m", {}), *REST,
        ],
        {"sizes": np.array([3, 3]), "A": W1[:3], "B": W1[3:]},
    ),
    "a piece twice": (
        [
            *FIRST, ("Split", "p sizes", "p1 p2", {"axis": 1}), ("MatMul", "p1 A", "m1", {}),
            ("MatMul", "p1 B", "m2", {}), ("Add", "m1 m2", "m", {}), *REST,
        ],
        {"sizes": np.array([3, 3]), "A": W1[:3], "B": W1[3:]},
    ),
    "pieces multiplied": (
        [
            *FIRST, ("Split", "p sizes", "p1 p2", {"axis": 1}), ("MatMul", "p1 A", "m1", {}),
            ("MatMul", "p2 B", "m2", {}), ("Mul", "m1 m2", "m", {}), *REST,
        ],
        {"sizes": np.array([3, 3]), "A": W1[:3], "B": W1[3:]},
    ),
    "another step": ([*FIRST, ("MatMul", "p W1", "m", {}), ("Add", "m b", "a", {}), ("Sigmoid", "a", "h", {}), REST[2]], {}),
}  # fmt: skip


def answers(nodes, values):
    x = np.random.default_rng(1).normal(size=(9, WIDTH))
    return ReferenceEvaluator(model(nodes, **{**VALUES, **values})).run(None, {"x": x})[0]


def told(nodes, values):
    return function_of(model(nodes, **{**VALUES, **values}), {})


@pytest.mark.parametrize("how", SAME)
def test_an_arrangement_is_the_same_function(how):
    np.testing.assert_allclose(answers(*SAME[how]), answers(PLAIN, {}))
    assert told(*SAME[how]) == told(PLAIN, {}) != ""


@pytest.mark.parametrize("how", OTHER)
def test_anything_else_is_another_function(how):
    assert not np.allclose(answers(*OTHER[how]), answers(PLAIN, {}))
    assert told(*OTHER[how]) not in ("", told(PLAIN, {}))


@pytest.mark.parametrize(("axis", "same"), [(1, False), (2, True), (-1, True)])
def test_only_the_last_axis_is_summed_over(axis, same):
    shape = ("n", WIDTH, WIDTH)
    values = {"P": ORDER, "W1": W1}
    plain = model([("MatMul", "x W1", "y", {})], shape, ("n", WIDTH, HIDDEN), **values)
    nodes = [picked("x", "p", axis), ("MatMul", "p W1", "y", {})]
    other = model(nodes, shape, ("n", WIDTH, HIDDEN), **values | {"W1": ROWS})
    assert (function_of(other, {}) == function_of(plain, {})) == same


def test_a_permutation_that_is_an_answer_is_part_of_the_function():
    both = [
        model([(*picked("x", "y")[:3], {"axis": 1})], out=("n", WIDTH), P=order)
        for order in (ORDER, INVERSE)
    ]
    assert function_of(both[0], {}) != function_of(both[1], {})


def test_words_go_by_their_bytes():
    ends, other = [b"a", b"a\0"], [b"a\0", b"a"]
    digests = set()
    for words in (ends, other, ends):
        made = model([("Neg", "x", "y", {})], out=("n", WIDTH))
        constant = TensorProto(data_type=TensorProto.STRING, dims=[2], string_data=words, name="v")
        made.graph.initializer.append(constant)
        made.graph.node.append(helper.make_node("Identity", ["v"], ["w"]))
        made.graph.output.append(helper.make_tensor_value_info("w", TensorProto.STRING, [2]))
        digests.add(function_of(made, {}))
    assert "" not in digests
    assert len(digests) == 2


def test_an_input_without_extents_may_have_any_number_of_axes():
    columns = [("Add", "x mean", "t", {}), picked("t", "p", 0), ("MatMul", "p W1", "y", {})]
    plain = [("Add", "x mean", "t", {}), ("MatMul", "t W1", "y", {})]
    values = {"mean": MEAN, "P": ORDER}
    one = model(columns, (), None, **values, W1=ROWS)
    other = model(plain, (), None, **values, W1=W1)
    assert function_of(one, {}) != function_of(other, {})


SUM = np.array([1])
PIECES = {"axis": 1}
APART = {
    "the number of pieces": [
        ([("Split", "x", made, PIECES), ("ReduceSum", "a sum", "y", {})], {"sum": SUM})
        for made in ("a b", "a b c")
    ],
    "which outputs are wanted": [
        ([("TopK", "x k", made, {}), ("Neg", "a", "y", {})], {"k": SUM}) for made in ("a b", "a")
    ],
    "the sign of zero": [([("Div", "x z", "y", {})], {"z": np.array(z)}) for z in (0.0, -0.0)],
    "a zero in an attribute": [
        ([("Elu", "x", "y", {"alpha": alpha})], {}) for alpha in (0.0, -0.0)
    ],
    "the type of a constant": [
        ([("Cast", "z", "c", {"to": 11}), ("Add", "x c", "y", {})], {"z": np.zeros(1, kind)})
        for kind in (np.float32, np.int32)
    ],
    "an input that is left out": [
        ([("Clip", reads, "y", {})], {"z": np.array(1.0)}) for reads in ("x z", "x - z")
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", APART)
def test_every_part_of_a_node_is_in_its_digest(what):
    one, other = (function_of(model(nodes, **values), {}) for nodes, values in APART[what])
    assert "" not in (one, other)
    assert one != other


def test_products_of_other_widths_are_no_product_of_a_whole():
    nodes = [
        ("Split", "x sizes", "a b", PIECES), ("MatMul", "a A", "m", {}), ("MatMul", "b B", "n", {}),
        ("Add", "m n", "y", {}),
    ]  # fmt: skip
    sizes = np.array([2, 4])
    narrow = model(nodes, sizes=sizes, A=W1[:2, :1], B=W1[2:])
    told = function_of(narrow, {})
    assert told not in ("", function_of(model(nodes, sizes=sizes, A=W1[:2], B=W1[2:]), {}))


@pytest.mark.parametrize("version", [3, 9])
def test_an_initialiser_that_is_an_input_too_keeps_its_values(version):
    digests = []
    for first in (W1, swapped(W1), W1[:, ::-1]):
        found = model(PLAIN, **{**VALUES, "W1": first})
        found.ir_version = version
        found.graph.input.append(helper.make_tensor_value_info("W1", 11, list(W1.shape)))
        digests.append(function_of(found, {}))
    assert len({*digests, told(PLAIN, {}), ""}) == 5


def test_what_may_be_put_in_place_of_an_initialiser_is_not_moved():
    moved = model([picked("x", "p"), ("MatMul", "p W1", "y", {})], W1=ROWS, P=ORDER)
    plain = model([("MatMul", "x W1", "y", {})], W1=W1)
    assert function_of(moved, {}) == function_of(plain, {})
    for each in (moved, plain):
        each.graph.input.append(helper.make_tensor_value_info("W1", 11, list(W1.shape)))
    assert function_of(moved, {}) != function_of(plain, {})


def stored_outside(values):
    found = model([("MatMul", "x W1", "y", {})])
    tensor = TensorProto(data_type=TensorProto.DOUBLE, dims=values.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w")
    found.graph.node.insert(0, helper.make_node("Constant", [], ["W1"], value=tensor))
    return found


def test_a_constant_outside_the_model_goes_by_its_bytes():
    inside = model([("MatMul", "x W1", "y", {})], W1=W1)
    found = [
        function_of(stored_outside(v), {"w": memoryview(v.tobytes())}) for v in (W1, swapped(W1))
    ]
    assert found[0] == function_of(inside, {})
    assert len({*found, ""}) == 3
    assert function_of(stored_outside(W1), {}) == ""


@pytest.mark.parametrize(("version", "same"), [(17, True), (12, False)])
def test_operators_that_two_opsets_share_are_the_same(version, same):
    other = model(PLAIN, **VALUES)
    other.opset_import[0].version = version
    assert (function_of(other, {}) == told(PLAIN, {})) == same


def test_a_declared_feature_is_part_of_the_function():
    nodes = [*PLAIN, ("MatMul", "x F", "feature", {})]
    one, other = (model(nodes, **VALUES, F=values) for values in (W1, swapped(W1)))
    assert function_of(one, {}) == function_of(other, {})
    assert function_of(one, {}, ["feature"]) != function_of(other, {}, ["feature"])


def sequence():
    return helper.make_tensor_sequence_value_info("more", TensorProto.FLOAT, None)


def two_values():
    attribute = helper.make_attribute("k", 1)
    attribute.f = 1.0
    return attribute


def sparse():
    ones, places = (numpy_helper.from_array(np.array([v])) for v in (1.0, 0))
    value = helper.make_sparse_tensor(ones, places, [3])
    return helper.make_node("Constant", [], ["z"], sparse_value=value)


def versions(*told):
    return lambda m: (
        m.ClearField("opset_import"),
        m.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in told),
    )


KIND = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
UNCLEAR = {
    "a tensor made twice": lambda m: m.graph.node.insert(1, helper.make_node("Neg", ["x"], ["s"])),
    "an initialiser twice": lambda m: m.graph.initializer.append(m.graph.initializer[0]),
    "a node under an initialiser's name": lambda m: m.graph.node.append(helper.make_node("Neg", ["x"], ["b"])),
    "no opset": versions(),
    "an opset twice": versions(("", 15), ("ai.onnx", 13)),
    "an unheard opset": versions(("", 10_000)),
    "an opset of sums along an axis": versions(("", 6)),
    "an output without a name": lambda m: m.graph.output[0].ClearField("name"),
    "training": lambda m: m.training_info.add(),
    "quantisation": lambda m: m.graph.quantization_annotation.add(tensor_name="x"),
    "a sequence": lambda m: m.graph.input.append(sequence()),
    "an attribute twice": lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("k", 1)] * 2),
    "an attribute of two values": lambda m: m.graph.node[0].attribute.append(two_values()),
    "a type": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("k", KIND)),
    "a sparse attribute": lambda m: m.graph.node.append(sparse()),
}  # fmt: skip


@pytest.mark.parametrize("what", UNCLEAR)
def test_of_what_is_not_understood_nothing_is_told(what):
    found = model(PLAIN, **VALUES)
    assert function_of(found, {})
    UNCLEAR[what](found)
    assert function_of(found, {}) == ""


def test_of_random_operators_and_bodies_nothing_is_told():
    assert function_of(model([("RandomNormalLike", "x", "y", {})]), {}) == ""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.DOUBLE, None)],
    )
    nodes = [("If", "c", "y", {"then_branch": branch, "else_branch": branch})]
    assert function_of(model(nodes, c=np.array(True)), {}) == ""

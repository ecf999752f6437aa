"""Which numbers two graphs hold: the same in any order and in any pieces, and no other number."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.sandbox.graph_description import described_graph
from harness.sandbox.graph_numbers import arrangement, held_numbers

RNG = np.random.default_rng(0)
W = RNG.normal(size=(6, 4)).astype(np.float32)
B = RNG.normal(size=4).astype(np.float32)
ORDER = np.array([3, 0, 5, 1, 4, 2])


def net(nodes, constants, functions=()):
    graph = helper.make_graph(
        [helper.make_node(op, reads, [made], **how) for op, reads, made, how in nodes],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            v if isinstance(v, TensorProto) else numpy_helper.from_array(np.asarray(v), name)
            for name, v in constants.items()
        ],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)


PLAIN = net([("MatMul", ["x", "w"], "m", {}), ("Add", ["m", "b"], "y", {})], {"w": W, "b": B})


def permuted(weights=W, bias=B, order=ORDER):
    nodes = [
        ("Gather", ["x", "p"], "g", {"axis": 1}), ("MatMul", ["g", "v"], "m", {}), ("Add", ["m", "b"], "y", {}),
    ]  # fmt: skip
    return net(nodes, {"p": order, "v": weights[order], "b": bias})


def in_pieces():
    nodes = [
        ("Split", ["x", "sizes"], "l", {"axis": 1}),
        ("MatMul", ["l", "top"], "m", {}), ("Add", ["m", "b"], "y", {}),
    ]  # fmt: skip
    found = net(nodes, {"sizes": np.array([2, 4]), "top": W[:2], "low": W[2:], "b": B})
    found.graph.node[0].output.append("r")
    found.graph.node.insert(1, helper.make_node("MatMul", ["r", "low"], ["u"]))
    found.graph.node.append(helper.make_node("Identity", ["u"], ["v"]))
    return found


def numbers(model):
    return held_numbers(model, {})


@pytest.mark.parametrize(
    "other",
    [
        permuted(),
        in_pieces(),
        net(
            [("MatMul", ["x", "w"], "m", {}), ("Add", ["m", "c"], "a", {}), ("Sub", ["a", "b"], "y", {})],
            {"w": W, "b": B, "c": B, "unread": W + 1},
        ),
        net([("Gemm", ["x", "w", "b"], "y", {"alpha": 1.0, "transB": 1})], {"w": W.T.copy(), "b": B}),
    ],
    ids=["permuted", "in_pieces", "shared", "fused"],
)  # fmt: skip
def test_the_same_numbers_in_another_arrangement_are_the_same_numbers(other):
    assert numbers(other) == numbers(PLAIN) != ""
    ours, theirs = (arrangement(described_graph(m, {})) for m in (PLAIN, other))
    assert ours != theirs


@pytest.mark.parametrize("place", [0, 7, 23])
def test_one_weight_that_is_another_is_told(place):
    moved = W.copy()
    moved.reshape(-1)[place] = np.nextafter(moved.reshape(-1)[place], np.float32(9))
    assert numbers(permuted(moved)) != numbers(PLAIN)


def test_one_weight_that_takes_the_value_of_another_is_told():
    moved = W.copy()
    moved[0, 0] = moved[1, 1]
    assert numbers(permuted(moved)) != numbers(PLAIN)


def test_a_weight_more_precise_is_told():
    assert numbers(permuted(W.astype(np.float64), B.astype(np.float64))) != numbers(PLAIN)


def three_numbers(*names):
    """An output of one weight, three numbers and what they are used for."""
    values = {"half": np.float32(0.5), "two": np.float32(2), "w": W}
    places = zip(("Add", "Mul", "Add"), "mno", names, "noy", strict=True)
    nodes = [("MatMul", ["x", "w"], "m", {})]
    return net(nodes + [(op, [read, name], made, {}) for op, read, name, made in places], values)


def test_a_number_that_takes_the_value_of_one_used_otherwise_is_told():
    assert numbers(three_numbers("half", "two", "half")) != numbers(
        three_numbers("two", "two", "half")
    )
    assert numbers(three_numbers("half", "two", "half")) != numbers(
        three_numbers("two", "half", "half")
    )


def test_numbers_shared_by_several_readers_are_those_that_each_has_by_itself():
    alone = three_numbers("half", "two", "other")
    alone.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "other"))
    assert numbers(alone) == numbers(three_numbers("half", "two", "half")) != ""


def test_names_are_no_part_of_an_arrangement():
    nodes = [("MatMul", ["x", "v"], "k", {}), ("Add", ["k", "c"], "y", {})]
    renamed = net(nodes, {"v": W, "c": B})
    ours, theirs = (arrangement(described_graph(m, {})) for m in (PLAIN, renamed))
    assert ours == theirs


def scaled(value):
    nodes = [("Cast", ["k"], "f", {"to": 1}), ("Mul", ["x", "f"], "y", {})]
    return net(nodes, {"k": np.array([1, 2, 3, 4, 5, value])})


def quantised(values):
    nodes = [("DequantizeLinear", ["q", "s"], "w", {}), ("MatMul", ["x", "w"], "y", {})]
    return net(nodes, {"q": np.array(values, np.int8).reshape(6, 1), "s": np.float32(0.1)})


def encoded(code):
    how = {"keys_floats": [1.0, 2.0], "values_int64s": [5, code], "domain": "ai.onnx.ml"}
    return net([("LabelEncoder", ["x"], "y", how)], {})


def halved(values):
    tensor = numpy_helper.from_array(np.array(values, np.float16), "b")
    return net([("Cast", ["x"], "h", {"to": 10}), ("Add", ["h", "b"], "y", {})], {"b": tensor})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (scaled(6), scaled(7)),
        (quantised(range(6)), quantised([0, 1, 2, 3, 4, 9])),
        (encoded(6), encoded(7)),
        (halved(range(6)), halved([0, 1, 2, 3, 4, 9])),
    ],
    ids=["whole", "quantised", "encoder", "float16"],
)
def test_whole_numbers_that_are_no_places_are_weights(before, after):
    assert numbers(before) != numbers(after)
    assert "" not in (numbers(before), numbers(after))


def test_numbers_that_are_not_at_hand_are_not_told():
    far = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[6, 4])
    far.data_location = TensorProto.EXTERNAL
    far.external_data.add(key="location", value="weights.bin")
    nodes = [("MatMul", ["x", "w"], "m", {}), ("Add", ["m", "b"], "y", {})]
    model = net(nodes, {"w": far, "b": B})
    assert numbers(model) == ""
    content = W[ORDER].tobytes()
    assert held_numbers(model, {"weights.bin": memoryview(content)}) == numbers(PLAIN)


def test_a_graph_without_numbers_tells_none():
    assert numbers(net([("Gather", ["x", "p"], "y", {"axis": 1})], {"p": ORDER})) == ""

"""Copies whose sums go in another order: equal in exact arithmetic, other bits, and all else untouched."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from harness.core.policies import SandboxPolicy
from harness.sandbox.graph_orders import reordered
from harness.sandbox.reordering import ORDERS
from harness.sandbox.reordering import reordered as reordered_in_child

RNG = np.random.default_rng(0)
ML = "ai.onnx.ml"


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def floats(*shape):
    return drawn(*shape).reshape(-1).tolist()


CASES = {
    "MatMul": ((50, 200), [("MatMul", ["x", "w"], {})], {"w": drawn(200, 3)}),
    "MatMul of a vector": ((50, 200), [("MatMul", ["x", "w"], {})], {"w": drawn(200)}),
    "MatMul of stacks": ((2, 50, 200), [("MatMul", ["x", "w"], {})], {"w": drawn(2, 200, 3)}),
    "Gemm": ((50, 200), [("Gemm", ["x", "w", "b"], {})], {"w": drawn(200, 3), "b": drawn(3)}),
    "Gemm turned": (
        (200, 50), [("Gemm", ["x", "w"], {"transA": 1, "transB": 1})], {"w": drawn(3, 200)},
    ),
    "Conv": ((4, 64, 5, 5), [("Conv", ["x", "w"], {"pads": [1] * 4})], {"w": drawn(2, 64, 3, 3)}),
    "LSTM": (
        (7, 3, 64), [("LSTM", ["x", "w", "r"], {"hidden_size": 5})],
        {"w": drawn(1, 20, 64), "r": drawn(1, 20, 5)},
    ),
    "ReduceMean": ((50, 200), [("ReduceMean", ["x"], {"axes": [1]})], {}),
    "ReduceSum": ((50, 200), [("ReduceSum", ["x", "axes"], {})], {"axes": np.array([-1])}),
    "a cast weight": (
        (50, 200), [("Cast", ["h"], {"to": 1}), ("MatMul", ["x", "Cast0"], {})],
        {"h": drawn(200, 3).astype(np.float16)},
    ),
    "LinearRegressor": (
        (50, 200), [("LinearRegressor", ["x"], {"domain": ML, "targets": 2, "coefficients": floats(2, 200)})], {},
    ),
    "LinearClassifier": (
        (50, 200),
        [("LinearClassifier", ["x"], {
            "domain": ML, "coefficients": floats(3, 200), "intercepts": [0.0] * 3, "classlabels_ints": [0, 1, 2],
        })], {},
    ),
    "SVMRegressor": (
        (50, 200),
        [("SVMRegressor", ["x"], {
            "domain": ML, "kernel_type": "RBF", "kernel_params": [0.01, 0.0, 3.0], "n_supports": 4,
            "support_vectors": floats(4, 200), "coefficients": floats(4), "rho": [0.1],
        })], {},
    ),
}  # fmt: skip


def made(name):
    shape, steps, constants = CASES[name]
    nodes = []
    for place, (op, reads, how) in enumerate(steps):
        last = place == len(steps) - 1
        made = [f"{op}{place}"] if not last else ["y"]
        made = ["label", "y"] if op == "LinearClassifier" else made
        nodes.append(helper.make_node(op, reads, made, **how))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid(ML, 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def changed(model, seed, *, halved):
    copy = ModelProto()
    copy.CopyFrom(model)
    count = reordered(copy, seed, halved=halved)
    return copy, count


def answers(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": x})


@pytest.mark.parametrize("name", CASES)
def test_another_order_of_a_sum_changes_last_digits_alone(name):
    model, x = made(name), drawn(*CASES[name][0])
    before = answers(model, x)[0]
    moved = False
    for seed in range(4):
        copy, count = changed(model, seed, halved=seed == 2)
        after = answers(copy, x)[0]
        assert count == 1
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.abs(before).max())
        moved |= bool((after != before).any())
    assert moved


def test_what_stands_before_no_sum_keeps_its_bits():
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 15]>
    g (float[N,8] x) => (float[N,8] kept, float[N] y) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
      kept = Relu(x)
      e = Exp(kept)
      y = MatMul(e, w)
    }
    """)
    x = drawn(100, 8)
    copy, count = changed(model, 0, halved=False)
    before, after = answers(model, x), answers(copy, x)
    assert count == 1
    assert (before[0] == after[0]).all()
    assert (before[1] != after[1]).any()


def test_sums_inside_branches_go_in_another_order_too():
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 15]>
    g (float[N,8] x) => (float[N] y) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
      c = Constant<value = bool {1}>()
      y = If(c) <
        then_branch = a () => (float[N] t) { e = Exp(x) t = MatMul(e, w) },
        else_branch = b () => (float[N] u) { u = MatMul(x, w) }
      >
    }
    """)
    x = drawn(100, 8)
    copy, count = changed(model, 0, halved=True)
    (before,), (after,) = answers(model, x), answers(copy, x)
    assert count == 2
    np.testing.assert_allclose(after, before, rtol=1e-5)
    assert (before != after).any()


@pytest.mark.parametrize(
    "step",
    ["y = Relu(x)", "y = MatMul(x, x)", "y = ReduceSum(x)", "w = Constant<value = float {2}>() y = Mul(x, w)"],
)  # fmt: skip
def test_where_no_sum_is_known_no_copy_is_made(step, tmp_path):
    text = (
        f'<ir_version: 8, opset_import: ["" : 15]>\ng (float[4,4] x) => (float[a,b] y) {{ {step} }}'
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(parser.parse_model(text).SerializeToString())
    assert reordered_in_child(path, tmp_path, SandboxPolicy(), allow_weaker=True) == ()


def test_a_child_makes_a_copy_of_each_order(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(made("MatMul").SerializeToString())
    copies = reordered_in_child(path, tmp_path / "copies", SandboxPolicy(), allow_weaker=True)
    x = drawn(50, 200)
    found = [answers(ModelProto.FromString(c.read_bytes()), x)[0].tobytes() for c in copies]
    assert len(set(found)) == len(ORDERS) == 3

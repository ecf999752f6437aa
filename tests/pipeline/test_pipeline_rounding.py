"""What a graph says of a tensor's arithmetic reaches the verdict: through the sandbox, the floor, the graph pass."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser, save_model

from harness.core.policies import GraphPolicy
from harness.pipeline.compare import compare_models

IDS = """
<ir_version: 8, opset_import: ["" : 15], metadata_props: ["harness.features": "[\\"f\\"]"]>
ids (float[N] x) => (float[N] y) {{
  k = Constant<value = float {{{k}}}>()
  f = {step}
  y = Neg(f)
}}
"""


def half_net(order):
    """One layer of float16 between float32, its inputs in some order, or as they come."""
    rng = np.random.default_rng(5)
    weights = (rng.normal(size=(24, 300)) / 5).astype(np.float16)
    weights = weights if order is None else weights[order]
    picked = (
        ("Identity", ["h"], "p", {}) if order is None else ("Gather", ["h", "o"], "p", {"axis": 1})
    )
    nodes = [
        ("Cast", ["x"], "h", {"to": TensorProto.FLOAT16}), picked,
        ("MatMul", ["p", "w"], "m", {}), ("Add", ["m", "b"], "a", {}), ("Relu", ["a"], "r", {}),
        ("MatMul", ["r", "v"], "n", {}), ("Add", ["n", "c"], "z", {}), ("Cast", ["z"], "y", {"to": TensorProto.FLOAT}),
    ]  # fmt: skip
    shapes = {"b": 300, "v": (300, 1), "c": 1}
    values = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    values |= {"w": weights, "o": np.arange(24) if order is None else order}
    graph = helper.make_graph(
        [helper.make_node(op, reads, [made], **how) for op, reads, made, how in nodes],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


@pytest.fixture
def compared(tmp_path):
    def look(x, *models):
        for i, model in enumerate(models):
            save_model(model, str(tmp_path / f"{i}.onnx"))
        np.savez(tmp_path / "t.npz", x=x)
        return compare_models(
            *(str(tmp_path / f"{i}.onnx") for i in range(2)), inputs=[tmp_path / "t.npz"],
            looked_into=GraphPolicy(requests=64), cache_dir=tmp_path / "cache", allow_lower_isolation=True,
        )  # fmt: skip

    return look


def test_ids_that_are_only_moved_are_compared_one_by_one_at_any_size(compared):
    x = np.arange(9_000_001, 9_000_005, dtype=np.float32)
    steps = IDS.format(k=0, step="Identity(x)"), IDS.format(k=1, step="Add(x, k)")
    found = compared(x, *(parser.parse_model(text) for text in steps))
    assert found.exit_code == 1
    assert found.graph.report.equal == 0
    feature = found.intermediates["features"][0]
    assert (feature["mismatched_requests"], feature["text"]) == (4, "candidate = baseline + 1")


def test_sums_of_float16_in_another_order_are_equal_though_float32_comes_out(compared):
    x = np.random.default_rng(3).normal(size=(300, 24)).astype(np.float32)
    orders = None, np.random.default_rng(4).permutation(24)
    found = compared(x, *map(half_net, orders))
    assert found.intermediates["outputs"][0]["max_rel"] > 1e-4
    assert found.exit_code == 0
    assert found.graph.report.divergences == ()

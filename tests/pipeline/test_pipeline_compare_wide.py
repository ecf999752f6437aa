"""A wrong column among 120 that no output shows: named, located, and never equal."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.pipeline.compare import compare_models

WIDTH = 120
WRONG = 7
SCALE = np.full(WIDTH, 1e5, np.float32)
SCALE[WRONG] = 0.05


def wide_model(path, factor):
    """feats = x × k, one label of their sum; k is 1 but in one small column."""
    k = np.ones(WIDTH, np.float32)
    k[WRONG] = factor
    constants = {"k": k, "w": np.full((WIDTH, 1), 1e-5, np.float32), "t": np.float32(10.0)}
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["feats"]),
        helper.make_node("MatMul", ["feats", "w"], ["z"]),
        helper.make_node("Greater", ["z", "t"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.BOOL, [None, 1])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"harness.features": json.dumps(["feats"])})
    onnx.save_model(model, str(path))
    return str(path)


@pytest.mark.parametrize(
    ("factor", "relation"), [(1.609344, "baseline × 1.609344"), (0.0, "is 0 where")]
)
def test_one_small_wrong_column_is_named_and_located(factor, relation, tmp_path, windows):
    models = [wide_model(tmp_path / f"{n}.onnx", f) for n, f in (("old", 1.0), ("new", factor))]
    rows = np.random.default_rng(7).uniform(0.5, 1.5, (300, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=rows * SCALE)
    result = compare_models(*models, inputs=[tmp_path / "x.npz"], cache_dir=windows)
    text = result.to_text()
    assert result.exit_code == 1
    assert "outputs: 1 of 1 tensors equal; 0 requests differ" in text
    assert "features: 0 of 1 tensors equal (119 of 120 columns); 300 requests differ" in text
    assert f"feats[7]: candidate {'= ' * (factor > 0)}{relation}" in text
    assert "in 100 % of 300 requests" in text
    assert "the graphs part at feats: 256 of 256 rows differ, equal up to x" in text

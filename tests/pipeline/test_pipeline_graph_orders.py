"""Sums that nearly cancel, over permuted inputs: where the graphs part, the report blames no number that is the same."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from harness.core.policies import GraphPolicy
from harness.pipeline.compare import compare_models

WIDTH, ROWS = 6, 200
ORDER = [3, 1, 4, 0, 5, 2]
WEIGHTS = np.array([-40.0, 0.01, 0.31, -0.7, 0.44, 1.2], np.float32)


def model(weights, *, picked=""):
    """Weighs a year and its square, which nearly cancel, beside four numbers; `picked` permutes them first."""
    how = {
        "": [helper.make_node("Identity", ["x"], ["p"])],
        "Gather": [helper.make_node("Gather", ["x", "order"], ["p"], axis=1)],
        "Split": [
            helper.make_node("Split", ["x"], [f"c{ORDER.index(i)}" for i in range(WIDTH)], axis=1),
            helper.make_node("Concat", [f"c{i}" for i in range(WIDTH)], ["p"], axis=1),
        ],
    }
    values = {"W": (weights[ORDER] if picked else weights)[:, None], "b": np.float32([40_000])}
    if picked == "Gather":
        values["order"] = np.array(ORDER)
    graph = helper.make_graph(
        [
            *how[picked],
            helper.make_node("MatMul", ["p", "W"], ["z0"]),
            helper.make_node("Add", ["z0", "b"], ["z"]),
            helper.make_node("Neg", ["z"], ["y"]),
        ],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)


def with_another(index, by):
    weights = WEIGHTS.copy()
    weights[index] *= by
    return weights


@pytest.fixture
def compared(tmp_path, windows):
    def look(*models):
        rng = np.random.default_rng(4)
        x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
        x[:, 0] = rng.integers(1950, 2015, ROWS)
        x[:, 1] = x[:, 0] ** 2
        np.savez(tmp_path / "t.npz", x=x)
        paths = [str(tmp_path / f"{i}.onnx") for i in range(2)]
        for path, one in zip(paths, models, strict=True):
            save_model(one, path)
        return compare_models(
            *paths, inputs=[tmp_path / "t.npz"], cache_dir=windows,
            looked_into=GraphPolicy(requests=64), allow_lower_isolation=True,
        )  # fmt: skip

    return look


def told(found):
    return [f.what for f in found.findings if f.kind.startswith("first_divergence")]


def test_where_the_graphs_are_one_function_they_part_nowhere(compared):
    found = compared(model(WEIGHTS), model(WEIGHTS, picked="Gather"))
    assert (found.exit_code, told(found)) == (0, [])


def test_another_order_that_is_not_proven_is_not_told_as_other_weights(compared):
    found = compared(model(WEIGHTS), model(WEIGHTS, picked="Split"))
    assert found.exit_code == 1
    (said,) = told(found)
    assert "both versions hold the same numbers in another arrangement" in said
    assert "rounding may be all of it" in said
    assert "y is equal in all 64 rows: nothing after it differs" in said
    assert "whole cause" not in said
    assert "-40" not in said


def test_weights_that_changed_places_far_beyond_rounding_are_told_so(compared):
    places = WEIGHTS.copy()
    places[[2, 3]] = places[[3, 2]]
    found = compared(model(WEIGHTS), model(places, picked="Split"))
    assert found.exit_code == 1
    (said,) = told(found)
    assert "both versions hold the same numbers in another arrangement" in said
    assert "more than rounding explains" in said


@pytest.mark.parametrize("picked", ["Gather", "Split"])
def test_another_number_beside_another_order_is_told_as_one(compared, picked):
    found = compared(model(WEIGHTS), model(with_another(3, 1.5), picked=picked))
    assert found.exit_code == 1
    (said,) = told(found)
    assert "this is the whole cause" in said
    assert "weights W of MatMul" in said
    assert "same numbers" not in said

"""Whole gates and comparisons of versions whose outputs have the same values in other shapes."""

import json

import numpy as np
import pytest
from gates import REFACTOR, tiny_traffic

from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate

GRAPH = """
<ir_version: 8, opset_import: ["" : 15]>
boxes (float[N] x) => (float[N] probability, int64[N] label, float[N,A,B] boxes) {{
  doubled = Add(x, x)
  probability = Sigmoid(x)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
  one = Constant<value = int64[1] {{1}}>()
  weights = Constant<value = float[6] {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0}}>()
  column = Unsqueeze(x, one)
  six = Mul(column, weights)
  rows = Shape(x)
  sides = Constant<value = int64[2] {{{sides}}}>()
  most = ReduceMax<keepdims = 1>(x)
  none = Sub(most, most)
  zero = Cast<to = 7>(none)
  computed = Add(sides, zero)
  shape = Concat<axis = 0>(rows, computed)
  boxes = Reshape(six, shape)
}}
"""


@pytest.fixture
def boxes(tmp_path):
    """Writes a model whose output has a shape that no declaration shows."""

    def make(sides):
        import onnx

        model = onnx.parser.parse_model(GRAPH.format(sides=sides))
        onnx.helper.set_model_props(model, {"harness.features": json.dumps(["doubled"])})
        path = tmp_path / f"{sides.replace(', ', '_')}.onnx"
        onnx.save_model(model, str(path))
        return str(path)

    return make


@pytest.fixture
def gated(tmp_path, windows, write_policy, boxes):
    def gate(sides, **changes):
        return run_gate(
            boxes("2, 3"), boxes(sides), traffic=[tiny_traffic(tmp_path / "traffic")],
            policy=write_policy(REFACTOR, **changes), out=tmp_path / "run", cache_dir=windows,
        )  # fmt: skip

    return gate


def test_another_shape_of_an_output_fails_a_refactor(gated):
    record = gated("3, 2").record
    assert (record.decision, record.reason) == (Decision.ROLLBACK, "guardrail_failed")
    assert "the shape (rows, 2, 3) became (rows, 3, 2)" in record.explanation


FEATURES = {"guardrails": REFACTOR["guardrails"][1:], "drop": ["outputs"]}
"""As for a retrain: values of outputs may move."""


def test_another_shape_holds_where_values_of_outputs_may_move(gated):
    record = gated("3, 2", **FEATURES).record
    assert (record.decision, record.reason) == (Decision.HOLD, "output_shape_changed")
    assert "boxes: the shape (rows, 2, 3) became (rows, 3, 2)" in record.explanation


def test_another_shape_that_is_expected_promotes(gated):
    told = {**REFACTOR["guardrails"][0], "expected_changes": ["boxes"]}
    record = gated("3, 2", guardrails=[told, *REFACTOR["guardrails"][1:]]).record
    assert record.decision is Decision.PROMOTE


@pytest.mark.parametrize("sides", ["3, 2", "6, 1"])
def test_a_comparison_diverges_at_the_shape(sides, boxes, tmp_path):
    inputs = tmp_path / "in.npz"
    np.savez(inputs, x=np.linspace(-3, 3, 40, dtype=np.float32))
    result = compare_models(boxes("2, 3"), boxes(sides), inputs=[inputs])
    assert result.exit_code == 1
    text = result.to_text()
    assert f"boxes: the shape (rows, 2, 3) became (rows, {sides})" in text
    assert "agree all the same" not in text
    assert "graph optimisation" not in text

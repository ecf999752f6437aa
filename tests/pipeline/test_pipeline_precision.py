"""float64 is held to its own digits, unless float32 arithmetic is before it."""

import json

import numpy as np
import pytest

from harness.core.policies import GraphPolicy
from harness.pipeline.compare import compare_models

TEXT = """
<ir_version: 8, opset_import: ["" : 15]>
g ({kind}[N,3] x) => (double[N] y) {{
{lines}
  y = Squeeze(s, axis)
}}
"""
AXIS = "  axis = Constant<value = int64[1] {1}>()"
DOUBLE = ["s = ReduceSum(x, axis)"]
SECOND = ["q = ReduceSum(x, axis)", "c = Constant<value = double {1.0}>()", "s = Add(q, c)"]
SINGLE = ["q = ReduceSum(x, axis)", "s = Cast<to = 11>(q)"]
TURNED = [
    "a, b, c = Split<axis = 1>(x)", "d = Add(c, b)", "q = Add(d, a)", "s = Cast<to = 11>(q)",
]  # fmt: skip


@pytest.fixture
def compared(tmp_path):
    def compare(x, old, new, *, features=()):
        import onnx
        from onnx import parser

        kind = "double" if x.dtype == np.float64 else "float"
        for name, lines in (("old", old), ("new", new)):
            text = TEXT.format(kind=kind, lines="\n".join([AXIS, *lines]))
            model = parser.parse_model(text)
            onnx.helper.set_model_props(model, {"harness.features": json.dumps(features)})
            onnx.save_model(model, str(tmp_path / f"{name}.onnx"))
        np.savez(tmp_path / "inputs.npz", x=x)
        return compare_models(
            str(tmp_path / "old.onnx"), str(tmp_path / "new.onnx"),
            inputs=[tmp_path / "inputs.npz"], looked_into=GraphPolicy(requests=100),
        )  # fmt: skip

    return compare


RNG = np.random.default_rng(4)
TIMES = np.stack([1.6e9 + RNG.uniform(0, 1e7, 300), *RNG.uniform(0, 9, (2, 300))], axis=1)


def test_a_second_in_an_output_of_float64_is_a_divergence_named_as_a_shift(compared):
    result = compared(TIMES, DOUBLE, SECOND)
    assert result.exit_code == 1
    (found,) = [f for f in result.findings if f.kind == "output_changed"]
    assert found.what == "y: candidate = baseline + 1, in 100 % of 300 requests"
    (part,) = [f for f in result.findings if f.kind.startswith("first_divergence")]
    assert "equal up to s; candidate = baseline + 1" in part.what
    assert "Add → s is new" in part.what


def test_float32_sums_in_another_order_are_no_divergence_though_cast_to_float64(compared):
    x = RNG.normal(size=(300, 3)).astype(np.float32)
    differ = np.float32(x[:, 0] + x[:, 1]) + x[:, 2] != np.float32(x[:, 2] + x[:, 1]) + x[:, 0]
    assert differ.any()
    result = compared(x, SINGLE, TURNED, features=["s"])
    assert result.exit_code == 0
    assert result.graph.report.divergences == ()
    assert [f["verdict"] for f in result.intermediates["features"]] == ["equal"]


def test_digits_that_only_the_candidate_loses_are_a_divergence(compared):
    lossy = ["f = Cast<to = 1>(x)", "q = ReduceSum(f, axis)", "s = Cast<to = 11>(q)"]
    assert compared(TIMES, DOUBLE, lossy).exit_code == 1
    assert compared(TIMES, lossy, DOUBLE).exit_code == 0

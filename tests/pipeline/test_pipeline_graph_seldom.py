"""Graphs that take one request at a time, and branches that no request takes."""

import numpy as np
import pytest
from onnx import parser, save_model

from harness.pipeline.compare import compare_models
from harness.pipeline.renames import mapping_from_options

FIXED = """
<ir_version: 8, opset_import: ["" : 15]>
fixed (float[1, 4] x) => (float[1, 4] y) {{
  k = Constant<value = float {{{k}}}>()
  scaled = Mul(x, k)
  y = Sigmoid(scaled)
}}
"""
RESHAPED = """
<ir_version: 8, opset_import: ["" : 15]>
reshaped (float[N, 4] x) => (float[N, 4] y) {{
  k = Constant<value = float {{{k}}}>()
  one = Constant<value = int64[2] {{1, 4}}>()
  row = Reshape(x, one)
  scaled = Mul(row, k)
  y = Sigmoid(scaled)
}}
"""
BRANCHES = """
<ir_version: 8, opset_import: ["" : 15]>
branches (float[N, 4] x) => (float[N, 4] y) {
  big = Constant<value = float {1000}>()
  most = ReduceMax<keepdims = 0>(x)
  any = Greater(most, big)
  y = If(any) <
    then_branch = c () => (float[N, 4] a) { s = Sqrt(x) t = Exp(s) a = Neg(t) },
    else_branch = d () => (float[N, 4] b) { b = Neg(x) }
  >
}
"""


@pytest.fixture
def compared(tmp_path):
    def look(*texts):
        for i, text in enumerate(texts):
            save_model(parser.parse_model(text), str(tmp_path / f"{i}.onnx"))
        x = np.random.default_rng(1).normal(size=(96, 4)).astype(np.float32)
        np.savez(tmp_path / "t.npz", x=x)
        return compare_models(
            *(str(tmp_path / f"{i}.onnx") for i in range(2)), inputs=[tmp_path / "t.npz"],
            cache_dir=tmp_path / "cache", allow_lower_isolation=True,
        )  # fmt: skip

    return look


@pytest.mark.parametrize("text", [FIXED, RESHAPED])
def test_graphs_of_a_fixed_batch_are_looked_into_request_by_request(compared, text):
    report = compared(text.format(k=1), text.format(k=2)).graph.report
    assert report is not None
    assert report.requests == 96
    assert [d.divergence.baseline for d in report.divergences] == ["scaled"]


def test_a_branch_that_no_request_takes_is_said_not_to_be_compared(compared):
    result = compared(BRANCHES, BRANCHES)
    assert result.exit_code == 0
    for role in ("baseline", "candidate"):
        said = f"{role} If → y: its then branch (nodes: 3): no traced request took it"
        assert said in result.not_compared
    assert "its then branch (nodes: 3)" in result.to_text()


def test_names_that_differ_are_taken_from_a_file(tmp_path):
    path = tmp_path / "names.yaml"
    path.write_text("mapping:\n  inputs: {age: age_years}\n  outputs: {p: q}\n  narrower: [age]\n")
    found = mapping_from_options([str(path), "tensors:a=b", "narrower:x"])
    assert found.inputs == (("age", "age_years"),)
    assert (found.outputs, found.tensors) == ((("p", "q"),), (("a", "b"),))
    assert found.narrower == ("age", "x")

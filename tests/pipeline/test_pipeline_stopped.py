"""A version that stops answering because both fail the same requests: no divergence, and no pass."""

import numpy as np
import pytest
from gates import REFACTOR, tiny_traffic

from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate

DIVIDED = """
<ir_version: 8, opset_import: ["" : 15]>
divided (float[N] x) => (float[N] probability, int64[N] label) {
  minus = Constant<value = int64 {-1}>()
  whole = Cast<to = 7>(x)
  label = Div(whole, minus)
  probability = Sigmoid(x)
}
"""
pytestmark = pytest.mark.long
FATAL = 1e30
"""No whole number holds it; its cast, divided by −1, ends the process by SIGFPE."""


@pytest.fixture
def divided(tmp_path):
    import onnx
    from onnx import parser

    path = tmp_path / "divided.onnx"
    onnx.save_model(parser.parse_model(DIVIDED), str(path))
    return str(path)


def values(n, fatal):
    """n numbers; the last `fatal` of them end the process."""
    x = np.linspace(-2, 2, n).astype(np.float32)
    x[n - fatal :] = FATAL
    return x


def test_a_model_that_stops_at_its_cap_does_not_differ_from_itself(divided, tmp_path):
    # The baseline has run some of them for the floor: it reaches its cap first, and alone.
    np.savez(tmp_path / "inputs.npz", x=values(14, fatal=13))
    result = compare_models(divided, divided, inputs=[tmp_path / "inputs.npz"])
    said = result.to_text()
    assert result.exit_code == 2
    assert said.startswith("NOT COMPARABLE")
    assert "baseline stopped answering: 25 requests ended its process, each by itself" in said
    left = 14 - result.compared - 12
    assert "not compared: 12 requests that both versions reject" in said
    assert f"not compared: {left} request" in said


def test_a_gate_holds_when_the_baseline_stops_at_its_cap(divided, tmp_path, windows, write_policy):
    traffic = tiny_traffic(tmp_path / "traffic", values=values(600, fatal=6))
    result = run_gate(
        divided, divided, traffic=[traffic], policy=write_policy(REFACTOR), out=tmp_path / "run",
        cache_dir=windows,
    )  # fmt: skip
    assert result.decision is Decision.HOLD
    assert result.record.reason == "leg_ended_early"

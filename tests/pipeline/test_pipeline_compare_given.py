"""What was given and could not be compared is counted, and beyond the gate's share it is no EQUAL."""

import numpy as np
import onnx
import pytest

from harness.core.policies import GraphPolicy
from harness.core.traffic import Exchange
from harness.pipeline.compare import compare_models
from harness.store.traffic import TrafficWriter
from harness.wire import MODEL_INFER
from harness.wire.messages import request_bytes

MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,2] x) => (float[N,2] y) {{
  k = Constant<value = float {{{k}}}>()
  y = Mul(x, k)
}}
"""


@pytest.fixture
def compared(tmp_path, windows):
    """Compares x with k x on recorded requests, of which some cannot be read."""

    def compare(k, good, bad):
        paths = []
        for name, factor in (("old", 1.0), ("new", k)):
            paths.append(str(tmp_path / f"{name}.onnx"))
            onnx.save(onnx.parser.parse_model(MODEL.format(k=factor)), paths[-1])
        x = np.random.default_rng(3).normal(size=(good, 2)).astype(np.float32)
        with TrafficWriter(tmp_path / "traffic") as writer:
            requests = [request_bytes("m", {"x": x[i : i + 1]}, f"r{i}") for i in range(good)]
            writer.write(
                Exchange(
                    ts_ns=1 + i, latency_ns=1, code=0, method=MODEL_INFER, model="m", version="1",
                    request_id=f"r{i}", request=given, response=b"",
                )
                for i, given in enumerate([*requests, *[b"\xff"] * bad])
            )  # fmt: skip
        return compare_models(
            *paths, inputs=[tmp_path / "traffic"], cache_dir=windows,
            looked_into=GraphPolicy(requests=0),
        )  # fmt: skip

    return compare


def test_most_requests_lost_is_not_comparable_and_counted(compared):
    result = compared(1.0, 5, 95)
    assert (result.exit_code, result.compared, result.available) == (2, 5, 100)
    text = result.to_text()
    assert text.startswith("NOT COMPARABLE")
    assert "5 of 5 requests compared (100 available)" in text
    for said in (text, result.to_json(), result.to_html()):
        assert "95 requests left out: not a ModelInferRequest" in said


def test_as_few_as_the_gate_bears_are_told_beside_equal(compared):
    result = compared(1.0, 39, 1)
    assert (result.exit_code, result.available) == (0, 40)
    assert "1 of 40 requests could not be sealed (1: not a ModelInferRequest)" in result.to_text()
    assert "not compared: 1 request left out: not a ModelInferRequest" in result.to_text()


def test_a_difference_is_one_however_many_requests_are_lost(compared):
    assert compared(1.01, 5, 95).exit_code == 1

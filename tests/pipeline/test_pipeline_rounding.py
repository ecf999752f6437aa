"""What a graph says of a tensor's arithmetic reaches the verdict: through the sandbox, the floor, the graph pass."""

import numpy as np
import pytest
from onnx import parser, save_model

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


def beside_half(step):
    """An exact column beside one that was computed in float16."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 15]>
    beside (float[N,2] x) => (float[N,2] y) {{
      k = Constant<value = float {{{step}}}>()
      ids, e = Split<axis = 1>(x)
      h = Cast<to = 10>(e)
      t = Mul(h, h)
      f = Cast<to = 1>(t)
      moved = Add(ids, k)
      y = Concat<axis = 1>(moved, f)
    }}
    """
    return parser.parse_model(text)


def test_an_exact_column_beside_float16_is_held_to_what_it_is_itself(compared):
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.integers(80, 2600, 3000), rng.normal(size=3000)]).astype(np.float32)
    found = compared(x, beside_half(0), beside_half(4))
    assert found.exit_code == 1
    assert found.intermediates["outputs"][0]["mismatched_requests"] == 3000

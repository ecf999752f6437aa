"""`harness compare --sandbox`: what the versions' processes may take."""

import json

import numpy as np
import onnx
import pytest
from gates import PLAIN

HEAVY = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N] x) => (float[N] y) {
  many = Constant<value = int64[1] {40000000}>()
  zeros = ConstantOfShape(many)
  most = ReduceMax<keepdims = 0>(zeros)
  y = Add(x, most)
}
"""
SLOW = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N] x) => (float[N] y) {{
  shape = Constant<value = int64[2] {{1600, 1600}}>()
  t0 = ConstantOfShape(shape)
  {folded}
  most = ReduceMax<keepdims = 0>(t8)
  y = Add(x, most)
}}
"""


@pytest.fixture
def given(tmp_path):
    onnx.save(onnx.parser.parse_model(HEAVY), str(tmp_path / "heavy.onnx"))
    np.savez(tmp_path / "x.npz", x=np.arange(3, dtype=np.float32))
    heavy = tmp_path / "heavy.onnx"
    return [*PLAIN, heavy, heavy, "-i", tmp_path / "x.npz", "-q", "--graph-requests", "0"]


def test_what_needs_more_memory_than_is_given_is_not_said_to_be_rejected(given, harness, tmp_path):
    ran = harness(*given, "--sandbox", "memory=256MiB")
    assert ran.code == 2
    assert "neither version answers 3 requests, and not because both runtimes refuse" in ran.out
    assert "--sandbox, as in memory=4GiB" in ran.out
    assert "reject" not in ran.out
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\npreset: refactor\nsandbox: {memory: 256MiB, load_deadline: 20s}\n"
    )
    ran = harness(*given, "--sandbox", policy, "--sandbox", "memory=1GiB", "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["compared"]) == (0, 3)
    assert (told["limits"]["memory_bytes"], told["limits"]["load_deadline_s"]) == (1 << 30, 20.0)


def test_a_model_that_loads_in_more_memory_only_has_that_as_its_remedy(given, harness, tmp_path):
    held = onnx.helper.make_tensor(
        "held", onnx.TensorProto.FLOAT, [40_000_000], bytes(160_000_000), raw=True
    )
    model = onnx.load(str(tmp_path / "heavy.onnx"))
    model.graph.initializer.append(held)
    model.graph.node[1].CopyFrom(onnx.helper.make_node("Neg", ["held"], ["zeros"]))
    onnx.save(model, str(tmp_path / "heavy.onnx"))
    ran = harness(*given, "--sandbox", "memory=256MiB")
    assert ran.code == 2
    assert "--sandbox memory=8GiB" in ran.err


def test_a_model_that_does_not_load_in_time_has_more_time_as_its_remedy(given, harness, tmp_path):
    # Folded while it loads: a second of the processor, however late anyone asks.
    text = SLOW.format(folded="".join(f"t{i + 1} = MatMul(t{i}, t0)\n" for i in range(8)))
    onnx.save(onnx.parser.parse_model(text), str(tmp_path / "heavy.onnx"))
    ran = harness(*given, "--sandbox", "load_deadline=50ms")
    assert ran.code == 2
    assert "within 0.05 s, its sandbox." in ran.err
    assert "_deadline=300s, say" in ran.err
    assert "this onnxruntime" not in ran.err


def test_wrong_limits_and_a_file_of_names_without_any_are_refused(given, harness, tmp_path):
    (tmp_path / "names.yaml").write_text("{}")
    (tmp_path / "changes.yaml").write_text("mapping: {}\nexpected_changes: [x]")
    for options, said in (
        (["--sandbox", "memroy=1GiB"], "Did you mean 'memory'?"),
        (["--map", tmp_path / "names.yaml"], "mapping: is missing"),
        (["--map", tmp_path / "changes.yaml"], "expected_changes: belongs to a gate's policy"),
    ):
        ran = harness(*given, *options)
        assert ran.code == 2
        assert said in ran.err

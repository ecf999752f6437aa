"""Outputs that only the candidate has: told wherever a comparison or a gate is read."""

import json

import onnx
import pytest
from gates import REFACTOR, tiny_model, tiny_traffic

from harness.core.policies import GraphPolicy
from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate

SAID = "output margin: only the candidate has it"
IN_THE_PAGE = "Outputs that only the candidate has"


@pytest.fixture
def versions(tmp_path):
    old, new = (str(tiny_model(tmp_path / f"{name}.onnx")) for name in ("old", "new"))
    model = onnx.load(new)
    model.graph.node.append(onnx.helper.make_node("Neg", ["x"], ["margin"]))
    info = onnx.helper.make_tensor_value_info("margin", onnx.TensorProto.FLOAT, ["N"])
    model.graph.output.append(info)
    onnx.save(model, new)
    return old, new


def test_a_comparison_tells_of_an_output_that_is_new(versions, tmp_path, windows):
    result = compare_models(
        *versions,
        inputs=[tiny_traffic(tmp_path / "traffic")],
        cache_dir=windows,
        looked_into=GraphPolicy(requests=0),
    )
    assert result.exit_code == 0
    assert SAID in result.to_text()
    found = json.loads(result.to_json())
    assert SAID in found["not_compared"]
    assert found["intermediates"]["extra_outputs"] == ["margin"]
    page = result.to_html()
    assert SAID in page
    assert IN_THE_PAGE in page


def test_a_comparison_the_other_way_round_is_refused(versions, harness, tmp_path):
    ran = harness("compare", *versions[::-1], "-i", tiny_traffic(tmp_path / "traffic"))
    assert ran.code == 2
    assert "margin" in ran.err


def test_a_gate_tells_of_an_output_that_is_new(versions, write_policy, tmp_path, windows):
    out = tmp_path / "run"
    record = run_gate(
        *versions, traffic=[tiny_traffic(tmp_path / "traffic")], policy=write_policy(REFACTOR),
        out=out, cache_dir=windows,
    ).record  # fmt: skip
    assert record.decision is Decision.PROMOTE
    assert SAID in record.not_compared
    assert json.loads((out / "intermediates.json").read_text())["extra_outputs"] == ["margin"]
    page = (out / "report.html").read_text()
    assert SAID in page
    assert IN_THE_PAGE in page

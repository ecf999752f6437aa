"""A locale that this machine lacks: exit code 2 and what to install, whoever asks for it; never ROLLBACK or HOLD."""

import onnx
import pytest
from gates import REFACTOR, tiny_model, tiny_traffic

LOCALE = "xx_XX.UTF-8"


@pytest.fixture
def folder(tmp_path):
    """Two versions that this machine runs, one that it lacks a locale for, and traffic."""
    for name in ("old", "new", "lacking"):
        tiny_model(tmp_path / f"{name}.onnx")
    path = tmp_path / "lacking.onnx"
    model = onnx.load(str(path))
    node, text = onnx.helper.make_node, onnx.TensorProto.STRING
    model.graph.node.extend([
        node("Constant", [], ["words"], value_strings=["Late RAIN"]),
        node("StringNormalizer", ["words"], ["small"], case_change_action="LOWER", locale=LOCALE),
    ])  # fmt: skip
    model.graph.output.append(onnx.helper.make_tensor_value_info("small", text, [None]))
    path.write_bytes(model.SerializeToString())
    tiny_traffic(tmp_path / "traffic")
    return tmp_path


def assert_lacking(ran):
    assert (ran.code, ran.out) == (2, ""), ran.err
    first, remedy = ran.err.strip().split("\n", 1)
    assert first.endswith(f"asks for the locale '{LOCALE}', which cannot be had on this machine.")
    assert "lacking.onnx: asks" in first
    assert f"localedef -i xx_XX -f UTF-8 {LOCALE}" in remedy
    assert '`locale` "C"' in remedy


def test_compare_and_golden_rows(harness, folder):
    old, lacking, traffic = folder / "old.onnx", folder / "lacking.onnx", folder / "traffic"
    assert_lacking(harness("compare", old, lacking, "-i", traffic, "-q"))
    assert_lacking(harness("compare", lacking, old, "-i", traffic, "-q"))
    assert_lacking(harness("golden", "make", lacking, "-i", traffic, "-q"))
    assert not lacking.with_suffix(".golden.npz").exists()


@pytest.mark.parametrize("role", ["baseline", "candidate", "anchor"])
def test_a_gate(harness, folder, write_policy, role):
    given = {"baseline": "old", "candidate": "new", "anchor": "old"} | {role: "lacking"}
    baseline, candidate, anchor = (folder / f"{name}.onnx" for name in given.values())
    drift = {"name": "drift", "metric": "score_shift", "margin": 0.1, "against": "anchor"}
    rails = [*REFACTOR["guardrails"], drift]
    policy = write_policy({**REFACTOR, "guardrails": rails}, anchor=str(anchor))
    out = folder / "run"
    ran = harness(
        "gate", baseline, candidate, "-t", folder / "traffic", "-p", policy, "-o", out, "-q"
    )
    assert_lacking(ran)
    assert not out.exists()

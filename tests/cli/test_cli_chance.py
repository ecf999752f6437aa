"""What a gate says of a model with a random operator."""

import json

from gates import REFACTOR, tiny_model, tiny_traffic


def test_a_gate_names_the_random_operator_and_promotes_nothing(harness, tmp_path, write_policy):
    path = tiny_model(tmp_path / "m.onnx", raised="RandomNormalLike <seed = 5.0> ({x})")
    ran = harness(
        "gate", path, path, "-t", tiny_traffic(tmp_path / "traffic"), "-q",
        "-p", write_policy(REFACTOR), "-o", tmp_path / "run",
    )  # fmt: skip
    told = json.loads((tmp_path / "run" / "findings.json").read_text())
    assert ran.code == 3
    assert "RandomNormalLike → raised" in json.dumps(told, ensure_ascii=False)

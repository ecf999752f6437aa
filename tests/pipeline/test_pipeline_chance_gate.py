"""A gate on a version with a random output: that output is not compared, and its noise excuses nothing."""

import json

import pytest
from gates import REFACTOR, tiny_traffic

from harness.core.verdicts import Decision
from harness.pipeline.gate import run_gate

NOISY = """
<ir_version: 8, opset_import: ["" : 15]>
noisy (float[N] x) => (float[N] probability, int64[N] label, float[N] draw) {{
  scaled = {scaled}
  probability = Sigmoid(scaled)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
  noise = RandomNormalLike{seed}(x)
  draw = Add(noise, {drawn})
}}
"""


@pytest.fixture
def made(tmp_path):
    def make(name, *, scaled="Identity(x)", seed="", drawn="x", features=("scaled",)):
        import onnx
        from onnx import parser

        model = parser.parse_model(NOISY.format(scaled=scaled, seed=seed, drawn=drawn))
        onnx.helper.set_model_props(model, {"harness.features": json.dumps(features)})
        path = tmp_path / f"{name}.onnx"
        onnx.save_model(model, str(path))
        return str(path)

    return make


@pytest.fixture
def gated(tmp_path, windows, write_policy):
    def gate(old, new, expected=(), features=()):
        guardrails = [{**g} for g in REFACTOR["guardrails"]]
        guardrails[0]["expected_changes"] = list(expected)
        guardrails[1]["expected_changes"] = list(features)
        return run_gate(
            old, new, traffic=[tiny_traffic(tmp_path / "traffic")], out=tmp_path / "run",
            policy=write_policy(REFACTOR, guardrails=guardrails), cache_dir=windows,
        )  # fmt: skip

    return gate


@pytest.mark.parametrize("seed", ["", "<seed = 3.0>"])
def test_a_random_output_is_not_compared_and_holds(seed, made, gated):
    path = made("m", seed=seed)
    result = gated(path, path)
    assert (result.decision, result.record.reason) == (Decision.HOLD, "outputs_not_compared")
    said = "output draw: random: computed from the baseline's RandomNormalLike → noise"
    assert said in result.record.not_compared
    (found,) = [f for f in result.findings if f.kind == "nondeterministic"]
    assert found.where == "draw"
    assert not [f for f in result.findings if f.kind in ("observer_effect", "output_changed")]


def test_a_random_output_that_may_change_leaves_the_others_to_be_proven(made, gated):
    path = made("m")
    assert gated(path, path, expected=["draw"]).decision is Decision.PROMOTE


def test_the_noise_of_a_random_output_does_not_excuse_another(made, gated):
    result = gated(made("a"), made("b", scaled="Abs(x)"), expected=["draw"], features=["scaled"])
    assert result.decision is Decision.ROLLBACK
    changed = {f.where for f in result.findings if f.kind == "output_changed"}
    assert changed == {"probability", "label"}


def test_a_random_feature_is_not_compared_and_holds(made, gated):
    path = made("m", features=("scaled", "noise"))
    result = gated(path, path, expected=["draw"])
    assert (result.decision, result.record.reason) == (Decision.HOLD, "features_not_compared")
    assert any(
        s == "feature noise: random: computed from the baseline's RandomNormalLike → noise"
        for s in result.record.not_compared
    )

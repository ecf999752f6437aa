"""Whole gates whose parity cannot be proven, or seems to hold because nothing was looked at."""

import json

import numpy as np
import pytest
from gates import REFACTOR, tiny_traffic

from harness.core.findings import Severity
from harness.core.verdicts import Decision
from harness.pipeline.gate import run_gate

GRAPH = """
<ir_version: 8, opset_import: ["" : 15]>
two (float[N] x) => (float[N] probability, int64[N] label) {{
  {doubled} = {double}
  raised = {raised}
  probability = Sigmoid({scored})
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}}
"""


@pytest.fixture
def made(tmp_path):
    """Writes a model with the features doubled and raised."""

    def make(
        name, *, doubled="doubled", double="Add(x, x)", raised="Identity(x)", scored="raised",
        features=("doubled", "raised"),
    ):  # fmt: skip
        import onnx
        from onnx import parser

        text = GRAPH.format(doubled=doubled, double=double, raised=raised, scored=scored)
        model = parser.parse_model(text)
        onnx.helper.set_model_props(model, {"harness.features": json.dumps(features)})
        path = tmp_path / f"{name}.onnx"
        onnx.save_model(model, str(path))
        return path

    return make


@pytest.fixture
def gated(tmp_path, windows, write_policy):
    """Gates two models on made-up traffic."""

    def gate(old, new, policy=REFACTOR, *, values=None, **changes):
        return run_gate(
            str(old), str(new), traffic=[tiny_traffic(tmp_path / "traffic", values=values)],
            policy=write_policy(policy, **changes), out=tmp_path / "run", cache_dir=windows,
        )  # fmt: skip

    return gate


LACKING = [{"features": ("raised",)}, {"doubled": "twice"}]
"""Not declared; declared, and its tensor has another name."""


@pytest.mark.parametrize("lacking", LACKING)
def test_a_feature_of_the_baseline_that_is_not_compared_holds(lacking, made, gated):
    result = gated(made("old"), made("new", double="Mul(x, x)", **lacking))
    record = result.record
    assert (record.decision, record.reason) == (Decision.HOLD, "features_not_compared")
    assert record.binding_guardrail == "features"
    assert "'doubled'" in record.explanation
    assert "expected_changes" in record.next
    assert result.exit_code == 3


@pytest.mark.parametrize("lacking", LACKING)
def test_harm_in_another_feature_rolls_back_all_the_same(lacking, made, gated):
    record = gated(made("old"), made("new", raised="Neg(x)", **lacking)).record
    assert (record.decision, record.reason) == (Decision.ROLLBACK, "guardrail_failed")


@pytest.mark.parametrize("lacking", LACKING)
def test_an_expected_change_need_not_be_compared(lacking, made, gated):
    guardrails = [dict(g) for g in REFACTOR["guardrails"]]
    guardrails[1]["expected_changes"] = ["doubled"]
    record = gated(made("old"), made("new", **lacking), guardrails=guardrails).record
    assert record.decision is Decision.PROMOTE


def test_features_that_may_all_change_prove_nothing(made, gated):
    guardrails = [dict(g) for g in REFACTOR["guardrails"]]
    guardrails[1]["expected_changes"] = ["doubled", "raised"]
    record = gated(made("old"), made("new"), guardrails=guardrails).record
    assert (record.decision, record.binding_guardrail) == (Decision.HOLD, "features")
    assert "write `drop: [features]`" in record.next


def test_a_mapped_tensor_is_compared(made, gated):
    new = made("new", doubled="twice", features=("twice", "raised"))
    record = gated(made("old"), new, mapping={"tensors": {"doubled": "twice"}}).record
    assert record.decision is Decision.PROMOTE


@pytest.mark.parametrize(
    ("double", "decision"), [("Add(x, x)", Decision.PROMOTE), ("Mul(x, x)", Decision.ROLLBACK)]
)
def test_a_mapped_tensor_that_the_candidate_does_not_declare_is_compared(
    double, decision, made, gated
):
    new = made("new", doubled="twice", double=double, features=("raised",))
    record = gated(made("old"), new, mapping={"tensors": {"doubled": "twice"}}).record
    assert record.decision is decision


def test_a_policy_without_features_does_not_ask_for_them(made, gated):
    policy = {**REFACTOR, "guardrails": REFACTOR["guardrails"][:1], "drop": ["features"]}
    assert gated(made("old"), made("new", features=()), policy).record.decision is Decision.PROMOTE


def test_a_feature_that_only_the_candidate_declares_is_a_warning(made, gated):
    result = gated(made("old", features=("raised",)), made("new"))
    assert result.record.decision is Decision.PROMOTE
    (found,) = [f for f in result.findings if f.kind == "features_not_compared"]
    assert (found.where, found.severity) == ("doubled", Severity.WARNING)


NOISE = "RandomUniformLike<low = -{0}, high = {0}>(x)"


def test_a_noisy_score_does_not_excuse_another_one(made, gated):
    # Above one half on both sides: the label, which is compared exactly, always agrees.
    old = made("old", raised="RandomUniformLike<low = 0.1, high = 2.0>(x)", features=("doubled",))
    record = gated(old, made("new", raised="Abs(x)", features=("doubled",))).record
    assert (record.decision, record.reason) == (Decision.HOLD, "outputs_not_compared")
    assert record.binding_guardrail == "outputs"


def test_noise_that_swallows_the_scale_holds_though_few_requests_show_it(made, gated):
    # The noise is there where x is above 2: in 3 of 600 requests, fewer than the margin tolerates.
    values = np.linspace(-1, 1, 600)
    values[:3] = 3.0
    noise = NOISE.format(1.0)
    raised = f"Identity(x)\n  noise = {noise}\n  two = Constant<value = float {{2.0}}>()"
    noisy = "over = Sub(x, two)\n  far = Relu(over)\n  odd = Mul(far, noise)\n  loud = Add(x, odd)"
    old = made("old", raised=f"{raised}\n  {noisy}", scored="loud", features=("doubled",))
    record = gated(old, made("new", features=("doubled",)), values=values).record
    assert (record.decision, record.reason) == (Decision.HOLD, "outputs_not_compared")
    assert record.binding_guardrail == "outputs"


SCORED = {
    **REFACTOR,
    "drop": ["outputs"],
    "guardrails": [
        REFACTOR["guardrails"][1],
        {"name": "score", "metric": "score_shift", "margin": 0.1, "direction": "both"},
        {"name": "rate", "metric": "decision_rate_shift", "margin": 0.9, "direction": "both"},
    ],
}


def test_small_noise_of_a_score_is_not_that_of_its_label(made, gated):
    # The label is a coin (noise around one half), the score hardly moves.
    old = made("old", raised=NOISE.format(0.01), features=("doubled",))
    assert gated(old, old, SCORED).record.reason == "all_guardrails_pass"


def test_changed_decisions_are_the_noise_of_a_decision_guardrail(made, gated):
    old = made("old", raised=NOISE.format(0.01), features=("doubled",))
    guardrails = [*SCORED["guardrails"][:2], {**SCORED["guardrails"][2], "margin": 0.3}]
    record = gated(old, old, SCORED, guardrails=guardrails).record
    assert record.reason == "floor_above_margin"
    assert record.binding_guardrail == "rate"
    assert "'score'" not in record.explanation


def test_one_outlier_does_not_excuse_the_other_requests(made, gated):
    values = np.random.default_rng(2).uniform(0.1, 9, 600)
    values[3] = 1e10
    record = gated(made("old"), made("new", double="Sum(x, x, x)"), values=values).record
    assert (record.decision, record.reason) == (Decision.ROLLBACK, "guardrail_failed")
    assert record.binding_guardrail == "features"

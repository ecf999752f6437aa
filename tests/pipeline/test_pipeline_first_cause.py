"""What a rollback names as its first cause: what lies behind the outputs, not what they do."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from gates import tiny_traffic

from harness.core.findings import Finding, Severity
from harness.core.verdicts import Decision, DecisionRecord, Verdict
from harness.decide.policy import policy_from_yaml
from harness.pipeline import gate_graph
from harness.pipeline.first_cause import with_first_cause
from harness.pipeline.gate import run_gate

POLICY = """
version: 1
preset: refactor
sandbox: {require: S0}
windows: {newest: {days: 3650}, min_requests: 100}
drop: [outputs, features]
guardrails:
  - {name: same, metric: parity_mismatch, scope: outputs, margin: 0.05}
"""
FILLED = """
<ir_version: 8, opset_import: ["" : 15, "ai.onnx.ml" : 3]>
m (float[N] x) => (float[N] y) {{
  c = Constant<value = int64[2] {{-1, 1}}>()
  r = Reshape(x, c)
  v = ai.onnx.ml.Imputer<imputed_value_floats = [{fill}], replaced_value_float = 0.5>(r)
  w = Constant<value = float {{2.0}}>()
  f = Constant<value = int64[1] {{-1}}>()
  s = Sigmoid(v)
  t = Mul(s, w)
  y = Reshape(t, f)
}}
"""


BESIDE = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] v, float[N] y) <float k = {{{k}}}, float c = {{{c}}}> {{
  v = Mul(x, k)
  f = Sub(x, k)
  h = Tanh(x)
  g = Mul(h, c)
  y = Abs(g)
}}
"""


@pytest.fixture
def rolled_back(tmp_path):
    """Gates a version against another; what is said after "First cause found: "."""

    def run(old, new, values, *, policy=POLICY, **declared):
        for name, text in (("old", old), ("new", new)):
            model = onnx.parser.parse_model(text)
            held = {f"harness.{key}": json.dumps(names) for key, names in declared.items()}
            onnx.helper.set_model_props(model, held)
            onnx.save(model, tmp_path / f"{name}.onnx")
        tiny_traffic(tmp_path / "traffic", values=values)
        (tmp_path / "policy.yaml").write_text(policy)
        result = run_gate(
            str(tmp_path / "old.onnx"), str(tmp_path / "new.onnx"), traffic=[tmp_path / "traffic"],
            policy=tmp_path / "policy.yaml", out=tmp_path / "run", cache_dir=tmp_path / "cache",
        )  # fmt: skip
        assert result.decision is Decision.ROLLBACK
        return result.record.explanation.partition("First cause found: ")[2]

    return run


def test_a_rollback_names_the_fill_that_was_lost_and_no_output(rolled_back, tmp_path):
    values = np.where(np.arange(200) % 3, np.linspace(-3, 3, 200), 0.5)
    old, new = (FILLED.format(fill=fill) for fill in (1.5, 0.0))
    assert rolled_back(old, new, values, fitted=["v"]) == (
        "v: candidate is 0 wherever the baseline is 1.5; "
        "weights imputed_value_floats of ai.onnx.ml.Imputer → v: [1.5] → [0]; "
        "with the baseline's values fed in there, y is equal."
    )
    assert "the whole cause" in (tmp_path / "run" / "summary.md").read_text()


def test_a_rollback_names_neither_what_may_change_nor_what_leads_to_no_output(rolled_back):
    policy = POLICY.replace("margin: 0.05", "margin: 0.05, expected_changes: [v]")
    old, new = BESIDE.format(k=2.0, c=3.0), BESIDE.format(k=2.2, c=3.3)
    said = rolled_back(old, new, np.linspace(-3, 3, 200), policy=policy, features=["f"])
    assert said == (
        "g: candidate = baseline × 1.1; constant c of Mul → g: float[] [3] → float[] [3.3]; "
        "with the baseline's values fed in there, y is equal."
    )


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        ("f", "f: candidate = baseline − 0.2, in 100 % of 200 requests."),
        ("g", "v and g: candidate = baseline × 1.1; constant k of Mul → v: "),
    ],
)
def test_a_rollback_for_a_feature_names_what_is_behind_it(rolled_back, feature, expected):
    """Not what is behind outputs that may differ."""
    held = "  - {name: feat, metric: parity_mismatch, scope: features, margin: 0.05}\n"
    policy = POLICY.replace("margin: 0.05", "margin: 0.05, gating: false") + held
    old, new = BESIDE.format(k=2.0, c=3.0), BESIDE.format(k=2.2, c=3.3)
    said = rolled_back(old, new, np.linspace(-3, 3, 200), policy=policy, features=[feature])
    assert said.startswith(expected)


BOTH = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] y) <float k = {{{k}}}, float c = {{{c}}}> {{
  h = Sub(x, k)
  t = Tanh(x)
  g = Mul(t, c)
  f = Mul(g, h)
  y = Abs(g)
}}
"""


def test_a_feature_that_has_another_cause_too_is_not_put_down_to_the_outputs_cause(rolled_back):
    held = "  - {name: feat, metric: parity_mismatch, scope: features, margin: 0.05}\n"
    policy = POLICY.replace("margin: 0.05", "margin: 0.05, gating: false") + held
    old, new = BOTH.format(k=2.0, c=3.0), BOTH.format(k=4.0, c=3.3)
    said = rolled_back(old, new, np.linspace(-3, 3, 200), policy=policy, features=["f"])
    assert said.startswith("f: ")


SCORED = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] p, float[N] y) <float k = {{{k}}}, float c = {{{c}}}> {{
  f = Sub(x, k)
  p = Sigmoid(f)
  h = Tanh(x)
  g = Mul(h, c)
  y = Abs(g)
}}
"""
RATE = """
decision: {output: p, rule: threshold, value: 0.5}
"""


@pytest.mark.parametrize("margin", [0.1, 0.9])
def test_what_may_change_is_a_cause_where_decisions_failed_by_it(rolled_back, margin):
    rate = f"  - {{name: rate, metric: decision_rate_shift, margin: {margin}, direction: both}}\n"
    policy = POLICY.replace("margin: 0.05", "margin: 0.05, expected_changes: [p]") + rate + RATE
    old, new = SCORED.format(k=-1.0, c=3.0), SCORED.format(k=1.0, c=3.3)
    said = rolled_back(old, new, np.linspace(-3, 3, 200), policy=policy)
    if margin < 0.5:
        assert said.startswith("f and g: candidate = baseline − 2; constant k of Sub → f: ")
        assert said.endswith("fed in there together, p and y are equal.")
    else:
        assert said.startswith("g: candidate = baseline × 1.1; constant c of Mul → g: ")


@pytest.mark.parametrize(
    ("verdicts", "decisive"),
    [
        ({"parity_mismatch": "FAIL", "decision_rate_shift": "PASS"}, set()),
        ({"parity_mismatch": "INCONCLUSIVE", "decision_rate_shift": "INCONCLUSIVE"}, {"p"}),
        ({"parity_mismatch": "INCONCLUSIVE"}, set()),
    ],
)
def test_harm_that_only_all_guardrails_together_prove_may_be_that_of_decisions(verdicts, decisive):
    policy = policy_from_yaml(POLICY + RATE, "p.yaml")
    evidence = [
        SimpleNamespace(gating=True, verdict=Verdict(v), metric=m) for m, v in verdicts.items()
    ]
    assert gate_graph._decisive(policy, evidence) == decisive


def record_of(decision):
    return DecisionRecord(
        decision=decision, reason="", explanation="Said.", binding_guardrail="", next="",
        n_requests=0, n_window=0, alpha={}, attempt=1, not_compared=(),
    )  # fmt: skip


def found(kind, what, severity=Severity.HARM, relation=""):
    return Finding(
        kind=kind, severity=severity, where="", what=what, remedy="", relation=relation
    )  # fmt: skip


OUTPUT = found("output_changed", "output")
UNNAMED = found("feature_changed", "unnamed", relation="other")
NAMED = found("feature_changed", "named", relation="scaled")
ZERO = found("filled_with_zero", "zero", Severity.WARNING, "filled_with_zero")
REFIT = found("suspicious_refit", "refit", Severity.WARNING)
RARE = found("feature_changed", "rare", Severity.WARNING, "other")
FAILS = found("candidate_fails", "fails")


@pytest.mark.parametrize(
    ("findings", "proven", "expected"),
    [
        ([NAMED, OUTPUT], "place", "place"),
        ([UNNAMED, NAMED, ZERO, OUTPUT], "", "named"),
        ([ZERO, UNNAMED, OUTPUT], "", "unnamed"),
        ([RARE, REFIT, OUTPUT], "", "refit"),
        ([ZERO, REFIT, OUTPUT], "", "zero"),
        ([RARE, OUTPUT], "", "output"),
        ([FAILS, NAMED, OUTPUT], "place", "fails"),
    ],
)
def test_what_lies_furthest_upstream_is_named_before_what_it_does(findings, proven, expected):
    record = record_of(Decision.ROLLBACK)
    said = with_first_cause(record, findings, proven=proven).explanation
    assert said == f"Said. First cause found: {expected}."


@pytest.mark.parametrize(
    ("decision", "findings"),
    [
        (Decision.HOLD, [OUTPUT]),
        (Decision.ROLLBACK, [ZERO]),
        (Decision.ROLLBACK, [found("candidate_crash", "ended"), OUTPUT]),
    ],
)
def test_no_cause_is_named_of_what_nothing_harmful_shows(decision, findings):
    record = record_of(decision)
    assert with_first_cause(record, findings, proven="place") == record

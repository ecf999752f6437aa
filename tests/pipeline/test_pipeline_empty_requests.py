"""Requests without a row compare nothing: they are counted apart, and a comparison of hardly any is none."""

import pytest
from gates import tiny_model, tiny_traffic

from harness.core.policies import GraphPolicy
from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate

N = 120
OTHER = "Neg({x})"
POLICY = """
version: 1
preset: refactor
sandbox: {require: S0}
windows: {newest: {days: 3650}, min_requests: 100}
drop: [outputs, features]
guardrails:
  - {name: same, metric: parity_mismatch, scope: outputs, margin: 0.1}
"""


def given(tmp_path, bare, raised=None):
    """Both versions, and N requests of which so many have no row."""
    traffic = tiny_traffic(tmp_path / "traffic", N, without_rows=range(bare))
    new = {} if raised is None else {"raised": raised}
    models = (tiny_model(tmp_path / "old.onnx"), tiny_model(tmp_path / "new.onnx", **new))
    return *map(str, models), traffic


@pytest.mark.parametrize(
    ("bare", "raised", "code"), [(6, None, 0), (7, None, 2), (N - 1, None, 2), (N - 20, OTHER, 1)]
)
def test_a_comparison_counts_requests_that_have_rows(tmp_path, windows, bare, raised, code):
    old, new, traffic = given(tmp_path, bare, raised)
    result = compare_models(
        old, new, inputs=[traffic], cache_dir=windows, looked_into=GraphPolicy(requests=0)
    )
    assert (result.exit_code, result.compared) == (code, N - bare)
    text = result.to_text()
    assert f"{N - bare:,} of {N} requests compared" in text
    assert f"{bare:,} of {N} requests have no row" in text
    assert (f"{N - bare:,} of {N} requests had rows and could be replayed" in text) == (bare > 6)


@pytest.mark.parametrize(
    ("bare", "decision", "reason"),
    [(6, Decision.PROMOTE, "all_guardrails_pass"), (7, Decision.HOLD, "traffic_integrity")],
)
def test_a_gate_holds_by_the_same_rule(tmp_path, bare, decision, reason):
    old, new, traffic = given(tmp_path, bare)
    (tmp_path / "policy.yaml").write_text(POLICY)
    result = run_gate(
        old, new, traffic=[traffic], policy=tmp_path / "policy.yaml", out=tmp_path / "run",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    assert (result.decision, result.record.reason) == (decision, reason)
    assert f"{bare} requests without a row: nothing is compared there" in result.record.not_compared
    assert "requests_without_rows" in {f.kind for f in result.findings}

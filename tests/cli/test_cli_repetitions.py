"""Gates whose guardrails need more than one pass, or labels in bins."""

import json

import pytest
from gates import tiny_model, tiny_traffic

POLICY = {
    "version": 1,
    "preset": "none",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {"newest": {"days": 200}, "matured": {"maturity": "1h"}, "min_requests": 300},
    "guardrails": [{"name": "excess", "metric": "excess_flip", "margin": 0.06}],
    "sandbox": {"require": "S0", "memory": "2GiB"},
}
NOISY = "RandomUniformLike<low = -1.0, high = 9.0>({x})"
"""Nine positive decisions in ten, whatever is asked: 18 % of flips between two passes."""
OTHER = "RandomUniformLike<low = -5.0, high = 5.0>({x})"
"""One in two: E(p − q)² = 0.16."""


@pytest.fixture
def gate(harness, write_policy, tmp_path):
    """Gates one tiny model against another: decision.json and the rows of evidence by name."""

    def run(old, new, n=3000, *, labels=False, **changes):
        traffic = tiny_traffic(tmp_path / "traffic", n, labels=labels)
        models = (
            tiny_model(tmp_path / f"{name}.onnx", raised=raised)
            for name, raised in (("old", old), ("new", new))
        )
        ran = harness(
            "gate", *models, "-t", traffic, "-p", write_policy(POLICY, **changes),
            "--as-of", "2020-12-01T00:00:00Z", "-o", tmp_path / "run", "--json",
        )  # fmt: skip
        assert ran.out, ran.err
        evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())["evidence"]
        return json.loads(ran.out), {row["name"]: row for row in evidence}

    return run


def test_two_versions_with_the_same_noise_have_no_excess(gate):
    decision, rows = gate(NOISY, NOISY)
    assert decision["decision"] == "PROMOTE"
    assert abs(rows["excess"]["lower"] + rows["excess"]["upper"]) < 0.08


def test_another_chance_of_a_decision_is_excess(gate):
    decision, rows = gate(NOISY, OTHER)
    assert decision["reason"] == "guardrail_failed"
    assert rows["excess"]["lower"] > 0.06


def test_calibration_is_tested_in_bins_of_the_baseline(gate):
    """Labels are certain and scores are not, so no bin away from ½ is calibrated."""
    rail = {"name": "cal", "metric": "calibration_shift", "margin": 0.05, "bins": 4}
    decision, rows = gate("Identity({x})", "Identity({x})", 1500, labels=True, guardrails=[rail])
    assert decision["reason"] == "guardrail_failed"
    assert "4 bins of the baseline's score" in rows["cal"]["reason"]
    assert rows["cal"]["n"] <= 1400


def test_a_latency_that_was_not_measured_promotes_nothing(gate):
    rails = [
        {"name": "flips", "metric": "decision_flip", "margin": 0.05},
        {"name": "typical", "metric": "latency_ratio", "margin": 0.0001},
    ]
    decision, _ = gate("Identity({x})", "Identity({x})", 600, guardrails=rails)
    assert decision["decision"] == "HOLD"

"""Gates whose guardrails need more than one pass, or labels in bins."""

import json

import onnx
import pytest
from gates import SAME, tiny_model, tiny_traffic

POLICY = {
    "version": 1,
    "preset": "none",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {"newest": {"days": 200}, "matured": {"maturity": "1h"}, "min_requests": 300},
    "guardrails": [{"name": "excess", "metric": "excess_flip", "margin": 0.06}],
    "sandbox": {"memory": "2GiB"},
}
NOISY = "RandomUniformLike<low = -1.0, high = 9.0, seed = 1.0>({x})"
"""Nine positive decisions in ten, whatever is asked: 18 % of flips between two passes."""
AS_NOISY = NOISY.replace("seed = 1.0", "seed = 2.0")
OTHER = "RandomUniformLike<low = -5.0, high = 5.0, seed = 3.0>({x})"
"""One in two: E(p − q)² = 0.16."""


@pytest.fixture
def gate(harness, write_policy, tmp_path):
    """Gates one tiny model against another: decision.json and the rows of evidence by name."""

    def run(old, new, n=3000, *, labels=False, **changes):
        traffic = tiny_traffic(tmp_path / "traffic", n, labels=labels)
        models = [
            tiny_model(tmp_path / f"{name}.onnx", raised=SAME if raised == SLOW else raised)
            for name, raised in (("old", old), ("new", new))
        ]
        if new == SLOW:
            slowed(models[1])
        ran = harness(
            "gate", *models, "-t", traffic, "-p", write_policy(POLICY, **changes),
            "--as-of", "2020-12-01T00:00:00Z", "-o", tmp_path / "run", "--json",
        )  # fmt: skip
        assert ran.out, ran.err
        evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())["evidence"]
        return json.loads(ran.out), {row["name"]: row for row in evidence}

    return run


def test_two_versions_with_the_same_noise_have_no_excess(gate):
    decision, rows = gate(NOISY, AS_NOISY)
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


LATENCY = [
    {"name": "flips", "metric": "decision_flip", "margin": 0.05},
    {"name": "typical", "metric": "latency_ratio", "margin": 0.5},
    {"name": "slowest", "metric": "latency_p99", "margin": 0.5, "cutoff": 10.0, "gating": False},
]
SLOW = "slow"
"""The same answer after some ten times the work."""


def slowed(path):
    """Adds the smallest of many zeros to what the model passes on."""
    model = onnx.load(path)
    nodes = list(model.graph.node)
    place = next(i for i, n in enumerate(nodes) if n.output[0] == "raised")
    nodes[place].output[0] = "plain"
    more = [
        onnx.helper.make_node("RandomUniform", [], ["zeros"], shape=[300_000], low=0.0, high=0.0),
        onnx.helper.make_node("ReduceMin", ["zeros"], ["zero"], keepdims=0),
        onnx.helper.make_node("Add", ["plain", "zero"], ["raised"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: place + 1], *more, *nodes[place + 1 :]])
    onnx.save(model, path)
    return path


def test_versions_that_are_alike_pass_a_latency_guardrail(gate):
    sample = {"sample": 600, "planning": 0}
    decision, rows = gate(
        "Identity({x})", "Identity({x})", 1000, guardrails=LATENCY, latency=sample
    )
    assert decision["decision"] == "PROMOTE"
    assert rows["typical"]["n"] <= 600
    assert rows["typical"]["lower"] < rows["typical"]["upper"] < 0.5


def test_a_slower_version_with_the_same_answers_is_rolled_back(gate, tmp_path):
    sample = {"sample": 600, "planning": 0}
    decision, _ = gate("Identity({x})", SLOW, 1000, guardrails=LATENCY, latency=sample)
    assert (decision["decision"], decision["binding_guardrail"]) == ("ROLLBACK", "typical")
    findings = json.loads((tmp_path / "run" / "findings.json").read_text())
    (told,) = (f for f in findings["findings"] if f["kind"] == "latency_measured")
    assert "cold calls kept out" in told["what"]


def test_too_small_a_sample_of_latency_promotes_nothing(gate):
    """Four observations cannot carry an e-value of 20, whatever was measured."""
    rails = [LATENCY[0], {**LATENCY[1], "margin": 0.0001}]
    decision, _ = gate(
        "Identity({x})",
        "Identity({x})",
        600,
        guardrails=rails,
        latency={"sample": 4, "planning": 0},
    )
    assert decision["decision"] == "HOLD"

"""`claim: window` in a gate: exactly which requests a verdict is about."""

import json

import pytest
from gates import tiny_model, tiny_traffic

POLICY = {
    "version": 1,
    "preset": "none",
    "claim": "window",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {"newest": {"days": 200}, "min_requests": 300},
    "guardrails": [{"name": "flips", "metric": "decision_flip", "margin": 0.005}],
    "sandbox": {"require": "S0", "memory": "2GiB"},
}
"""No flip in 400 requests is not enough for this margin; in all 400 of 400 it is."""


@pytest.fixture
def gate(harness, write_policy, tmp_path):
    """Gates a model against itself on 600 requests: exit code, decision.json, flips' subject."""
    traffic = tiny_traffic(tmp_path / "traffic", 600)

    def run(*, raised="Identity({x})", **changes):
        model = tiny_model(tmp_path / "model.onnx", raised=raised)
        policy = write_policy(POLICY, **changes)
        ran = harness("gate", model, model, "-t", traffic, "-p", policy,
                      "--as-of", "2020-12-01T00:00:00Z", "-o", tmp_path / "run", "--json")  # fmt: skip
        evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())
        return ran.code, json.loads(ran.out), evidence["evidence"][0]["subject"]

    return run


def test_a_window_that_is_read_to_its_end_decides(gate):
    code, decision, subject = gate()
    assert (code, decision["decision"]) == (0, "PROMOTE")
    assert "exactly the 600 requests" in subject


def test_requests_beyond_the_largest_number_still_belong_to_the_window(gate):
    code, decision, subject = gate(windows={"max_requests": 400})
    assert (code, decision["reason"]) == (3, "not_enough_evidence")
    assert decision["n_requests"] == 400
    assert "exactly the 600 requests" in subject


def test_requests_that_planned_the_bets_are_part_of_the_window(gate):
    assert "exactly the 600 requests" in gate(windows={"planning": 100})[2]


def test_reading_everything_decides_nothing_where_answers_vary(gate):
    noisy = "RandomUniformLike<low = -1.0, high = 9.0>({x})"
    rails = [{"name": "flips", "metric": "decision_flip", "margin": 0.5}]
    _, decision, subject = gate(raised=noisy, guardrails=rails)
    assert "exactly" not in subject
    assert any("vary from run to run" in text for text in decision["not_compared"])

"""A baseline that fails much of the traffic leaves too little to compare with."""

import json

import pytest
from gates import tiny_model, tiny_traffic
from onnx import parser, save_model

POLICY = {
    "version": 1,
    "preset": "none",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {"newest": {"days": 200}, "min_requests": 300},
    "guardrails": [{"name": "score", "metric": "score_shift", "margin": 0.05, "direction": "both"}],
    "sandbox": {"require": "S0", "memory": "2GiB"},
    "graph": {"when": "never"},
}
REFUSING = """
<ir_version: 8, opset_import: ["" : 15]>
tiny (float[N] x) => (float[N] probability, int64[N] label) {{
  most = Constant<value = float {{{beyond}}}>()
  over = Greater(x, most)
  flags = Cast<to = 7>(over)
  six = Constant<value = int64 {{6}}>()
  count = Mul(flags, six)
  table = Constant<value = float[2] {{0.0, 0.0}}>()
  harm = Gather(table, count)
  raised = Add(x, harm)
  probability = Sigmoid(raised)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}}
"""


def refusing(path, beyond, seen="v1"):
    """A tiny model whose runtime refuses batches with a value above `beyond`."""
    model = parser.parse_model(REFUSING.format(beyond=beyond))
    model.producer_version = seen
    save_model(model, str(path))
    return path


@pytest.fixture
def gate(harness, write_policy, tmp_path):
    """Gates a candidate: exit code, decision.json, findings by kind."""
    traffic = tiny_traffic(tmp_path / "traffic", 900)

    def run(baseline, candidate, **policy):
        ran = harness("gate", baseline, candidate, "-t", traffic, "-p", write_policy(POLICY, **policy),
                      "--as-of", "2020-12-01T00:00:00Z", "-o", tmp_path / "run", "--json")  # fmt: skip
        found = json.loads((tmp_path / "run" / "findings.json").read_text())["findings"]
        return ran.code, json.loads(ran.out), {f["kind"]: f for f in found}

    return run


@pytest.mark.parametrize(
    ("beyond", "accepted", "reason"),
    [
        (1.2, {}, "baseline_fails"),
        (2.2, {}, "all_guardrails_pass"),
        (1.2, {"most_baseline_failures": 0.3}, "all_guardrails_pass"),
    ],
    ids=["one in nine", "one in a hundred", "one in nine, which the policy accepts"],
)
def test_a_candidate_that_answers_what_the_baseline_fails(gate, tmp_path, beyond, accepted, reason):
    old = refusing(tmp_path / "old.onnx", beyond)
    code, decision, found = gate(old, tiny_model(tmp_path / "new.onnx"), **accepted)
    assert (code, decision["reason"]) == (3 if reason == "baseline_fails" else 0, reason)
    assert "the replayed baseline fails" in found["baseline_fails"]["what"]
    if reason == "baseline_fails":
        failed, asked = (
            decision["explanation"].split(" fails ")[1].split(" requests")[0].split(" of ")
        )
        assert asked == f"{decision['n_requests']:,}"
        assert 0.06 < int(failed) / decision["n_requests"] < 0.2
        assert "of the newest window" in decision["explanation"]
        assert "most_baseline_failures" in decision["next"]
        assert decision["binding_guardrail"] == "score"


@pytest.mark.parametrize(
    ("beyond", "accepted", "reason"),
    [
        (1.2, {}, "baseline_fails"),
        (2.2, {"most_baseline_failures": 0}, "all_guardrails_pass"),
        (1.2, {"most_baseline_failures": 0.3}, "all_guardrails_pass"),
    ],
    ids=["one in nine", "one in a hundred", "one in nine, which the policy accepts"],
)
def test_what_both_versions_refuse_is_the_traffics_fault_where_it_is_little(
    gate, tmp_path, beyond, accepted, reason
):
    old = refusing(tmp_path / "old.onnx", beyond)
    code, decision, found = gate(old, refusing(tmp_path / "new.onnx", beyond, "v2"), **accepted)
    assert (code, decision["reason"]) == (3 if reason == "baseline_fails" else 0, reason)
    assert "baseline_fails" in found
    if code:
        assert "Both versions refuse" in decision["explanation"]


def test_near_the_share_that_may_be_missing_all_is_counted(gate, tmp_path):
    """45 of 900: the same question has one answer, however the requests are drawn."""
    old, new = refusing(tmp_path / "old.onnx", 1.5), tiny_model(tmp_path / "new.onnx")
    code, decision, found = gate(old, new)
    assert (code, decision["n_requests"]) == (0, 900)
    assert "fails 45 requests" in found["baseline_fails"]["what"]


UNALIGNED = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[N] x) => (float[N] probability, int64[N] label, float[K] boxes) {{
  probability = Sigmoid(x)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
  above = Constant<value = float {{{above}}}>()
  many = Greater(x, above)
  flags = Cast<to = 7>(many)
  most = ReduceMax<keepdims = 0>(flags)
  one = Constant<value = int64 {{1}}>()
  count = Add(most, one)
  first = Constant<value = int64[1] {{0}}>()
  times = Unsqueeze(count, first)
  k = Constant<value = float {{{k}}}>()
  wrong = Mul(x, k)
  harm = Where(many, wrong, x)
  boxes = Tile(harm, times)
}}
"""


def unaligned(folder, above):
    """Two versions that answer a request above that with two boxes for its row, and with others."""
    versions = []
    for name, k in (("old", 1.0), ("new", 9.0)):
        versions.append(folder / f"{name}.onnx")
        save_model(parser.parse_model(UNALIGNED.format(k=k, above=above)), str(versions[-1]))
    return versions


def test_answers_that_cannot_be_compared_are_no_refusals(gate, tmp_path):
    """Every fifth request is answered with two boxes for its row."""
    code, decision, _ = gate(*unaligned(tmp_path, 0.8))
    assert (code, decision["reason"]) == (3, "baseline_fails")
    assert "of which the candidate fails, too" in decision["explanation"]


def test_few_answers_that_cannot_be_compared_are_unproven_to_be_the_same(gate, tmp_path):
    """Three requests in a hundred: below what the baseline may fail, above the margin of parity."""
    parity = {"name": "same", "metric": "parity_mismatch", "scope": "outputs", "margin": 0.02}
    versions = unaligned(tmp_path, 1.9)
    code, decision, _ = gate(*versions, guardrails=[*POLICY["guardrails"], parity])
    assert (code, decision["reason"]) == (3, "not_enough_evidence")
    assert decision["binding_guardrail"] == "same"


def test_parity_is_about_what_the_baseline_answers(gate, tmp_path):
    parity = {"name": "same", "metric": "parity_mismatch", "scope": "outputs", "margin": 0.02}
    old = refusing(tmp_path / "old.onnx", 1.2)
    code, decision, _ = gate(
        old, refusing(tmp_path / "new.onnx", 9.0, "v2"), most_baseline_failures=0.3,
        guardrails=[*POLICY["guardrails"], parity],
    )  # fmt: skip
    assert (code, decision["reason"]) == (0, "all_guardrails_pass")


def test_harm_on_what_the_baseline_answers_is_a_rollback_all_the_same(gate, tmp_path):
    old = refusing(tmp_path / "old.onnx", 1.2)
    code, decision, _ = gate(old, tiny_model(tmp_path / "new.onnx", raised="Neg({x})"))
    assert (code, decision["reason"]) == (1, "guardrail_failed")

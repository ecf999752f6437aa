"""A chain of releases, each within its margin, may not leave the anchor behind."""

import json

import numpy as np
import pytest
from gates import TINY, tiny_model, tiny_traffic
from onnx import parser, save_model

SLOPES = (1.0, 1.67, 2.81, 5.48)
"""Of negative logits, by release: each lowers the mean score by 0.8 of SCORE's margin."""
SCORE = {"name": "score", "metric": "score_shift", "margin": 0.05, "direction": "decrease"}
DRIFT = {**SCORE, "name": "drift", "margin": 0.1, "against": "anchor"}
POLICY = {
    "version": 1,
    "preset": "none",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {"newest": {"days": 200}, "min_requests": 300},
    "sandbox": {"require": "S0", "memory": "2GiB"},
}


@pytest.fixture
def release(harness, write_policy, tmp_path):
    """Gates release n against the one before it: exit code and decision.json."""
    traffic = tiny_traffic(tmp_path / "traffic", 1500)

    def model(n):
        lower = f"LeakyRelu<alpha = {SLOPES[n]}>({{x}})"
        return tiny_model(tmp_path / f"v{n}.onnx", raised=lower)

    def run(n, *rails, **policy):
        asked = write_policy({**POLICY, "guardrails": list(rails)}, **policy)
        ran = harness("gate", model(n - 1), model(n), "-t", traffic, "-p", asked,
                      "--as-of", "2020-12-01T00:00:00Z", "-o", tmp_path / f"run-{n}", "--json")  # fmt: skip
        return ran.code, json.loads(ran.out) if ran.out else ran.err

    model(0)
    run.folder = tmp_path
    return run


def test_ten_releases_of_small_losses_are_stopped_where_they_leave_the_anchor(release):
    answers = []
    for n in range(1, 11):
        code, decision = release(n, SCORE, DRIFT, anchor="v0.onnx")
        answers.append(decision["decision"])
        if code != 0:
            break
    assert answers == ["PROMOTE", "PROMOTE", "ROLLBACK"]
    assert decision["binding_guardrail"] == "drift"
    shown = {g["name"]: g for g in decision["guardrails"]}
    # Now and then the two cross the bar together before drift does by itself: then this is said.
    together = "of the harm that all prove together" in shown["drift"]["reason"]
    assert shown["drift"]["verdict"] == "FAIL" or together
    assert shown["score"]["verdict"] != "FAIL"
    assert decision["anchor"]["name"] == "v0"
    page = (release.folder / "run-3" / "report.html").read_text()
    assert "as differences from the anchor" in page
    assert "v0 file" in page


def test_without_an_anchor_nothing_stops_the_third(release):
    assert release(3, SCORE)[0] == 0


def test_another_anchor_is_another_question(release):
    release(2, SCORE, DRIFT, anchor="v0.onnx", windows={"min_requests": 9000})
    (release.folder / "run-2").rename(release.folder / "kept")
    tiny_model(release.folder / "v0.onnx", raised="Abs({x})")
    decision = release(2, SCORE, DRIFT, anchor="v0.onnx", windows={"min_requests": 9000})[1]
    assert decision["attempt"] == 1


def test_an_anchor_that_does_not_load_is_a_hold(release):
    (release.folder / "broken.onnx").write_bytes(b"no model")
    code, decision = release(1, SCORE, DRIFT, anchor="broken.onnx")
    assert (code, decision["reason"]) == (3, "anchor_does_not_load")
    assert decision["binding_guardrail"] == "drift"


REFUSING = """
  most = Constant<value = float {{{beyond}}}>()
  over = Greater(x, most)
  flags = Cast<to = 7>(over)
  six = Constant<value = int64 {{6}}>()
  count = Mul(flags, six)
  table = Constant<value = float[2] {{0.0, 0.0}}>()
  harm = Gather(table, count)
"""


def refusing(path, beyond):
    """A tiny model whose runtime refuses batches with a value above `beyond`."""
    before, after = TINY.format(x="x", raised="Add(x, harm)").split("  raised =")
    model = parser.parse_model(f"{before}{REFUSING.format(beyond=beyond)}  raised ={after}")
    save_model(model, str(path))


@pytest.mark.parametrize(
    ("beyond", "reason"), [(0.0, "anchor_fails"), (2.2, "all_guardrails_pass")]
)
def test_what_an_anchor_fails_is_told_and_most_of_it_is_no_proof(release, beyond, reason):
    flips = {"name": "drift", "metric": "decision_flip", "margin": 0.1, "against": "anchor"}
    refusing(release.folder / "refusing.onnx", beyond)
    code, decision = release(1, SCORE, flips, anchor="refusing.onnx")
    assert (code, decision["reason"]) == (0 if beyond else 3, reason)
    found = json.loads((release.folder / "run-1" / "findings.json").read_text())["findings"]
    told = {f["kind"]: f for f in found if f["where"] == "anchor"}
    assert told["poison_request"]["severity"] == "warning"
    assert "the replayed anchor fails" in told["anchor_fails"]["what"]
    (drift,) = [g for g in decision["guardrails"] if g["name"] == "drift"]
    assert "failed in the anchor only" in drift["reason"]
    assert not beyond or f"'drift' on {drift['n']:,} requests" in decision["explanation"]


def test_an_anchor_that_is_not_there_is_named(release):
    code, said = release(1, SCORE, DRIFT, anchor="missing.onnx")
    assert code == 2
    assert "missing.onnx" in said


def test_an_anchor_with_other_inputs_is_refused(release):
    tiny_model(release.folder / "other.onnx", x="z")
    code, said = release(1, SCORE, DRIFT, anchor="other.onnx")
    assert code == 2
    assert "input z FP32[?] is only the anchor's" in said


@pytest.mark.parametrize(
    ("rails", "policy", "said"),
    [
        ([DRIFT], {}, "anchor: is missing"),
        ([SCORE], {"anchor": "v0.onnx"}, "is read by no guardrail"),
        (
            [{"name": "same", "metric": "parity_mismatch", "scope": "outputs", "margin": 0.1,
              "against": "anchor"}],
            {"anchor": "v0.onnx"},
            "no meaning for parity",
        ),
        ([{**DRIFT, "against": "ancor"}], {"anchor": "v0.onnx"}, "anchor"),
    ],
    ids=["none named", "nobody reads it", "parity", "word"],
)  # fmt: skip
def test_a_policy_that_misuses_the_anchor_is_refused(release, rails, policy, said):
    code, err = release(1, *rails, **policy)
    assert code == 2
    assert said in err


def test_an_anchor_that_does_not_reproduce_its_golden_rows_holds(release, harness):
    anchor = release.folder / "v0.onnx"
    assert harness("golden", "make", anchor, "-i", release.folder / "traffic").code == 0
    assert release(1, SCORE, DRIFT, anchor="v0.onnx")[0] == 0
    rows = anchor.with_suffix(".golden.npz")
    with np.load(rows) as saved:
        content = {name: saved[name] for name in saved.files}
    np.savez(rows, **{**content, "feature:doubled": content["feature:doubled"] + 1})
    code, decision = release(2, SCORE, DRIFT, anchor="v0.onnx")
    assert (code, decision["reason"]) == (3, "anchor_not_reproduced")
    assert "doubled differs in 64 of 64 rows" in decision["explanation"]

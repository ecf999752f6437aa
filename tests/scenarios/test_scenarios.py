"""Every scenario folder ends as its scenario.yaml says."""

import json
import os

import pytest
from gates import FLIGHTS, MODELS, RETRAIN, ROOT

from harness.core.errors import UsageError
from harness.pipeline.gate import run_gate
from harness.pipeline.scenario import (
    Expectation,
    ExpectedFinding,
    check,
    list_scenarios,
    load_scenario,
    run_scenarios,
)

NAMES = sorted(p.parent.name for p in (ROOT / "scenarios").glob("*/scenario.yaml"))


MARKS = dict.fromkeys(
    # A refactor is rolled back for whatever differs; that these are named shows in their retrains. The
    # weekday is one more cyclic shift, as the hour is. Of a crash, 40 processes are started, and every request is
    # looked into by itself: with a small model it stands in test_adversarial_gates.
    (
        "candidate-crash", "category-order-refactor", "float16-refactor", "km-refactor", "leaky-refactor",
        "threshold-refactor", "utc-hour-refactor", "weekday-refactor", "weekday-retrain", "zero-fill-refactor",
    ),
    pytest.mark.long,
)  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS.get(n, [])) for n in NAMES])
def test_a_scenario_ends_as_expected(name, tmp_path, windows):
    outcomes = run_scenarios([name], out=tmp_path, cache_dir=windows)
    skipped = outcomes.outcomes[0].skipped
    if skipped and not os.environ.get("CI"):
        pytest.skip(skipped)
    assert skipped == ""
    assert outcomes.outcomes[0].problems == ()
    assert outcomes.all_as_expected


def test_the_list_names_every_folder(harness):
    ran = harness("scenario", "list", "--json")
    assert ran.code == 0
    assert sorted(json.loads(ran.out)) == NAMES
    listed = harness("scenario", "list").out
    assert all(f"{name} " in listed for name in NAMES)


def test_every_fault_is_tried_as_a_refactor_and_as_a_retrain():
    faults = {n.rsplit("-", 1)[0] for n in NAMES if n.endswith(("-refactor", "-retrain"))}
    alone = {"good-retrain", "zipmap"}  # the good retrain's refactor is good-retrain-refactor
    for fault in faults - alone - {"good"}:
        assert {f"{fault}-refactor", f"{fault}-retrain"} <= set(NAMES)


def test_an_unknown_name_names_the_nearest(harness):
    ran = harness("scenario", "run", "utc-hour-retrian")
    assert ran.code == 2
    assert "did you mean 'utc-hour-retrain'?" in ran.err


@pytest.mark.parametrize("words", [(), ("aa-refactor", "--all")], ids=["none", "both"])
def test_either_names_or_all(words, harness):
    assert harness("scenario", "run", *words).code == 2


def test_an_unexpected_ending_is_exit_1_and_says_what(harness, tmp_path, monkeypatch):
    wrong = Expectation(exit=0, decision="PROMOTE")
    listed = list_scenarios()
    changed = tuple(
        (n, s.model_copy(update={"expect": wrong})) for n, s in listed.scenarios if n == "other-signature"
    )  # fmt: skip
    monkeypatch.setattr(
        "harness.pipeline.scenario.list_scenarios", lambda: type(listed)(scenarios=changed)
    )
    ran = harness("scenario", "run", "other-signature", "--out", tmp_path / "out", "-q")
    assert ran.code == 1
    assert "NOT EXPECTED" in ran.out
    assert "exit code 2, expected 0" in ran.out


def test_what_is_not_as_expected_is_told(tmp_path, windows, write_policy):
    result = run_gate(
        str(MODELS / "v1.onnx"), str(MODELS / "broken.onnx"), traffic=[FLIGHTS],
        policy=write_policy(RETRAIN), out=tmp_path / "run", cache_dir=windows,
    )  # fmt: skip
    expect = Expectation(
        exit=1, decision="HOLD", reason="candidate_does_not_load", binding="loss",
        findings=(ExpectedFinding(kind="feature_changed"),), absent=("candidate_does_not_load",),
    )  # fmt: skip
    problems = "; ".join(check(expect, result))
    for told in ("'ROLLBACK', expected 'HOLD'", "expected 'loss'", "no finding {'kind': 'feature_changed'}",
                 "unexpected finding candidate_does_not_load"):  # fmt: skip
        assert told in problems
    assert "exit code" not in problems
    assert "reason" not in problems


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("title: x", "models"),
        ("title: [", "while parsing"),
        ("- a", "valid dictionary"),
    ],
    ids=["incomplete", "no yaml", "no mapping"],
)
def test_a_broken_scenario_file_is_a_usage_error(text, what, tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=what):
        load_scenario(path)


def test_an_unknown_key_is_refused(tmp_path):
    source = (ROOT / "scenarios" / "aa-refactor" / "scenario.yaml").read_text()
    path = tmp_path / "scenario.yaml"
    path.write_text(source + "exspect: {}\n")
    with pytest.raises(UsageError, match="exspect"):
        load_scenario(path)

"""What `judge_table` and `plan` are given: names stay names, and both refuse the same tables."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from harness import judge_table, plan
from harness.core.errors import PolicyError, TrafficError, UsageError
from harness.decide.policy import policy_from_yaml
from harness.store.attempts import UNSEEN, AttemptLedger

RAIL = {"name": "d", "range": [-1, 1], "margin": 0.05}
POLICY = {"version": 1, "guardrails": [RAIL]}


def frame(n=200, **more):
    return pd.DataFrame({"d": np.random.default_rng(0).normal(0, 0.05, n), **more})


def test_plan_takes_a_mapping_and_a_single_table(tmp_path):
    file, policy = tmp_path / "t.csv", tmp_path / "p.yaml"
    frame().to_csv(file, index=False)
    policy.write_text(yaml.safe_dump(POLICY))
    found = [plan(POLICY, frame()), plan(POLICY, str(file)), plan(policy, [file])]
    assert [each.tests for each in found] == [found[0].tests] * 3
    assert [each.windows[0].available for each in found] == [200] * 3


@pytest.mark.parametrize("policy", [None, 3, ["version"]])
def test_what_is_no_policy_is_said(policy):
    for ask in (plan, lambda p: judge_table(frame(), p)):
        with pytest.raises(UsageError, match="is no policy"):
            ask(policy)


@pytest.mark.parametrize("population", ["5000", float("nan"), 3000.5, True])
def test_a_population_is_a_whole_number(population):
    with pytest.raises(UsageError, match="no whole number"):
        judge_table(frame(), {**POLICY, "claim": "window"}, population)


def test_names_of_a_csv_file_are_text(tmp_path):
    """001 and 1 are two requests, two users and two slices."""
    file = tmp_path / "t.csv"
    rows = [f"{name},{name},0.0" for name in ("001", "1", "01", "1e0", "NA", "null")]
    file.write_text("\n".join(["request_id,user,d", *rows]))
    policy = {**POLICY, "unit": "user", "weight": "unit"}
    assert judge_table(file, policy).guardrails[0].n == 6


def test_an_empty_id_of_a_csv_file_is_missing(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("request_id,d\na,0.0\n,0.0\n")
    with pytest.raises(TrafficError, match="has empty cells"):
        judge_table(file, POLICY)


def test_plan_refuses_what_judge_refuses():
    twice = frame(request_id="a")
    for ask in (judge_table, lambda table, policy: plan(policy, table)):
        with pytest.raises(TrafficError, match="is there twice"):
            ask(twice, POLICY)


def test_plan_says_that_rows_have_no_value():
    needs = plan({**POLICY, "windows": {"planning": 50}}, frame().assign(d=np.nan))
    assert any("200 of 200 rows of column 'd' have no value" in note for note in needs.notes)


def test_a_propensity_of_each_row_s_own_is_told_as_a_column():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "arm": np.where(rng.random(400) < 0.5, "candidate", "baseline"),
        "propensity": rng.uniform(0.49, 0.51, 400),
        "d": 0.0,
    })  # fmt: skip
    with pytest.raises(TrafficError, match=r"column 'propensity': holds 400 different values"):
        judge_table(table, {**POLICY, "unpaired": True})


def test_an_empty_file_and_one_without_an_ending_say_what_to_give(tmp_path):
    (tmp_path / "zero.csv").write_text("")
    with pytest.raises(TrafficError, match="The file is empty"):
        judge_table(tmp_path / "zero.csv", POLICY)
    with pytest.raises(TrafficError, match="its name does not end in a kind of table"):
        judge_table(tmp_path / "table", POLICY)


def test_bytes_of_a_file_do_not_reach_the_terminal(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes(b"d\n0.1,\x1b[31m\x07\n")
    with pytest.raises(TrafficError) as told:
        judge_table(file, POLICY)
    assert str(told.value).isprintable()


def test_a_gate_s_policy_without_a_preset_names_them():
    with pytest.raises(PolicyError, match="refactor, retrain, none"):
        policy_from_yaml("version: 1\n", "p.yaml")


def test_an_empty_text_is_told_as_empty():
    with pytest.raises(PolicyError, match="is empty"):
        judge_table(frame(), {**POLICY, "unit": "", "weight": "unit"})


def test_policies_that_were_asked_of_one_pair_are_counted(tmp_path):
    def ledger(policy, candidate="c"):
        lineage = {"baseline": "b", "candidate": candidate, "policy": policy}
        return AttemptLedger(tmp_path / "state", lineage)

    for number, policy in enumerate(("loose", "looser", "loosest"), start=1):
        mine = ledger(policy)
        mine.take(policy, tmp_path)
        assert mine.questions() == number
    ledger("loose", candidate="another").take("x", tmp_path)
    ledger("unseen").take("y", tmp_path)
    ledger("unseen").close("y", UNSEEN)
    assert ledger("loose").questions() == 3


def test_the_report_of_a_table_speaks_of_a_table(tmp_path):
    judge_table(frame(), POLICY, out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Rows judged" in page
    assert "the same table and policy give the same answer" in page
    for word in ("Attempt", "Recorded traffic", "candidate&#39;s digest was fixed", "Composition"):
        assert word not in page
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["seed"].startswith("none")


def test_fixed_sample_intervals_are_of_what_was_tested(tmp_path):
    """Units count once there, too, and rows that planned are left out."""
    users = np.repeat(np.arange(60), 10)
    table = frame(600, user=users)
    policy = {**POLICY, "unit": "user", "weight": "unit", "windows": {"planning": 10}}
    judge_table(table, policy, out=tmp_path / "out")
    (row,) = json.loads((tmp_path / "out" / "summary.json").read_text())["fixed_sample"]
    assert row["n"] == 50
    assert row["mean"] == pytest.approx(table["d"][100:].mean())


def test_a_plan_counts_what_its_policy_counts():
    users = {**POLICY, "unit": "user", "weight": "unit"}
    assert "units of user prove" in plan(users, frame(user=1)).to_text()
    assert "rows prove" in plan(POLICY).to_text()
    near = {"name": "f", "metric": "decision_flip", "margin": 0.05, "effect": 0.0499999}
    never = plan({"version": 1, "guardrails": [near]}).to_text()
    assert never.startswith("Not even 20,000,000 rows prove")


def test_two_arms_that_cannot_be_compared_are_not_told_as_traffic():
    table = frame(400, arm="candidate", propensity=0.5)
    verdict = judge_table(table, {**POLICY, "unpaired": True})
    assert verdict.reason == "sample_ratio_mismatch"
    assert "traffic" not in verdict.record.explanation


def test_a_window_claim_says_whether_the_table_is_all_of_it():
    window = {**POLICY, "claim": "window"}
    (whole,) = judge_table(frame(), window).guardrails
    assert "exactly the 200 rows of the table" in whole.subject
    (part,) = judge_table(frame(), window, 500).guardrails
    assert "exactly the 500 rows that the table was drawn from" in part.subject


def test_a_forecast_waits_until_the_rows_show_a_rate():
    """Ten of sixty: what the last ten rows did says nothing of what the next thousand do."""
    flips = {"name": "f", "metric": "decision_flip", "margin": 0.3}
    x = np.zeros(60)
    x[np.random.default_rng(0).permutation(60)[:10]] = 1.0
    early = judge_table(pd.DataFrame({"f": x}), {"version": 1, "guardrails": [flips]})
    assert "too early to tell" in early.record.next
    assert "leans" not in early.record.next

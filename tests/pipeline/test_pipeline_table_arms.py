"""Tables of two arms: one outcome a row, and the split that sent it there."""

import json

import numpy as np
import pandas as pd
import pytest

from harness import judge_table
from harness.core.errors import PolicyError, TrafficError, UsageError
from harness.core.verdicts import Decision

RATE = {"name": "rate", "column": "value", "range": [0, 1], "margin": 0.1}


def policy(**more):
    return {"version": 1, "unpaired": True, "guardrails": [RATE], **more}


def canary(n, harm, seed, base=0.3):
    """0/1 outcomes of a canary that ramps from 10 to 50 %."""
    rng = np.random.default_rng(seed)
    propensity = np.where(np.arange(n) < n // 4, 0.1, 0.5)
    arm = rng.random(n) < propensity
    value = (rng.random(n) < base + harm * arm) * 1
    return pd.DataFrame(
        {"arm": np.where(arm, "candidate", "baseline"), "propensity": propensity, "value": value}
    )


@pytest.mark.parametrize(
    ("harm", "decision"),
    [(-0.05, Decision.PROMOTE), (0.1, Decision.HOLD), (0.3, Decision.ROLLBACK)],
)
def test_within_at_and_beyond_the_margin(harm, decision):
    verdict = judge_table(canary(4000, harm, 2), policy())
    assert verdict.decision is decision
    assert "overlap-weighted" in verdict.guardrails[0].subject


@pytest.mark.usefixtures("few_points")
def test_at_the_margin_both_error_rates_hold():
    seen = [judge_table(canary(500, 0.1, seed), policy()).decision for seed in range(100)]
    # 100 runs at 5 %: more than 13 have a probability of 0.1 %.
    assert seen.count(Decision.PROMOTE) <= 13
    assert seen.count(Decision.ROLLBACK) <= 13


def test_an_improvement_beyond_the_margin_is_a_change_where_both_count():
    both = policy(guardrails=[{**RATE, "direction": "both", "margin": 0.15}])
    assert judge_table(canary(4000, -0.3, 1), both).decision is Decision.ROLLBACK


def test_a_split_that_is_not_the_declared_one_is_held():
    table = canary(4000, -0.05, 1).assign(propensity=0.2)
    verdict = judge_table(table, policy())
    assert (verdict.decision, verdict.reason) == (Decision.HOLD, "sample_ratio_mismatch")
    assert verdict.exit_code == 3


def test_units_keep_the_arm_of_their_first_row():
    table = canary(2000, 0.0, 3)
    table["user"] = [f"u{i}" for i in range(2000)]
    later = table.head(100).assign(arm="baseline", value=1)
    verdict = judge_table(pd.concat([table, later]), policy(unit="user", weight="unit"))
    assert verdict.guardrails[0].n == 2000
    moved = int((table.arm.head(100) == "candidate").sum())
    assert any(said.startswith(f"{moved} rows of units") for said in verdict.record.not_compared)


def test_empty_outcomes_count_as_the_worst():
    table = canary(3000, -0.05, 1)
    table["value"] = table["value"].where(np.arange(3000) % 3 > 0)
    verdict = judge_table(table, policy())
    assert verdict.decision is Decision.HOLD
    assert verdict.guardrails[0].n_failed == 1000


def test_an_empty_table_is_held():
    verdict = judge_table(canary(0, 0.0, 0), policy())
    assert (verdict.decision, verdict.reason) == (Decision.HOLD, "empty_window")


def test_a_promotion_needs_the_policy_s_least_number():
    verdict = judge_table(canary(4000, -0.05, 2), policy(windows={"min_requests": 5000}))
    assert verdict.reason == "too_few_requests"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arm": "control"}, "row 0: arm 'control' is neither"),
        ({"propensity": np.nan}, "propensity"),
        ({"propensity": 1.5}, "propensity"),
    ],
)
def test_a_row_without_a_usable_arm_is_refused(change, says):
    with pytest.raises(TrafficError, match=says):
        judge_table(canary(20, 0.0, 1).assign(**change), policy())


def test_policy_and_table_must_agree_on_what_a_row_is():
    with pytest.raises(TrafficError, match="cannot be judged as paired"):
        judge_table(canary(20, 0.0, 1), policy(unpaired=False))
    with pytest.raises(PolicyError, match="lacks arm and propensity"):
        judge_table(canary(20, 0.0, 1)[["value"]], policy())
    with pytest.raises(UsageError, match="no meaning"):
        judge_table(canary(20, 0.0, 1), policy(), population=100)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"claim": "window"}, "both answers"),
        ({"unit": "arm", "weight": "request"}, "not supported yet for arms"),
        ({"guardrails": [{**RATE, "margin": 1.0}]}, "outside the range"),
        ({"guardrails": [{"name": "rate", "margin": 0.1}]}, "is missing"),
        ({"guardrails": [{**RATE, "metric": "decision_flip"}]}, "each row is one arm.s"),
    ],
)
def test_what_arms_cannot_answer_is_refused(more, says):
    with pytest.raises(PolicyError, match=says):
        judge_table(canary(20, 0.0, 1), policy(**more))


def test_the_folder_says_what_one_planned_look_would(tmp_path):
    table = canary(4000, -0.05, 2)
    table = table[table.propensity == 0.5]
    run = judge_table(table, policy(), out=tmp_path / "run").run
    (row,) = json.loads((run / "summary.json").read_text())["fixed_sample"]
    means = table.groupby("arm").value.mean()
    assert row["mean"] == pytest.approx(means["candidate"] - means["baseline"])
    assert row["lower"] < row["mean"] < row["upper"]
    assert "Newcombe" in (run / "report.html").read_text()


def test_the_sentence_has_the_sign_of_the_harm_and_the_level_of_both_ends():
    rail = {**RATE, "direction": "decrease", "margin": 0.1}
    asked = {**policy(), "guardrails": [rail], "alpha": {"promote": 0.01, "rollback": 0.2}}
    verdict = judge_table(canary(4000, -0.25, 2), asked)
    reason = verdict.guardrails[0].reason
    assert reason.startswith(
        "Proven beyond the tolerated difference (at least -0.1): it lies in [-0."
    )
    assert reason.endswith("(79% at every look).")
    both = judge_table(
        canary(4000, 0.0, 2), {**policy(), "guardrails": [{**RATE, "direction": "both"}]}
    )
    assert "(between -0.1 and 0.1)" in both.guardrails[0].reason


@pytest.mark.parametrize(
    ("more", "of"), [({}, "rows like"), ({"unit": "user", "weight": "unit"}, "units of user like")]
)
def test_the_subject_names_what_counts_once(more, of):
    table = canary(1000, 0.0, 2).assign(user=[f"u{i // 2}" for i in range(1000)])
    assert of in judge_table(table, policy(**more)).guardrails[0].subject

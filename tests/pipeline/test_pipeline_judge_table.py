"""`judge_table`: verdicts, guarantees at the margin, and what a table may not be."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom
from simulated import simulated

from harness import judge_table
from harness.core.errors import PolicyError, TrafficError, UsageError
from harness.core.verdicts import Decision, Verdict

RANGE = {"name": "score", "column": "d", "range": [-0.25, 0.25], "margin": 0.02}


def policy(*guardrails, **more):
    return {"version": 1, "guardrails": list(guardrails or [RANGE]), **more}


def frame(n=2000, mean=0.0, sd=0.05, seed=0, **more):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"d": rng.normal(mean, sd, n), **more})


def two_point(n, mean, seed):
    """±0.25 with exactly this mean: the largest variance that the range allows."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"d": np.where(rng.random(n) < 0.5 + 2.0 * mean, 0.25, -0.25)})


@pytest.mark.parametrize(
    ("mean", "decision"),
    [(0.0, Decision.PROMOTE), (0.02, Decision.HOLD), (0.05, Decision.ROLLBACK)],
)
def test_within_at_and_beyond_the_margin(mean, decision):
    assert judge_table(frame(mean=mean), policy()).decision is decision


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("direction", ["increase", "decrease", "both"])
@simulated(300, 2)
def test_at_the_margin_both_error_rates_hold(direction, runs):
    """The mean exactly at the margin, the widest variance, a look after every few rows."""
    alpha = 0.05
    sign = -1.0 if direction == "decrease" else 1.0
    guardrail = {**RANGE, "direction": direction, "margin": 0.05}
    seen = [
        judge_table(two_point(400, sign * 0.05, seed), policy(guardrail)).decision
        for seed in range(runs)
    ]
    most = binom.ppf(0.999, runs, alpha)
    assert seen.count(Decision.PROMOTE) <= most
    assert seen.count(Decision.ROLLBACK) <= most


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize(("mean", "wrong"), [(0.0, Decision.PROMOTE), (0.11, Decision.ROLLBACK)])
def test_the_simulation_would_see_a_margin_that_is_off(mean, wrong):
    """With the mean off the margin the same runs cross the same bound, so it can fail."""
    guardrail = {**RANGE, "margin": 0.05}
    seen = [
        judge_table(two_point(400, mean, seed), policy(guardrail)).decision for seed in range(60)
    ]
    assert seen.count(wrong) > binom.ppf(0.999, 60, 0.05)


def test_rare_large_values_are_told_and_only_the_clipped_mean_is_claimed():
    d = np.zeros(3000)
    d[::50] = 1.0
    verdict = judge_table(pd.DataFrame({"d": d}), policy())
    (row,) = verdict.guardrails
    assert row.subject.startswith("clipped mean over rows")
    assert (verdict.findings[0].kind, verdict.findings[0].value) == ("clipped", 0.02)
    assert row.upper < 0.02
    assert "each cut to [-0.25, 0.25]" in row.subject


def test_a_metric_s_bounds_claim_the_mean_itself():
    table = pd.DataFrame({"flip": np.zeros(1000)})
    flips = {"name": "f", "column": "flip", "metric": "decision_flip", "margin": 0.01}
    (row,) = judge_table(table, policy(flips)).guardrails
    assert (row.verdict, row.subject) == (Verdict.PASS, "mean over rows like the table's")


def test_missing_values_count_as_the_worst_both_ways():
    table = frame()
    table.loc[::4, "d"] = np.nan
    verdict = judge_table(table, policy())
    (row,) = verdict.guardrails
    assert (verdict.decision, row.n_failed) == (Decision.HOLD, 500)
    assert [f.kind for f in verdict.findings] == ["missing_values"]


def test_slices_are_guardrails_of_their_own():
    table = frame(4000, caller=np.repeat(["web", "app"], 2000))
    table.loc[table.caller == "app", "d"] += 0.06
    verdict = judge_table(table, policy({**RANGE, "margin": 0.03, "slice_by": ["caller"]}))
    found = {row.slice: row.verdict for row in verdict.guardrails}
    assert found == {
        "": Verdict.INCONCLUSIVE, "caller=app": Verdict.FAIL, "caller=web": Verdict.PASS,
    }  # fmt: skip
    assert verdict.record.binding_guardrail == "score[caller=app]"


@pytest.mark.parametrize("kind", ["frame", "arrow", "parquet", "csv"])
def test_every_kind_of_table_gives_the_same_answer(kind, tmp_path):
    given = frame(500)
    arrow = pa.Table.from_pandas(given)
    match kind:
        case "arrow":
            given = arrow
        case "parquet":
            given = tmp_path / "t.parquet"
            pq.write_table(arrow, given)
        case "csv":
            given = tmp_path / "t.csv"
            pacsv.write_csv(arrow, given)
    (row,) = judge_table(given, policy()).guardrails
    (same,) = judge_table(frame(500), policy()).guardrails
    assert row == same


def test_an_empty_table_is_held():
    verdict = judge_table(pd.DataFrame({"d": np.empty(0)}), policy())
    assert (verdict.decision, verdict.reason) == (Decision.HOLD, "empty_window")
    assert verdict.exit_code == 3


def test_a_least_number_of_rows_is_asked_for_only_by_the_policy():
    asked = judge_table(frame(400), policy(windows={"min_requests": 500}))
    assert asked.reason == "too_few_requests"
    assert judge_table(frame(400), policy()).decision is Decision.PROMOTE


def test_advise_never_fails_a_pipeline():
    verdict = judge_table(frame(mean=0.05), policy(mode="advise"))
    assert (verdict.decision, verdict.exit_code) == (Decision.ROLLBACK, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"request_id": [f"r{i}" for i in range(9)] + ["r3"]}, "row 9: request_id 'r3'"),
        ({"ts_ns": [0, 1, 2, 3, 2, 5, 6, 7, 8, 9]}, "row 4: ts_ns is earlier"),
        ({"arm": ["baseline", "candidate"] * 5}, "cannot be judged as paired"),
        ({"d": list("abcdefghij")}, "holds .*string, not numbers"),
        ({"d": [1, "a"] * 5}, "mixes kinds"),
    ],
)
def test_a_table_that_would_mislead_is_refused(change, says):
    with pytest.raises(TrafficError, match=says):
        judge_table(frame(10).assign(**change), policy())


def test_a_missing_column_names_the_nearest():
    with pytest.raises(TrafficError, match=r"no column 'd'.*did you mean 'dd'"):
        judge_table(frame(10).rename(columns={"d": "dd"}), policy())


def test_columns_that_share_a_name_are_refused():
    table = pd.concat([frame(10), frame(10)], axis=1)
    with pytest.raises(TrafficError, match="two columns named 'd'"):
        judge_table(table, policy())


def test_something_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "t.parquet").write_text("no")
    (tmp_path / "t.txt").write_text("no")
    for given in (tmp_path / "t.parquet", tmp_path / "t.txt", tmp_path / "gone.csv", 7):
        with pytest.raises(TrafficError):
            judge_table(given, policy())


def test_a_population_smaller_than_the_table_is_refused():
    with pytest.raises(UsageError, match="fewer than the table's"):
        judge_table(frame(10), policy(), population=9)


@pytest.mark.parametrize(
    ("guardrail", "says"),
    [
        ({**RANGE, "margin": 0.25}, r"outside the range \[-0.25, 0.25\]"),
        ({**RANGE, "margin": 0.0}, "outside the range"),
        ({**RANGE, "margin": -0.1}, "outside the range"),
        ({**RANGE, "range": [0.25, -0.25]}, "the smaller one first"),
        ({**RANGE, "range": [0.1, 0.1]}, "the smaller one first"),
        ({**RANGE, "range": [0.1]}, "the smaller one first"),
        ({**RANGE, "range": [0, ".inf"]}, "needs a number"),
        ({**RANGE, "range": [0.03, 0.25]}, "Choose a margin above 0.03"),
        ({**RANGE, "range": [-0.25, -0.1]}, "Widen the range"),
        ({**RANGE, "range": [0, 1], "direction": "both"}, "never below 0"),
        ({**RANGE, "metric": "decision_flip"}, "both a metric and a range"),
        ({"name": "f", "margin": 0.1}, "no range"),
        ({**RANGE, "unit": "user"}, "holds for the whole policy"),
        ({**RANGE, "effect": 0.03}, "not within the margin"),
    ],
)
def test_a_guardrail_that_no_table_could_answer_is_refused(guardrail, says):
    with pytest.raises(PolicyError, match=says):
        judge_table(frame(10), policy(guardrail))


@pytest.mark.parametrize("alpha", [0.0, -0.05, 0.5, float("nan")])
def test_an_error_rate_that_means_nothing_is_refused(alpha):
    with pytest.raises(PolicyError, match=r"alpha\.promote"):
        judge_table(frame(10), policy(alpha={"promote": alpha}))


def test_a_preset_needs_models():
    with pytest.raises(PolicyError, match="need two models"):
        judge_table(frame(10), policy(preset="retrain"))


def test_the_folder_holds_the_files_of_a_gate(tmp_path):
    verdict = judge_table(frame(), policy(), out=tmp_path / "run")
    evidence = json.loads((verdict.run / "evidence.json").read_text())
    assert evidence["evidence"][0]["verdict"] == "PASS"
    assert evidence["lineage"]["table"]
    assert 'tests="2" failures="0"' in (verdict.run / "junit.xml").read_text()
    page = (verdict.run / "report.html").read_text()
    assert "Fixed-sample intervals" in page
    assert "clipped mean" in page
    assert "What no table can show" in page
    assert "unknown" not in (verdict.run / "summary.md").read_text()
    assert "unknown" not in page.split("<main>")[1].split("How it was decided</h2>")[0]


def test_the_fixed_sample_interval_of_zeros_and_ones_is_exact(tmp_path):
    table = pd.DataFrame({"flip": np.r_[np.ones(10), np.zeros(90)]})
    flips = {"name": "f", "column": "flip", "metric": "decision_flip", "margin": 0.3}
    run = judge_table(table, policy(flips), out=tmp_path / "run").run
    (row,) = json.loads((run / "summary.json").read_text())["fixed_sample"]
    # Clopper and Pearson 1934: 10 of 100 at 90 %.
    assert (round(row["lower"], 4), round(row["upper"], 4)) == (0.0553, 0.1637)


def test_frames_hold_a_row_a_guardrail():
    assert judge_table(frame(), policy()).evidence_frame()["name"].tolist() == ["score"]


def test_numpys_numbers_and_words_are_as_good_as_pythons():
    rail = {"name": np.str_("d"), "range": np.array([-1, 1]), "margin": np.float64(0.05)}
    policy = {"version": np.int64(1), "guardrails": [rail]}
    plain = {"version": 1, "guardrails": [{"name": "d", "range": [-1, 1], "margin": 0.05}]}
    table = pd.DataFrame({"d": np.zeros(500)})
    assert judge_table(table, policy).decision is judge_table(table, plain).decision


def test_a_policy_of_other_things_is_refused():
    with pytest.raises(UsageError, match="no JSON form"):
        judge_table(pd.DataFrame({"d": [0.0]}), {"version": 1, "guardrails": [object()]})

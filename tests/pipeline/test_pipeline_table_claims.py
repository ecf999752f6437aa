"""Tables whose rows depend on each other, and verdicts about exactly the rows of a window."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from simulated import simulated

from harness import judge_table
from harness.core.errors import PolicyError, TrafficError, UsageError
from harness.core.verdicts import Decision

RANGE = {"name": "score", "column": "d", "range": [-0.25, 0.25], "margin": 0.05}


def policy(**more):
    return {"version": 1, "guardrails": [RANGE], **more}


def clustered(users, mean, seed, per_user=20):
    """±0.25 by user: all rows of a user agree."""
    rng = np.random.default_rng(seed)
    value = np.where(rng.random(users) < 0.5 + 2.0 * mean, 0.25, -0.25)
    return pd.DataFrame({
        "d": np.repeat(value, per_user),
        "user": np.repeat([f"u{i}" for i in range(users)], per_user),
    })  # fmt: skip


@pytest.mark.usefixtures("few_points")
@simulated(150, 2)
def test_at_the_margin_units_keep_the_error_rates_and_rows_do_not(runs):
    """20 rows a user that agree: as independent rows they would decide most runs."""
    by_user = policy(unit="user", weight="unit")
    seen, bare = [], []
    for seed in range(runs):
        table = clustered(60, 0.05, seed)
        seen.append(judge_table(table, by_user).decision)
        bare.append(judge_table(table, policy()).decision)
    most = binom.ppf(0.999, runs, 0.05)
    assert seen.count(Decision.PROMOTE) <= most
    assert seen.count(Decision.ROLLBACK) <= most
    assert 3 * (bare.count(Decision.PROMOTE) + bare.count(Decision.ROLLBACK)) > runs


def test_units_are_counted_once_and_named():
    verdict = judge_table(clustered(300, -0.1, 1), policy(unit="user", weight="unit"))
    (row,) = verdict.guardrails
    assert (verdict.decision, row.n) == (Decision.PROMOTE, 300)
    assert "units of user, each once" in row.subject
    assert row.subject.startswith("clipped mean")


def test_harm_that_was_proven_early_is_told_in_units():
    verdict = judge_table(clustered(300, 0.2, 1), policy(unit="user", weight="unit"))
    assert verdict.decision is Decision.ROLLBACK
    assert re.search(r"after \d+ units of user the mean lay", verdict.guardrails[0].reason)


def test_request_weight_asks_about_rows_not_users():
    # One user makes four of five rows: the mean over users is fine, the mean over rows is not.
    many = pd.DataFrame({"d": -0.25, "user": [f"u{i}" for i in range(400)]})
    loud = pd.DataFrame({"d": 0.25, "user": ["loud"] * 1600})
    table = pd.concat([many, loud])
    assert judge_table(table, policy(unit="user", weight="unit")).decision is Decision.PROMOTE
    by_rows = judge_table(table, policy(unit="user", weight="request"))
    assert by_rows.decision is Decision.ROLLBACK
    assert "drawn by their size" in by_rows.guardrails[0].subject


def test_draws_depend_on_what_is_judged_and_on_nothing_else(tmp_path):
    table = clustered(60, 0.03, 4, per_user=3)
    table["d"] += np.tile([0.0, -0.01, 0.013], 60)
    asked = policy(unit="user", weight="request")
    (first,) = judge_table(table, asked).guardrails
    table.to_csv(tmp_path / "t.csv", index=False)
    numbered = table.assign(user=np.repeat(np.arange(60), 3), other=1)
    same = [
        table[["user", "d"]],
        table.assign(d=table["d"].astype(np.float32)),
        table.assign(user=table["user"].astype("category")),
        numbered,
        tmp_path / "t.csv",
    ]
    for given in same:
        (row,) = judge_table(given, asked).guardrails
        assert (row.lower, row.upper) == pytest.approx((first.lower, first.upper), abs=1e-6)
    renamed = {**RANGE, "name": "other", "column": "d"}
    (row,) = judge_table(
        table, policy(guardrails=[renamed], unit="user", weight="request")
    ).guardrails
    assert row.lower == first.lower
    (row,) = judge_table(table.assign(d=table["d"] + 1e-3), asked).guardrails
    assert abs(row.lower - first.lower - 1e-3) > 1e-4


def test_time_blocks_are_units():
    table = clustered(300, -0.1, 1).assign(ts_ns=np.repeat(np.arange(300), 20) * 3_600_000_000_000)
    (row,) = judge_table(table, policy(unit="1h", weight="unit")).guardrails
    assert row.n == 300


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"unit": "user"}, "which mean is meant"),
        ({"weight": "unit"}, "needs a unit"),
        ({"unit": "user", "weight": "size"}, "unknown value"),
        ({"unit": "user", "weight": "request", "claim": "window"}, "with replacement"),
    ],
)
def test_a_unit_that_leaves_the_question_open_is_refused(more, says):
    with pytest.raises(PolicyError, match=says):
        judge_table(clustered(10, 0.0, 0), policy(**more))


@pytest.mark.parametrize(
    ("change", "unit", "says"),
    [
        ({"user": None}, "user", "carry no unit"),
        ({}, "tenant", "no column 'tenant'"),
        ({}, "1h", "no column 'ts_ns'"),
        ({"ts_ns": 0.5}, "1h", "no whole nanoseconds"),
    ],
)
def test_a_row_without_a_unit_is_refused(change, unit, says):
    table = clustered(10, 0.0, 0).assign(**change)
    with pytest.raises(TrafficError, match=says):
        judge_table(table, policy(unit=unit, weight="unit"))


def test_slices_of_units_that_are_drawn_by_their_size_are_refused():
    rail = {**RANGE, "slice_by": ["user"]}
    with pytest.raises(PolicyError, match="cannot be sliced"):
        judge_table(clustered(10, 0.0, 0), policy(guardrails=[rail], unit="user", weight="request"))


@pytest.mark.parametrize(
    ("mean", "decision"), [(0.049, Decision.PROMOTE), (0.051, Decision.ROLLBACK)]
)
def test_a_window_that_is_all_here_is_known(mean, decision):
    table = pd.DataFrame({"d": np.full(50, mean)})
    verdict = judge_table(table, policy(claim="window"))
    assert verdict.decision is decision
    assert "over exactly the 50 rows" in verdict.guardrails[0].subject
    assert judge_table(table, policy()).decision is Decision.HOLD


@pytest.mark.usefixtures("few_points")
@simulated(200, 2)
def test_a_draw_from_a_window_keeps_the_error_rates_at_the_window_s_own_mean(runs):
    window = np.repeat([0.25, -0.25], [360, 240])  # mean exactly .05
    rng = np.random.default_rng(5)
    seen = [
        judge_table(
            pd.DataFrame({"d": rng.permutation(window)[:500]}), policy(claim="window"),
            population=600,
        ).decision
        for _ in range(runs)
    ]  # fmt: skip
    most = binom.ppf(0.999, runs, 0.05)
    assert seen.count(Decision.PROMOTE) <= most
    assert seen.count(Decision.ROLLBACK) <= most


def test_a_draw_from_a_window_decides_what_traffic_like_it_leaves_open():
    rng = np.random.default_rng(6)
    window = rng.permutation(np.repeat([0.25, -0.25], [336, 264]))  # mean .03
    table = pd.DataFrame({"d": window[:560]})
    about = judge_table(table, policy(claim="window"), population=600)
    assert about.decision is Decision.PROMOTE
    assert judge_table(table, policy()).decision is Decision.HOLD


def test_a_population_counts_units_where_units_count():
    table = clustered(30, 0.0, 1)
    asked = policy(unit="user", weight="unit", claim="window")
    assert judge_table(table, asked, population=40).record.n_window == 40
    with pytest.raises(UsageError, match="fewer than the table's 30"):
        judge_table(table, asked, population=29)


def test_draws_by_size_are_told_as_draws_of_this_table(tmp_path):
    n = 300
    table = pd.DataFrame({"d": np.full(n, 0.001), "user": [f"u{i // 3}" for i in range(n)]})
    rail = {"name": "d", "column": "d", "range": [-0.1, 0.1], "margin": 0.05}
    asked = {"version": 1, "unit": "user", "weight": "request", "guardrails": [rail]}
    said = judge_table(table, asked, out=tmp_path / "run").record.not_compared
    assert not any("count as independent" in text for text in said)
    assert any("other rows than this table's" in text for text in said)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "100 draws" in page
    assert "100 of 100" not in page
    assert "traffic like this window" not in page


TIMES = pd.date_range("2024-01-01", periods=120, freq="min", tz="UTC")


@pytest.mark.parametrize("column", ["ts", "ts_ns"])
@pytest.mark.parametrize(
    "times",
    [TIMES, TIMES.tz_localize(None), TIMES.tz_convert("Asia/Tokyo"), TIMES.strftime("%Y-%m-%dT%H:%M:%SZ"),
     TIMES.strftime("%Y-%m-%d %H:%M:%S"), TIMES.as_unit("s")],
    ids=["utc", "bare", "tokyo", "iso", "iso-bare", "seconds"],
)  # fmt: skip
def test_time_blocks_are_made_of_whatever_tells_the_time(column, times, tmp_path):
    table = pd.DataFrame({"d": np.zeros(120), column: times})
    rail = {"name": "d", "column": "d", "range": [-0.1, 0.1], "margin": 0.05}
    asked = {"version": 1, "unit": "10m", "weight": "unit", "guardrails": [rail]}
    table.to_csv(tmp_path / "t.csv", index=False)
    for given in (table, tmp_path / "t.csv"):
        assert judge_table(given, asked).guardrails[0].n == 12


def test_numbers_without_a_unit_make_no_time_blocks():
    table = pd.DataFrame({"d": np.zeros(9), "ts": np.arange(9)})
    rail = {"name": "d", "column": "d", "range": [-0.1, 0.1], "margin": 0.05}
    asked = {"version": 1, "unit": "10m", "weight": "unit", "guardrails": [rail]}
    with pytest.raises(TrafficError, match="no whole nanoseconds") as error:
        judge_table(table, asked)
    assert "as ts_ns" in error.value.remedy

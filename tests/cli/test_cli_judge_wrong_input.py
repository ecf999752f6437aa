"""`harness judge` on tables that are wrong: one line, where and what to do, and never a pass."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

N = 400
VALUES = np.random.default_rng(3).normal(0.0, 0.05, N)
ARMS = np.where(np.random.default_rng(4).random(N) < 0.5, "candidate", "baseline")
RANGE = "version: 1\nguardrails:\n  - {name: d, range: [-0.25, 0.25], margin: 0.02}\n"
METRIC = "version: 1\nguardrails:\n  - {name: d, metric: score_shift, margin: 0.02}\n"
UNPAIRED = "version: 1\nunpaired: true\nguardrails:\n  - {name: d, range: [0, 1], margin: 0.1}\n"


@pytest.fixture
def judge(harness, tmp_path):
    """Table (text, bytes, columns, Arrow) and policy text → what the command did."""

    def run(table, policy=RANGE, *more):
        path = tmp_path / ("t.csv" if isinstance(table, str | bytes) else "t.parquet")
        match table:
            case str():
                path.write_text(table)
            case bytes():
                path.write_bytes(table)
            case pa.Table():
                pq.write_table(table, path)
            case _:
                pd.DataFrame(table).to_parquet(path, index=False)
        (tmp_path / "p.yaml").write_text(policy)
        return harness("judge", path, "-p", tmp_path / "p.yaml", *more)

    return run


def csv(values):
    return "d\n" + "".join(f"{value}\n" for value in values)


def arrow(values, kind=None):
    return pa.table({"d": pa.array(values, kind)})


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (csv([0.1, "oops"]), "column 'd': holds string, not numbers"),
        ("d\n0.1\n\x000\n", "column 'd': holds string, not numbers"),
        ('d\n"0,1"\n', "column 'd': holds string, not numbers"),
        ("d;e\n0.1;1\n", "no column 'd'"),
        (" d\n0.1\n", "did you mean ' d'"),
        ("d,e\n1,2\n3\n", "Expected 2 columns, got 1"),
        ("d,d\n1,2\n", "two columns named 'd'"),
        ("", "Empty CSV file"),
        (csv(VALUES).encode("utf-16"), "not UTF-8"),
        (arrow([[1.0]]), "holds list"),
        (arrow([1], pa.duration("s")), "holds duration"),
        (arrow([dt.date(2024, 1, 1)]), "holds date32"),
        (arrow(["a", "b"]).set_column(0, "d", pa.array(["a"] * 2).dictionary_encode()), "holds string"),
        ({"d": VALUES, "request_id": ["a", "a", *map(str, range(N - 2))]}, "row 1: request_id 'a' is there"),
        ({"d": VALUES, "request_id": [None, *map(str, range(N - 1))]}, "'request_id': has empty cells"),
        ({"d": VALUES, "ts_ns": np.arange(N)[::-1]}, "row 1: ts_ns is earlier"),
        ({"d": VALUES, "ts_ns": np.arange(N)[::-1].astype(np.uint64)}, "row 1: ts_ns is earlier"),
        ({"d": VALUES, "ts": ["yesterday", "today"] * (N // 2)}, "'ts': holds text that is not ISO 8601"),
        ({"d": VALUES, "ts": [True] * N}, "'ts': holds bool, not times"),
        ({"d": VALUES, "ts": pd.date_range("2024", periods=N, tz="Europe/Berlin")[::-1]}, "row 1: ts is earlier"),
        (pa.table({"d": VALUES, "ts": np.r_[0.0, np.nan, np.arange(N - 2)]}), "'ts': has empty cells"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_judged_is_refused(table, says, judge):
    ran = judge(table)
    assert ran.code == 2
    assert says in ran.err


@pytest.mark.parametrize(
    "table",
    [
        "\ufeff" + csv(VALUES),
        arrow([decimal.Decimal(f"{value:.6f}") for value in VALUES]),
        {"d": VALUES.astype(np.float16)},
        {"d": pd.Categorical(np.round(VALUES, 2))},
        {"d": VALUES, "request_id": range(N), "ts": pd.date_range("2024", periods=N, tz="UTC")},
    ],
    ids=["bom", "decimals", "float16", "categories", "ids and zones"],
)
def test_numbers_in_any_clothes_are_numbers(table, judge):
    ran = judge(table)
    assert (ran.code, ran.out.splitlines()[0].split(":")[0]) == (0, "PROMOTE")


def test_values_outside_a_range_are_cut_and_counted_outside_a_metric_refused(judge):
    table = csv([*VALUES, 10**40])
    assert "1 of 401 rows of column 'd' lies outside" in judge(table).out
    assert judge(table, METRIC).code == 2


@pytest.mark.parametrize("value", ["inf", "-inf"])
def test_infinite_values_failed_and_a_metric_refuses_them(value, judge):
    table = csv([*VALUES, value])
    assert "1 of 401 rows of column 'd' has no value that can be used" in judge(table).out
    assert judge(table, METRIC).code == 2


@pytest.mark.parametrize(
    "table",
    [csv([]), {"d": [None] * N}, {"d": [np.nan] * N}, arrow(pa.nulls(N)), {"d": pd.array([None] * N, "Int64")}],
    ids=["no rows", "none", "nan", "nulls", "nullable"],
)  # fmt: skip
def test_nothing_is_never_a_pass(table, judge):
    assert judge(table).code == 3


def test_empty_cells_of_nullable_integers_count_as_the_worst(judge):
    flips = "version: 1\nguardrails:\n  - {name: d, metric: decision_flip, margin: 0.3}\n"
    ran = judge({"d": pd.array([0, 0, None] * 100, dtype="Int64")}, flips)
    assert ran.code == 3
    assert "100 of 300" in ran.out


@pytest.mark.parametrize("text", ["-5", "0", "many", "10"])
def test_a_population_that_cannot_be_is_refused(text, judge):
    assert judge(csv(VALUES), RANGE, "--population", text).code == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arm": [*ARMS[1:], "shadow"]}, "row 399: arm 'shadow' is neither"),
        ({"arm": [*ARMS[1:], None]}, "row 399: arm '' is neither"),
        ({"arm": ARMS == "candidate"}, "arm 'False' is neither"),
        ({"propensity": [0.5] * 399 + [np.nan]}, "row 399: propensity nan is no probability"),
        ({"propensity": 2.0}, "row 0: propensity 2 is no probability"),
        ({"propensity": 0.0}, "propensity 0 says that none could be"),
        ({"propensity": 1.0}, "propensity 1 says that none could be"),
        ({"propensity": "half"}, "holds large_string, not numbers"),
        ({"propensity": np.linspace(0.2, 0.8, N)}, "at most 64 steps"),
    ],
)
def test_an_arm_that_cannot_be_is_refused(change, says, judge):
    ran = judge({"d": 0.5 + VALUES, "arm": ARMS, "propensity": 0.5, **change}, UNPAIRED)
    assert ran.code == 2
    assert says in ran.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arm": "candidate"}, "Units do not fall to the arms as the column `propensity` says"),
        ({"arm": "candidate", "propensity": 1.0}, "no unit could have met the other version"),
    ],
)
def test_a_split_without_two_arms_is_held_for_what_it_is(change, says, judge):
    ran = judge({"d": 0.5 + VALUES, "arm": ARMS, "propensity": 0.5, **change}, UNPAIRED)
    assert ran.code == 3
    assert says in ran.out


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("margin: 0.02", "margin: 0.25", "outside the range"),
        ("margin: 0.02", "margin: .nan", "needs a number"),
        ("margin: 0.02", "margin: true", "needs a number"),
        ("[-0.25, 0.25]", "[-1e308, 1e308]", "ends beyond"),
        ("[-0.25, 0.25]", "[-.inf, 1]", "needs a number"),
        ("version: 1", "version: 1\nalpha: {promote: 0}", "needs a number above 0"),
        ("version: 1", "version: 1\nalpha: {rollback: -0.05}", "needs a number above 0"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(old, new, says, judge):
    ran = judge(csv(VALUES), RANGE.replace(old, new))
    assert ran.code == 2
    assert says in ran.err

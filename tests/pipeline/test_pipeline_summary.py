"""What the pairs say besides the verdict, by hand and cut into chunks anywhere."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.pipeline.summary import MOST_SLICES, Summary

NAN = float("nan")


def pairs_of(n=6, **changes):
    """Six requests in two batches: decisions 0→1, 1→0, 1→0, 0→0, 1→1 and one that failed."""
    table = {
        "request_id": np.array([f"r{i}" for i in range(n)], object),
        "seq": np.arange(n),
        "window": np.array(["newest"] * n, object),
        "batch": np.array([0, 0, 0, 1, 1, 1]),
        "ts_ns": np.arange(n) * 10,
        "baseline_outcome": np.zeros(n, np.int8),
        "candidate_outcome": np.array([0, 0, 0, 0, 0, 2], np.int8),
        "baseline_latency_s": np.array([0.001] * 3 + [0.003] * 3),
        "candidate_latency_s": np.array([0.002] * 3 + [NAN] * 3),
        "baseline_score": np.array([0.25, 0.75, 0.9, 0.1, 0.6, NAN]),
        "candidate_score": np.array([0.75, 0.25, 0.3, 0.1, 0.7, NAN]),
        "baseline_decision": np.array([0, 1, 1, 0, 1, NAN]),
        "candidate_decision": np.array([1, 0, 0, 0, 1, NAN]),
        "cx:site": np.array(["a", "a", "b", "b", "b", "a"], object),
    }
    return {**table, **changes}


def summary_of(*chunks, cover=(), slices=("site",), counts=None):
    summary = Summary(cover=cover, slices=slices)
    for chunk in chunks:
        summary.add(chunk)
    return summary.finish(counts or {})


def rows(table, start, stop):
    return {name: column[start:stop] for name, column in table.items()}


def test_numbers_by_hand():
    told = summary_of(pairs_of())
    assert told["n"] == 6
    flips = told["flips"]
    assert (flips["n"], flips["changed"], flips["to_positive"], flips["to_negative"]) == (
        5,
        3,
        1,
        2,
    )
    assert flips["mcnemar_p"] == pytest.approx(1.0)  # two-sided binomial of 1 in 3
    assert told["decision_rate"] == {"newest": {"baseline": 0.6, "candidate": 0.4, "n": 6}}
    assert told["outcomes"] == {"baseline": {"OK": 6}, "candidate": {"OK": 5, "CRASH": 1}}
    assert told["latency"]["baseline"] == {
        "p50_ms": 2.0,
        "p99_ms": pytest.approx(2.98),
        "batches": 2,
    }
    assert told["latency"]["candidate"]["batches"] == 1


def test_slices_by_hand():
    by_value = {s["value"]: s for s in summary_of(pairs_of())["slices"]}
    assert by_value["a"] == {
        "column": "site", "value": "a", "n": 3, "baseline_rate": 0.5, "candidate_rate": 0.5,
        "score_shift": pytest.approx(0.0),
    }  # fmt: skip
    assert by_value["b"]["baseline_rate"] == pytest.approx(2 / 3)
    assert by_value["b"]["score_shift"] == pytest.approx((-0.6 + 0.0 + 0.1) / 3)


def test_the_most_changed_come_first_and_unchanged_ones_not_at_all():
    changed = summary_of(pairs_of())["changed"]
    assert [c["request_id"] for c in changed] == ["r2", "r0", "r1", "r4"]
    assert changed[0]["context"] == {"site": "b"}


def test_a_request_in_both_windows_is_listed_once():
    twice = pairs_of(window=np.array(["matured"] * 6, object))
    told = summary_of(pairs_of(), twice)
    assert [c["request_id"] for c in told["changed"]] == ["r2", "r0", "r1", "r4"]
    assert set(told["decision_rate"]) == {"newest", "matured"}


@pytest.mark.parametrize("seed", range(20))
def test_the_second_window_in_another_order_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    n = 60
    table = {name: np.resize(column, n) for name, column in pairs_of().items()}
    table |= {"request_id": np.array([f"r{i}" for i in range(n)], object)}
    table |= {"seq": np.arange(n), "candidate_score": rng.random(n), "batch": np.arange(n) // 10}
    table["baseline_score"] = np.zeros(n)
    order = rng.permutation(n)
    again = {name: column[order] for name, column in table.items()}
    once, twice = (summary_of(*chunks)["changed"] for chunks in ([table], [table, again]))
    assert [c["request_id"] for c in twice] == [c["request_id"] for c in once]


def test_coverage_compares_judged_with_recorded():
    told = summary_of(pairs_of(), cover=["site"], counts={"site": {"a": 10, "b": 20, "c": 10}})
    assert [(c["value"], c["traffic_share"], c["judged"]) for c in told["coverage"]] == [
        ("a", 0.25, 3), ("b", 0.5, 3), ("c", 0.25, 0),
    ]  # fmt: skip


def test_nothing_judged_is_no_number():
    told = summary_of()
    assert told["n"] == 0
    assert told["latency"]["baseline"] == {"p50_ms": None, "p99_ms": None, "batches": 0}
    assert told["flips"]["mcnemar_p"] == 1.0


@settings(max_examples=30, deadline=None)
@given(cuts=st.sets(st.integers(1, 39)), seed=st.integers(0, 99))
def test_chunk_borders_do_not_matter(cuts, seed):
    """Chunks hold whole batches; scores on a grid, so that sums of floats are exact."""
    rng = np.random.default_rng(seed)
    n, batch = 160, 4
    table = {
        "request_id": np.array([f"r{i}" for i in range(n)], object),
        "seq": rng.permutation(n),
        "window": np.array([["newest", "matured"][(i // batch) % 2] for i in range(n)], object),
        "batch": np.arange(n) // batch,
        "ts_ns": np.arange(n),
        "baseline_outcome": np.zeros(n, np.int8),
        "candidate_outcome": rng.integers(0, 2, n).astype(np.int8),
        "baseline_latency_s": np.repeat(rng.random(n // batch), batch),
        "candidate_latency_s": np.repeat(rng.random(n // batch), batch),
        "baseline_score": rng.integers(0, 9, n) / 8,
        "candidate_score": rng.integers(0, 9, n) / 8,
        "baseline_decision": rng.integers(0, 2, n).astype(float),
        "candidate_decision": rng.integers(0, 2, n).astype(float),
        "cx:site": rng.choice(np.array(["a", "b"], object), n),
    }
    borders = [0, *sorted(c * batch for c in cuts), n]
    chunks = [rows(table, a, b) for a, b in itertools.pairwise(borders)]
    assert summary_of(*chunks) == summary_of(table)


def test_columns_nobody_asked_for_are_not_told():
    """A column with a value a request would make the summary as long as the traffic."""
    assert summary_of(pairs_of(), slices=())["slices"] == []


def test_only_the_most_frequent_values_of_a_column_are_listed():
    n = 3 * MOST_SLICES
    table = {k: np.resize(v, n) for k, v in pairs_of().items()}
    names = [f"u{i:04d}" for i in range(n - 5)]
    told = summary_of({**table, "cx:site": np.array([*names, *["often"] * 5], object)})["slices"]
    assert len(told) == MOST_SLICES
    assert {s["value"]: s["n"] for s in told}["often"] == 5

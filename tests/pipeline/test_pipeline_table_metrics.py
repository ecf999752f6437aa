"""`judge_table` with metrics that are made from several columns."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from harness import judge_table
from harness.core.errors import TrafficError
from harness.core.verdicts import Decision

EXCESS = {
    "name": "e", "metric": "excess_flip", "margin": 0.02,
    "flip": "f", "baseline_flip": "b", "candidate_flip": "c",
}  # fmt: skip
CALIBRATION = {
    "name": "c", "metric": "calibration_shift", "margin": 0.1, "bins": 4,
    "label": "y", "baseline": "old", "candidate": "new",
}  # fmt: skip
TYPICAL = {
    "name": "t", "metric": "latency_ratio", "margin": 0.1, "baseline": "old", "candidate": "new",
}  # fmt: skip
SLOW = {**TYPICAL, "metric": "latency_p99", "margin": 0.3}
COST = {
    "name": "cost", "metric": "ratio", "numerator": "spend", "denominator": "clicks",
    "ratio": 1.2, "range": [0, 10],
}  # fmt: skip


def judged(table, *guardrails, **more):
    policy = {"version": 1, "guardrails": list(guardrails), **more}
    return judge_table(pd.DataFrame(table), policy)


def flips(n, moved, noise, seed=0):
    rng = np.random.default_rng(seed)
    old = rng.random(n) < 0.3
    new = old ^ (rng.random(n) < moved)

    def answer(truth):
        return truth ^ (rng.random(n) < noise)

    a, b, c, d = answer(old), answer(old), answer(new), answer(new)
    return {"f": (a != c) * 1.0, "b": (a != b) * 1.0, "c": (c != d) * 1.0}


def test_noise_alone_is_no_excess_though_it_is_many_flips():
    table = flips(6000, 0.0, 0.03)
    assert judged(table, EXCESS).decision is Decision.PROMOTE
    plain = {"name": "f", "metric": "decision_flip", "margin": 0.02}
    assert judged(table, plain).decision is Decision.ROLLBACK


def test_flips_beyond_the_noise_are_excess():
    assert judged(flips(6000, 0.06, 0.03), EXCESS).decision is Decision.ROLLBACK


def test_a_flip_that_is_none_is_refused():
    with pytest.raises(TrafficError, match="outside"):
        judged({**flips(10, 0.0, 0.0), "b": np.full(10, 2.0)}, EXCESS)


def calibrated(n, off=0.0, seed=0):
    rng = np.random.default_rng(seed)
    old = rng.random(n)
    y = (rng.random(n) < old).astype(float)
    return {"y": y, "old": old, "new": np.clip(old + np.where(old > 0.75, off, 0.0), 0.0, 1.0)}


def test_calibration_holds_in_every_bin_or_is_harm():
    assert judged(calibrated(8000), CALIBRATION).decision is Decision.PROMOTE
    wrong = judged(calibrated(8000, off=-0.3), CALIBRATION)
    assert wrong.decision is Decision.ROLLBACK
    assert "bins of the baseline's score" in wrong.guardrails[0].reason


def test_a_label_of_a_third_kind_is_refused():
    with pytest.raises(TrafficError, match="neither 0 nor 1"):
        judged({**calibrated(10), "y": np.full(10, 2.0)}, CALIBRATION)


def times(n, growth, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.lognormal(-6, 0.4, n)
    return {"old": size * rng.lognormal(0, 0.1, n), "new": growth * size * rng.lognormal(0, 0.1, n)}


@pytest.mark.parametrize(
    ("growth", "decision"), [(1.0, Decision.PROMOTE), (1.3, Decision.ROLLBACK)]
)
def test_the_typical_latency(growth, decision):
    assert judged(times(3000, growth), TYPICAL).decision is decision


@pytest.mark.parametrize(
    ("growth", "decision"), [(1.0, Decision.PROMOTE), (2.5, Decision.ROLLBACK)]
)
def test_the_slow_requests_against_a_cut_off_of_the_planning_rows(growth, decision):
    found = judged(times(6000, growth), SLOW, windows={"planning": 1000})
    assert found.decision is decision
    assert found.guardrails[0].n == 5000


def test_a_growth_exactly_at_the_margin_is_seldom_called_wrong():
    seen = [judged(times(600, 1.1, seed), TYPICAL).decision for seed in range(200)]
    most = binom.ppf(0.999, 200, 0.05)
    assert seen.count(Decision.PROMOTE) <= most
    assert seen.count(Decision.ROLLBACK) <= most


def test_a_time_that_is_none_is_refused():
    with pytest.raises(TrafficError, match="no time"):
        judged({"old": np.zeros(5), "new": np.ones(5)}, TYPICAL)


def spending(n, ratio, seed=0):
    rng = np.random.default_rng(seed)
    clicks = rng.choice([1.0, 5.0], n, p=[0.8, 0.2])
    return {"clicks": clicks, "spend": rng.uniform(0, 2, n) * clicks * ratio}


@pytest.mark.parametrize(("ratio", "decision"), [(0.9, Decision.PROMOTE), (1.5, Decision.ROLLBACK)])
def test_a_ratio_of_sums_has_its_limit(ratio, decision):
    assert judged(spending(3000, ratio), {**COST, "range": [0, 20]}).decision is decision


def test_a_ratio_at_its_limit_stays_undecided():
    assert judged(spending(2000, 1.2), {**COST, "range": [0, 20]}).decision is Decision.HOLD


def test_rows_beyond_a_ratio_s_ranges_are_told():
    found = judged({"spend": [0.0] * 90 + [11.0] * 10, "clicks": [1.0] * 100}, COST)
    assert found.findings[0].value == 0.1


def test_an_empty_cell_of_any_column_is_a_failed_row():
    table = spending(100, 1.0)
    table["clicks"][:7] = np.nan
    assert judged(table, COST).guardrails[0].n_failed == 7


def test_slices_of_units_are_judged_by_their_units():
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(600), 5)
    site = np.where(user % 2 == 0, "a", "b")
    d = rng.normal(np.where(site == "b", 0.2, 0.0), 0.1)
    rail = {"name": "d", "range": [-1, 1], "margin": 0.15, "slice_by": ["site"], "min_slice": 100}
    found = judged(
        {"d": d, "user": user.astype(str), "site": site}, rail, unit="user", weight="unit"
    )
    rows = {row.name: row for row in found.guardrails}
    assert rows["d[site=a]"].n == 300
    assert rows["d[site=b]"].verdict.value == "FAIL"
    assert rows["d[site=a]"].verdict.value == "PASS"


def test_a_unit_in_two_slices_is_refused():
    rail = {"name": "d", "range": [-1, 1], "margin": 0.15, "slice_by": ["site"]}
    table = {"d": [0.0] * 4, "user": ["u", "u", "v", "v"], "site": ["a", "b", "a", "a"]}
    with pytest.raises(TrafficError, match="counts once"):
        judged(table, rail, unit="user", weight="unit")

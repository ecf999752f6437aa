"""Harm that stands in odd places of a table: it must never end in PROMOTE."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from simulated import simulated

from harness import judge_table
from harness.core.verdicts import Decision
from harness.pipeline.judge_table import read_table_policy

CALIBRATION = {
    "name": "c", "metric": "calibration_shift", "margin": 0.2, "bins": 2,
    "label": "y", "baseline": "old", "candidate": "new",
}  # fmt: skip
RATIO = {
    "name": "r", "metric": "ratio", "numerator": "spend", "denominator": "clicks",
    "ratio": 1.2, "range": [0, 10], "denominator_range": [0, 5],
}  # fmt: skip
FLIP = {"name": "d", "metric": "decision_flip", "margin": 0.05}


def judged(table, *guardrails, **more):
    policy = {"version": 1, "guardrails": list(guardrails), **more}
    return judge_table(pd.DataFrame(table), policy)


def with_a_hole(first, rows=1500, holes=9000):
    """A sound candidate beside rows whose baseline score is missing and which are badly wrong."""
    rng = np.random.default_rng(0)
    score = rng.random(rows)
    sound = {"old": score, "new": score, "y": (rng.random(rows) < score) * 1.0}
    holed = {"old": np.full(holes, np.nan), "new": np.full(holes, 0.9), "y": np.zeros(holes)}
    order = (holed, sound) if first else (sound, holed)
    return {key: np.concatenate([part[key] for part in order]) for key in sound}


@pytest.mark.parametrize("first", [True, False])
def test_rows_without_the_baselines_score_count_as_the_worst_wherever_they_stand(first):
    verdict = judged(with_a_hole(first), CALIBRATION)
    (row,) = verdict.guardrails
    assert verdict.decision is Decision.HOLD
    # All rows but the 25 of each of 2 bins that fix where these end.
    assert (row.n, row.n_failed) == (10_450, 9000)
    assert any("9,000 of 10,500 rows" in f.what for f in verdict.findings)


def test_without_the_hole_the_same_candidate_is_promoted():
    assert judged(with_a_hole(True, holes=0), CALIBRATION).decision is Decision.PROMOTE


def window(ones, seed, n=1200, read=None):
    x = np.zeros(n)
    x[:ones] = 1.0
    np.random.default_rng(seed).shuffle(x)
    return pd.DataFrame({"d": x[:read]})


def decisions(ones, runs, **more):
    policy, _, _ = read_table_policy(
        {"version": 1, "guardrails": [{**FLIP, "effect": 0.0}], "claim": "window",
         "windows": {"planning": 300}}
    )  # fmt: skip
    return [judge_table(window(ones, s, **more), policy, 1200).decision for s in range(runs)]


def test_harm_that_stands_in_the_planning_rows_is_part_of_the_window():
    x = np.concatenate([np.ones(300), np.zeros(2700)])
    rail = {"name": "d", "range": [-1, 1], "margin": 0.05}
    verdict = judged({"d": x}, rail, claim="window", windows={"planning": 300})
    assert verdict.decision is Decision.ROLLBACK
    (row,) = verdict.guardrails
    # All of it was read: its mean is known.
    assert (row.lower, row.upper) == pytest.approx((0.1, 0.1))


@pytest.mark.usefixtures("few_points")
def test_a_window_that_was_read_is_decided_by_its_own_mean_whatever_planned():
    """61 of 1,200 are beyond 0.05, 60 are not: no split between planning and rest changes that."""
    assert set(decisions(61, 10)) == {Decision.ROLLBACK}
    assert Decision.ROLLBACK not in decisions(60, 10)
    assert set(decisions(59, 10)) == {Decision.PROMOTE}


@pytest.mark.usefixtures("few_points")
@simulated(120, 2)
def test_a_window_at_its_margin_keeps_the_error_rates_when_part_of_it_plans(runs):
    """800 of 1,200 are read, 300 of which plan."""
    most = binom.ppf(0.999, runs, 0.05)
    assert decisions(61, runs, read=800).count(Decision.PROMOTE) <= most
    assert decisions(60, runs, read=800).count(Decision.ROLLBACK) <= most
    assert Decision.ROLLBACK in decisions(140, 3, read=800)


def test_an_infinite_value_speaks_for_neither_answer():
    """Cut to the range, −∞ would be the best value that there is."""
    rng = np.random.default_rng(1)
    x = rng.normal(0.1, 0.05, 3000)
    x[::3] = -np.inf
    rail = {"name": "d", "range": [-1, 1], "margin": 0.05}
    verdict = judged({"d": x}, rail)
    assert verdict.decision is Decision.HOLD
    assert verdict.guardrails[0].n_failed == 1000
    upwards = judged({"d": np.where(np.isinf(x), np.inf, -0.1)}, rail)
    assert upwards.decision is Decision.HOLD


@pytest.mark.parametrize(
    ("spend", "clicks"),
    [(-1.0, 100.0), (np.inf, np.inf), (1.0, np.inf), (-np.inf, 1.0), (1.0, -3.0)],
)
def test_a_ratio_of_values_that_cannot_be_is_no_proof(spend, clicks):
    table = {"spend": np.full(2000, spend), "clicks": np.full(2000, clicks)}
    verdict = judged(table, RATIO)
    assert verdict.decision is Decision.HOLD
    assert verdict.guardrails[0].n_failed == 2000


def test_a_rollback_shows_the_look_that_proved_it():
    """Harm at first, none later: the answer stays, and its text may not deny it."""
    x = np.concatenate([np.full(500, 0.2), np.full(2500, -0.1)])
    verdict = judged({"d": x}, {"name": "d", "range": [-1, 1], "margin": 0.05})
    (row,) = verdict.guardrails
    assert verdict.decision is Decision.ROLLBACK
    assert row.proven is not None
    assert row.proven.n < row.n == 3000
    assert row.proven.lower > 0.05 > row.upper
    for text in (row.reason, verdict.record.explanation):
        assert f"after {row.proven.n:,}" in text
        assert f"{row.proven.lower:.4g}" in text
    assert "after 3,000 it lies in [-0.0" in row.reason


def test_a_clipped_growth_is_a_lower_bound_and_its_rows_are_counted():
    rail = {
        "name": "l", "metric": "latency_ratio", "baseline": "a", "candidate": "b", "margin": 1.5,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    times = {"a": np.exp(rng.normal(0, 0.1, 1500)), "b": 1000 * np.exp(rng.normal(0, 0.1, 1500))}
    verdict = judged(times, rail)
    assert "was at least 15" in verdict.record.explanation
    assert "at most 150 % is tolerated" in verdict.record.explanation
    assert "growth of at most 150 %" in verdict.guardrails[0].reason
    assert any("1,500 of 1,500 rows of columns 'a' and 'b' lie" in f.what for f in verdict.findings)


SLICED = {"name": "d", "range": [-1, 1], "margin": 0.05, "slice_by": ["c"]}


def sliced(harm, share=0.1, n=3000):
    rng = np.random.default_rng(2)
    rare = rng.random(n) < share
    return {"d": rng.normal(0, 0.05, n) + harm * rare, "c": np.where(rare, "b", "a")}


def test_harm_that_a_small_slice_proves_is_not_hidden():
    verdict = judged(sliced(0.3), SLICED)
    assert (verdict.decision, verdict.reason) == (Decision.HOLD, "slice_harm")
    assert "d[c=rest]" in verdict.record.explanation
    assert judged(sliced(0.0), SLICED).decision is Decision.PROMOTE


def test_a_promotion_says_how_much_it_makes_no_claim_of_and_has_a_limit():
    said = judged(sliced(0.0), SLICED)
    assert "No claim is made of 9.3%" in said.record.explanation
    tight = judged(sliced(0.0), SLICED, most_without_claim=0.05)
    assert (tight.decision, tight.reason) == (Decision.HOLD, "too_much_without_claim")
    much = judged(sliced(0.0, share=0.4, n=1100), SLICED)
    assert (much.decision, much.reason) == (Decision.HOLD, "too_much_without_claim")


def test_a_table_and_a_policy_have_one_answer():
    """A fresh draw at each call would give harm another chance: asked 40 times, 35 % found it."""
    table = pd.DataFrame({"d": (np.arange(1000) % 20 == 0) * 1.0, "u": np.arange(1000)})
    policy = {"version": 1, "unit": "u", "weight": "request", "guardrails": [FLIP]}
    first, second = judge_table(table, policy), judge_table(table, policy)
    assert first.guardrails == second.guardrails
    other = judge_table(table.iloc[::-1], policy)
    assert other.guardrails != first.guardrails

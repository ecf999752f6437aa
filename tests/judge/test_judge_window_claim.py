"""Claims about exactly N requests: right about these, at every look and at the end."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from harness.core.errors import GateError
from harness.core.policies import Claim, Direction, Guardrail, Metric
from harness.core.verdicts import Verdict
from harness.judge import window_claim
from harness.judge.combine import Judge
from harness.judge.metrics import Values
from harness.judge.plan import WindowCounts, plan_tests
from harness.judge.track import Track

BAR = math.log(20)
N = 2000


def track(population, margin=0.005, bounds=(-1.0, 1.0), direction=Direction.INCREASE, **more):
    return Track(
        direction=direction,
        margin=margin,
        bounds=bounds,
        alphas=(0.05, 0.05),
        population=population,
        **more,
    )


def window(name, mean, rng, n=N):
    """Values whose own mean is exactly (to rounding) the given one, and their bounds."""
    if name == "ones":
        x = np.zeros(n)
        x[: round(mean * n)] = 1.0
        return x, (0.0, 1.0)
    if name == "ternary":
        x = np.zeros(n)
        lost = n // 20
        x[:lost] = -1.0
        x[lost : 2 * lost + round(mean * n)] = 1.0
        return x, (-1.0, 1.0)
    if name == "halves":
        x = np.zeros(n)
        x[: round(2 * mean * n)] = 0.5
        return x, (0.0, 1.0)
    if name == "heavy":
        x = np.clip(rng.standard_t(1.5, n) * 0.02, -0.9, 0.9)
        return np.clip(x - x.mean() + mean, -1.0, 1.0), (-1.0, 1.0)
    x = np.clip(rng.normal(0.0, 0.05, n), -0.3, 0.3)
    return x - x.mean() + mean, (-1.0, 1.0)


def read(seen, x, batch):
    """Adds a window batch by batch; whether rollback and promotion were ever claimed."""
    rollback = promote = False
    for start in range(0, len(x), batch):
        seen.add(x[start : start + batch], 0)
        rollback |= seen.log_e_rollback() >= BAR
        promote |= seen.log_e_promote() >= BAR
    return rollback, promote


POPULATIONS = ["ones", "ternary", "halves", "normal", "heavy"]


OFTEN = {
    ("ones", False),
    ("ones", True),
    ("ternary", True),
    ("halves", False),
    ("normal", True),
    ("heavy", False),
}
"""Every population, and bets of either kind; the other pairs take long together."""


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize(
    ("planned", "name"),
    [
        pytest.param(planned, name, marks=[] if (name, planned) in OFTEN else pytest.mark.long)
        for planned in (False, True)
        for name in POPULATIONS
    ],
)
def test_false_answers_about_a_window_at_its_margin_stay_below_alpha(name, planned):
    rng = np.random.default_rng(70)
    x, bounds = window(name, 0.01, rng)
    margin = float(x.mean())
    plan = (0.008, float(np.mean((x - margin) ** 2))) if planned else (None, None)
    paths, rollbacks, promotions = 120, 0, 0
    for _ in range(paths):
        seen = track(N, margin=margin, bounds=bounds, plan=plan)
        rollback, promote = read(seen, rng.permutation(x), 100)
        rollbacks += rollback
        promotions += promote
    assert rollbacks <= binom.ppf(0.9999, paths, 0.05)
    assert promotions <= binom.ppf(0.9999, paths, 0.05)


@pytest.mark.usefixtures("few_points")
def test_the_same_bound_catches_gains_that_are_counted_too_often(monkeypatch):
    true = window_claim.log_products
    monkeypatch.setattr(window_claim, "log_products", lambda *given: 3.0 * true(*given))
    rng = np.random.default_rng(71)
    x, bounds = window("normal", 0.01, rng)
    margin, wrong = float(x.mean()), 0
    for _ in range(120):
        seen = track(N, margin=margin, bounds=bounds, plan=(0.008, 0.0025))
        wrong += read(seen, rng.permutation(x), 100)[0]
    assert wrong > binom.ppf(0.9999, 120, 0.05)


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize(("mean", "answer"), [(0.004, (False, True)), (0.02, (True, False))])
def test_the_end_of_a_window_decides_it(name, mean, answer):
    rng = np.random.default_rng(72)
    x, bounds = window(name, mean, rng)
    assert read(track(N, margin=0.01, bounds=bounds), rng.permutation(x), 100) == answer


@pytest.mark.usefixtures("few_points")
def test_a_process_claim_is_not_decided_by_reading_everything():
    rng = np.random.default_rng(73)
    x, bounds = window("ones", 0.0095, rng)
    orders = [rng.permutation(x) for _ in range(20)]
    process = [read(track(None, margin=0.01, bounds=bounds), order, 100) for order in orders]
    exact = [read(track(N, margin=0.01, bounds=bounds), order, 100) for order in orders]
    assert exact == [(False, True)] * 20
    assert process.count((False, False)) >= 15


@pytest.mark.usefixtures("few_points")
def test_a_window_claim_needs_fewer_requests_when_it_is_nearly_read():
    rng = np.random.default_rng(74)
    x, bounds = window("normal", 0.012, rng)

    def needed(population):
        counts = []
        for _ in range(20):
            seen = track(population, margin=0.005, bounds=bounds)
            order = rng.permutation(x)
            for start in range(0, N, 50):
                seen.add(order[start : start + 50], 0)
                if seen.log_e_rollback() >= BAR:
                    break
            counts.append(seen.n)
        return np.mean(counts)

    assert needed(N) < needed(None)


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("direction", [Direction.INCREASE, Direction.BOTH])
def test_limits_hold_the_window_mean_at_every_look(name, direction):
    if direction is Direction.BOTH and name in {"ones", "halves"}:
        return
    rng = np.random.default_rng(75)
    x, bounds = window(name, 0.004, rng)
    mean, missed, paths = float(x.mean()), 0, 60
    for _ in range(paths):
        seen, order, miss = track(N, 0.01, bounds, direction), rng.permutation(x), False
        for start in range(0, N, 200):
            seen.add(order[start : start + 200], 0)
            lower, upper = seen.interval()
            assert lower <= upper
            miss |= not lower - 1e-9 <= mean <= upper + 1e-9
        missed += miss
    assert missed <= binom.ppf(0.9999, paths, 0.1)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0, 0.03), st.integers(0, 15))
@example(0, 0.0002676188840462146, 8)
def test_limits_at_the_margin_say_what_the_verdict_says(seed, mean, n_failed):
    rng = np.random.default_rng(seed)
    x, bounds = window("ones", mean, rng)
    seen = track(N, margin=0.01, bounds=bounds)
    seen.add(rng.permutation(x)[:1500], n_failed)
    lower, upper = seen.interval()
    assert (upper <= 0.01) == (seen.log_e_promote() >= BAR)
    assert (lower >= 0.01) == (seen.log_e_rollback() >= BAR)


def test_failed_requests_count_against_either_answer():
    seen = track(100, margin=0.01, bounds=(0.0, 1.0))
    seen.add(np.zeros(97), 3)
    assert seen.log_e_promote() < 0.0
    assert seen.log_e_rollback() < BAR
    assert seen.interval() == pytest.approx((0.0, 0.03), abs=0.02)


@pytest.mark.parametrize("population", [None, 100])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused_before_it_enters(population, value):
    seen = track(population)
    before = seen.state()
    with pytest.raises(GateError, match="not a number"):
        seen.add(np.array([0.0, value]), 0)
    assert seen.state() == before


def test_more_requests_than_the_window_holds_are_refused():
    seen = track(100)
    seen.add(np.zeros(90), 0)
    with pytest.raises(GateError, match="window of 100"):
        seen.add(np.zeros(8), 3)


@settings(deadline=None)
@given(st.sampled_from(POPULATIONS), st.integers(0, 2**32))
def test_a_saved_window_claim_continues_identically(name, seed):
    rng = np.random.default_rng(seed)
    x, bounds = window(name, 0.01, rng, 400)
    whole, first = track(400, 0.01, bounds), track(400, 0.01, bounds)
    for start in range(0, 400, 100):
        whole.add(x[start : start + 100], 0)
    for start in range(0, 200, 100):
        first.add(x[start : start + 100], 0)
    second = track(400, 0.01, bounds).restore(json.loads(json.dumps(first.state())))
    for start in range(200, 400, 100):
        second.add(x[start : start + 100], 0)
    assert json.dumps(second.state()) == json.dumps(whole.state())
    assert second.path() == whole.path()


def test_a_saved_window_claim_of_another_size_is_refused():
    saved = track(400).state()
    with pytest.raises(GateError, match="400"):
        track(500).restore(saved)


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 1.0},
        {"margin": -1.0},
        {"margin": float("nan")},
        {"bounds": (0.0, 0.0)},
        {"bounds": (0.0, math.inf)},
        {"direction": Direction.DECREASE, "bounds": (0.0, 1.0), "margin": 0.1},
        {"population": -1},
    ],
)
def test_what_cannot_be_tested_is_refused(wrong):
    with pytest.raises(GateError, match="cannot be tested"):
        track(**{"population": 10, **wrong})


@pytest.mark.parametrize("alphas", [(0.0, 0.05), (0.05, -0.1), (0.05, 1.0)])
def test_levels_outside_zero_and_one_are_refused(alphas):
    with pytest.raises(GateError, match="error levels"):
        Track(direction=Direction.BOTH, margin=0.1, bounds=(-1.0, 1.0), alphas=alphas)


def judge_of(make_policy, n, **more):
    rails = (
        Guardrail(name="flips", metric=Metric.DECISION_FLIP, margin=0.01, slice_by=("t",),
                  min_slice=100),
    )  # fmt: skip
    policy = make_policy(*rails)
    policy = type(policy)(
        **{f: getattr(policy, f) for f in policy.__slots__ if f != "claim"}, claim=Claim.WINDOW
    )
    counts = {"newest": WindowCounts(n=n, slices={"t": {"a": n}}, **more)}
    return Judge(plan_tests(policy, counts), 0.05, 0.05)


def test_the_plan_gives_whole_windows_an_n_and_slices_none(make_policy):
    plan = judge_of(make_policy, 1000)._plan
    assert [test.population for test in plan.tests] == [1000, None]
    assert judge_of(make_policy, 1000, population=5000)._plan.tests[0].population == 5000


def test_a_judge_decides_a_window_at_its_end_and_says_about_what(make_policy):
    judge = judge_of(make_policy, 1000)
    x = np.zeros(1000)
    x[::125] = 1.0
    for start in range(0, 1000, 100):
        batch = Values(x=x[start : start + 100], failed=np.zeros(100, np.bool_))
        judge.update("newest", {"flips": batch}, {"t": np.array(["a"] * 100, dtype=object)})
    whole, part = judge.evidence()
    assert whole.verdict is Verdict.PASS
    assert "exactly the 1,000 requests" in whole.subject
    assert part.verdict is Verdict.INCONCLUSIVE
    assert "requests like" in part.subject


def test_a_judge_of_a_window_continues_identically_from_its_state(make_policy):
    x = (np.random.default_rng(76).random(900) < 0.02).astype(np.float64)

    def feed(judge, starts):
        for start in starts:
            batch = Values(x=x[start : start + 100], failed=np.zeros(100, np.bool_))
            judge.update("newest", {"flips": batch}, {"t": np.array(["a"] * 100, dtype=object)})

    whole, first = judge_of(make_policy, 1000), judge_of(make_policy, 1000)
    feed(whole, range(0, 900, 100))
    feed(first, range(0, 300, 100))
    saved = json.loads(json.dumps(first.state()))
    second = Judge.from_state(first._plan, 0.05, 0.05, saved)
    feed(second, range(300, 900, 100))
    assert second.evidence() == whole.evidence()
    assert second.status() == whole.status()


def test_a_state_does_not_continue_for_a_window_of_another_size(make_policy):
    saved = judge_of(make_policy, 1000).state()
    with pytest.raises(GateError, match="another plan"):
        Judge.from_state(judge_of(make_policy, 900)._plan, 0.05, 0.05, saved)


def test_requests_that_do_not_enter_count_as_failed_under_a_window_claim(make_policy):
    judge = judge_of(make_policy, 100)
    x = np.zeros(100)
    x[:5] = np.nan
    batch = Values(x=x, failed=np.zeros(100, np.bool_), left_out=(("both_failed", 5),))
    judge.update("newest", {"flips": batch}, {"t": np.array(["a"] * 100, dtype=object)})
    whole = judge.evidence()[0]
    assert (whole.n, whole.n_failed) == (100, 5)
    assert whole.verdict is Verdict.INCONCLUSIVE
    assert "count as failed" in whole.reason

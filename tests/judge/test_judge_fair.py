"""Every e-value is worth exactly 1 at its margin: expectations summed over all outcomes, no luck.

A rate of false answers stays below α even for tests that are somewhat wrong, because most tests lose
evidence to their caps and to the end of a simulation. The expectation does not forgive: exactly at
the margin it is 1 at every look, for whatever was seen before, and any slip in a bet, a weight, a
null or a prior moves it. Where the mathematics only promises "at most 1", that is what is asked.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from harness.core.live import LiveGuardrail, LiveKind
from harness.core.policies import Direction, Guardrail, Metric
from harness.core.verdicts import Decision
from harness.judge.betting import one_sided
from harness.judge.combine import Judge
from harness.judge.counts import ErrorRatio
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import LiveBatch, LivePlan
from harness.judge.metrics import Values
from harness.judge.overlap import OverlapTrack
from harness.judge.plan import WindowCounts, plan_tests
from harness.judge.sample_ratio import SampleRatio
from harness.judge.track import Track

ALPHAS = (0.05, 0.05)
ONE = pytest.approx(1.0, abs=1e-9)


def e_values(test):
    return np.exp([test.log_e_rollback(), test.log_e_promote()])


def compositions(n, parts):
    """Every way in which n draws fall on `parts` values."""
    for bars in itertools.combinations(range(n + parts - 1), parts - 1):
        edges = (-1, *bars, n + parts - 1)
        yield [edges[i + 1] - edges[i] - 1 for i in range(parts)]


def expected(make, values, chances, n):
    """Mean (rollback, promotion) e-value over n independent draws, exactly."""
    total = np.zeros(2)
    for counts in compositions(n, len(values)):
        test = make()
        test.add(np.repeat(values, counts), 0)
        total += multinomial.pmf(counts, n, chances) * e_values(test)
    return total


@pytest.mark.parametrize("direction", [Direction.INCREASE, Direction.DECREASE])
@pytest.mark.parametrize("plan", [(None, None), (0.04, 0.1)], ids=["generic", "planned"])
def test_bets_on_a_difference(direction, plan):
    mean = 0.05 if direction is Direction.INCREASE else -0.05
    chances = [(0.4 - mean) / 2, 0.6, (0.4 + mean) / 2]
    found = expected(
        lambda: Track(
            direction=direction, margin=0.05, bounds=(-1.0, 1.0), plan=plan, alphas=ALPHAS
        ),
        [-1.0, 0.0, 1.0], chances, 12,
    )  # fmt: skip
    assert found == ONE


@pytest.mark.parametrize("margin", [0.0005, 0.05, 0.4])
@pytest.mark.parametrize("plan", [(None, None), (0.0004, 0.0005)], ids=["beta", "planned"])
def test_shares_of_zeros_and_ones(margin, plan):
    found = expected(
        lambda: Track(
            direction=Direction.INCREASE, margin=margin, bounds=(0.0, 1.0), plan=plan, alphas=ALPHAS
        ),
        [0.0, 1.0], [1.0 - margin, margin], 40,
    )  # fmt: skip
    assert found == ONE


def test_of_both_sides_the_one_at_its_margin_carries_half():
    def sides(mean):
        return expected(
            lambda: Track(
                direction=Direction.BOTH, margin=0.05, bounds=(-1.0, 1.0), alphas=ALPHAS
            ),
            [-1.0, 1.0], [(1.0 - mean) / 2, (1.0 + mean) / 2], 12,
        )  # fmt: skip

    rollback, promotion = sides(0.05)
    assert 0.5 < rollback < 1.0
    assert promotion < 1.0
    assert sides(-0.05)[0] == pytest.approx(rollback, abs=1e-9)


@pytest.mark.parametrize("first", [-0.15, 0.15])
@pytest.mark.parametrize("plan", [(None, None), (0.04, 0.1)], ids=["generic", "planned"])
def test_whole_cycles_whose_average_is_the_margin_are_worth_at_most_one(first, plan):
    # Four half days of three requests; bets that react to the half before would gain on the next.
    means = 0.05 + np.array([first, -first, first, -first])
    total = np.zeros(2)
    for ones in itertools.product(range(4), repeat=4):
        track = Track(
            direction=Direction.INCREASE, margin=0.05, bounds=(-1.0, 1.0), plan=plan, alphas=ALPHAS
        )
        for count in ones:
            track.add(np.repeat([1.0, -1.0], [count, 3 - count]), 0)
        total += np.prod(binom.pmf(ones, 3, (1.0 + means) / 2)) * e_values(track)
    assert (total < 1.0).all()
    assert (total > 0.8).all()


def test_neither_order_nor_batches_change_evidence():
    x = np.random.default_rng(61).choice([-1.0, 0.0, 0.3, 1.0], 600)
    tracks = [
        Track(direction=Direction.BOTH, margin=0.05, bounds=(-1.0, 1.0), alphas=ALPHAS)
        for _ in range(3)
    ]
    for track, parts in zip(
        tracks, ([x], np.split(x, 60), np.split(np.sort(x), [5, 280])), strict=True
    ):
        for part in parts:
            track.add(part, 0)
    for track in tracks[1:]:
        assert e_values(track) == pytest.approx(e_values(tracks[0]), rel=1e-9)


def over_orders(values, cuts, bounds):
    """Mean e-values after every cut over all orders of a window whose own mean is the margin."""
    looks = list(itertools.pairwise([0, *cuts]))
    orders = sorted(set(itertools.permutations(values)))
    total = np.zeros((len(looks), 2))
    for order in orders:
        track = Track(
            direction=Direction.INCREASE, margin=float(np.mean(values)), bounds=bounds,
            alphas=ALPHAS, population=len(values), sliced=True,
        )  # fmt: skip
        for look, (start, stop) in enumerate(looks):
            track.add(np.array(order[start:stop]), 0)
            total[look] += e_values(track)
    return total / len(orders)


def test_a_window_read_one_by_one():
    values = (0.8, 0.8, 0.1, -0.3, -0.3, 0.1)
    assert over_orders(values, range(1, 7), (-1.0, 1.0)) == ONE


def test_a_window_of_zeros_and_ones():
    found = over_orders((1.0,) * 3 + (0.0,) * 6, range(1, 10), (0.0, 1.0))
    # As long as nothing that was seen could rule out an alternative and not the null.
    assert found[:3] == ONE
    assert found[:6, 1] == ONE
    assert (found < 1.0 + 1e-9).all()


def test_a_window_read_in_batches_is_worth_at_most_one():
    found = over_orders((0.8, 0.8, 0.1, -0.3, -0.3, 0.1), (2, 5, 6), (-1.0, 1.0))
    assert ((found > 0.7) & (found < 1.0 + 1e-9)).all()


def flips(pis):
    """(arms, probability) of all ways in which the coins fall."""
    for arms in itertools.product([False, True], repeat=len(pis)):
        fallen = np.array(arms)
        yield fallen, float(np.prod(np.where(fallen, pis, 1.0 - pis)))


RAMP = np.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.5, 0.5])
BASE = np.array([0.0, 0.9, 0.3, 0.0, 0.7, 0.9, 0.2])


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("direction", [Direction.INCREASE, Direction.DECREASE])
@pytest.mark.parametrize("plan", [(None, None), (0.1, 0.2)], ids=["generic", "planned"])
def test_an_effect_at_the_margin_over_a_ramp(direction, plan):
    base = BASE if direction is Direction.INCREASE else 1.0 - BASE
    effect = 0.1 if direction is Direction.INCREASE else -0.1
    total = np.zeros(2)
    for arms, chance in flips(RAMP):
        test = OverlapTrack(
            direction=direction, margin=0.1, bounds=(0.0, 1.0), plan=plan, alphas=ALPHAS
        )
        for part in (slice(0, 3), slice(3, 7)):
            outcome = np.clip(base + effect * arms, 0.0, 1.0)
            test.add(outcome[part], arms[part], RAMP[part])
        total += chance * e_values(test)
    assert total == ONE


@pytest.mark.usefixtures("few_points")
def test_errors_at_the_tolerated_ratio_over_a_ramp():
    ratio = 1.5
    theta = RAMP * ratio / (1.0 - RAMP + RAMP * ratio)
    total = np.zeros(2)
    for arms, chance in flips(theta):
        test = ErrorRatio(ratio=ratio, alphas=ALPHAS)
        test.add(arms, RAMP)
        total += chance * e_values(test)
    assert total == ONE


def test_a_split_as_declared_over_a_ramp():
    total = 0.0
    for first, second in itertools.product(range(31), range(21)):
        split = SampleRatio()
        split.add((0.9, 0.1), (30 - first, first))
        split.add((0.5, 0.5), (20 - second, second))
        chance = binom.pmf(first, 30, 0.1) * binom.pmf(second, 20, 0.5)
        total += chance * math.exp(split.log_e())
    assert total == ONE


def rails(k, **more):
    return tuple(
        Guardrail(name=f"g{i}", metric=Metric.SCORE_SHIFT, margin=0.05, **more) for i in range(k)
    )


def judge_of(make_policy, k, slices=None, **more):
    counts = {"newest": WindowCounts(n=1000, slices=slices or {})}
    return Judge(plan_tests(make_policy(*rails(k, **more)), counts), *ALPHAS)


def seen(k, x):
    return {f"g{i}": Values(x=x, failed=np.zeros(len(x), np.bool_)) for i in range(k)}


@pytest.mark.parametrize("k", [1, 3, 10])
def test_all_guardrails_together(k, make_policy):
    total = 0.0
    for counts in compositions(6, 2):
        judge = judge_of(make_policy, k)
        x = np.repeat([-1.0, 1.0], counts)
        judge.update("newest", seen(k, x), {})
        chance = binom.pmf(counts[1], 6, 0.525)
        total += chance * math.exp(judge.status().log_e_rollback_combined)
    assert total == ONE


def test_slices_share_the_same_capital(make_policy):
    tenants = {"tenant": {"a": 600, "b": 400}}
    total = 0.0
    for a, b in itertools.product(range(5), range(4)):
        judge = judge_of(make_policy, 2, tenants, slice_by=("tenant",), min_slice=100)
        x = np.array([1.0] * a + [-1.0] * (4 - a) + [1.0] * b + [-1.0] * (3 - b))
        judge.update(
            "newest", seen(2, x), {"tenant": np.array(["a"] * 4 + ["b"] * 3, dtype=object)}
        )
        chance = binom.pmf(a, 4, 0.525) * binom.pmf(b, 3, 0.525)
        total += chance * math.exp(judge.status().log_e_rollback_combined)
    assert total == ONE


def live_plan(k, *more):
    shifts = [
        LiveGuardrail(name=f"g{i}", kind=LiveKind.SHIFT, margin=0.1, gap=0.1, second_moment=0.2)
        for i in range(k)
    ]
    return LivePlan(guardrails=(*shifts, *more), maturity_s=0.0)


def live_batch(number, arms, pi, values):
    n = len(arms)
    return LiveBatch(
        number=number,
        until_ns=(number + 1) * 10**9,
        requests=Requests(
            ts_ns=number * 10**9 + np.arange(n),
            unit=np.array([f"{number}-{i}" for i in range(n)], object),
            candidate=arms,
            propensity=pi,
            values=values,
        ),
    )


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("k", [1, 3])
def test_a_live_judge_over_a_ramp(k):
    plan = live_plan(k, LiveGuardrail(name="errors", kind=LiveKind.ERRORS, margin=1.0))
    total = 0.0
    failing = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    for arms, chance in flips(RAMP):
        judge = LiveJudge(plan)
        for number, part in enumerate((slice(0, 3), slice(3, 7))):
            values = {f"g{i}": (BASE + 0.1 * arms)[part] for i in range(k)}
            values["errors"] = failing[part]
            answer = judge.update(live_batch(number, arms[part], RAMP[part], values))
        total += chance * math.exp(answer.log_e_rollback[0][1])
    assert total == ONE


def test_a_judge_answers_at_the_very_look_that_reaches_its_level(make_policy):
    judge, ready = judge_of(make_policy, 1), judge_of(make_policy, 1)
    for _ in range(400):
        judge.update("newest", seen(1, np.array([0.5])), {})
        ready.update("newest", seen(1, np.array([-0.02])), {})
        harm = judge.status().log_e_rollback_combined >= math.log(20.0)
        assert judge.status().rollback is harm
        assert ready.status().promote_ready is (ready.evidence()[0].e_promote >= 20.0)
    assert judge.status().rollback
    assert ready.status().promote_ready


@pytest.mark.parametrize(
    ("base", "effect", "decided"), [(0.05, 0.9, Decision.ROLLBACK), (0.4, -0.2, Decision.PROMOTE)]
)
def test_a_live_judge_answers_at_the_very_look_that_reaches_its_level(base, effect, decided):
    judge, bar = LiveJudge(live_plan(1)), math.log(20.0)
    for number in range(200):
        arms = np.array([number % 2 == 0, number % 2 == 1])
        answer = judge.update(
            live_batch(number, arms, np.full(2, 0.5), {"g0": base + effect * arms})
        )
        harm = answer.log_e_rollback[0][1] >= bar
        assert (answer.decision is Decision.ROLLBACK) is harm
        assert (answer.decision is Decision.PROMOTE) is (answer.promote_at[0][1] >= bar)
        if answer.decision is not Decision.HOLD:
            break
    assert answer.decision is decided


RUNS, REQUESTS, WORTH = 2000, 6000, 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_small_planned_bets_err_as_often_as_they_may_and_no_more(sign):
    # Small steps cross 1/α narrowly and long runs leave nothing undecided, so the rate is nearly α:
    # levels of .03 or .08 in place of .05 would be seen.
    rng = np.random.default_rng(60)
    process = one_sided(sign, sign * 0.005, (-0.25, 0.25), 0.005, 0.0025)
    crossed = 0
    for _ in range(RUNS):
        x = 0.005 + 0.05 * (2.0 * rng.integers(0, 2, REQUESTS) - 1.0)
        crossed += process.each(x, np.zeros(len(process.lam))).max() >= math.log(1.0 / WORTH)
    assert binom.ppf(1e-4, RUNS, 0.043) <= crossed <= binom.ppf(1.0 - 1e-4, RUNS, WORTH)

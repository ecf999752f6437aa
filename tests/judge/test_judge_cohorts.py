"""Label cohorts of fixed age, clocks with levels of their own, whole cycles."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from harness.core.errors import PolicyError, TrafficError
from harness.judge.betting import one_sided
from harness.judge.cohorts import Cohorts, Trace, clock_levels, first_rejection
from harness.judge.cycles import Cycle, CycleLooks, Silences
from harness.judge.exposures import Units

SECOND = 10**9
BAR = math.log(20)


def exposed(names, first_s, candidate=None):
    n = len(names)
    return Units(
        first_ns=np.asarray(np.array(first_s, np.float64) * SECOND, np.int64),
        unit=tuple(names),
        candidate=np.zeros(n, np.bool_) if candidate is None else np.array(candidate),
        propensity=np.full(n, 0.5),
        values={},
    )


def label(cohort, names, values, at_s):
    cohort.label(
        np.array(names, object), np.array(values, np.float64), np.array(at_s, np.int64) * SECOND
    )


def test_units_enter_at_their_age_with_the_label_of_that_moment():
    cohort = Cohorts(10.0)
    cohort.expose(exposed(["a", "b", "c"], [0, 1, 5], [True, False, False]))
    label(cohort, ["a", "c"], [0.5, 0.25], [4, 6])
    assert cohort.mature(9 * SECOND, "loss").unit == ()
    found = cohort.mature(11 * SECOND, "loss")
    assert (found.unit, found.values["loss"].tolist()) == (("a",), [0.5])
    assert found.candidate.tolist() == [True]
    assert cohort.mature(15 * SECOND, "loss").unit == ("c",)
    assert (cohort.labelled, cohort.unlabelled) == ([1, 1], [1, 0])


@pytest.mark.parametrize(
    ("names", "at_s", "reason"),
    [
        (["a"], [11], "late_or_unknown"),
        (["z"], [4], "late_or_unknown"),
        (["a", "a"], [3, 4], "second_label"),
        (["b"], [1], "late_or_unknown"),
    ],
)
def test_labels_that_do_not_count_are_counted(names, at_s, reason):
    cohort = Cohorts(10.0)
    cohort.expose(exposed(["a", "b"], [0, 2]))
    label(cohort, names, [0.1] * len(names), at_s)
    assert cohort.ignored == {reason: 1}


def test_the_first_label_is_the_one():
    cohort = Cohorts(10.0)
    cohort.expose(exposed(["a"], [0]))
    label(cohort, ["a", "a"], [0.1, 0.9], [1, 2])
    assert cohort.mature(10 * SECOND, "loss").values["loss"].tolist() == [0.1]


def test_a_unit_whose_labels_differ_is_labelled_and_contradicted_also_after_a_restart():
    cohort = Cohorts(10.0)
    cohort.expose(exposed(["a", "b"], [0, 0], [True, False]))
    label(cohort, ["a", "b", "a", "b"], [0.1, 0.5, 0.9, 0.5], [1, 1, 2, 2])
    cohort = Cohorts(10.0).restore(json.loads(json.dumps(cohort.state())))
    assert cohort.ignored == {"second_label": 2, "contradicting": 1}
    cohort.mature(10 * SECOND, "loss")
    assert (cohort.labelled, cohort.contradicted) == ([1, 1], [0, 1])
    again = Cohorts(10.0).restore(json.loads(json.dumps(cohort.state())))
    assert again.contradicted == [0, 1]


def test_of_a_unit_that_asked_for_other_outputs_no_label_is_missed():
    cohort = Cohorts(10.0)
    cohort.expose(exposed(["a", "b"], [0, 0]), np.array([True, False]))
    cohort = Cohorts(10.0).restore(json.loads(json.dumps(cohort.state())))
    cohort.mature(10 * SECOND, "loss")
    assert cohort.unlabelled == [1, 0]


def test_saved_cohorts_go_on_identically():
    one = Cohorts(10.0)
    one.expose(exposed(["a", "b"], [0, 2]))
    label(one, ["b"], [0.5], [3])
    other = Cohorts(10.0).restore(json.loads(json.dumps(one.state())))
    for cohort in (one, other):
        label(cohort, ["a"], [0.25], [5])
    left, right = one.mature(20 * SECOND, "x"), other.mature(20 * SECOND, "x")
    assert (left.unit, left.values["x"].tolist()) == (right.unit, right.values["x"].tolist())
    assert one.state() == other.state()


@pytest.mark.parametrize("maturity", [0.0, -1.0, math.nan])
def test_an_age_of_nothing_is_refused(maturity):
    with pytest.raises(PolicyError):
        Cohorts(maturity)


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(TrafficError, match="NaN"):
        label(Cohorts(1.0), ["a"], [math.nan], [0])
    with pytest.raises(TrafficError):
        label(Cohorts(1.0), ["a"], [0.5, 0.5], [0])


def delayed(rng, paths, n, maturity):
    """Losses at the margin .5 whose large ones come late; by fixed age, and as labels so far."""
    y = rng.random((paths, n)) < 0.5
    delay = np.where(y, rng.exponential(200.0, (paths, n)), rng.exponential(20.0, (paths, n)))
    exposed_at = np.arange(n, dtype=np.float64)
    in_time = delay <= maturity
    order = np.argsort(exposed_at + delay, axis=1)
    so_far = np.take_along_axis(y, order, axis=1).astype(np.float64)
    return y.astype(np.float64), in_time, so_far


def test_labels_so_far_would_promote_and_a_fixed_age_does_not():
    rng = np.random.default_rng(1)
    paths, n = 200, 1_000
    y, in_time, so_far = delayed(rng, paths, n, 2_000.0)
    process = one_sided(-1, -0.5, (0.0, 1.0), 0.1, 0.25)
    early = early_crossed = 0
    for path in range(paths):
        kept = y[path][in_time[path]]
        for crossed_by, x in ((0, kept), (1, so_far[path])):
            wealth = np.cumsum(process.log_factors(x)[: n // 2], axis=0)
            crossed = bool((process.log_e(wealth) >= BAR).any())
            early += crossed and crossed_by == 0
            early_crossed += crossed and crossed_by == 1
    assert early <= binom.ppf(0.9999, paths, 0.05)
    assert early_crossed > 0.5 * paths


def test_clocks_share_the_level_and_each_is_judged_by_its_own():
    levels = clock_levels({"requests": 1.0, "labels": 3.0}, 0.04)
    assert levels == {"requests": pytest.approx(0.01), "labels": pytest.approx(0.03)}
    at = np.array([10, 20])
    high = Trace(before=0.0, at_ns=at, log_e=np.array([4.3, 0.0]))
    low = Trace(before=-50.0, at_ns=at[1:], log_e=np.array([-50.0]))
    # The first look counts, though the last has fallen; the average with a mate does not cross.
    assert first_rejection({"loss": high}, levels["labels"]) == (10, {"loss": 4.3})
    assert first_rejection({"loss": high}, levels["requests"]) is None
    both = {"loss": high, "more": low}
    assert first_rejection(both, levels["labels"]) == (10, {"loss": 4.3, "more": -50.0})
    assert first_rejection(both, levels["labels"] / 2) is None
    assert first_rejection({}, 0.05) is None


@pytest.mark.parametrize(
    ("weights", "alpha"), [({"a": 0.0}, 0.05), ({"a": -1.0}, 0.05), ({"a": 1.0}, 0.0)]
)
def test_shares_and_levels_outside_their_range_are_refused(weights, alpha):
    with pytest.raises(PolicyError):
        clock_levels(weights, alpha)


def two_clocks(rng, paths, k):
    """Log E over looks of k correlated guardrails, and of the same ones 5 looks later (labels)."""
    common = rng.binomial(50, 0.05, (paths, 40))
    ones = common + rng.binomial(50, 0.05, (k, paths, 40))
    process = one_sided(1, 0.05, (0.0, 1.0), 0.05, 0.0475)
    factors = process.log_factors(np.array([0.0, 1.0]))
    wealth = np.cumsum(np.stack([100 - ones, ones], axis=-1) @ factors, axis=2)
    log_e = process.log_e(wealth)
    later = np.concatenate([np.zeros((k, paths, 5)), log_e[:, :, :-5]], axis=2)
    return log_e, later


@pytest.mark.parametrize("k", [1, 3, 10])
def test_two_clocks_together_stay_below_alpha(k):
    now, later = two_clocks(np.random.default_rng(2), 1_500, k)
    levels = clock_levels({"now": 1.0, "later": 1.0}, 0.05)
    rejected = np.zeros(1_500, np.bool_)
    for clock, log_e in (("now", now), ("later", later)):
        average = np.logaddexp.reduce(log_e, axis=0) - math.log(k)
        rejected |= (average >= -math.log(levels[clock])).any(axis=1)
    assert rejected.sum() <= binom.ppf(0.9999, 1_500, 0.05)


def test_cycles_are_counted_from_the_first_exposure():
    cycle = Cycle(length_s=10.0)
    at = np.array([5, 14, 15, 34]) * SECOND
    assert cycle.number(at, 5 * SECOND).tolist() == [0, 0, 1, 2]
    done = [cycle.completed(5 * SECOND, t * SECOND) for t in (5, 14, 15, 35)]
    assert done == [0, 0, 1, 3]


def test_without_a_cycle_everything_is_one():
    cycle = Cycle(length_s=0.0)
    assert cycle.number(np.array([1, 99]), 0).tolist() == [0, 0]
    assert cycle.completed(0, 10**18) == 0


@pytest.mark.parametrize("length", [-1.0, math.nan])
def test_a_cycle_of_negative_length_is_refused(length):
    with pytest.raises(PolicyError):
        Cycle(length_s=length)


def test_promotion_at_whole_days_keeps_its_level_where_any_look_loses_it():
    # A harmful average of exactly the margin, good nights first: 0.02 and then 0.08.
    rng = np.random.default_rng(3)
    chance = np.tile(np.repeat([0.02, 0.08], 12), 14)
    ones = rng.binomial(100, np.broadcast_to(chance, (500, len(chance))))
    process = one_sided(-1, -0.05, (0.0, 1.0), 0.03, 0.0475)
    factors = process.log_factors(np.array([0.0, 1.0]))
    log_e = process.log_e(np.cumsum(np.stack([100 - ones, ones], axis=-1) @ factors, axis=1))
    whole = (log_e[:, 23::24] >= BAR).any(axis=1).sum()
    assert whole <= binom.ppf(0.9999, 500, 0.05)
    assert (log_e >= BAR).any(axis=1).sum() > 450


def silences(*arrivals_s, quiet_s=None, length_s=24.0):
    found = Silences(Cycle(length_s=length_s), quiet_s)
    for part in arrivals_s:
        found.add(np.round(np.array(part) * SECOND).astype(np.int64), 0)
    return found


EVERY = np.arange(0.0, 72.0, 0.5)


@pytest.mark.parametrize(
    ("away", "whole"),
    [
        ((100, 100), [True, True, True]),
        ((30, 31.4), [True, False, True]),
        ((30, 30.9), [True, True, True]),
        ((23.5, 24.5), [True, True, True]),  # half of the silence in each of two cycles
        ((22, 26), [False, False, True]),
        ((60, 72), [True, True, False]),
    ],
)
def test_a_cycle_is_whole_where_no_stretch_of_it_is_silent(away, whole):
    begin, end = away
    times = EVERY[(begin >= EVERY) | (end <= EVERY)]
    for cut in ([times], [times[:7], times[7:50], times[50:]]):
        seen = silences(*cut)
        assert [seen.whole(k) for k in range(3)] == whole


def test_a_quiet_night_is_declared():
    times = EVERY[(EVERY % 24.0) > 6.0]
    assert not silences(times).whole(1)
    assert silences(times, quiet_s=6.6).whole(1)


def test_promotion_looks_after_whole_cycles_while_few_units_came_in_others():
    looks = CycleLooks()
    seen = []
    for number, units in enumerate((1000, 100, 500, 0, 500)):
        looks.enter(units)
        seen.append(looks.finish(number + 1, lambda k: k != 1))
        looks = CycleLooks().restore(looks.state())
    assert seen == [True, False, True, False, True]
    assert (looks.whole, looks.in_part) == (3, 1)
    looks = CycleLooks()
    looks.enter(1000)
    looks.finish(1, lambda _: False)
    looks.enter(5000)
    assert not looks.finish(2, lambda _: True)

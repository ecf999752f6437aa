"""Whole canaries by simulation: α holds at the margins, and every planted harm is rolled back."""

from dataclasses import replace

import numpy as np
import pytest
from canaries import POLICY, SECOND, START, Traffic, live
from scipy.stats import binom

from harness.bench.canary import AT_MARGINS, HARMS, live_of_bench, run_canary
from harness.core.verdicts import Decision
from harness.live.canary import Canary

pytestmark = pytest.mark.usefixtures("few_points")

LIVE = live_of_bench()


def answers(harm, runs, most, seed=100):
    return [run_canary(LIVE, harm, seed + i, most).decision for i in range(runs)]


def tolerated(runs):
    return binom.ppf(0.9999, runs, 0.05)


@pytest.mark.parametrize("harm", AT_MARGINS, ids=lambda harm: harm.name)
def test_a_candidate_exactly_at_margins_is_seldom_rolled_back_or_promoted(harm):
    found = answers(harm, 4, 2_000)
    assert found.count(Decision.ROLLBACK) <= tolerated(4)
    assert found.count(Decision.PROMOTE) <= tolerated(4)


@pytest.mark.parametrize("harm", AT_MARGINS, ids=lambda harm: harm.name)
def test_only_the_tests_keep_a_candidate_at_margins_from_being_promoted(harm):
    wider = [replace(g, margin=g.margin + 0.15) if g.gating else g for g in LIVE.guardrails]
    live_with_wider = replace(LIVE, guardrails=tuple(wider))
    assert run_canary(live_with_wider, harm, 100).decision is Decision.PROMOTE


def one_guardrail(harm, seed, batches=10, n=100):
    """The answer of a canary with one gating guardrail, its candidate's score higher by `harm`."""
    traffic, watched = Traffic(seed, harm), Canary(live(POLICY), str(seed))
    standing = watched.standing()
    for _ in range(batches):
        if not standing.final:
            standing = traffic.turn(watched, n)
    return standing.decision


def test_of_forty_canaries_at_their_margin_no_more_than_alpha_allows_are_answered():
    found = [one_guardrail(0.1, seed) for seed in range(40)]
    assert found.count(Decision.ROLLBACK) <= tolerated(40)
    assert found.count(Decision.PROMOTE) <= tolerated(40)


@pytest.mark.parametrize(("harm", "decision"), [(0.0, Decision.PROMOTE), (0.3, Decision.ROLLBACK)])
def test_as_many_requests_answer_canaries_away_from_their_margin(harm, decision):
    assert [one_guardrail(harm, seed) for seed in range(4)] == [decision] * 4


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
def test_a_planted_harm_is_rolled_back(harm):
    assert answers(harm, 3, 8_000) == [Decision.ROLLBACK] * 3


@pytest.mark.long
def test_the_bench_keeps_its_limits():
    from harness.bench.canary import bench_canary

    figures = bench_canary()
    assert figures.within_limits, figures.to_text()


HANGING = (
    POLICY
    + "    - {name: failed, metric: failure, kind: shift, margin: 0.05, effect: 0.0, variance: 0.1}\n"
)
HANGING += "    - {name: slow, metric: latency, kind: shift, slower_than: 50ms, margin: 0.05, effect: 0.0, variance: 0.1}\n"


def hanging(seed, before, more, requests=1_500):
    """The answer of a canary in which both versions hang, the candidate more often."""
    traffic, watched = Traffic(seed), Canary(live(HANGING), str(seed))
    while not watched.ended and traffic.sent < requests:
        arrival = traffic.request(watched)
        if traffic.rng.random() >= before + more * arrival.candidate:
            values = traffic.values(arrival.candidate) | {"failed": 0.0, "slow": 0.0}
            watched.answered(arrival.seq, values, {})
        if traffic.sent % 100 == 0:
            watched.judge(watched.batch(traffic.now_ns + 1))
    return watched.judge(watched.batch(traffic.now_ns + 6 * SECOND)).decision


@pytest.mark.parametrize(
    ("before", "more"), [(0.2, 0.0), (0.1, 0.05)], ids=["alike", "at the margin"]
)
def test_a_candidate_that_hangs_within_the_margin_is_rolled_back_no_more_than_alpha_allows(
    before, more
):
    found = [hanging(seed, before, more) for seed in range(20)]
    assert found.count(Decision.ROLLBACK) <= tolerated(20)
    assert found.count(Decision.PROMOTE) <= tolerated(
        20
    )  # too little is measured, or it is no better


def test_as_many_requests_roll_back_what_hangs_beyond_the_margin():
    assert [hanging(seed, 0.1, 0.3) for seed in range(4)] == [Decision.ROLLBACK] * 4


KEPT, LOST = 100, 10
"""Requests of a batch that are answered, and those under way when the process is killed after it."""


def killed_after_every_batch(seed, harm, batches=30):
    """The answer of a canary whose candidate's answers that are seen are higher by `harm`; the others are lost."""
    rng = np.random.default_rng(seed)
    kept = live(POLICY)
    ring = []
    watched = Canary(kept, str(seed), ring.append)
    now_ns = START
    standing = watched.standing()
    for _ in range(batches):
        for i in range(KEPT + LOST):
            now_ns += SECOND // 10
            arrival = watched.route(f"u{rng.integers(10**9)}", now_ns)
            if i == KEPT:
                state = watched.state()
            if i < KEPT:
                score = float(np.clip(rng.normal(0.5 + harm * arrival.candidate, 0.1), 0.0, 1.0))
                watched.answered(arrival.seq, {"score": score, "errors": 0.0}, {})
            if i == KEPT - 1:
                standing = watched.judge(watched.batch(now_ns + 1))
                if standing.final:
                    return standing
        watched = Canary.from_state(state, kept, str(seed), ring.append)
        watched.lost([a for a in ring if a.seq > watched.entered_seq], ring[-1].seq)
    return standing


def seen_of(overall, lost):
    """What the answers that are seen differ by where all do by `overall`, and those that are lost by `lost`."""
    share = LOST / (KEPT + LOST)
    return (overall - share * lost) / (1.0 - share)


@pytest.mark.parametrize(
    ("lost", "wrong"), [(0.5, Decision.PROMOTE), (-0.5, Decision.ROLLBACK)], ids=["worst", "best"]
)
def test_a_candidate_at_its_margin_gains_and_loses_nothing_by_kills_that_hide_answers(lost, wrong):
    found = [killed_after_every_batch(seed, seen_of(0.1, lost)) for seed in range(8)]
    assert sum(s.decision is wrong for s in found) <= tolerated(8)
    assert sum(dict(s.counts)["lost_at_a_restart"] for s in found) > 8 * 5 * LOST


def test_kills_do_not_hide_harm():
    found = [killed_after_every_batch(seed, 0.35) for seed in range(5)]
    assert all(s.decision is Decision.ROLLBACK for s in found)

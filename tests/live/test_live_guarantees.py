"""Whole canaries by simulation: α holds at the margins, and every planted harm is rolled back."""

from dataclasses import replace

import numpy as np
import pytest
from canaries import POLICY, SECOND, START, Traffic, live
from scipy.stats import binom

from harness.bench.canary import AT_MARGINS, HARMS, live_of_bench, run_canary
from harness.core.verdicts import Decision
from harness.live.canary import Canary

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


def killed_again_and_again(seed, harm, batches=30, n=100, under_way=10):
    """A canary at its margin whose process is killed one time in four; what was under way is lost."""
    rng = np.random.default_rng(seed)
    text = POLICY.replace(
        "{name: errors",
        "{name: failed, metric: failure, kind: shift, margin: 0.05}\n    - {name: errors",
    )
    kept = live(text)
    ring = []
    watched = Canary(kept, str(seed), ring.append)
    now_ns = START
    for _ in range(batches):
        for _ in range(n):
            now_ns += SECOND // 10
            arrival = watched.route(f"u{rng.integers(100_000)}", now_ns)
            if arrival is None:
                return watched.standing()
            score = float(np.clip(rng.normal(0.3 + harm * arrival.candidate, 0.1), 0.0, 1.0))
            failed = float(rng.random() < 0.02 + 0.05 * (harm > 0) * arrival.candidate)
            watched.answered(arrival.seq, {"score": score, "failed": failed, "errors": failed}, {})
        standing = watched.judge(watched.batch(now_ns + 1))
        if standing.final:
            break
        if rng.random() < 0.25:
            state = watched.state()
            for _ in range(under_way):
                now_ns += SECOND // 10
                watched.route(f"u{rng.integers(100_000)}", now_ns)
            watched = Canary.from_state(state, kept, str(seed), ring.append)
            watched.lost([a for a in ring if a.seq > watched.entered_seq], ring[-1].seq)
    return standing


def test_kills_at_the_margin_neither_roll_back_nor_promote_more_often():
    found = [killed_again_and_again(seed, 0.1) for seed in range(6)]
    assert sum(s.decision is Decision.ROLLBACK for s in found) <= tolerated(6)
    assert sum(s.decision is Decision.PROMOTE for s in found) <= tolerated(6)
    lost = [dict(s.counts).get("lost_at_a_restart", 0) for s in found]
    assert sum(lost) > 120


def test_kills_do_not_hide_harm():
    found = [killed_again_and_again(seed, 0.35) for seed in range(5)]
    assert all(s.decision is Decision.ROLLBACK for s in found)

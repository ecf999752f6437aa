"""Users who come back: they enter the tests once, and still nobody else follows them into harm."""

import json

import numpy as np
from canaries import POLICY, Traffic, canary, live

from harness.core.verdicts import Decision
from harness.live.canary import Canary

FAILED = POLICY + "    - {name: failed, metric: failure, kind: shift, margin: 0.1}\n"


class Users(Traffic):
    """New users with a good first request; each returns, and the candidate then fails as often as said."""

    def __init__(self, fails=0.0, seed=1):
        super().__init__(seed)
        self.fails = fails
        self.first = True

    def values(self, candidate):
        failed = float(not self.first and candidate and self.rng.random() < self.fails)
        return super().values(candidate) | {"failed": failed}

    def turn(self, canary, n=50, *, old=0):
        """n new users, then `old` requests of users who came before."""
        self.first = True
        start = self.sent
        for i in range(n):
            self.answered(canary, 1, f"u{start + i}")
        self.first = False
        for _ in range(old):
            self.answered(canary, 1, self.rng.choice(list(self.arms)))
        self.now_ns += 10**8
        return canary.judge(canary.batch(self.now_ns))


def test_a_population_that_only_returns_does_not_climb_and_that_is_said():
    traffic, watched = Users(), canary(text=FAILED)
    traffic.turn(watched, 60)
    for _ in range(20):
        standing = traffic.turn(watched, 0, old=60)
    assert (standing.step, standing.final, standing.n_units) == (0, False, 60)
    assert "No new units come: the last 1,200 requests" in standing.explanation


def test_a_harm_that_shows_when_users_come_back_keeps_the_ramp_where_it_is():
    traffic, watched = Users(fails=0.8), canary(text=FAILED)
    traffic.turn(watched, 150)
    for _ in range(20):
        traffic.turn(watched, 0, old=100)
    for _ in range(20):
        standing = traffic.turn(watched, 50, old=50)
    assert (standing.step, standing.final) == (0, False)
    assert "Guardrail failed is worse by more than its margin" in standing.explanation
    again = Canary.from_state(json.loads(json.dumps(watched.state())), live(FAILED), "s")
    assert again.standing() == standing


def test_returning_users_without_harm_hold_nothing_up():
    traffic, watched = Users(), canary(text=FAILED)
    for _ in range(80):
        standing = traffic.turn(watched, 50, old=50)
        if standing.final:
            break
    assert standing.decision is Decision.PROMOTE


def test_a_guardrail_without_any_value_holds_the_ramp_up():
    class Elsewhere(Traffic):
        def answered(self, canary, n, _=None):
            for _ in range(n):
                arrival = self.request(canary)
                values = self.values(arrival.candidate) | {"score": np.nan}
                canary.answered(arrival.seq, values, {}, frozenset({"score"}))

    standing = Elsewhere(3).until_final(canary(), most=1_000)
    assert (standing.step, standing.final) == (0, False)
    assert "Guardrail score has no value of the candidate yet" in standing.explanation


def test_names_made_up_for_requests_are_not_kept_and_change_no_answer():
    text = POLICY.replace("  unit: user\n", "")
    named, nameless = Traffic(4), Traffic(4)
    one, other = canary(text=POLICY), canary(text=text)
    for _ in range(6):
        seen, told = named.turn(one), nameless.turn(other)
        assert (seen.n_units, seen.n_closed) == (told.n_units, told.n_closed)
        other = Canary.from_state(json.loads(json.dumps(other.state())), live(text), "s")
    kept = other._judge._exposures
    assert (len(kept), len(kept._row)) == (300, 0)
    assert len(one._judge._exposures._row) == 300

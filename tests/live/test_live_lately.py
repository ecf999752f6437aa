"""A candidate that is dead at the moment of a verdict is not promoted, whatever it proved before."""

import json

import numpy as np
import pytest
from canaries import POLICY, SECOND, Traffic, canary, live

from harness.core.verdicts import Decision
from harness.judge.exposures import Requests
from harness.judge.live_plan import LiveBatch
from harness.live.canary import Canary
from harness.live.entries import Entry
from harness.live.folder import CanaryFolder
from harness.live.follow import follow
from harness.live.identity import Identity
from harness.live.keeper import Keeper
from harness.live.lately import Lately

FAILED = (
    POLICY.replace("requests: 200", "requests: 2000")
    + "    - {name: failed, metric: failure, kind: shift, margin: 0.2}\n"
)

LONGER = FAILED.replace("requests: 2000", "requests: 4000")


class Dying(Traffic):
    """The candidate is good, but for a stretch of requests in which it gives nothing."""

    def __init__(self, dead, seed=1):
        super().__init__(seed)
        self.dead = dead

    def values(self, candidate):
        values = super().values(candidate) | {"failed": 0.0}
        if candidate and self.sent in self.dead:
            return {"score": np.nan, "errors": 1.0, "failed": 1.0}
        return values


def turns_to(reached, traffic, watched):
    while not reached(watched.standing()) and traffic.sent < 6_000:
        traffic.turn(watched, 50)
    return traffic.sent


@pytest.mark.parametrize(
    ("reached", "before", "text"),
    [(lambda now: now.final, 40, FAILED), (lambda now: now.step == 1, 130, LONGER)],
    ids=["promotion", "step"],
)
def test_a_candidate_that_dies_just_before_goes_nowhere_until_it_is_back(reached, before, text):
    at = turns_to(reached, Dying(()), canary(text=text))
    died = at - before  # so late that nothing else looks at it
    traffic, watched = Dying(range(died, at + 200)), canary(text=text)
    while traffic.sent < at:
        standing = traffic.turn(watched, 50)
        assert not reached(standing)
    held = watched._held_up()
    assert (len(held), "failed or have no usable value" in held[0]) == (1, True)
    assert held[0] in standing.explanation
    traffic, watched = Dying(range(died, at)), canary(text=text)
    assert at < turns_to(reached, traffic, watched) < 6_000
    assert watched.standing().decision is not Decision.ROLLBACK


def test_a_few_failures_before_the_last_answers_hold_nothing_up():
    at = turns_to(lambda now: now.final, Dying(()), canary(text=FAILED))
    traffic = Dying(range(at - 24, at - 20))
    assert turns_to(lambda now: now.final, traffic, canary(text=FAILED)) == at


def test_one_failure_among_the_last_answers_holds_it_up_until_they_are_good():
    at = turns_to(lambda now: now.final, Dying(()), canary(text=FAILED))
    traffic, watched = Dying(range(at - 3, at)), canary(text=FAILED)
    while traffic.sent < at:
        standing = traffic.turn(watched, 50)
    assert not standing.final
    assert "requests 1 failed or have no usable value" in standing.explanation
    traffic.turn(watched, 50)
    assert watched.standing().decision is Decision.PROMOTE
    assert watched.standing().final


def test_nothing_goes_up_on_an_old_answer():
    at = turns_to(lambda now: now.step == 1, Dying(()), canary(text=FAILED))
    traffic, watched = Dying(()), canary(text=FAILED)
    while traffic.sent < at - 50:
        traffic.turn(watched, 50)
    traffic.answered(watched, 50)  # enough for the step, but nobody looks
    standing = watched.judge(watched.batch(traffic.now_ns + 70 * SECOND))
    assert (standing.step, "s old, and may be 60 s old" in standing.explanation) == (0, True)
    assert traffic.turn(watched, 50).step == 1


HOUR = 3600 * SECOND


def sent(watched, number, n, rng, candidate=None):
    """The standing after an hour's batch of `n` requests that somebody else split."""
    began, share = 10**18 + number * HOUR, watched.standing().share
    arms = rng.random(n) < share if candidate is None else np.full(n, candidate)
    requests = Requests(
        ts_ns=np.sort(rng.integers(0, HOUR - 1, n)) + began,
        unit=np.array([f"{number}-{i}" for i in range(n)], object),
        candidate=arms, propensity=np.full(n, share),
        values={"score": np.full(n, 0.3), "errors": np.zeros(n), "failed": np.zeros(n)},
    )  # fmt: skip
    batch = LiveBatch(number=number, until_ns=began + HOUR, requests=requests, labels={})
    return watched.judge(Entry(batch=batch, seq=0, answers={}, label_offset=0, digest=""))


@pytest.mark.parametrize("seed", range(3))
def test_a_sparse_stream_of_batches_is_not_held_for_its_sparseness(seed):
    text = FAILED.replace("[0.1,", "[0.05,").replace("requests: 2000", "requests: 200")
    watched, rng = Canary(live(text), ""), np.random.default_rng(seed)
    found = [sent(watched, number, 100, rng) for number in range(12)]
    assert found[-1].decision is Decision.PROMOTE


@pytest.mark.parametrize(
    ("n", "candidate", "held"), [(100, False, True), (0, None, True), (100, None, False)],
    ids=["of the baseline alone", "empty", "of both"],
)  # fmt: skip
def test_of_batches_that_are_sent_too_some_must_hold_the_candidate_s_answers(n, candidate, held):
    text = FAILED.replace("requests: 2000", "requests: 800")
    watched, rng = Canary(live(text), ""), np.random.default_rng(1)
    for number in range(7):
        before = sent(watched, number, 100, rng)
    assert (before.step, "s old" in before.explanation) == (0, False)
    for number in (7, 8):
        found = sent(watched, number, n, rng, candidate)
    assert ("s old, and may be" in found.explanation) is held
    again = Canary.from_state(json.loads(json.dumps(watched.state())), live(text), "")
    assert again.standing() == found


TIMED = FAILED.replace("requests: 2000", "time: 300s")


def test_once_a_stay_is_over_another_answer_is_waited_for():
    traffic, watched = Dying(()), canary(text=TIMED)
    began = watched.judge(watched.batch(traffic.now_ns))
    while traffic.now_ns < began.ts_ns + 290 * SECOND:
        traffic.turn(watched, 50)
    held = watched.judge(watched.batch(traffic.now_ns + 20 * SECOND))
    assert (held.step, "since the step's least time was over" in held.explanation) == (0, True)
    traffic.now_ns += 20 * SECOND
    assert traffic.turn(watched, 50).step == 1


def test_the_last_requests_outlive_a_restart():
    traffic, watched = Dying(range(80, 6_000)), canary(text=FAILED)
    for _ in range(4):
        traffic.turn(watched, 50)
    assert watched.candidate_fails
    again = Canary.from_state(json.loads(json.dumps(watched.state())), live(FAILED), "s")
    assert (again.candidate_fails, again.standing()) == (True, watched.standing())


def test_followers_hear_when_it_begins_to_fail_and_when_it_is_back(tmp_path):
    found = live(FAILED)
    asked = Identity.of(found, seed="s", baseline="b", candidate="c")
    folder, watched = CanaryFolder.start(tmp_path / "c", found, asked, FAILED)
    traffic = Dying(range(300, 420), seed=3)

    class Clock:
        now_ns = staticmethod(lambda: traffic.now_ns + 1)
        drift_s = staticmethod(lambda: 0.0)

    keeper = Keeper(watched, folder, Clock())
    while traffic.sent < 600:
        traffic.answered(watched, 4)
        keeper.turn(())
    folder.close()
    said = [
        "have no usable value" in event["explanation"]
        for event in follow(folder.path, lambda: False)
    ]
    began, back = said.index(True), len(said) - said[::-1].index(True)
    assert 0 < began < back < len(said)
    assert all(said[began:back])


def batch(n, candidate=True, **values):
    return Requests(
        ts_ns=np.arange(n), unit=np.full(n, "u", object), candidate=np.full(n, candidate),
        propensity=np.full(n, 0.5), values={k: np.full(n, float(v)) for k, v in values.items()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "failing"),
    [
        ({"score": 0.3, "errors": 0, "failed": 0}, False),
        ({"score": 0.3, "errors": 1, "failed": 0}, False),  # reported only
        ({"score": 0.3, "errors": 0, "failed": 0.02}, False),
        ({"score": 0.3, "errors": 0, "failed": 0.5}, True),
        ({"score": np.nan, "errors": 0, "failed": 0}, True),
        ({"score": np.nan, "errors": 0, "failed": 1}, True),
    ],
)
def test_what_has_no_usable_value_is_as_good_as_a_failure(values, failing):
    lately = Lately(live(FAILED))
    lately.add(batch(60, candidate=False, score=np.nan, errors=1, failed=1), {})
    assert not lately.failing  # the baseline's
    lately.add(batch(60, candidate=False, score=0.3, errors=0, failed=0), {})
    lately.add(batch(24, score=0.3, errors=0, failed=0), {})
    lately.add(batch(26, **values), {})
    assert lately.failing is failing


def test_three_in_a_row_are_enough_and_half_of_what_there_is():
    lately = Lately(live(FAILED))
    lately.add(batch(1, score=np.nan, errors=1, failed=1), {})
    assert lately.failing
    lately.add(batch(40, score=0.3, errors=0, failed=0), {})
    lately.add(batch(2, score=np.nan, errors=1, failed=1), {})
    assert not lately.failing
    lately.add(batch(1, score=np.nan, errors=1, failed=1), {})
    assert lately.failing


def test_in_a_shadow_every_request_is_the_candidate_s_and_the_baseline_s_failures_are_not():
    policy = """
version: 1
decision: {output: p, rule: threshold, value: 0.5}
live:
  unit: request
  guardrails:
    - {name: score, metric: score_shift, kind: paired, margin: 0.05}
    - {name: failed, metric: failure, kind: paired, margin: 0.05}
"""
    lately = Lately(live(policy))
    lately.add(batch(30, candidate=False, score=np.nan, failed=-1), {})
    assert not lately.failing
    lately.add(batch(30, candidate=False, score=np.nan, failed=1), {})
    assert lately.failing


NAN = """
version: 1
live:
  steps: [0.5]
  unit: user
  stay: {requests: 100}
  guardrails:
    - {name: failed, metric: failure, kind: shift, margin: 0.2}
    - {name: nan, metric: nan_rate, kind: shift, margin: 0.2}
"""


def missing(lately):
    return lately.missing(0.5, 100, 0)


@pytest.mark.parametrize("nan", [0.02, 1.0], ids=["a_few_rows", "an_output_that_is_nan_by_design"])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_the_baseline_does_as_well_holds_nothing_up(nan, restarted):
    lately = Lately(live(NAN))
    if restarted:
        lately.restart()
    for _ in range(20):
        lately.add(batch(1, candidate=False, failed=0, nan=nan), {})
        lately.add(batch(1, failed=0, nan=nan), {})
    assert missing(lately) == []
    for _ in range(60):
        lately.add(batch(1, candidate=False, failed=0, nan=0), {})
    assert lately.failing is (nan == 1.0)  # now it is the candidate alone


def test_a_candidate_that_dies_with_the_baseline_is_dead_all_the_same():
    lately = Lately(live(NAN))
    lately.add(batch(60, candidate=False, failed=1, nan=np.nan), {})
    lately.add(batch(60, failed=1, nan=np.nan), {})
    assert "of the last 3 3" in missing(lately)[0]


def test_without_any_answer_of_the_candidate_nothing_goes_up():
    lately = Lately(live(NAN))
    lately.add(batch(60, candidate=False, failed=0, nan=0), {})
    assert "answered nothing yet" in missing(lately)[0]

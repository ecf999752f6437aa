"""The canary as a value: routing, order, steps, ends."""

import numpy as np
import pytest
from canaries import POLICY, SECOND, START, Traffic, canary, live

from harness.core.verdicts import Decision
from harness.live.canary import UNWATCHED_NS, Canary
from harness.live.labels import Label

HANGING = (
    POLICY
    + """
    - {name: failed, metric: failure, kind: shift, margin: 0.1, effect: 0.0, variance: 0.02}
    - {name: slow, metric: latency, kind: shift, slower_than: 50ms, margin: 0.1, effect: 0.0, variance: 0.02}
"""
)


def test_harm_sends_the_very_next_request_to_the_baseline():
    traffic, watched = Traffic(1, harm=0.4), canary()
    standing = traffic.until_final(watched)
    assert (standing.decision, standing.culprits) == (Decision.ROLLBACK, ("score",))
    assert standing.share == 0.0
    for _ in range(50):
        assert traffic.request(watched) is None
    assert not watched.standing_arm


def test_a_harmless_candidate_takes_all_traffic_after_the_last_step():
    traffic, watched = Traffic(2), canary()
    standing = traffic.until_final(watched)
    assert (standing.decision, standing.step, standing.share) == (Decision.PROMOTE, 1, 1.0)
    assert watched.standing_arm


def test_no_promotion_before_the_last_step_has_had_its_stay():
    traffic, watched = Traffic(2), canary(text=POLICY.replace("requests: 200", "requests: 1500"))
    standing = traffic.until_final(watched, most=2_900)
    assert not standing.final
    assert standing.promote_at[0][1] > 10.0
    assert "step 2 of 2" in standing.explanation
    assert traffic.until_final(watched).decision is Decision.PROMOTE


def test_a_step_needs_its_time():
    traffic = Traffic(3)
    watched = canary(text=POLICY.replace("{requests: 200}", "{time: 60s}"))
    for _ in range(11):
        assert (
            traffic.turn(watched).step == 0
        )  # 50 requests are 5 s, and the first starts the clock
    steps = [traffic.turn(watched).step for _ in range(3)]
    assert steps[-1] == 1


def test_units_stay_where_they_are_and_only_move_to_the_candidate():
    traffic, watched = Traffic(4), canary()
    users = [f"user-{i}" for i in range(200)]
    first = {u: traffic.request(watched, u).candidate for u in users}
    again = {u: traffic.request(watched, u).candidate for u in users}
    assert first == again
    for arrival in range(1, 401):
        watched.answered(arrival, {"score": 0.3, "errors": 0.0}, {})
    assert watched.judge(watched.batch(traffic.now_ns + 1)).step == 1
    later = {u: traffic.request(watched, u).candidate for u in users}
    assert all(later[u] for u in users if first[u])
    assert sum(later.values()) > sum(first.values())


def test_requests_without_a_unit_go_to_the_baseline_and_enter_nothing():
    watched = canary()
    assert watched.route(None, START) is None
    assert dict(watched.standing().counts) == {"without_unit": 1}
    assert watched.judge(watched.batch(START + SECOND)).n_requests == 0


def test_without_a_declared_unit_each_request_is_one():
    traffic, watched = Traffic(5), canary(text=POLICY.replace("  unit: user\n", ""))
    arms = [traffic.request(watched, "").candidate for _ in range(2_000)]
    assert 0.05 < np.mean(arms) < 0.15
    assert len({a.unit for a in [traffic.request(watched, "") for _ in range(100)]}) == 100


def test_a_unit_enters_once():
    traffic, watched = Traffic(6), canary()
    traffic.answered(watched, 40, unit="one")
    standing = watched.judge(watched.batch(traffic.now_ns + 1))
    assert (standing.n_requests, standing.n_closed) == (40, 1)
    assert dict(standing.counts) == {"after_maturity": 39}


def test_a_batch_ends_before_the_first_request_that_may_still_be_answered():
    traffic, watched = Traffic(7), canary()
    arrivals = [traffic.request(watched) for _ in range(3)]
    for arrival in (arrivals[0], arrivals[2]):
        watched.answered(arrival.seq, {"score": 0.3, "errors": 0.0}, {})
    entry = watched.batch(traffic.now_ns + 1)
    assert (len(entry.batch.requests), entry.batch.until_ns) == (1, arrivals[1].ts_ns)
    watched.judge(entry)
    watched.answered(arrivals[1].seq, {"score": 0.3, "errors": 0.0}, {})
    assert len(watched.batch(traffic.now_ns + 2).batch.requests) == 2


def test_silence_counts_as_failed_and_a_late_answer_is_not_believed():
    traffic, watched = Traffic(8), canary()
    silent = traffic.request(watched)
    entry = watched.batch(silent.ts_ns + 5 * SECOND)
    values = entry.batch.requests.values
    assert np.isnan(values["score"]).all()
    assert values["errors"].tolist() == [1.0]
    watched.judge(entry)
    watched.answered(silent.seq, {"score": 0.0, "errors": 0.0}, {})
    assert dict(watched.standing().counts) == {"answered_late": 1, "never_answered": 1}


def answer_where(hangs, at_once, text=HANGING, most=6_000, seed=2):
    """What becomes of a canary where the candidate hangs in some requests, or fails at once there."""
    traffic, watched = Traffic(seed), canary(text=text)
    lost = {"score": np.nan, "errors": 1.0, "failed": 1.0, "slow": np.nan}
    while not watched.ended and traffic.sent < most:
        arrival = traffic.request(watched)
        if not (arrival.candidate and traffic.rng.random() < hangs):
            watched.answered(
                arrival.seq, {"score": 0.3, "errors": 0.0, "failed": 0.0, "slow": 0.0}, {}
            )
        elif at_once:
            watched.answered(arrival.seq, lost, {})
        if traffic.sent % 20 == 0:
            watched.judge(watched.batch(traffic.now_ns + 1))
    return watched.judge(watched.batch(traffic.now_ns + 6 * SECOND))


@pytest.mark.parametrize("hangs", [1.0, 0.3])
def test_a_candidate_that_hangs_is_rolled_back_as_one_that_fails_at_once(hangs):
    silent, failing = answer_where(hangs, at_once=False), answer_where(hangs, at_once=True)
    assert [s.reason for s in (silent, failing)] == ["guardrail_failed"] * 2
    assert dict(silent.counts)["never_answered"] > 0
    # Silence shows a patience later: what came in it is exposed, too, and no more.
    assert silent.n_requests <= failing.n_requests + 5 * 10 + 20


def test_a_candidate_that_hangs_now_and_then_does_not_climb():
    text = HANGING.replace("[0.1, 0.5]", "[0.05, 0.25, 0.5]").replace(
        "margin: 0.1,", "margin: 0.01,"
    )
    found = answer_where(0.2, at_once=False, text=text)
    assert (found.reason, found.step) == ("guardrail_failed", 0)


def test_one_slow_guardrail_alone_rolls_back_what_hangs():
    text = (
        POLICY
        + "    - {name: slow, metric: latency, kind: shift, slower_than: 50ms, margin: 0.1}\n"
    )
    traffic, watched = Traffic(2), canary(text=text)
    while not watched.ended and traffic.sent < 1_000:
        arrival = traffic.request(watched)
        if not arrival.candidate:
            watched.answered(arrival.seq, {"score": 0.3, "errors": 0.0, "slow": 0.0}, {})
        watched.judge(watched.batch(traffic.now_ns + 1))
    assert watched.standing().culprits == ("slow",)


def test_the_first_word_about_a_request_counts():
    traffic, watched = Traffic(8), canary()
    arrival = traffic.request(watched)
    watched.answered(arrival.seq, {"score": 0.3, "errors": 0.0}, {})
    watched.answered(arrival.seq, {"score": 0.9, "errors": 1.0}, {})
    entry = watched.batch(traffic.now_ns + 1)
    assert entry.batch.requests.values["score"].tolist() == [0.3]
    assert dict(watched.judge(entry).counts) == {"answered_late": 1}


def test_an_answer_that_was_dropped_here_is_no_error_of_the_model():
    traffic, watched = Traffic(8), canary(text=HANGING)
    watched.answered(traffic.request(watched).seq, None, {})
    values = watched.batch(traffic.now_ns + 1).batch.requests.values
    assert all(np.isnan(values[name]).all() for name in ("score", "failed", "slow"))
    assert values["errors"].tolist() == [0.0]


def test_what_was_under_way_at_a_restart_is_unknown_however_long_ago_it_came():
    ring = []
    watched, traffic = Canary(live(HANGING), "s", ring.append), Traffic(8)
    state = watched.state()
    for _ in range(200):
        traffic.request(watched)
    again = Canary.from_state(state, live(HANGING), "s")
    again.lost(ring, ring[-1].seq)
    entry = again.batch(traffic.now_ns + 600 * SECOND)
    values = entry.batch.requests.values
    assert all(np.isnan(values[name]).all() for name in ("score", "failed", "slow"))
    now = again.judge(entry)
    assert (now.final, dict(now.counts)) == (False, {"lost_at_a_restart": 200})


def test_nobody_is_exposed_while_nobody_watches():
    traffic, watched = Traffic(9), canary()
    traffic.turn(watched)
    late = traffic.now_ns + UNWATCHED_NS
    assert watched.route("u", late) is not None
    assert watched.route("u", late + SECOND) is None
    watched.judge(watched.batch(late + SECOND))
    assert watched.route("u", late + SECOND) is not None


@pytest.mark.parametrize("budget", ["{requests: 300}", "{time: 30s}"])
def test_a_spent_budget_is_hold_and_the_baseline(budget):
    text = POLICY.replace("  patience", f"  budget: {budget}\n  patience")
    traffic, watched = Traffic(10, harm=0.1), canary(text=text)
    standing = traffic.until_final(watched)
    assert (standing.decision, standing.reason) == (Decision.HOLD, "budget_spent")
    assert 300 <= standing.n_requests < 360
    assert not watched.standing_arm


def test_a_split_that_loses_one_arm_is_hold():
    traffic, watched = Traffic(11), canary()
    for _ in range(60):
        for _ in range(50):
            arrival = traffic.request(watched)
            if arrival is None:
                break
            # A sender that reports the candidate's successes only: what is lost enters as a failure,
            # so losing records by arm needs a broken intake, which this is.
            if arrival.candidate and traffic.rng.random() < 0.7:
                watched._intake._drain()
                del watched._intake._waiting[arrival.seq]
                continue
            watched.answered(arrival.seq, {"score": 0.3, "errors": 0.0}, {})
        standing = watched.judge(watched.batch(traffic.now_ns + 1))
    assert (standing.decision, standing.reason) == (Decision.HOLD, "sample_ratio_mismatch")


def test_a_clock_that_is_set_back_breaks_no_order():
    traffic, watched = Traffic(12), canary()
    one = watched.route("a", START)
    two = watched.route("b", START - 3600 * SECOND)
    assert two.ts_ns > one.ts_ns
    for arrival in (one, two):
        watched.answered(arrival.seq, traffic.values(arrival.candidate), {})
    assert watched.judge(watched.batch(START - SECOND)).n_requests == 2


LOSSES = POLICY.replace(
    "    - {name: errors",
    "    - {name: loss, metric: loss_difference, loss: brier, kind: shift, label_maturity: 60s,"
    " margin: 0.1}\n    - {name: errors",
)


def label(user, y, ts_ns):
    return Label(unit=user, value=y, ts_ns=ts_ns)


def losses_of(entry):
    found = entry.batch.labels.get("loss")
    return [] if found is None else found.value.tolist()


def test_a_label_costs_what_the_first_answer_said_and_waits_for_it():
    traffic, watched = Traffic(13), canary(text=LOSSES)
    first, again = traffic.request(watched, "u"), traffic.request(watched, "u")
    watched.labelled(label("u", 1.0, traffic.now_ns + 1))
    assert losses_of(watched.batch(traffic.now_ns + 2)) == []  # the answer is not known yet
    watched.answered(first.seq, {"score": 0.2, "errors": 0.0}, {"loss": 0.2})
    watched.answered(again.seq, {"score": 0.9, "errors": 0.0}, {"loss": 0.9})
    entry = watched.batch(traffic.now_ns + 3)
    assert losses_of(entry) == [pytest.approx(0.64)]
    watched.judge(entry)


def test_a_failed_answer_costs_the_most():
    traffic, watched = Traffic(14), canary(text=LOSSES)
    arrival = traffic.request(watched, "u")
    watched.answered(arrival.seq, {"score": np.nan, "errors": 1.0}, {"loss": np.nan})
    watched.labelled(label("u", 0.0, traffic.now_ns + 1))
    assert losses_of(watched.batch(traffic.now_ns + 2)) == [1.0]


@pytest.mark.parametrize(
    ("user", "y", "reason"),
    [("stranger", 1.0, "label_of_no_open_unit"), ("u", 0.5, "label_outside_its_range"),
     ("u", np.nan, "label_outside_its_range")],
)  # fmt: skip
def test_labels_that_say_nothing_are_counted(user, y, reason):
    traffic, watched = Traffic(15), canary(text=LOSSES)
    watched.answered(
        traffic.request(watched, "u").seq, {"score": 0.2, "errors": 0.0}, {"loss": 0.2}
    )
    watched.labelled(label(user, y, traffic.now_ns + 1))
    standing = watched.judge(watched.batch(traffic.now_ns + 2))
    assert dict(standing.counts)[reason] == 1


def labelled_until_final(lost, harm=0.0, most=8_000):
    """Users get a label ten seconds later; the candidate's are lost with some probability."""
    traffic, watched = Traffic(16), canary(text=LOSSES)
    due = []
    standing = watched.standing()
    while not standing.final and traffic.sent < most:
        for _ in range(50):
            arrival = traffic.request(watched)
            if arrival is None:
                break
            user = f"u{traffic.sent}"
            watched.answered(arrival.seq, {"score": 0.3, "errors": 0.0}, {"loss": 0.3})
            chance = 0.3 + harm * arrival.candidate
            if not (arrival.candidate and traffic.rng.random() < lost):
                due.append((traffic.now_ns + 10 * SECOND, user, traffic.rng.random() < chance))
        while due and due[0][0] <= traffic.now_ns:
            at, user, y = due.pop(0)
            watched.labelled(label(user, float(y), at))
        standing = watched.judge(watched.batch(traffic.now_ns + 1))
    return standing


def test_labels_that_one_arm_loses_are_hold():
    standing = labelled_until_final(0.8)
    assert (standing.decision, standing.reason) == (Decision.HOLD, "labels_unequal")


def test_labels_that_show_a_worse_candidate_are_rollback():
    standing = labelled_until_final(0.0, harm=0.65)
    assert (standing.decision, standing.culprits) == (Decision.ROLLBACK, ("loss",))


def test_promotion_waits_for_whole_cycles():
    text = POLICY.replace("  patience", "  cycle: 600s\n  patience")
    traffic, watched = Traffic(17), canary(text=text)
    standing = traffic.until_final(watched, most=5_900)
    assert not standing.final  # 590 s, and the evidence is there
    assert traffic.until_final(watched, most=6_500).decision is Decision.PROMOTE


def test_a_state_goes_on_to_the_same_answers():
    import json

    traffic, twin = Traffic(18, harm=0.1), Traffic(18, harm=0.1)
    one, other = canary(text=LOSSES), canary(text=LOSSES)
    for number in range(30):
        for source, watched in ((traffic, one), (twin, other)):
            for user in range(50 * number - 40, 50 * number):
                watched.labelled(label(f"u{user}", float(user % 3 == 0), source.now_ns))
        seen, expected = traffic.turn(one), twin.turn(other)
        assert seen == expected
        one = Canary.from_state(json.loads(json.dumps(one.state())), live(LOSSES), "s")
    assert one.evidence() == other.evidence()
    assert one.evidence()[1].n > 0  # labelled units


def test_a_version_that_changes_meanwhile_is_hold_also_over_a_restart():
    traffic, watched = Traffic(19), canary()
    watched.saw_versions(True, {"2"})
    watched.saw_versions(False, {"1"})
    traffic.turn(watched)
    watched = Canary.from_state(watched.state(), live(), "s")
    watched.saw_versions(False, {"1"})
    assert not watched.ended
    watched.saw_versions(True, {"3"})
    assert watched.standing().reason == "version_changed"
    assert "candidate was 2 and is 3" in watched.standing().explanation
    assert traffic.request(watched) is None


def test_a_shadow_counts_time_blocks_once():
    from dataclasses import replace

    text = POLICY.replace("  steps: [0.1, 0.5]\n", "").replace("unit: user", "unit: 10s")
    text = text.replace("  stay: {requests: 200}\n", "").replace("kind: shift", "kind: paired")
    text = "\n".join(line for line in text.splitlines() if "kind: errors" not in line)
    shadow = replace(live(text), steps=(0.0,))
    traffic, watched = Traffic(20), Canary(shadow, "s")
    for _ in range(600):  # a minute
        arrival = traffic.request(watched, "")
        assert not arrival.candidate
        watched.answered(arrival.seq, {"score": 0.0}, {})
    standing = watched.judge(watched.batch(traffic.now_ns + 1))
    assert (standing.n_requests, standing.n_closed) == (600, 6)

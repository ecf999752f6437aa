"""How much of traffic and labels may be missing, and what harm is still believed then."""

import dataclasses

import pytest
from test_decide_decision import FACTS, HARM, PASSED, POLICY, READY, evidence

from harness.core.verdicts import Decision
from harness.decide.decision import decide
from harness.decide.facts import FailureCount, LabelFacts, TrafficFacts
from harness.decide.integrity import reasons


def lost(count, sealed):
    return TrafficFacts(sealed=sealed, not_sealed=(("no tensor", count),) if count else ())


def labels(labelled, *, eligible=1000, matched=1000, unknown=0):
    return LabelFacts(
        window="matured", matched=matched, unknown=unknown, eligible=eligible, labelled=labelled
    )


def decided(status=READY, rows=PASSED, **facts):
    record = decide(POLICY, status, rows, dataclasses.replace(FACTS, **facts))
    return record.decision, record.reason


HOLD_TRAFFIC = (Decision.HOLD, "traffic_integrity")
HOLD_LABELS = (Decision.HOLD, "labels_incomplete")
PROMOTE = (Decision.PROMOTE, "all_guardrails_pass")


@pytest.mark.parametrize(
    ("count", "sealed", "expected"),
    [(0, 1000, PROMOTE), (5, 95, PROMOTE), (6, 94, HOLD_TRAFFIC), (9, 0, HOLD_TRAFFIC)],
)
def test_a_twentieth_of_the_recording_may_be_lost(count, sealed, expected):
    assert decided(traffic=lost(count, sealed)) == expected


@pytest.mark.parametrize(
    ("count", "bare", "expected"),
    [
        (0, 5, PROMOTE),
        (0, 6, HOLD_TRAFFIC),
        (3, 2, PROMOTE),
        (3, 3, HOLD_TRAFFIC),
        (0, 99, HOLD_TRAFFIC),
    ],
)
def test_requests_without_rows_are_lost_by_the_same_rule(count, bare, expected):
    traffic = dataclasses.replace(lost(count, 100 - count), without_rows=bare)
    assert decided(traffic=traffic) == expected


@pytest.mark.parametrize(
    ("labelled", "expected"), [(1000, PROMOTE), (900, PROMOTE), (899, HOLD_LABELS)]
)
def test_nine_in_ten_requests_must_have_their_label(labelled, expected):
    assert decided(labels=labels(labelled)) == expected


def test_labels_of_one_value_carry_no_loss():
    whole = labels(1000)
    assert decided(labels=dataclasses.replace(whole, one_value=True)) == HOLD_LABELS


def test_labels_that_match_no_request_are_told_apart_from_none_at_all():
    assert decided(labels=labels(0, matched=0, unknown=700)) == HOLD_LABELS
    assert decided(labels=labels(0, matched=0)) != HOLD_LABELS
    assert decided(labels=labels(0, matched=5, unknown=700)) != HOLD_LABELS


def test_lost_traffic_holds_before_harm_is_believed():
    assert decided(HARM, traffic=lost(10, 10)) == HOLD_TRAFFIC


def test_a_candidate_that_crashes_is_rolled_back_whatever_was_lost():
    crash = (FailureCount(kind="crash", count=1),)
    decision, reason = decided(traffic=lost(10, 10), candidate_only_failures=crash)
    assert (decision, reason) == (Decision.ROLLBACK, "candidate_fails")


def harm_by(**e_rollback):
    return tuple(
        evidence(name, e_rollback=e_rollback.get(name, 0.1), gating=name != "flips", weight=0.5)
        for name in ("score", "loss", "flips")
    )


def test_harm_by_labels_that_are_not_whole_is_not_believed():
    assert decided(HARM, harm_by(loss=1e6), labels=labels(100)) == HOLD_LABELS
    assert decided(HARM, harm_by(loss=1e6), labels=labels(900))[0] is Decision.ROLLBACK


@pytest.mark.parametrize(
    ("e", "expected"), [(39.0, HOLD_LABELS), (41.0, (Decision.ROLLBACK, "guardrail_failed"))]
)
def test_harm_by_other_guardrails_must_suffice_alone(e, expected):
    """1/α = 20 at half the weight: the score needs 40 by itself."""
    assert decided(HARM, harm_by(score=e, loss=1e6), labels=labels(100)) == expected


def test_the_most_frequent_reasons_are_shown_and_all_are_counted():
    counts = [("a", 1), ("b", 40), ("c", 3), ("d", 2), ("e", 5)]
    assert reasons(counts) == "40: b; 5: e; 3: c; 3: other reasons"

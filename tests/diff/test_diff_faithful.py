import numpy as np
from diff_streams import floor_of, observed, output_pairs, requests

from harness.core.observations import Outcome, PairBatch
from harness.diff.faithful import FaithfulDiff
from harness.diff.floor import Floor
from harness.diff.observer import ObserverDiff

SCORE = np.random.default_rng(1).random(6).astype(np.float32)
FLOOR = floor_of(output_pairs({"p": SCORE}, {"p": SCORE}))


def faithful(recorded, replayed, *, answered=None, outcome=None, keys=None):
    diff = FaithfulDiff(FLOOR)
    n = len(next(iter(recorded.values())))
    found = diff.update(
        requests(n, recorded=recorded, answered=answered),
        observed(n, outputs=replayed, outcome=outcome, keys=keys),
    )
    return found, diff.finish()


def test_the_same_answers_are_faithful():
    _, report = faithful({"p": SCORE}, {"p": SCORE.copy()})
    assert (report.compared, report.mismatched) == (6, 0)
    assert "production's answer on all 6 requests" in report.note


def test_other_answers_are_counted_and_said():
    found, report = faithful({"p": SCORE}, {"p": SCORE + np.float32([0, 0, 1, 0, 0, 0])})
    assert found.mismatch.tolist() == [False, False, True, False, False, False]
    assert report.mismatched == 1
    assert "this replay is not production" in report.note


def test_unanswered_requests_are_left_out():
    answered = np.array([True, False, True, True, True, True])
    _, report = faithful({"p": SCORE}, {"p": np.where(answered, SCORE, 9)}, answered=answered)
    assert (report.compared, report.mismatched) == (5, 0)


def test_a_baseline_that_fails_where_production_answered_is_counted():
    outcome = [0, Outcome.ERROR, 0, 0, 0, 0]
    _, report = faithful({"p": SCORE}, {"p": SCORE}, outcome=outcome)
    assert (report.compared, report.baseline_failed) == (5, 1)


def test_tensors_of_one_side_are_listed():
    _, report = faithful({"p": SCORE, "q": SCORE}, {"p": SCORE, "r": SCORE})
    assert report.not_compared == ("q: only recorded", "r: not recorded")


def test_nothing_recorded_is_unknown_not_faithful():
    _, report = faithful({"q": SCORE}, {"p": SCORE})
    assert report.compared == 0
    assert "unknown" in report.note


def test_a_zipmap_output_is_compared_with_the_recorded_matrix():
    matrix = np.stack([SCORE, 1 - SCORE], axis=1)
    _, report = faithful(
        {"s": matrix}, {"s": matrix.astype(np.float64)}, keys={"s": ("late", "early")}
    )
    assert (report.compared, report.mismatched) == (6, 0)


def test_observer_effect_is_seen_on_the_side_that_has_it():
    diff = ObserverDiff(Floor())
    diff.update(
        PairBatch(
            requests=requests(6),
            baseline=observed(6, outputs={"p": SCORE}, traced={"p": SCORE}),
            candidate=observed(6, outputs={"p": SCORE}, traced={"p": SCORE * 2}),
        )
    )
    report = diff.finish()
    assert (report.checked, report.mismatched) == (12, 6)


def test_observer_guard_without_a_trace_says_so():
    diff = ObserverDiff(Floor())
    for pair in output_pairs({"p": SCORE}, {"p": SCORE}):
        diff.update(pair)
    assert diff.finish().note == "Nothing was traced."


def test_a_traced_answer_that_lacks_an_output_is_not_checked():
    diff = ObserverDiff(Floor())
    plain = {"y": np.zeros(4), "z": np.zeros(4)}
    for traced in (plain, {"y": np.zeros(4)}):
        seen = observed(4, outputs=plain, traced=traced)
        diff.update(PairBatch(requests=requests(4), baseline=seen, candidate=seen))
        diff = ObserverDiff.from_state(diff.state(), Floor())
    report = diff.finish()
    assert (report.checked, report.mismatched) == (8, 0)
    assert report.note.endswith("in all 8 cases. In 8 cases the traced answers are not whole.")

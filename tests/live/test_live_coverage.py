"""Nobody is moved to a candidate of which too little is measured."""

import numpy as np
import pytest
from canaries import POLICY, SECOND, Traffic, canary

from harness.core.verdicts import Decision
from harness.live.coverage import labels_missing
from harness.live.keeper import notes_of
from harness.live.labels import Label


class Blind(Traffic):
    """A share of the candidate's answers has no score."""

    def __init__(self, share):
        super().__init__(1)
        self.share = share

    def values(self, candidate):
        found = super().values(candidate)
        if candidate and self.rng.random() < self.share:
            found["score"] = np.nan
        return found


def test_no_step_up_while_too_little_of_the_candidate_is_measured():
    traffic, watched = Blind(0.3), canary()
    standing = traffic.until_final(watched, most=2_000)
    assert (standing.final, standing.step) == (False, 0)
    assert "of the candidate (95% are needed)" in standing.explanation


def test_a_few_missing_values_keep_nobody():
    assert Blind(0.01).until_final(canary()).decision is Decision.PROMOTE


def test_what_is_missing_for_a_promotion_is_said():
    traffic, watched = Traffic(2), canary(text=POLICY.replace("requests: 200", "requests: 1500"))
    standing = traffic.until_final(watched, most=2_900)
    assert "Not promoted yet: the ramp is at step 2 of 2." in standing.explanation
    assert "The step still needs" in standing.explanation


LOSSES = POLICY.replace("{name: errors", "{name: loss, metric: loss_difference, loss: brier, kind: shift, "
                        "label_maturity: 20s, margin: 0.4, effect: 0.0, variance: 0.02}\n    - {name: errors")  # fmt: skip


def labelled(told, turns=40):
    """Where a harmless canary stands whose users' labels come as told."""
    traffic, watched = Traffic(3), canary(text=LOSSES)
    standing = watched.standing()
    for _ in range(turns):
        first = traffic.sent
        traffic.answered(watched, 50)
        for i in range(first + 1, traffic.sent + 1):
            for user, y in told(i):
                watched.labelled(Label(unit=user, value=float(y), ts_ns=traffic.now_ns))
        traffic.now_ns += SECOND // 20
        standing = watched.judge(watched.batch(traffic.now_ns))
    return standing


def test_with_a_label_of_every_unit_it_is_promoted():
    assert labelled(lambda i: [(f"u{i}", 0)]).decision is Decision.PROMOTE


@pytest.mark.parametrize(
    ("told", "note"),
    [
        (lambda i: [(f"u{i}", 0)] if i % 20 == 0 else [], ""),
        (
            lambda i: [(f"u{i}" if i % 10 == 0 else f"x{i}", 0)],
            "labels name no unit that was seen",
        ),
        (lambda i: [(f"u{i}", 0), (f"u{i}", 1)], "labels contradict an earlier one"),
    ],
    ids=["few", "of nobody", "contradicting"],
)
def test_nobody_is_moved_to_a_candidate_whose_units_have_no_labels_to_believe(told, note):
    standing = labelled(told)
    assert (standing.decision, standing.final, standing.step) == (Decision.HOLD, False, 0)
    assert "has one undisputed label for only" in standing.explanation
    assert note in "; ".join(notes_of(standing))


@pytest.mark.parametrize(("good", "enough"), [(95, True), (94, False)])
def test_ninety_five_of_a_hundred_units_need_a_label_in_each_arm(good, enough):
    for arms in (((100, good), (0, 0)), ((0, 0), (100, good))):
        assert (labels_missing({"loss": arms}) == []) is enough

"""What happened to a version's process, in words."""

import pytest

from harness.pipeline.leg_findings import leg_findings
from harness.replay.leg_counters import Tally


def test_answers_that_came_without_features_say_why():
    tally = Tally()
    tally.untraced("broke the protocol: tensor 'p' has the shape [2, 0, 70368744177664]")
    tally.untraced("another reason")
    (found,) = leg_findings("candidate", tally.counters(), {}, (), ())
    assert found.kind == "features_not_traced"
    assert found.what == (
        "the candidate answers 2 batches of requests, but not with its features: these were not compared "
        "there: broke the protocol: tensor 'p' has the shape [2, 0, 70368744177664]"
    )


def test_a_version_that_always_answers_with_its_features_has_no_such_finding():
    assert leg_findings("candidate", Tally().counters(), {}, (), ()) == []


@pytest.mark.parametrize(
    ("kind", "messages", "end"),
    [
        ("NAN", ["Log: refused"], "the first operator that gives no number."),
        ("TIMEOUT", [], "at which operator it stops."),
        ("ERROR", ["Log: refused"], "the operator that the message names."),
    ],
)
def test_a_message_is_referred_to_only_where_there_is_one(kind, messages, end):
    (found,) = leg_findings("candidate", Tally().counters(), {kind: 3}, ["a"], messages)
    assert found.remedy.endswith(end)
    assert ("refused" in found.what) is end.endswith("message names.")

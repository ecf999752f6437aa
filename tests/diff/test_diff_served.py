"""Logged features that the baseline's trace returns now and then, or never."""

from dataclasses import replace

import numpy as np
from diff_streams import observed, requests

from harness.diff.floor import Floor
from harness.diff.served import ServedDiff

VALUES = np.linspace(1, 2, 4)


def reported(*traces):
    """Four requests a batch, each with a logged `km`; the baseline's trace returned these."""
    diff = ServedDiff(Floor())
    for features in traces:
        batch = replace(requests(4), recorded={"feature:km": VALUES})
        diff.update(batch, observed(4, features=features))
        diff = ServedDiff.from_state(diff.state(), Floor())
    return diff.finish()


def test_a_logged_feature_that_some_batches_lack_is_said_with_the_count():
    report = reported({"km": VALUES}, {"mile": VALUES}, {"mile": VALUES})
    assert report.requests == 4
    assert report.not_compared == (
        "logged feature km: not compared in 8 requests: the baseline's trace does not return it",
    )


def test_a_logged_feature_that_is_never_there_is_said():
    report = reported({"mile": VALUES})
    assert (report.requests, report.not_compared) == (
        0, ("logged feature km: the baseline's trace does not return it",),
    )  # fmt: skip


def test_a_logged_feature_that_is_always_there_leaves_nothing_to_say():
    assert reported({"km": VALUES}, {"km": VALUES}).not_compared == ()

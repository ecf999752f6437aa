"""Nobody is moved to a candidate of which too little is measured."""

import numpy as np
from canaries import POLICY, Traffic, canary

from harness.core.verdicts import Decision


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

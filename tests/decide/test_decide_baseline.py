"""When the share of what a baseline fails is known, wherever a run stops."""

import numpy as np
import pytest

from harness.decide.baseline import enough_counted
from harness.decide.facts import BaselineFailures


@pytest.mark.parametrize(
    ("failed", "refused", "most", "known"),
    [
        (0, 0, 0.05, True), (5, 0, 0.05, True), (22, 0, 0.05, False), (28, 0, 0.05, False),
        (60, 0, 0.05, True), (0, 5, 0.05, True), (0, 25, 0.05, False), (10, 15, 0.05, False),
        (25, 0, 1.0, True), (1, 0, 0.0, True), (25, 0, 0.5, True),
    ],
)  # fmt: skip
def test_a_share_near_the_accepted_one_is_not_known_before_the_end(failed, refused, most, known):
    found = BaselineFailures(window="newest", failed=failed, asked=512, refused=refused)
    assert enough_counted([found], most, 0.05) == known


def test_asking_again_seldom_gets_past_a_share_beyond_the_accepted_one():
    """Of 300 runs whose true share is 6 %, looked at every 100 requests, few would have been told it is below."""
    rng, past = np.random.default_rng(0), 0
    for _ in range(300):
        lost = np.cumsum(rng.random(3000) < 0.06)[99::100]
        looks = [
            enough_counted([BaselineFailures(window="newest", failed=int(k), asked=n)], 0.05, 0.05)
            and k <= 0.05 * n
            for n, k in zip(range(100, 3001, 100), lost, strict=True)
        ]
        past += any(looks)
    assert past <= 0.05 * 300

"""Requests of one unit in a row become one observation, however batches cut them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from harness.core.errors import GateError
from harness.core.policies import Direction
from harness.judge.metrics import Values
from harness.judge.track import Track
from harness.judge.unit_sums import UnitSums
from harness.judge.units import unit_means, units_of_column
from harness.replay.order import draw_units

ALPHA = 0.05
USERS, EACH, MARGIN = 150, 20, 0.2


def in_batches(values, last, cuts, *, saved=False):
    sums, found = UnitSums(), []
    for start, stop in zip([0, *cuts], [*cuts, len(last)], strict=True):
        part = Values(x=values.x[start:stop], failed=values.failed[start:stop])
        found.append(sums.add(part, last[start:stop]))
        if saved:
            sums = UnitSums.from_state(json.loads(json.dumps(sums.state())))
    return np.concatenate([f.x for f in found]), np.concatenate([f.failed for f in found])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=12),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_any_batches_give_the_units_means(sizes, seed, data):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    # Quarters add up without rounding, so that the order of adding shows nothing.
    x = rng.integers(-4, 5, n) / 4
    x[rng.random(n) < 0.2] = np.nan
    values = Values(x=x, failed=rng.random(n) < 0.1)
    unit = np.repeat(np.arange(len(sizes)), sizes)
    last = np.append(unit[1:] != unit[:-1], True)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    expected = unit_means(values, units_of_column(unit))
    for saved in (False, True):
        means, failed = in_batches(values, last, cuts, saved=saved)
        np.testing.assert_array_equal(means, expected.x)
        np.testing.assert_array_equal(failed, expected.failed)


def test_a_unit_enters_only_when_its_last_request_has_come():
    sums = UnitSums()
    first = sums.add(Values(x=np.ones(3), failed=np.zeros(3, np.bool_)), np.array([0, 0, 0]) > 0)
    second = sums.add(Values(x=np.zeros(1), failed=np.zeros(1, np.bool_)), np.array([True]))
    assert (len(first.x), second.x.tolist()) == (0, [0.75])


def test_values_of_other_requests_are_refused():
    with pytest.raises(GateError, match="2 unit ends for 3 observations"):
        UnitSums().add(Values(x=np.ones(3), failed=np.zeros(3, np.bool_)), np.ones(2, np.bool_))


def ever(values, parts):
    """Whether harm is proven at any batch end, and whether harmlessness is."""
    bar, crossed = math.log(1 / ALPHA), [False, False]
    track = Track(
        direction=Direction.INCREASE, margin=MARGIN, bounds=(0.0, 1.0), alphas=(ALPHA, ALPHA),
        plan=(0.05, MARGIN * (1 - MARGIN)),
    )  # fmt: skip
    for part in parts(values):
        track.add(part, 0)
        crossed[0] |= track.log_e_rollback() >= bar
        crossed[1] |= track.log_e_promote() >= bar
    return crossed


@pytest.mark.usefixtures("few_points")
def test_at_the_margin_users_keep_the_error_rates_and_their_requests_do_not():
    """Twenty requests a user, intraclass correlation ½, mean exactly at the margin."""
    runs = 150
    user = np.repeat(np.arange(USERS), EACH)
    wrong = {"requests": np.zeros(2), "users": np.zeros(2)}
    for run in range(runs):
        rng = np.random.default_rng([5, run])
        rate = rng.beta(MARGIN, 1 - MARGIN, USERS)
        x = (rng.random(len(user)) < rate[user]).astype(np.float64)
        order = draw_units(np.ones(len(x), np.bool_), user, seed=run, window="newest", limit=len(x))
        last = np.append(user[order][1:] != user[order][:-1], True)

        def by_user(values, order=order, last=last):
            sums = UnitSums()
            for at in range(0, len(order), 256):
                taken = order[at : at + 256]
                part = Values(x=values[taken], failed=np.zeros(len(taken), np.bool_))
                yield sums.add(part, last[at : at + 256]).x

        def by_request(values, rng=rng):
            return np.array_split(values[rng.permutation(len(values))], len(values) // 256)

        wrong["users"] += ever(x, by_user)
        wrong["requests"] += ever(x, by_request)
    most = binom.ppf(0.999, runs, ALPHA)
    assert wrong["users"].max() <= most
    # Each answer alone; longer runs err more often, as the users' mean differs from the margin.
    assert wrong["requests"].min() > most
    assert wrong["requests"].sum() > 0.3 * runs

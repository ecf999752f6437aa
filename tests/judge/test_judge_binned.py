"""Calibration in bins of the baseline's score: what bins are, and both error rates."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from harness.core.policies import Direction
from harness.judge.binned import FIRST_OF_BIN, BinnedTrack

BAR = math.log(20)
BINS = 5


def track(bins=BINS, margin=0.1, plan=(0.1, 0.2)):
    return BinnedTrack(
        direction=Direction.BOTH, margin=margin, bounds=(-1.0, 1.0), plan=plan,
        alphas=(0.05, 0.05), bins=bins,
    )  # fmt: skip


def draw(rng, n, off=0.0, above=0.8):
    """A calibrated score, but for requests that the baseline scores above `above`."""
    score = rng.random(n)
    truth = np.clip(score + np.where(score >= above, off, 0.0), 0.0, 1.0)
    y = (rng.random(n) < truth).astype(np.float64)
    return y - score, np.zeros(n, np.bool_), score


def fixed(rng, **more):
    """A track whose bins end at exact fifths, so that the planted bin is one of them."""
    found = track(**more)
    n = FIRST_OF_BIN * BINS
    score = (np.arange(n) + 0.5) / n
    found.add(np.zeros(n), np.zeros(n, np.bool_), rng.permutation(score))
    return found


def test_the_first_requests_fix_bins_of_equal_shares_and_are_no_evidence():
    found = fixed(np.random.default_rng(0))
    assert (found.n, found.n_fixing) == (0, FIRST_OF_BIN * BINS)
    assert found.state()["edges"] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_scores_that_repeat_make_fewer_bins():
    found = track()
    score = np.repeat([0.1, 0.9], [40, 200])
    found.add(
        np.zeros(240), np.zeros(240, np.bool_), score[np.random.default_rng(1).permutation(240)]
    )
    assert found.state()["edges"] == [0.5]


def test_a_calibrated_candidate_passes_in_every_bin():
    rng = np.random.default_rng(2)
    found = fixed(rng)
    found.add(*draw(rng, 20_000))
    assert found.log_e_promote() >= BAR
    lower, upper = found.interval()
    assert -0.1 < lower < 0.0 < upper < 0.1


def test_one_bad_bin_of_five_is_found_and_named():
    rng = np.random.default_rng(3)
    found = fixed(rng)
    x, failed, score = draw(rng, 20_000, off=-0.3)
    found.add(x, failed, score)
    assert abs(x.mean()) < 0.1  # over all traffic it would pass
    assert found.log_e_rollback() >= BAR
    assert found.interval()[1] < -0.1
    assert "0.8 to 1" in found.words()


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("side", [pytest.param(-1.0, marks=pytest.mark.long), 1.0])
def test_with_one_bin_exactly_at_the_margin_both_error_rates_hold(side):
    """The other bins are as good as can be; 20 looks a run."""
    rng, runs = np.random.default_rng(4), 150
    promoted = rolled_back = 0
    for _ in range(runs):
        found = fixed(rng)
        once = [False, False]
        for _ in range(20):
            score = rng.random(500)
            last = score >= 0.8
            y = (rng.random(500) < np.where(last, 0.5 + side * 0.1, score)).astype(np.float64)
            found.add(y - np.where(last, 0.5, score), np.zeros(500, np.bool_), score)
            once[0] |= found.log_e_promote() >= BAR
            once[1] |= found.log_e_rollback() >= BAR
        promoted, rolled_back = promoted + once[0], rolled_back + once[1]
    most = binom.ppf(0.999, runs, 0.05)
    assert promoted <= most
    assert rolled_back <= most


def test_within_the_margin_the_same_runs_promote():
    rng = np.random.default_rng(5)
    found = fixed(rng)
    score = rng.random(10_000)
    y = (rng.random(10_000) < np.where(score >= 0.8, 0.5, score)).astype(np.float64)
    found.add(y - np.where(score >= 0.8, 0.5, score), np.zeros(10_000, np.bool_), score)
    assert found.log_e_promote() >= BAR


def test_a_failed_request_without_a_score_counts_as_the_worst_in_every_bin():
    rng = np.random.default_rng(6)
    one, other = fixed(rng), fixed(rng)
    x, failed, score = draw(rng, 5000)
    one.add(x, failed, score)
    lost = np.arange(5000) % 10 == 0
    other.add(np.where(lost, np.nan, x), lost, np.where(lost, np.nan, score))
    assert (other.n, other.n_failed) == (5000, 500)
    assert other.log_e_promote() < one.log_e_promote()
    assert other.log_e_rollback() <= one.log_e_rollback()


def test_cutting_into_batches_and_saving_change_nothing():
    rng = np.random.default_rng(7)
    x, failed, score = draw(rng, 3000)
    whole, parts = track(), track()
    whole.add(x, failed, score)
    for part in np.array_split(np.arange(3000), 17):
        parts.add(x[part], failed[part], score[part])
        parts = track().restore(json.loads(json.dumps(parts.state())))
    assert parts.n == whole.n
    assert parts.log_e_promote() == pytest.approx(whole.log_e_promote())
    assert parts.log_e_rollback() == pytest.approx(whole.log_e_rollback())


def test_nothing_is_proven_before_the_bins_are_fixed():
    found = track()
    found.add(np.zeros(10), np.zeros(10, np.bool_), np.linspace(0, 1, 10))
    assert (found.log_e_promote(), found.log_e_rollback(), found.n) == (0.0, 0.0, 0)
    assert found.interval() == (-1.0, 1.0)
    assert found.path() == ()
    assert "too few" in found.words()

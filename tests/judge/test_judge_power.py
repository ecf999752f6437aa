"""Requests to a decision against the information bound log(1/α)/KL, every request a look."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.betting import one_sided

BOUND_A = 1249.0
BOUND_B = 599.0


def mean_requests(process, draw, *, paths=1500, block=200, longest=60_000):
    """Mean number of observations until E ≥ 20; every path has to get there."""
    alive = np.arange(paths)
    wealth = np.zeros((paths, len(process.lam)))
    stopped = np.zeros(paths)
    for start in range(0, longest, block):
        steps = np.cumsum(process.log_factors(draw((len(alive), block))), axis=1)
        steps += wealth[alive][:, None, :]
        hit = process.log_e(steps) >= math.log(20)
        done = hit.any(axis=1)
        stopped[alive[done]] = start + 1 + hit[done].argmax(axis=1)
        wealth[alive] = steps[:, -1]
        alive = alive[~done]
        if not len(alive):
            return stopped.mean()
    raise AssertionError(f"{len(alive)} paths undecided after {longest}")


def flips(seed):
    rng = np.random.default_rng(seed)
    return lambda shape: (rng.random(shape) < 0.001).astype(np.float64)


def score(seed):
    rng = np.random.default_rng(seed)
    return lambda shape: np.clip(rng.normal(0.01, 0.05, shape), -0.25, 0.25)


@pytest.mark.parametrize(
    ("plan", "factor"), [((0.004, 0.005 * 0.995), 1.2), ((None, None), 1.7)], ids=["plan", "none"]
)
def test_promotion_of_rare_flips_is_near_the_bound(plan, factor):
    process = one_sided(-1, -0.005, (0.0, 1.0), *plan)
    assert mean_requests(process, flips(40)) <= factor * BOUND_A


@pytest.mark.parametrize(
    ("plan", "factor"),
    [((0.005, 0.0025 + 0.005**2), 1.2), ((None, None), 1.7)],
    ids=["plan", "none"],
)
def test_rollback_of_a_score_shift_is_near_the_bound(plan, factor):
    process = one_sided(1, 0.005, (-0.25, 0.25), *plan)
    assert mean_requests(process, score(41)) <= factor * BOUND_B


@pytest.mark.parametrize("ratio", [2.0, 5.0])
def test_unplanned_rollback_of_rare_events_is_near_the_bound(ratio):
    # The bets that pay for rare events are a thousandth of the largest admissible one.
    margin, p = 0.001, 0.001 * ratio
    kl = p * math.log(ratio) + (1 - p) * math.log((1 - p) / (1 - margin))
    process = one_sided(1, margin, (0.0, 1.0), None, None)
    rng = np.random.default_rng(42)
    needed = mean_requests(
        process,
        lambda shape: (rng.random(shape) < p).astype(np.float64),
        paths=150,
        block=1000,
        longest=400_000,
    )
    assert needed <= 1.8 * math.log(20) / kl

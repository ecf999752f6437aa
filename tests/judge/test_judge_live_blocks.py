"""Time blocks of shadow traffic: what counts once where no coin is flipped for each request."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom

from harness.core.errors import PolicyError
from harness.core.live import LiveGuardrail, LiveKind
from harness.core.policies import Direction
from harness.core.verdicts import Decision
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import LiveBatch, LivePlan

SECOND = 10**9
MARGIN = 0.05
SCORE = LiveGuardrail(
    name="score", kind=LiveKind.PAIRED, margin=MARGIN, bounds=(-0.25, 0.25), gap=0.05, second_moment=0.01
)  # fmt: skip
BLOCKS = LivePlan(guardrails=(SCORE,), maturity_s=0.0, block_s=600.0)
EACH = LivePlan(guardrails=(SCORE,), maturity_s=0.0)


def requests(x, every_s=1.0, start_s=0):
    n = len(x)
    return Requests(
        ts_ns=(start_s * SECOND + np.arange(n) * every_s * SECOND).astype(np.int64),
        unit=np.array([f"r{start_s}-{i}" for i in range(n)], object),
        candidate=np.zeros(n, np.bool_),
        propensity=np.zeros(n),
        values={"score": np.asarray(x, np.float64)},
    )


def cut(traffic, ends):
    """Batches that end before the given positions, and where the last one's hour is over."""
    found = []
    for number, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
        part = dataclasses.replace(
            traffic,
            **{f: getattr(traffic, f)[start:stop] for f in ("ts_ns", "unit", "candidate", "propensity")},
            values={name: x[start:stop] for name, x in traffic.values.items()},
        )  # fmt: skip
        until = int(traffic.ts_ns[stop - 1]) + SECOND
        found.append(LiveBatch(number=number, until_ns=until, requests=part))
    return found


def test_a_block_counts_once_as_its_mean_when_its_time_is_over():
    judge = LiveJudge(BLOCKS)
    x = np.concatenate([np.full(300, 0.1), np.full(300, 0.2), np.full(599, 0.0)])
    first, second, third = cut(requests(x), [599, 600, 1199])
    assert judge.update(first).n_closed == 0
    assert judge.update(second).n_closed == 1
    assert judge.update(third).n_closed == 1
    (row,) = judge.evidence()
    assert row.n == 1
    assert row.subject == "mean over time blocks like those seen"
    alone = LiveJudge(dataclasses.replace(EACH, guardrails=(SCORE,)))
    alone.update(cut(requests([0.15]), [1])[0])
    assert row.e_rollback == pytest.approx(alone.evidence()[0].e_rollback)


def test_a_block_with_a_failed_request_counts_as_the_worst():
    x = np.zeros(600)
    x[7] = math.nan
    judge = LiveJudge(BLOCKS)
    judge.update(cut(requests(x), [600])[0])
    assert judge.evidence()[0].n_failed == 1


def test_how_traffic_is_cut_and_a_restart_change_nothing():
    rng = np.random.default_rng(3)
    traffic = requests(np.clip(rng.normal(0.05, 0.1, 20_000), -0.25, 0.25))
    whole = LiveJudge(BLOCKS)
    whole.update(cut(traffic, [20_000])[0])
    pieces = LiveJudge(BLOCKS)
    ends = [*np.sort(rng.choice(np.arange(1, 20_000), 40, replace=False)).tolist(), 20_000]
    for part in cut(traffic, ends):
        pieces.update(part)
        pieces = LiveJudge.from_state(BLOCKS, json.loads(json.dumps(pieces.state())))
    one, other = (judge.evidence()[0] for judge in (whole, pieces))
    assert (one.n, one.verdict) == (other.n, other.verdict)
    assert (one.e_promote, one.e_rollback) == pytest.approx((other.e_promote, other.e_rollback))


def answered(plan, runs, seed, mean=MARGIN):
    """Runs of AR(1) differences around a mean: (ever rolled back, ever promoted)."""
    rng = np.random.default_rng(seed)
    rolled = promoted = 0
    for _ in range(runs):
        start = rng.standard_normal(1) * 0.9
        z = lfilter([1.0], [1.0, -0.9], rng.standard_normal(6_000) * math.sqrt(0.19), zi=start)[0]
        judge = LiveJudge(plan)
        answers = {
            judge.update(part).decision
            for part in cut(requests(mean + 0.1 * np.tanh(z), every_s=5), [1_500, 3_000, 4_500, 6_000])
        }  # fmt: skip
        rolled += Decision.ROLLBACK in answers
        promoted += Decision.PROMOTE in answers
    return rolled, promoted


@pytest.mark.usefixtures("few_points")
def test_neighbours_that_depend_do_not_decide_at_the_margin():
    limit = binom.ppf(0.9999, 60, 0.05)
    assert max(answered(BLOCKS, 60, 11)) <= limit


@pytest.mark.usefixtures("few_points")
def test_what_lies_off_the_margin_is_decided_in_blocks():
    assert answered(BLOCKS, 20, 12, mean=0.15) == (20, 0)
    assert answered(BLOCKS, 20, 13, mean=0.0)[1] >= 18


@pytest.mark.usefixtures("few_points")
def test_without_blocks_they_would():
    limit = binom.ppf(0.9999, 30, 0.05)
    assert max(answered(EACH, 30, 11)) > limit


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"maturity_s": 5.0}, "a maturity of 5 s"),
        ({"cycle_s": 900.0}, "a cycle of 900 s cuts a block of 600 s"),
        ({"block_s": -1.0}, "a length of -1 s"),
        ({"guardrails": (dataclasses.replace(SCORE, kind=LiveKind.SHIFT),)}, "split by unit"),
        ({"guardrails": (dataclasses.replace(SCORE, label_maturity_s=9.0),)}, "labels for 'score'"),
    ],
)
def test_blocks_that_could_not_be_judged_are_refused(changes, says):
    with pytest.raises(PolicyError, match=says):
        dataclasses.replace(BLOCKS, **changes)


@pytest.mark.parametrize("direction", list(Direction))
def test_the_sentence_says_what_is_tolerated_in_the_guardrail_s_direction(direction):
    rail = dataclasses.replace(SCORE, direction=direction, gap=None, second_moment=None)
    plan = dataclasses.replace(BLOCKS, guardrails=(rail,))
    harm = 0.2 if direction is Direction.INCREASE else -0.2
    judge = LiveJudge(plan)
    (whole,) = cut(requests(np.full(400, harm), every_s=600.0), [400])
    judge.update(dataclasses.replace(whole, until_ns=whole.until_ns + 600 * SECOND))
    (row,) = judge.evidence()
    limit = {
        "increase": "at most 0.05",
        "decrease": "at least -0.05",
        "both": "between -0.05 and 0.05",
    }
    expected = f"Proven beyond the tolerated mean ({limit[direction.value]}): it lies in ["
    assert row.reason.startswith(expected)
    assert row.reason.endswith("(90% at every look).")


def test_a_block_without_a_length_is_refused():
    with pytest.raises(PolicyError, match="blocks of 1e-10 s"):
        dataclasses.replace(BLOCKS, block_s=1e-10)

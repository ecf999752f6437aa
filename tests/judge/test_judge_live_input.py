"""What a sender may write in a live batch, which plans mean something, and which states are believed."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from harness.core.errors import GateError, PolicyError, TrafficError
from harness.core.jsonable import canonical
from harness.core.live import LiveGuardrail, LiveKind
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import Labels, LiveBatch, LivePlan

SECOND = 10**9
N = 60
RATE = LiveGuardrail(name="rate", kind=LiveKind.SHIFT, margin=0.1)
LOSS = LiveGuardrail(name="loss", kind=LiveKind.SHIFT, margin=0.1, label_maturity_s=20.0)
PLAN = LivePlan(guardrails=(RATE, LOSS), maturity_s=1.0)
X = np.random.default_rng(1).random(N)
LABELS = {
    "unit": np.array([f"u{i}" for i in range(10)], object),
    "value": X[:10],
    "ts_ns": np.arange(10) * SECOND,
}
REQUESTS = {
    "ts_ns": np.arange(N) * SECOND,
    "unit": np.array([f"u{i}" for i in range(N)], object),
    "candidate": np.arange(N) % 2 == 0,
    "propensity": np.full(N, 0.5),
    "values": {"rate": X},
}


def batch(requests=None, labels=None, **change):
    made = Requests(**{**REQUESTS, **(requests or {})})
    known = {"loss": Labels(**{**LABELS, **(labels or {})})}
    whole = LiveBatch(number=0, until_ns=N * SECOND, requests=made, labels=known)
    return dataclasses.replace(whole, **change)


def state_after(*batches):
    judge = LiveJudge(PLAN)
    for made in batches:
        judge.update(made)
    return judge.state()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"until_ns": math.nan}, "until_ns"),
        ({"until_ns": 60e9}, "until_ns"),
        ({"until_ns": True}, "until_ns"),
        ({"until_ns": np.datetime64("NaT")}, "missing"),
        ({"until_ns": 2**80}, "until_ns"),
        ({"number": -1}, "no count"),
        ({"number": 0.0}, "no count"),
        ({"requests": {}}, "no Requests"),
        ({"labels": {"loss": [1.0]}}, "no Labels"),
        ({"labels": None}, "no mapping"),
    ],
)
def test_a_batch_without_a_plain_meaning_is_refused(change, what):
    with pytest.raises(TrafficError, match=what):
        LiveJudge(PLAN).update(dataclasses.replace(batch(), **change))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"ts_ns": np.arange(N, dtype=np.uint64)[::-1] * np.uint64(SECOND)}, "not in order"),
        ({"ts_ns": np.arange(N) * 1e9}, "floats"),
        ({"ts_ns": np.full(N, math.nan)}, "floats"),
        ({"ts_ns": np.full(N, "NaT", "datetime64[ns]")}, "missing"),
        ({"ts_ns": np.full(N, "9999-01-01", "datetime64[D]")}, "beyond"),
        ({"ts_ns": np.full(N, 2**64 - 1, np.uint64)}, "beyond"),
        ({"candidate": np.full(N, 2)}, "candidate is 2 in row 0"),
        ({"candidate": np.where(np.arange(N) % 2, 1, -1)}, "candidate is -1 in row 0"),
        ({"candidate": np.full(N, math.nan)}, "candidate is nan"),
        ({"candidate": np.full(N, "candidate")}, "candidate is 'candidate'"),
        ({"candidate": np.full(N, None, object)}, "candidate is None"),
        ({"values": {"rate": [None] * N}}, "objects"),
        ({"values": {"rate": X.astype(str)}}, "text"),
        ({"values": {"rate": np.ones((N, 2))}}, "one plain value"),
        ({"values": {"rate": [[1.0], 2.0] * (N // 2)}}, "one plain value"),
        ({"values": {"rate": 1.0}}, "one plain value"),
        ({"values": {"rate": np.ma.masked_array(X, X > 0.5)}}, "mask"),
        ({"propensity": np.full(N, "0.5")}, "text"),
        ({"unit": np.arange(N)}, "no unit"),
    ],
)
def test_a_column_without_a_plain_meaning_is_refused(change, what):
    with pytest.raises(TrafficError, match=what):
        LiveJudge(PLAN).update(batch(change))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"value": np.full(10, "1")}, "text"),
        ({"ts_ns": np.full(10, math.nan)}, "floats"),
        ({"unit": np.zeros((10, 2))}, "one plain value"),
    ],
)
def test_labels_without_a_plain_meaning_are_refused(change, what):
    with pytest.raises(TrafficError, match=what):
        LiveJudge(PLAN).update(batch(labels=change))


@pytest.mark.parametrize(
    "change",
    [
        {"ts_ns": (np.arange(N) * SECOND).tolist()},
        {"ts_ns": np.arange(N).astype("datetime64[s]")},
        {"ts_ns": np.arange(N, dtype=np.uint64) * np.uint64(SECOND)},
        {"unit": [f"u{i}" for i in range(N)]},
        {"unit": np.array([f"u{i}" for i in range(N)])},
        {"candidate": (np.arange(N) % 2 == 0).astype(float)},
        {"candidate": [1, 0] * (N // 2)},
        {"candidate": np.array([True, False] * (N // 2), object)},
        {"values": {"rate": X.tolist()}},
        {"propensity": [0.5] * N},
    ],
)
def test_what_has_one_plain_meaning_is_taken(change):
    assert state_after(batch(change)) == state_after(batch())


def test_a_batch_that_ends_at_a_datetime_is_taken():
    assert state_after(batch(until_ns=np.datetime64(N, "s"))) == state_after(batch())


def test_a_repeated_batch_may_be_written_anyhow_and_the_first_is_never_one():
    judge = LiveJudge(PLAN)
    with pytest.raises(TrafficError):
        judge.update(batch(number=-1))
    answer = judge.update(batch(number=np.int64(0)))
    assert (answer.n_units, dict(answer.ignored).get("repeated_batches")) == (N, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"maturity_s": math.inf},
        {"maturity_s": math.nan},
        {"maturity_s": -1.0},
        {"cycle_s": math.inf},
        {"burst_gap_s": math.nan},
        {"burst_gap_s": 700.0},
        {"burst_longest_s": math.inf},
        {"alpha_promote": 0.9},
        {"alpha_rollback": 0.51},
        {"sample_ratio_alpha": 0.9},
        {"guardrails": (dataclasses.replace(RATE, gap=math.nan),)},
        {"guardrails": (dataclasses.replace(RATE, gap=-1.0),)},
        {"guardrails": (dataclasses.replace(RATE, gap=1e9),)},
        {"guardrails": (dataclasses.replace(RATE, second_moment=math.nan),)},
        {"guardrails": (dataclasses.replace(RATE, second_moment=0.0),)},
        {"guardrails": (dataclasses.replace(RATE, bounds=(0.0, math.inf)),)},
        {"guardrails": (dataclasses.replace(LOSS, label_maturity_s=math.inf),)},
    ],
)
def test_a_plan_that_means_nothing_is_refused(wrong):
    with pytest.raises(PolicyError):
        dataclasses.replace(PLAN, **wrong)


def spoil(state, path, value):
    found = json.loads(canonical(state))
    inside = found
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("n_closed",), 10_000),
        (("promote_at", "rate"), 99.0),
        (("tests", "rate"), {}),
        (("exposures", "units", 0), "another"),
        (("split",), None),
        (("sha256",), "0" * 64),
        (("form",), 99),
        (("added",), 1),
    ],
)
def test_a_damaged_state_is_not_believed(path, value):
    with pytest.raises(GateError, match="damaged"):
        LiveJudge.from_state(PLAN, spoil(state_after(batch()), path, value))


def test_a_state_that_lacks_a_part_is_not_believed():
    state = state_after(batch())
    del state["split"]
    with pytest.raises(GateError, match="damaged"):
        LiveJudge.from_state(PLAN, state)


@pytest.mark.parametrize("state", [{}, None, [], {"plan": PLAN.digest()}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(GateError, match="no saved live judge"):
        LiveJudge.from_state(PLAN, state)


def test_a_state_cannot_be_renamed_to_another_plan():
    other = dataclasses.replace(PLAN, alpha_promote=0.01)
    renamed = spoil(state_after(batch()), ("plan",), other.digest())
    with pytest.raises(GateError, match="damaged"):
        LiveJudge.from_state(other, renamed)

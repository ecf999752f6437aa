"""The whole live answer is the same however the traffic is cut into batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.core.live import LiveGuardrail, LiveKind
from harness.core.policies import Direction
from harness.core.verdicts import Decision
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import Labels, LiveBatch, LivePlan
from harness.judge.sample_ratio import SampleRatio

SECOND = 10**9
END = 600
PLAN = LivePlan(
    guardrails=(
        LiveGuardrail(name="score", kind=LiveKind.SHIFT, margin=0.05, direction=Direction.BOTH),
        LiveGuardrail(name="errors", kind=LiveKind.ERRORS, margin=1.5),
        LiveGuardrail(name="loss", kind=LiveKind.SHIFT, margin=0.1, label_maturity_s=90.0),
    ),
    maturity_s=20.0,
    cycle_s=100.0,
    burst_gap_s=0.5,
)


def traffic(seed, *, n=1_500, harm=0.0, split_from=END, loses=0.0):
    """Requests of 700 users and labels; some late, doubled, early or for nobody.

    From `split_from` on nine in ten units get the candidate, and `loses` of its labels are lost.
    """
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.integers(0, (END - 150) * SECOND, n))
    user = rng.integers(0, 700, n)
    pi = np.where(ts < 200 * SECOND, 0.2, 0.5)
    true = np.where(ts < split_from * SECOND, pi, 0.9)
    _, first = np.unique(user, return_index=True)
    at_first = dict(zip(user[first].tolist(), rng.random(len(first)) < true[first], strict=True))
    arm = np.array([at_first[u] for u in user.tolist()])
    requests = Requests(
        ts_ns=ts,
        unit=np.array([f"u{u}" for u in user], object),
        candidate=arm,
        propensity=pi,
        values={
            "score": np.clip(0.3 + 0.2 * rng.random(n) + harm * arm, 0, 1),
            "errors": (rng.random(n) < 0.05).astype(float),
        },
        left_out={"score": user % 7 == 3},
    )
    whose = rng.integers(-20, n, 2 * n)
    known = ~((rng.random(2 * n) < loses) & arm[whose])
    when = np.clip(ts[whose] + rng.integers(-5 * SECOND, 110 * SECOND, 2 * n), 0, None)
    order = np.argsort(when, kind="stable")
    order = order[known[order]]
    names = np.array(["nobody" if i < 0 else f"u{user[i]}" for i in whose], object)
    return requests, Labels(unit=names[order], value=rng.random(2 * n)[order], ts_ns=when[order])


def answer(plan, data, edges):
    requests, labels = data
    judge, start = LiveJudge(plan), 0
    for number, end in enumerate(edges):
        at = (requests.ts_ns >= start) & (requests.ts_ns < end)
        due = (labels.ts_ns >= start) & (labels.ts_ns < end)
        columns = {
            f.name: getattr(requests, f.name)[at]
            for f in dataclasses.fields(requests)
            if f.name not in {"values", "left_out"}
        }
        part = Requests(
            **columns,
            values={k: v[at] for k, v in requests.values.items()},
            left_out={k: v[at] for k, v in requests.left_out.items() if v[at].any()},
        )
        known = Labels(unit=labels.unit[due], value=labels.value[due], ts_ns=labels.ts_ns[due])
        said = judge.update(
            LiveBatch(number=number, until_ns=int(end), requests=part, labels={"loss": known})
        )
        start = end
    return said


def plain(said):
    """The answer; logs are sums in another order, and equal but for rounding."""
    logs = {name: pytest.approx(x, abs=1e-9) for name, x in said.log_e_rollback}
    promotes = {name: pytest.approx(x, abs=1e-9) for name, x in said.promote_at}
    rest = dataclasses.replace(said, log_e_rollback=(), promote_at=(), explanation="")
    return rest, logs, promotes


WAYS = {
    "as declared": ({}, Decision.HOLD, "undecided"),
    "harm": ({"harm": 0.4}, Decision.ROLLBACK, "guardrail_failed"),
    "harm, then a broken split": (
        {"harm": 0.4, "split_from": 150},
        Decision.ROLLBACK,
        "guardrail_failed",
    ),
    "a split broken from the start": (
        {"harm": 0.4, "split_from": 0},
        Decision.HOLD,
        "sample_ratio_mismatch",
    ),
    "lost labels": ({"loses": 0.97}, Decision.HOLD, "labels_unequal"),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_whole_answer_is_the_same_however_traffic_is_cut(way):
    how, decision, reason = WAYS[way]
    data = traffic(3, **how)
    rng = np.random.default_rng(4)
    end = END * SECOND
    uneven = sorted({*rng.integers(1, end, 40).tolist(), end})
    cuts = ([end], uneven, list(range(5 * SECOND, end + 1, 5 * SECOND)))
    said = [answer(plan=PLAN, data=data, edges=edges) for edges in cuts]
    assert (said[0].decision, said[0].reason) == (decision, reason)
    rest, logs, promotes = plain(said[0])
    for other in said[1:]:
        assert plain(other)[0] == rest
        assert dict(other.log_e_rollback) == logs
        assert dict(other.promote_at) == promotes
    assert {"label_late_or_unknown", "label_second_label"} <= set(dict(said[0].ignored))


def test_units_counted_together_are_looks_one_by_one():
    rng = np.random.default_rng(5)
    pi = np.repeat([0.2, 0.5, 0.2], 40)
    arms = rng.random(120) < pi
    whole, single, counted = SampleRatio(), SampleRatio(), SampleRatio()
    whole.add_each(arms, pi)
    for i in range(120):
        single.add_each(arms[i : i + 1], pi[i : i + 1])
        counted.add((1.0 - pi[i], pi[i]), (1 - int(arms[i]), int(arms[i])))
    assert whole.state() == single.state()
    assert whole.p_value() == pytest.approx(counted.p_value(), rel=1e-9)
    assert whole.counts() == counted.counts()


def test_the_unit_that_refutes_the_split_is_told():
    test, single = SampleRatio(), SampleRatio()
    arms, pi = np.ones(60, np.bool_), np.full(60, 0.5)
    found = test.add_each(arms, pi)
    steps = [single.add_each(arms[i : i + 1], pi[i : i + 1]) is not None for i in range(60)]
    assert found == steps.index(True) > 0
    assert SampleRatio().add_each(np.arange(60) % 2 == 0, pi) is None
    assert SampleRatio().add_each(np.array([False, True]), np.zeros(2)) == 1

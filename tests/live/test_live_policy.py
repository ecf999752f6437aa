"""From a policy file to a live judge that answers."""

from __future__ import annotations

import numpy as np
import pytest

from harness.core.errors import UsageError
from harness.core.verdicts import Decision
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import LiveBatch
from harness.live.policy import live_plan, read_live_policy

POLICY = """
version: 1
live:
  steps: [0.2, 0.5]
  maturity: 1ms
  guardrails:
    - {name: score, kind: shift, range: [0, 1], margin: 0.1, effect: 0.0, variance: 0.2}
    - {name: errors, kind: errors, ratio: 2, gating: false}
"""
SECOND = 10**9


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(POLICY)
    return read_live_policy(path)


def traffic(steps, harm, n=6_000):
    """Ten minutes; the split takes each step in turn."""
    rng = np.random.default_rng(5)
    pi = np.repeat(steps, n // len(steps))
    candidate = rng.random(n) < pi
    return Requests(
        ts_ns=np.arange(n) * (SECOND // 10),
        unit=np.array([f"u{i}" for i in range(n)], object),
        candidate=candidate,
        propensity=pi,
        values={
            "score": (rng.random(n) < 0.3 + harm * candidate).astype(np.float64),
            "errors": (rng.random(n) < 0.02).astype(np.float64),
        },
    )


def judged(policy, requests, sizes):
    """(decision, evidence) after batches that end behind so many requests each."""
    judge = LiveJudge(live_plan(policy))
    for number, (start, stop) in enumerate(zip([0, *sizes], sizes, strict=False)):
        at = slice(start, stop)
        part = Requests(
            ts_ns=requests.ts_ns[at], unit=requests.unit[at], candidate=requests.candidate[at],
            propensity=requests.propensity[at],
            values={name: x[at] for name, x in requests.values.items()},
        )  # fmt: skip
        end = int(requests.ts_ns[stop - 1]) + SECOND // 20
        answer = judge.update(LiveBatch(number=number, until_ns=end, requests=part))
    return answer, judge.evidence()


@pytest.mark.parametrize(
    ("harm", "decision"), [(0.0, Decision.PROMOTE), (0.1, Decision.HOLD), (0.3, Decision.ROLLBACK)]
)
def test_a_policy_decides_about_a_ramp(harm, decision, policy):
    answer, rows = judged(policy, traffic(policy.steps, harm), range(500, 6_001, 500))
    assert answer.decision is decision
    assert [row.gating for row in rows] == [True, False]


def test_any_batch_sizes_give_the_same_evidence(policy):
    requests = traffic(policy.steps, 0.1)
    rng = np.random.default_rng(6)
    cuts = np.sort(rng.choice(np.arange(1, 6_000), 60, replace=False)).tolist()
    found = [judged(policy, requests, sizes)[1] for sizes in ([6_000], [*cuts, 6_000])]
    for one, other in zip(*found, strict=True):
        assert (one.n, one.n_failed, one.verdict) == (other.n, other.n_failed, other.verdict)
        assert one.e_rollback == pytest.approx(other.e_rollback, rel=1e-9)
        assert one.e_promote == pytest.approx(other.e_promote, rel=1e-9)
        assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper), abs=1e-6)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_live_policy(tmp_path / "none.yaml")

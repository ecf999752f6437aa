from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import GateError
from harness.core.policies import Direction, Guardrail, Loss, Metric, WindowName
from harness.core.verdicts import Verdict
from harness.judge.combine import Judge
from harness.judge.metrics import Values
from harness.judge.plan import WindowCounts, plan_tests

FLIPS = Guardrail(name="flips", metric=Metric.DECISION_FLIP, margin=0.05)
SCORE = Guardrail(name="score", metric=Metric.SCORE_SHIFT, margin=0.05, direction=Direction.BOTH)
LOSS = Guardrail(
    name="loss",
    metric=Metric.LOSS_DIFFERENCE,
    margin=0.05,
    loss=Loss.BRIER,
    window=WindowName.MATURED,
)
SLICED = dataclasses.replace(SCORE, slice_by=("tenant",), min_slice=100)


def values(x, failed=None, left_out=()):
    x = np.asarray(x, np.float64)
    failed = np.zeros(len(x), np.bool_) if failed is None else np.asarray(failed)
    return Values(x=x, failed=failed, left_out=left_out)


@pytest.fixture
def judge_of(make_policy):
    def make(*guardrails, tenants=None, n=10_000):
        slices = {} if tenants is None else {"tenant": tenants}
        counts = {name: WindowCounts(n=n, slices=slices) for name in ("newest", "matured")}
        return Judge(plan_tests(make_policy(*guardrails), counts), 0.05, 0.05)

    return make


def test_every_gating_guardrail_must_pass(judge_of):
    judge = judge_of(FLIPS, LOSS)
    judge.update("newest", {"flips": values(np.zeros(2000))}, {})
    assert not judge.status().promote_ready
    judge.update("matured", {"loss": values(np.zeros(2000))}, {})
    assert judge.status().promote_ready
    assert [e.verdict for e in judge.evidence()] == [Verdict.PASS, Verdict.PASS]


def test_no_data_never_passes(judge_of):
    judge = judge_of(FLIPS, SCORE)
    judge.update("newest", {"flips": values(np.zeros(5000))}, {})
    assert not judge.status().promote_ready
    evidence = judge.evidence()[1]
    assert (evidence.verdict, evidence.n, evidence.path) == (Verdict.NO_DATA, 0, ())
    assert (evidence.lower, evidence.upper) == (-1.0, 1.0)


def test_no_gating_guardrail_never_promotes(judge_of):
    judge = judge_of(dataclasses.replace(FLIPS, gating=False))
    judge.update("newest", {"flips": values(np.zeros(5000))}, {})
    assert not judge.status().promote_ready
    assert judge.evidence()[0].verdict is Verdict.PASS


def test_requests_that_do_not_enter_are_no_data(judge_of):
    judge = judge_of(FLIPS)
    judge.update(
        "newest", {"flips": values(np.full(5000, np.nan), left_out=(("both_failed", 5000),))}, {}
    )
    assert not judge.status().promote_ready
    assert "5,000 failed in both versions" in judge.evidence()[0].reason


def test_failed_pairs_stand_against_promotion_and_prove_no_harm(judge_of):
    judge = judge_of(FLIPS)
    judge.update("newest", {"flips": values(np.full(5000, np.nan), np.ones(5000, bool))}, {})
    status = judge.status()
    assert not status.promote_ready
    assert not status.rollback
    (evidence,) = judge.evidence()
    assert evidence.n == evidence.n_failed == 5000
    assert evidence.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_harm_on_either_side_of_both_rolls_back(judge_of, shift):
    judge = judge_of(SCORE)
    judge.update("newest", {"score": values(np.full(500, shift))}, {})
    status = judge.status()
    assert status.rollback
    assert status.culprits == ("score",)
    assert judge.evidence()[0].verdict is Verdict.FAIL


def test_an_improvement_beyond_the_margin_is_no_harm_one_sided(judge_of):
    judge = judge_of(LOSS)
    judge.update("matured", {"loss": values(np.full(500, -0.2))}, {})
    assert judge.status().promote_ready
    assert not judge.status().rollback


def test_reported_guardrail_never_decides(judge_of):
    judge = judge_of(dataclasses.replace(FLIPS, gating=False), LOSS)
    judge.update("newest", {"flips": values(np.ones(5000))}, {})
    judge.update("matured", {"loss": values(np.zeros(5000))}, {})
    status = judge.status()
    assert not status.rollback
    assert status.promote_ready
    flips = judge.evidence()[0]
    assert flips.verdict is Verdict.FAIL
    assert "never decides" in flips.reason
    assert dict(status.shares).keys() == {"loss"}


def test_combined_evidence_is_the_weighted_average(judge_of):
    judge = judge_of(FLIPS, LOSS)
    rng = np.random.default_rng(3)
    judge.update("newest", {"flips": values(rng.random(300) < 0.06)}, {})
    judge.update("matured", {"loss": values(rng.uniform(-0.5, 0.6, 300))}, {})
    expected = sum(e.weight * e.e_rollback for e in judge.evidence())
    assert math.exp(judge.status().log_e_rollback_combined) == pytest.approx(expected)
    assert sum(share for _, share in judge.status().shares) == pytest.approx(1.0)


def test_rollback_needs_the_average_not_one_guardrail(judge_of):
    alone, among = judge_of(FLIPS), judge_of(FLIPS, SCORE, LOSS)
    x = np.zeros(200)
    x[:21] = 1.0
    for judge in (alone, among):
        judge.update("newest", {"flips": values(x)}, {})
    (evidence, *_) = among.evidence()
    assert 20.0 <= evidence.e_rollback < 60.0
    assert alone.status().rollback
    assert not among.status().rollback
    assert evidence.verdict is Verdict.INCONCLUSIVE


def test_a_proven_rollback_stays_proven(judge_of):
    judge = judge_of(FLIPS)
    judge.update("newest", {"flips": values(np.ones(100))}, {})
    judge.update("newest", {"flips": values(np.zeros(9000))}, {})
    assert judge.status().log_e_rollback_combined < 0.0
    assert judge.status().rollback
    assert judge.status().culprits == ("flips",)


def test_harm_in_one_slice_is_found_and_named(judge_of):
    tenants = {"a": 4000, "b": 500}
    judge = judge_of(SLICED, tenants=tenants, n=4500)
    column = np.array(["a"] * 4000 + ["b"] * 500, dtype=object)
    order = np.random.default_rng(0).permutation(4500)
    x = np.where(column == "b", 0.2, 0.0)
    judge.update("newest", {"score": values(x[order])}, {"tenant": column[order]})
    assert judge.status().rollback
    assert judge.status().culprits == ("score[tenant=b]",)
    by_name = {e.name: e for e in judge.evidence()}
    assert by_name["score"].verdict is Verdict.PASS
    assert by_name["score[tenant=b]"].n == 500
    assert by_name["score[tenant=a]"].verdict is Verdict.PASS


def test_rare_values_go_to_the_rest_and_unplanned_ones_nowhere(judge_of):
    judge = judge_of(SLICED, tenants={"a": 200, "b": 60, "c": 60}, n=320)
    column = np.array(["a", "b", "c", "new"] * 10, dtype=object)
    judge.update("newest", {"score": values(np.zeros(40))}, {"tenant": column})
    seen = {e.name: e.n for e in judge.evidence()}
    assert seen == {"score": 40, "score[tenant=a]": 10, "score[tenant=rest]": 20}


def test_windows_keep_their_slices_apart(make_policy):
    late = dataclasses.replace(SLICED, name="late", window=WindowName.MATURED)
    counts = {
        "newest": WindowCounts(n=200, slices={"tenant": {"a": 200}}),
        "matured": WindowCounts(n=300, slices={"tenant": {"a": 50, "b": 250}}),
    }
    judge = Judge(plan_tests(make_policy(SLICED, late), counts), 0.05, 0.05)
    column = np.array(["a", "b"] * 50, dtype=object)
    judge.update("matured", {"late": values(np.zeros(100))}, {"tenant": column})
    seen = {e.name: e.n for e in judge.evidence()}
    assert seen["late[tenant=rest]"] == seen["late[tenant=b]"] == 50
    assert seen["score"] == seen["score[tenant=a]"] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_saved_judge_continues_identically(make_policy, seed, cut):
    rng = np.random.default_rng(seed)
    counts = {
        name: WindowCounts(n=400, slices={"tenant": {"a": 300, "b": 100}})
        for name in ("newest", "matured")
    }
    plan = plan_tests(make_policy(FLIPS, SLICED, LOSS), counts)
    batches = [
        (
            {"flips": values(rng.random(50) < 0.1), "score": values(rng.uniform(-0.3, 0.3, 50))},
            {"tenant": rng.choice(np.array(["a", "b"], dtype=object), 50)},
        )
        for _ in range(4)
    ]

    def feed(judge, some):
        for batch, slices in some:
            judge.update("newest", batch, slices)
        return judge

    whole = feed(Judge(plan, 0.05, 0.05), batches)
    first = feed(Judge(plan, 0.05, 0.05), batches[:cut])
    saved = json.loads(json.dumps(first.state(), allow_nan=False))
    resumed = feed(Judge.from_state(plan, 0.05, 0.05, saved), batches[cut:])
    assert resumed.state() == whole.state()
    assert resumed.evidence() == whole.evidence()
    assert resumed.status() == whole.status()


def test_state_of_another_plan_or_level_is_refused(make_policy, judge_of):
    state = judge_of(FLIPS).state()
    plan = plan_tests(make_policy(FLIPS), {"newest": WindowCounts(n=10_000, slices={})})
    assert Judge.from_state(plan, 0.05, 0.05, state).state() == state
    with pytest.raises(GateError):
        Judge.from_state(plan, 0.05, 0.01, state)
    other = plan_tests(make_policy(SCORE), {})
    with pytest.raises(GateError):
        Judge.from_state(other, 0.05, 0.05, state)


@pytest.mark.parametrize(
    ("window", "given_values", "slices"),
    [
        ("newest", {"flip": values([0.0])}, {}),
        ("matured", {"flips": values([0.0])}, {}),
        ("newest", {"flips": values([1.5])}, {}),
        ("newest", {"flips": values([0.0], [True, False])}, {}),
        ("newest", {"score": values([0.0])}, {}),
    ],
    ids=["unknown name", "other window", "outside bounds", "length", "no slice column"],
)
def test_input_that_breaks_the_contract_is_the_gates_error(judge_of, window, given_values, slices):
    judge = judge_of(FLIPS, SLICED, tenants={"a": 10_000})
    before = judge.state()
    with pytest.raises(GateError):
        judge.update(window, given_values, slices)
    assert judge.state() == before

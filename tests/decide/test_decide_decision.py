from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.policies import Against, Claim, Weight, WindowName
from harness.core.verdicts import Decision, Evidence, PathPoint, Status, Verdict
from harness.decide.decision import decide
from harness.decide.facts import (
    AnchorFailures,
    BaselineFailures,
    Facts,
    FailureCount,
    WindowFacts,
)
from harness.decide.policy import policy_from_yaml

POLICY = policy_from_yaml(
    """
version: 1
preset: retrain
decision: {output: p, rule: threshold, value: 0.3}
drop: [features, rate]
""",
    "policy.yaml",
)
WITH_FAILURE = policy_from_yaml(
    """
version: 1
preset: retrain
decision: {output: p, rule: threshold, value: 0.3}
drop: [features, rate]
guardrails: [{name: failures, metric: failure, margin: 0.01}]
""",
    "policy.yaml",
)
APPROVED = dataclasses.replace(
    POLICY, approval=dataclasses.replace(POLICY.approval, required=True, approvers=2)
)

NEWEST = WindowFacts(name="newest", selected=5000, judged=4000, min_requests=2000)
MATURED = WindowFacts(name="matured", selected=3000, judged=2500, min_requests=2000)
FACTS = Facts(windows=(NEWEST, MATURED))


def path(n, log_e_promote, log_e_rollback=-1.0, lower=-0.01, upper=0.02):
    return tuple(
        PathPoint(
            n=n * k // 4,
            lower=lower,
            upper=upper,
            log_e_promote=log_e_promote * k / 4,
            log_e_rollback=log_e_rollback * k / 4,
        )
        for k in range(1, 5)
    )


def evidence(which, verdict=Verdict.PASS, *, n=4000, log_e=10.0, **more):
    rails = {g.name: g for g in (*POLICY.guardrails, *WITH_FAILURE.guardrails)}
    rail = rails[which]
    return Evidence(
        **{
            "name": which,
            "guardrail": which,
            "metric": rail.metric.value,
            "window": rail.window.value,
            "slice": "",
            "margin": rail.margin,
            "direction": rail.direction.value,
            "gating": rail.gating,
            "verdict": verdict,
            "reason": "",
            "subject": "mean",
            "n": n,
            "n_available": 5000,
            "n_failed": 0,
            "e_promote": math.exp(log_e),
            "e_rollback": 0.1,
            "lower": -0.01,
            "upper": 0.02,
            "weight": 0.5,
            "path": path(n, log_e) if n else (),
        }
        | more
    )


PASSED = (evidence("score"), evidence("loss"), evidence("flips"))
READY = Status(
    rollback=False,
    promote_ready=True,
    log_e_rollback_combined=-1.0,
    culprits=(),
    shares=(("score", 0.7), ("loss", 0.3)),
    alpha_promote=0.05,
    alpha_rollback=0.05,
)
OPEN = dataclasses.replace(READY, promote_ready=False)
HARM = dataclasses.replace(OPEN, rollback=True, culprits=("score",))


def with_facts(**more):
    return dataclasses.replace(FACTS, **more)


def test_all_proven_promotes():
    record = decide(POLICY, READY, PASSED, FACTS)
    assert (record.decision, record.reason) == (Decision.PROMOTE, "all_guardrails_pass")
    assert (record.n_requests, record.n_window) == (6500, 8000)
    assert record.alpha == {"promote": 0.05, "rollback": 0.05}
    assert "All 2 deciding guardrails" in record.explanation


def test_the_tightest_guardrail_binds_a_promotion():
    passed = (evidence("score", log_e=9.0), evidence("loss", log_e=4.0), evidence("flips"))
    assert decide(POLICY, READY, passed, FACTS).binding_guardrail == "loss"


def test_required_approval_is_said():
    record = decide(APPROVED, READY, PASSED, FACTS)
    assert "Approval is required: 2 within 24 h" in record.next


def test_proven_harm_rolls_back_and_names_the_guardrail():
    failed = (evidence("score", Verdict.FAIL, lower=0.06, upper=0.09), *PASSED[1:])
    record = decide(POLICY, HARM, failed, FACTS)
    assert (record.decision, record.reason) == (Decision.ROLLBACK, "guardrail_failed")
    assert record.binding_guardrail == "score"
    assert "the change of the mean score lay between 0.06 and 0.09" in record.explanation
    assert "between -0.05 and 0.05 is tolerated" in record.explanation


def test_harm_that_no_guardrail_proves_alone_names_the_largest_share():
    record = decide(POLICY, dataclasses.replace(HARM, culprits=()), PASSED, FACTS)
    assert record.decision is Decision.ROLLBACK
    assert record.binding_guardrail == "score"
    assert "none does by itself" in record.explanation


EMPTY = dataclasses.replace(MATURED, judged=0, reason="no labels")
FEW = dataclasses.replace(MATURED, judged=1999)
CRASHES = (FailureCount(kind="crash", count=2, examples=("r7", "r9")),)


@pytest.mark.parametrize(
    ("facts", "decision", "reason"),
    [
        ({"baseline_load_failure": "bad opset"}, Decision.HOLD, "baseline_does_not_load"),
        ({"candidate_load_failure": "bad opset"}, Decision.ROLLBACK, "candidate_does_not_load"),
        ({"candidate_only_failures": CRASHES}, Decision.ROLLBACK, "candidate_fails"),
        ({"observer_effect": "other bits"}, Decision.HOLD, "observer_effect"),
        ({"floor_above_margin": ("score",)}, Decision.HOLD, "floor_above_margin"),
        ({"windows": (NEWEST, EMPTY)}, Decision.HOLD, "empty_window"),
        ({"windows": (NEWEST,)}, Decision.HOLD, "empty_window"),
        ({"windows": (NEWEST, FEW)}, Decision.HOLD, "too_few_requests"),
        ({"interrupted": True}, Decision.HOLD, "interrupted"),
        ({"legs_ended_early": (("baseline", "died"),)}, Decision.HOLD, "leg_ended_early"),
        ({"candidate_flaky": 1}, Decision.HOLD, "flaky_candidate"),
        (
            {"candidate_failed_trials": (FailureCount(kind="crash", count=1, examples=("r7",)),)},
            Decision.HOLD,
            "candidate_fails_in_sample",
        ),
    ],
)
def test_facts_come_before_a_proof(facts, decision, reason):
    record = decide(POLICY, READY, PASSED, with_facts(**facts))
    assert (record.decision, record.reason) == (decision, reason)
    assert record.explanation.endswith(".")
    assert record.next.endswith(".")


@pytest.mark.parametrize("role", ["baseline", "candidate"])
def test_a_limit_that_keeps_a_version_from_loading_is_what_to_raise(role):
    facts = {f"{role}_load_failure": "no answer", "load_limits": {role: "sandbox.load_deadline"}}
    record = decide(POLICY, READY, PASSED, with_facts(**facts))
    assert record.reason == f"{role}_does_not_load"
    assert record.next.startswith("Raise sandbox.load_deadline in the policy if ")
    facts |= {"load_limits": {role: "sandbox.start_deadline"}, "not_tried": (role,)}
    record = decide(POLICY, READY, PASSED, with_facts(**facts))
    assert record.reason in {"baseline_does_not_load", "candidate_not_tried"}
    assert record.reason.startswith(role)
    assert record.decision is Decision.HOLD, "a model that was not tried has shown nothing"
    assert record.next.startswith(
        "Raise sandbox.start_deadline in the policy: its process was not ready"
    )
    record = decide(POLICY, READY, PASSED, with_facts(**facts | {"load_limits": {}}))
    assert "sandbox." not in record.next


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"candidate_flaky": 1}, "flaky_candidate"),
        ({"floor_above_margin": ("score",)}, "floor_above_margin"),
        ({"windows": (NEWEST, FEW)}, "leg_ended_early"),
    ],
)
def test_a_leg_that_ended_early_changes_no_reason_but_that_of_too_little(facts, reason):
    """Whether a defect also used up a leg's time follows from how busy the machine was."""
    early = (("candidate", "failures have taken more than 60 s"),)
    record = decide(POLICY, READY, PASSED, with_facts(**facts, legs_ended_early=early))
    assert (record.decision, record.reason) == (Decision.HOLD, reason)
    assert record.explanation.count("(candidate: failures have taken more than 60 s)") == 1


@pytest.mark.parametrize("left", [False, True])
def test_the_baseline_is_said_to_have_answered_where_that_is_known(left):
    failed = (FailureCount(kind="crash", count=1, examples=("r7",), left=left),)
    record = decide(POLICY, READY, PASSED, with_facts(candidate_failed_trials=failed))
    assert record.reason == "candidate_fails_in_sample"
    assert ("The baseline did." in record.explanation) is not left


ORDER = [
    {"baseline_load_failure": "x"},
    {"candidate_load_failure": "x"},
    {"candidate_only_failures": CRASHES},
    {"observer_effect": "other bits"},
    {"floor_above_margin": ("score",)},
]


WITH_PARITY = policy_from_yaml(
    """
version: 1
preset: refactor
decision: {output: p, rule: threshold, value: 0.3}
""",
    "policy.yaml",
)
UNDECLARED = (("weekday", "only the baseline declares it"),)


def parity_decided(status=READY, **facts):
    passed = tuple(
        dataclasses.replace(evidence("score"), name=name, guardrail=name)
        for name in ("outputs", "features")
    )
    return decide(WITH_PARITY, status, passed, Facts(windows=(NEWEST,), **facts))


def test_parity_that_was_compared_promotes():
    assert parity_decided().decision is Decision.PROMOTE


@pytest.mark.parametrize("scope", ["outputs", "features"])
def test_what_parity_did_not_compare_holds(scope):
    record = parity_decided(**{f"{scope}_not_compared": UNDECLARED})
    assert (record.decision, record.reason) == (Decision.HOLD, f"{scope}_not_compared")
    assert record.binding_guardrail == scope
    assert f"1 {scope[:-1]} of the baseline" in record.explanation
    assert "'weekday' (only the baseline declares it)" in record.explanation
    assert "expected_changes" in record.next


def test_harm_comes_before_what_was_not_compared():
    harm = dataclasses.replace(HARM, culprits=("outputs",))
    record = parity_decided(harm, features_not_compared=UNDECLARED)
    assert record.decision is Decision.ROLLBACK


def test_without_a_parity_guardrail_nothing_needs_to_be_compared():
    record = decide(POLICY, READY, PASSED, with_facts(features_not_compared=UNDECLARED))
    assert record.decision is Decision.PROMOTE


def test_many_features_read_as_one_sentence_a_reason():
    lost = (*((f"f{i}", "gone") for i in range(7)), ("g", "lost"))
    text = parity_decided(features_not_compared=lost).explanation
    assert text.startswith(
        "8 features of the baseline could not be compared: "
        "'f0', 'f1', 'f2', 'f3', 'f4' and 2 more (gone); 'g' (lost)."
    )


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_first_fact_in_order_decides(first):
    together = {key: value for facts in ORDER[first:] for key, value in facts.items()}
    alone = decide(POLICY, HARM, PASSED, with_facts(**ORDER[first]))
    assert decide(POLICY, HARM, PASSED, with_facts(**together)).reason == alone.reason


@pytest.mark.parametrize(
    "facts", [{"windows": (NEWEST, EMPTY)}, {"windows": (NEWEST, FEW)}, {"interrupted": True}]
)
def test_missing_traffic_does_not_undo_proven_harm(facts):
    assert decide(POLICY, HARM, PASSED, with_facts(**facts)).decision is Decision.ROLLBACK


def test_a_window_that_only_reports_may_be_empty():
    reported = tuple(
        dataclasses.replace(g, gating=g.gating and g.window is not WindowName.MATURED)
        for g in POLICY.guardrails
    )
    policy = dataclasses.replace(POLICY, guardrails=reported)
    seen = (evidence("score"), evidence("flips"))
    assert decide(policy, READY, seen, with_facts(windows=(NEWEST,))).decision is Decision.PROMOTE


def test_floor_of_a_reported_guardrail_does_not_hold():
    record = decide(POLICY, READY, PASSED, with_facts(floor_above_margin=("flips",)))
    assert record.decision is Decision.PROMOTE


def test_a_failure_guardrail_decides_by_its_margin():
    seen = (*PASSED, evidence("failures"))
    assert decide(
        WITH_FAILURE, READY, seen, with_facts(candidate_only_failures=CRASHES)
    ).decision is (Decision.PROMOTE)


def test_nan_needs_a_margin_of_its_own():
    nans = (FailureCount(kind="nan", count=1),)
    seen = (*PASSED, evidence("failures"))
    record = decide(WITH_FAILURE, READY, seen, with_facts(candidate_only_failures=nans))
    assert record.reason == "candidate_fails"


def test_a_guardrail_without_data_holds_and_is_named():
    seen = (evidence("score"), evidence("loss", Verdict.NO_DATA, n=0))
    record = decide(POLICY, OPEN, seen, FACTS)
    assert (record.decision, record.reason) == (Decision.HOLD, "no_data")
    assert record.binding_guardrail == "loss"


def test_a_guardrail_whose_features_are_all_expected_to_change_is_to_be_dropped():
    changed = tuple(
        dataclasses.replace(g, expected_changes=("weekday",)) if g.name == "features" else g
        for g in WITH_PARITY.guardrails
    )
    policy = dataclasses.replace(WITH_PARITY, guardrails=changed)
    empty = dataclasses.replace(
        evidence("score", Verdict.NO_DATA, n=0), name="features", guardrail="features"
    )
    seen = (dataclasses.replace(evidence("score"), name="outputs", guardrail="outputs"), empty)
    record = decide(policy, OPEN, seen, Facts(windows=(NEWEST,)))
    assert record.reason == "no_data"
    assert "`drop: [features]`" in record.next
    assert "drop: [" not in decide(WITH_PARITY, OPEN, seen, Facts(windows=(NEWEST,))).next


def test_a_guardrail_without_evidence_holds_even_if_the_judge_is_ready():
    record = decide(POLICY, READY, (evidence("score"),), FACTS)
    assert (record.decision, record.reason) == (Decision.HOLD, "no_data")


def test_hold_says_how_many_more_requests_settle_it():
    # Half of log 20 after 4,000 requests: about 4,000 more.
    waiting = evidence("loss", Verdict.INCONCLUSIVE, log_e=math.log(20) / 2, upper=0.0034)
    record = decide(POLICY, OPEN, (evidence("score"), waiting), FACTS)
    assert (record.decision, record.reason) == (Decision.HOLD, "not_enough_evidence")
    assert record.binding_guardrail == "loss"
    assert "About 4,000 more requests" in record.next
    assert "permits a margin of 0.0034" in record.next


def test_hold_that_leans_towards_harm_says_so():
    leaning = evidence(
        "loss",
        Verdict.INCONCLUSIVE,
        log_e=-3.0,
        path=path(4000, -3.0, math.log(40) / 2),
    )
    record = decide(POLICY, OPEN, (evidence("score"), leaning), FACTS)
    assert "leans towards harm" in record.next
    assert "about 4,000 more" in record.next


def test_exhausted_traffic_says_what_to_change():
    waiting = evidence("loss", Verdict.INCONCLUSIVE, log_e=1.0)
    seen = (evidence("score"), waiting)
    whole = tuple(dataclasses.replace(w, judged=w.selected) for w in FACTS.windows)
    record = decide(POLICY, OPEN, seen, with_facts(exhausted=True, windows=whole))
    assert "All selected traffic has been read: record more" in record.next


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "gate again, which goes on from this evidence"),
        ({"claim": Claim.WINDOW}, "raise it: that is another policy"),
        ({"unit": "user", "weight": Weight.UNIT}, "raise it: that is another policy"),
    ],
)
def test_traffic_beyond_the_limit_was_not_read(changes, says):
    """Another limit is another policy: what was judged would count for nothing."""
    seen = (evidence("score"), evidence("loss", Verdict.INCONCLUSIVE, log_e=1.0))
    window = WindowFacts(
        name="newest", selected=28_226, judged=2900, min_requests=2000, planning=100
    )
    facts = Facts(windows=(window, MATURED), exhausted=True)
    record = decide(dataclasses.replace(POLICY, **changes), OPEN, seen, facts)
    assert "2,900 of 28,226 selected requests" in record.next
    assert says in record.next
    assert "All selected" not in record.next


def test_a_slice_far_from_proof_is_named_with_its_slice():
    part = evidence(
        "score",
        Verdict.INCONCLUSIVE,
        log_e=0.5,
        name="score[carrier=HA]",
        slice="carrier=HA",
    )
    record = decide(POLICY, OPEN, (*PASSED, part), FACTS)
    assert record.binding_guardrail == "score[carrier=HA]"
    assert "more requests with carrier=HA" in record.next


def test_no_status_is_a_hold():
    assert decide(POLICY, None, (), FACTS).decision is Decision.HOLD


VERDICTS = st.sampled_from(list(Verdict))
COUNTS = st.sampled_from([0, 1, 1999, 2000, 4000])
WINDOWS = st.lists(
    st.builds(
        WindowFacts,
        name=st.sampled_from(["newest", "matured"]),
        selected=COUNTS,
        judged=COUNTS,
        min_requests=st.just(2000),
    ),
    max_size=2,
    unique_by=lambda window: window.name,
).map(tuple)
ANY_FACTS = st.builds(
    Facts,
    windows=WINDOWS,
    baseline_load_failure=st.sampled_from(["", "x"]),
    candidate_load_failure=st.sampled_from(["", "x"]),
    candidate_only_failures=st.sampled_from([(), CRASHES]),
    legs_ended_early=st.sampled_from([(), (("candidate", "x"),)]),
    floor_above_margin=st.sampled_from([(), ("score",)]),
    observer_effect=st.sampled_from(["", "other bits"]),
    interrupted=st.booleans(),
    exhausted=st.booleans(),
)
ANY_STATUS = st.none() | st.builds(
    Status,
    rollback=st.booleans(),
    promote_ready=st.booleans(),
    log_e_rollback_combined=st.floats(-5, 5),
    culprits=st.sampled_from([(), ("score",), ("gone",)]),
    shares=st.sampled_from([(), (("score", 1.0),)]),
    alpha_promote=st.just(0.05),
    alpha_rollback=st.just(0.05),
)
ANY_EVIDENCE = st.lists(
    st.builds(
        evidence,
        st.sampled_from(["score", "loss", "flips"]),
        VERDICTS,
        n=COUNTS,
        log_e=st.floats(-5, 5),
    ),
    max_size=4,
).map(tuple)


@given(
    st.just(READY) | ANY_STATUS,
    st.just(PASSED) | ANY_EVIDENCE,
    st.just(FACTS) | ANY_FACTS,
)
def test_only_a_whole_proof_on_data_promotes(status, seen, facts):
    record = decide(POLICY, status, seen, facts)
    assert record.explanation
    assert record.next
    if record.decision is Decision.PROMOTE:
        assert status is not None
        assert status.promote_ready
        assert not status.rollback
        gating = [e for e in seen if e.gating]
        assert {e.guardrail for e in gating} == {"score", "loss"}
        assert all(e.verdict is Verdict.PASS and e.n > 0 for e in gating)
        assert {w.name for w in facts.windows if w.judged >= 2000} == {"newest", "matured"}
        assert not facts.baseline_load_failure
        assert not facts.candidate_load_failure
        assert not facts.candidate_only_failures
        assert not facts.interrupted
        assert not facts.observer_effect
    unfit = facts.floor_above_margin or facts.observer_effect
    if status is not None and status.rollback and not unfit:
        assert record.decision is Decision.ROLLBACK or facts.baseline_load_failure


USERS = dataclasses.replace(POLICY, unit="user", weight=Weight.UNIT)


@pytest.mark.parametrize(("judged", "reason"), [(0, "empty_window"), (300, "too_few_requests")])
def test_units_larger_than_what_may_be_judged_are_no_want_of_traffic(judged, reason):
    windows = (
        WindowFacts(name="newest", selected=300_000, judged=judged, min_requests=2000),
        MATURED,
    )
    record = decide(USERS, OPEN, (evidence("score"),), Facts(windows=windows))
    assert record.reason == reason
    assert (
        "The next unit of user holds more than the 200,000 of windows.max_requests"
        in record.explanation
    )
    assert record.next == "Raise windows.max_requests, or choose a smaller unit."
    few = (WindowFacts(name="newest", selected=3000, judged=judged, min_requests=5000), MATURED)
    planned = (dataclasses.replace(windows[0], planning=2900), MATURED)
    record = decide(USERS, OPEN, (evidence("score"),), Facts(windows=planned))
    assert "2,900 requests only planned the bets" in record.explanation
    assert record.next.startswith("Lower windows.planning")
    assert "Record more traffic" in decide(USERS, OPEN, (), Facts(windows=few)).next


def test_a_gate_over_units_speaks_of_units():
    said = decide(USERS, READY, PASSED, FACTS).explanation
    assert "2,500 requests of the matured window, each unit of user once" in said
    harmed = evidence("score", Verdict.FAIL, n=700)
    assert "after 700 units of user" in decide(USERS, HARM, (harmed,), FACTS).explanation


def test_a_proof_is_told_on_as_many_requests_as_its_guardrail_measured():
    alone = dataclasses.replace(
        POLICY, guardrails=[g for g in POLICY.guardrails if g.name == "score"]
    )
    facts = Facts(windows=(NEWEST,))
    said = decide(alone, READY, (evidence("score", n=79),), facts).explanation
    assert "on 79 of 4,000 requests." in said
    said = decide(alone, READY, (evidence("score"),), facts).explanation
    assert "on 4,000 requests." in said
    said = decide(alone, OPEN, (evidence("score", Verdict.INCONCLUSIVE, n=79),), facts).explanation
    assert "proven on 79 of 4,000 requests." in said


def test_of_several_guardrails_those_that_measured_less_are_named():
    passed = (evidence("score", n=79), evidence("loss"), evidence("flips", n=12))
    said = decide(POLICY, READY, passed, FACTS).explanation
    assert "4,000 requests of the newest window" in said
    assert "('score' on 79 requests)" in said


@pytest.mark.parametrize(
    ("failed", "gating", "reason"),
    [(201, True, "anchor_fails"), (200, True, "all_guardrails_pass"), (3000, False, "all_guardrails_pass")],
)  # fmt: skip
def test_an_anchor_that_fails_more_than_may_be_lost_proves_nothing(failed, gating, reason):
    rails = [
        dataclasses.replace(g, against=Against.ANCHOR, gating=gating) if g.name == "score" else g
        for g in POLICY.guardrails
    ]
    policy = dataclasses.replace(POLICY, guardrails=rails)
    facts = with_facts(
        anchor_failures=(AnchorFailures(guardrail="score", failed=failed, asked=4000),)
    )
    passed = (evidence("score", gating=gating), evidence("loss"), evidence("flips"))
    record = decide(policy, READY, passed, facts)
    assert record.reason == reason
    if reason == "anchor_fails":
        assert (
            "fails 201 of 4,000 requests that the candidate answers (5.0 %)" in record.explanation
        )
        assert record.binding_guardrail == "score"


@pytest.mark.parametrize(
    ("failed", "most", "reason"),
    [
        (201, 0.05, "baseline_fails"),
        (193, 0.05, "all_guardrails_pass"),
        (201, 0.1, "all_guardrails_pass"),
        (0, 0.0, "all_guardrails_pass"),
        (1, 0.0, "baseline_fails"),
        (200, 0.05, "baseline_fails"),
    ],
)
def test_a_baseline_that_fails_more_than_the_policy_accepts_promotes_nothing(failed, most, reason):
    policy = dataclasses.replace(POLICY, most_baseline_failures=most)
    lost = BaselineFailures(window="matured", failed=failed, asked=4000, both=1, refused=7)
    facts = with_facts(baseline_failures=(lost,))
    record = decide(policy, READY, PASSED, facts)
    assert record.reason == reason
    if reason == "baseline_fails":
        assert record.decision is Decision.HOLD
        assert f"fails {failed} of 4,000 requests of the matured window" in record.explanation
        assert "1 of which the candidate fails, too," in record.explanation
        assert "both versions refuse 7 requests besides (0.2 % of all)" in record.explanation
        assert f"at most {100 * most:g} %" in record.explanation
        assert record.binding_guardrail == "loss"


@pytest.mark.parametrize(
    ("refused", "asked", "most", "reason"),
    [
        (200, 3800, 0.0, "all_guardrails_pass"),
        (201, 3799, 0.0, "baseline_fails"),
        (201, 3799, 0.06, "all_guardrails_pass"),
        (4000, 0, 0.05, "baseline_fails"),
    ],
)
def test_a_twentieth_of_a_window_may_be_refused_by_both(refused, asked, most, reason):
    policy = dataclasses.replace(POLICY, most_baseline_failures=most)
    lost = BaselineFailures(window="newest", failed=0, asked=asked, refused=refused)
    record = decide(policy, READY, PASSED, with_facts(baseline_failures=(lost,)))
    assert record.reason == reason
    if reason == "baseline_fails":
        assert f"Both versions refuse {refused:,} of 4,000 requests of the newest window" in (
            record.explanation
        )
        assert "at most 5 %" in record.explanation


def test_a_baseline_that_fails_is_told_before_too_little_traffic_and_after_harm():
    lost = (BaselineFailures(window="newest", failed=900, asked=1000),)
    few = (dataclasses.replace(NEWEST, judged=1000), MATURED)
    facts = Facts(windows=few, baseline_failures=lost, legs_ended_early=(("baseline", "died"),))
    record = decide(POLICY, OPEN, PASSED, facts)
    assert record.reason == "baseline_fails"
    assert "(baseline: died)" in record.explanation
    ended = decide(POLICY, OPEN, PASSED, dataclasses.replace(facts, baseline_failures=()))
    assert ended.reason == "leg_ended_early"
    assert "3,500 of 8,000 requests were judged." in ended.explanation
    assert "findings where baseline name" in ended.next
    harmed = (evidence("score", Verdict.FAIL), *PASSED[1:])
    assert decide(POLICY, HARM, harmed, facts).reason == "guardrail_failed"
    crashed = dataclasses.replace(facts, candidate_only_failures=CRASHES)
    assert decide(POLICY, OPEN, PASSED, crashed).reason == "candidate_fails"


def test_a_window_that_no_deciding_guardrail_reads_holds_nothing():
    lost = (BaselineFailures(window="matured", failed=900, asked=1000),)
    alone = dataclasses.replace(
        POLICY, guardrails=tuple(g for g in POLICY.guardrails if g.name == "score")
    )
    facts = Facts(windows=(NEWEST,), baseline_failures=lost)
    assert decide(alone, READY, (evidence("score"),), facts).decision is Decision.PROMOTE


TIMED = policy_from_yaml(
    """
version: 1
preset: retrain
decision: {output: p, rule: threshold, value: 0.3}
drop: [features, rate, score, loss, flips]
windows: {max_requests: 10000}
latency: {sample: 2000, planning: 500}
guardrails: [{name: slow, metric: latency_p99, margin: 0.5}]
""",
    "policy.yaml",
)


@pytest.mark.parametrize(
    ("log_e", "selected", "says"),
    [
        # Half of log 20 after 1,500 requests: as many more, and those that plan.
        (math.log(20) / 2, 20_000, "(2,000) requests singly, however much traffic there is: raise that key to about 3,500"),
        (math.log(20) / 2, 3000, "The newest window gives at most 3,000: record more."),
        (math.log(20) / 20, 40_000, "gives at most 10,000: raise windows.max_requests."),
        (math.log(20) / 20, 12_000, "gives at most 10,000: record more and raise windows.max_requests."),
        (-1.0, 20_000, "raise that key, as another policy, judged anew."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("exhausted", [False, True])
def test_a_latency_hold_names_the_sample_that_must_grow(log_e, selected, says, exhausted):
    slow = evidence(
        "score", Verdict.INCONCLUSIVE, n=1500, log_e=log_e,
        name="slow", guardrail="slow", metric="latency_p99", window="newest",
    )  # fmt: skip
    window = WindowFacts(name="newest", selected=selected, judged=2500, min_requests=2000)
    record = decide(TIMED, OPEN, (slow,), Facts(windows=(window,), exhausted=exhausted))
    assert (record.reason, record.binding_guardrail) == ("not_enough_evidence", "slow")
    assert says in record.next
    assert "have been read" not in record.next
    assert ("record more" in record.next) == (selected in {3000, 12_000})


def test_a_latency_hold_whose_sample_is_all_the_traffic_asks_for_traffic():
    slow = evidence(
        "score", Verdict.INCONCLUSIVE, n=500, log_e=math.log(20) / 2,
        name="slow", guardrail="slow", metric="latency_p99", window="newest",
    )  # fmt: skip
    window = WindowFacts(name="newest", selected=1000, judged=1000, min_requests=500)
    record = decide(TIMED, OPEN, (slow,), Facts(windows=(window,), exhausted=True))
    assert "The newest window gives at most 1,000: record more." in record.next
    assert "latency.sample" not in record.next

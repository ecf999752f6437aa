"""Whether saved tests fit the traffic of a later attempt."""

from dataclasses import replace

import numpy as np
import pytest

from harness.decide.policy import policy_from_yaml
from harness.judge.combine import Judge
from harness.judge.plan import WindowCounts, plan_tests
from harness.pipeline.carried import Carried, misfit, planned_tests
from harness.pipeline.run_traffic import span
from harness.pipeline.selection import WindowSelection

POLICY = policy_from_yaml(
    """
version: 1
preset: none
decision: {output: label, rule: none}
guardrails: [{name: flips, metric: decision_flip, margin: 0.05, slice_by: [site], min_slice: 100}]
""",
    "policy.yaml",
)
FIRST = {"a": 300, "b": 60}


def now(**sites):
    return {"newest": WindowCounts(n=sum(sites.values()), slices={"site": sites})}


def carried(**sites):
    plan = plan_tests(POLICY, now(**sites))
    return Carried(
        run="first", attempt=1, judge=Judge(plan, 0.05, 0.05).state(),
        judged={"newest": sum(sites.values())}, slices={"newest": {"site": sites}}, spans={},
        tests={test.name: 0 for test in plan.tests}, window_hash="", planning=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sites", "why"),
    [
        ({"a": 9}, ""),
        ({"a": 900, "b": 39}, ""),
        ({"b": 40}, "a claim is made for flips[site=b]"),
        ({"new": 1}, "the slices have other sizes"),
        ({"new": 100}, "a claim is made for flips[site=new]"),
        ({"b": 20, "new": 20}, "the slices have other sizes"),
    ],
)
def test_saved_tests_fit_where_a_fresh_gate_over_all_requests_would_make_the_same(sites, why):
    found = misfit(carried(**FIRST), POLICY, now(**sites))
    assert (why in found) if why else not found


def test_a_slice_that_was_pooled_for_want_of_traffic_gets_its_own_test():
    assert "flips[site=a]" in misfit(carried(a=45, b=45), POLICY, now(a=3000, b=3000))


def test_shares_and_counts_are_of_all_requests_that_were_and_will_be_judged():
    plan = planned_tests(POLICY, now(a=500, b=30), carried(**FIRST), None)
    assert {t.name: t.n_available for t in plan.tests} == {
        "flips": 890, "flips[site=a]": 800, "flips[site=rest]": 90,
    }  # fmt: skip
    assert [(p.n, p.share) for p in plan.pooled] == [(90, pytest.approx(90 / 890))]


def test_a_window_s_span_holds_what_was_judged_before():
    selection = WindowSelection(
        name="newest", selected=np.ones(1, np.bool_), count=1, eligible=1, first_ts_ns=50, last_ts_ns=90,
        left_out=(), refusal="",
    )  # fmt: skip
    before = replace(carried(**FIRST), spans={"newest": [10, 60]})
    assert span(selection, before) == {"first_ts_ns": 10, "last_ts_ns": 90}
    nothing = replace(selection, count=0, first_ts_ns=0, last_ts_ns=0)
    assert span(nothing, before) == {"first_ts_ns": 10, "last_ts_ns": 60}

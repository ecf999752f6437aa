"""Whether saved tests fit the traffic of a later attempt."""

import pytest

from harness.decide.policy import policy_from_yaml
from harness.judge.plan import WindowCounts
from harness.pipeline.carried import Carried, planned_tests, unplanned_values

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
CARRIED = Carried(
    run="first", attempt=1, judge={}, judged={"newest": 360}, sizes={"newest": 360},
    slices={"newest": {"site": FIRST}}, planning=None,
)  # fmt: skip


def now(**sites):
    return {"newest": WindowCounts(n=sum(sites.values()), slices={"site": sites})}


@pytest.mark.parametrize(
    ("sites", "unknown"), [(FIRST, False), ({"a": 9}, False), ({**FIRST, "new": 1}, True)]
)
def test_a_slice_value_that_the_saved_tests_do_not_know_is_found(sites, unknown):
    assert bool(unplanned_values(CARRIED, POLICY, now(**sites))) is unknown


def test_more_traffic_changes_no_test_and_how_much_there_is_for_it():
    counts = now(a=500, b=400)
    first = planned_tests(POLICY, now(**FIRST), None, None)
    later = planned_tests(POLICY, counts, CARRIED, None)
    anew = planned_tests(POLICY, counts, None, None)
    assert later.digest() == first.digest() != anew.digest()
    assert {t.name: t.n_available for t in later.tests} == {
        "flips": 900, "flips[site=a]": 500, "flips[site=rest]": 400,
    }  # fmt: skip

"""The guardrails' noise, in their own units."""

import dataclasses

import numpy as np
import pytest
from test_pipeline_failures import pair

from harness.core.policies import (
    DecisionRule,
    Guardrail,
    Loss,
    Metric,
    Rule,
    Scope,
)
from harness.decide.policy import policy_from_yaml
from harness.pipeline.noise import NoiseLevels

POLICY = policy_from_yaml(
    """
version: 1
preset: refactor
decision: {output: p, rule: threshold, value: 0.5}
""",
    "policy.yaml",
)
SCORES = [0.2, 0.4, 0.6, 0.8]
AGAIN = [0.3, 0.6, 0.6, 0.7]


def levels(*pairs, rule=POLICY.decision, **guardrail):
    one = Guardrail(name="it", margin=0.1, **guardrail)
    found = NoiseLevels(dataclasses.replace(POLICY, guardrails=(one,), decision=rule))
    for each in pairs:
        found.update(each)
    return dict(found.finish())


def two(first=SCORES, second=AGAIN, **more):
    n = len(more.get("rows", first))
    return pair([0] * n, [0] * n, base=first, cand=second, **more)


@pytest.mark.parametrize(
    ("guardrail", "level"),
    [
        ({"metric": Metric.SCORE_SHIFT}, 0.1),
        ({"metric": Metric.LOSS_DIFFERENCE, "loss": Loss.BRIER}, 0.1),
        ({"metric": Metric.LOSS_DIFFERENCE, "loss": Loss.ZERO_ONE}, 0.25),
        ({"metric": Metric.DECISION_FLIP}, 0.25),
        ({"metric": Metric.DECISION_RATE_SHIFT}, 0.25),
    ],
)
def test_each_guardrail_is_measured_in_its_own_unit(guardrail, level):
    assert levels(two(), **guardrail)["it"] == pytest.approx(level, abs=1e-6)


def test_opposite_changes_do_not_cancel():
    swapped = two([0.2, 0.8], [0.8, 0.2])
    assert levels(swapped, metric=Metric.DECISION_RATE_SHIFT)["it"] == 1.0


def test_batches_add_up():
    parts = (two(SCORES[:1], AGAIN[:1]), two(SCORES[1:], AGAIN[1:]))
    assert levels(*parts, metric=Metric.SCORE_SHIFT)["it"] == pytest.approx(0.1, abs=1e-6)


def test_an_answer_on_one_side_only_is_the_largest_difference():
    found = levels(two([0.5, 0.5], [0.5, np.nan]), metric=Metric.SCORE_SHIFT)
    assert found["it"] == 0.5


@pytest.mark.parametrize("answer", [np.nan, 7.0], ids=["NaN", "no probability"])
def test_an_answer_without_a_value_that_comes_again_is_no_noise(answer):
    for metric in (Metric.SCORE_SHIFT, Metric.DECISION_RATE_SHIFT):
        assert levels(two([0.5, answer], [0.5, answer]), metric=metric)["it"] == 0.0


def test_a_request_is_the_same_only_when_all_of_its_rows_are():
    again = two([np.nan, np.nan, 0.5], [np.nan, 0.5, 0.5], rows=[2, 1])
    assert levels(again, metric=Metric.SCORE_SHIFT)["it"] == 0.5


@pytest.mark.parametrize(
    "guardrail",
    [
        {"metric": Metric.PARITY_MISMATCH, "scope": Scope.OUTPUTS},
        {"metric": Metric.FAILURE},
        {"metric": Metric.NAN_RATE},
    ],
)
def test_other_guardrails_have_no_level_here(guardrail):
    assert levels(two(), **guardrail) == {}


def test_a_score_that_the_policy_does_not_name_is_not_measured():
    rule = DecisionRule(output="p", rule=Rule.NONE)
    assert levels(two(), rule=rule, metric=Metric.SCORE_SHIFT) == {}

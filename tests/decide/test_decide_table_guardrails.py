"""Guardrails of a table whose observations are made from several columns."""

import pytest

from harness.core.errors import PolicyError
from harness.core.policies import Direction, Metric
from harness.decide.policy import table_policy_from_yaml

COST = (
    "name: cost, metric: ratio, numerator: spend, denominator: clicks, ratio: 1.2, range: [0, 10]"
)


def read(guardrail, more=""):
    return table_policy_from_yaml(f"version: 1\nguardrails:\n  - {{{guardrail}}}\n{more}", "p")


def test_a_ratio_is_bounded_by_both_of_its_ranges():
    (cost,) = read(COST + ", denominator_range: [0, 5]").guardrails
    assert (cost.metric, cost.reads()) == (Metric.RATIO, ("spend", "clicks"))
    assert cost.bounds() == (-6.0, 10.0)
    assert cost.tolerated_mean(cost.margin) == 0.0


def test_a_ratio_s_denominator_has_the_numerator_s_range_unless_it_says_otherwise():
    assert read(COST).guardrails[0].bounds() == (-12.0, 10.0)


def test_a_ratio_may_be_harmful_below_its_limit():
    assert read(COST + ", direction: decrease").guardrails[0].direction is Direction.DECREASE


@pytest.mark.parametrize(
    ("guardrail", "wrong"),
    [
        (COST + ", margin: 0.1", "limit of a ratio"),
        (COST + ", direction: both", "above or below one number"),
        (COST.replace(", ratio: 1.2", ""), "at least 0"),
        (COST.replace(", range: [0, 10]", ""), "between which values"),
        (COST.replace("[0, 10]", "[-1, 10]"), "denominator be -1"),
        (COST.replace("[0, 10]", "[20, 24]") + ", denominator_range: [0, 1]", "by every table"),
        (COST.replace("denominator: clicks", "denominator: spend"), "named before"),
        (COST.replace("denominator: clicks, ", ""), "denominator"),
        (COST + ", column: spend", "one column"),
        ("name: e, metric: excess_flip, margin: 0.1, column: x", "one column"),
        ("name: e, metric: excess_flip, margin: 0.1, flip: a, baseline_flip: b", "candidate_flip"),
        ("name: s, metric: score_shift, margin: 0.1, flip: a", "no meaning for score_shift"),
        ("name: s, range: [0, 1], margin: 0.1, ratio: 2", "no meaning for column"),
        ("name: s, range: [0, 1], margin: 0.1, cutoff: 2", "latency_p99"),
    ],
)
def test_what_has_no_meaning_is_refused(guardrail, wrong):
    with pytest.raises(PolicyError, match=wrong):
        read(guardrail)


def test_a_table_s_cut_off_is_given_or_planned():
    slow = "name: slow, metric: latency_p99, margin: 0.1, baseline: a, candidate: b"
    with pytest.raises(PolicyError, match="cannot fix one"):
        read(slow)
    assert read(slow, "windows: {planning: 500}").guardrails[0].cutoff_s is None
    assert read(slow + ", cutoff: 0.2").guardrails[0].cutoff_s == 0.2


def test_units_have_no_calibration():
    bins = "name: c, metric: calibration_shift, margin: 0.1, label: y, baseline: a, candidate: b"
    with pytest.raises(PolicyError, match="several bins"):
        read(bins, "unit: user\nweight: unit")

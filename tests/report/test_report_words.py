"""Numbers with units, rounded so that nothing is promised that was not computed."""

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.report import words
from harness.report.words import METRICS

VALUES = st.floats(-1, 1, allow_subnormal=False)


def parsed(text):
    return [float(part.replace("−", "-")) for part in re.findall(r"[+−-]?\d+\.?\d*", text)]


@given(
    metric=st.sampled_from(sorted(METRICS)),
    ends=st.tuples(VALUES, VALUES),
    margin=st.sampled_from([0.001, 0.002, 0.05, 0.1, 0.3]),
)
def test_a_printed_interval_contains_the_computed_one(metric, ends, margin):
    lower, upper = sorted(ends)
    scale = 100 if METRICS[metric].unit else 1
    grown = math.expm1 if METRICS[metric].logarithm else float
    low, high = parsed(words.interval(METRICS[metric], lower, upper, margin))
    assert low <= grown(lower) * scale + 1e-9
    assert high >= grown(upper) * scale - 1e-9


@given(VALUES, st.sampled_from([0.001, 0.01, 0.1]))
def test_a_printed_interval_is_at_most_a_margin_wider(value, margin):
    low, high = parsed(words.interval(METRICS["score_shift"], value, value, margin))
    assert high - low <= margin


@given(st.floats(0, 1))
def test_a_share_reads_0_or_100_percent_only_when_it_is(value):
    assume(value not in (0.0, 1.0))
    assert words.percent(value) not in ("0 %", "100 %")


@pytest.mark.parametrize(
    ("metric", "direction", "expected"),
    [
        ("decision_rate_shift", "both", "within ±10 pp"),
        ("decision_rate_shift", "increase", "at most +10 pp"),
        ("decision_rate_shift", "decrease", "at least −10 pp"),
        ("parity_mismatch", "increase", "at most 10 %"),
        ("loss_difference", "increase", "at most +0.1"),
    ],
)
def test_what_is_tolerated_names_side_and_unit(metric, direction, expected):
    assert words.tolerated(METRICS[metric], 0.1, direction) == expected


def test_a_growth_is_shown_in_percent_of_the_time():
    assert words.tolerated(METRICS["latency_ratio"], math.log(1.1), "increase") == "at most +10 %"


@pytest.mark.parametrize(("direction", "side"), [("increase", "at most"), ("decrease", "at least")])
def test_what_is_tested_against_0_says_so(direction, side):
    assert words.tolerated(METRICS["ratio"], 0.0, direction) == f"{side} 0"
    assert words.tolerated(METRICS["latency_p99"], 0.0, direction) == f"{side} 0 pp"


def test_an_unknown_metric_is_a_plain_number_under_its_own_name():
    metric = words.metric_from_word("estimated_performance")
    assert (metric.title, metric.unit) == ("Estimated performance", "")


@pytest.mark.parametrize(
    ("length_days", "expected"),
    [(61, "61 days"), (1, "1 day"), (0.5, "12 hours"), (0.06, "1.4 hours"), (0, "under a minute")],
)
def test_durations_have_the_unit_that_fits(length_days, expected):
    assert words.duration(int(length_days * words.DAY_NS)) == expected


@pytest.mark.parametrize("ts_ns", [None, 0, -5, 10**30])
def test_a_time_outside_the_calendar_is_no_time(ts_ns):
    assert words.moment(ts_ns) == ""


def test_a_nearly_certain_value_is_never_shown_as_certain():
    assert words.percent(0.99999) == "> 99.99 %"
    assert words.rate(0.00001) == "< 0.01 %"

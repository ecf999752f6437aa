"""What a run's rarer tests prove and leave open is said where the run has them, and only there."""

import copy

import pytest
from report_examples import EXAMPLES, FILES

from harness.report import render_html, view_from_run

TITLE = "What these tests prove"


def run_with(metric=None, **parts):
    run = copy.deepcopy(EXAMPLES["promote"]())
    if metric:
        run["evidence"]["evidence"][0]["metric"] = metric
    for name, content in parts.items():
        run[name].update(content)
    return run


def said(run):
    view = view_from_run(**{name: run.get(name) for name in FILES})
    return [
        tuple(cell.text for cell in row)
        for table in view.method.tables
        if table.title == TITLE
        for row in table.rows
    ]


def test_an_ordinary_run_says_nothing():
    assert said(run_with()) == []


@pytest.mark.parametrize(
    ("metric", "proves", "not_proven"),
    [
        ("excess_flip", "squared difference", "which version is right"),
        ("calibration_shift", "In every bin of the baseline's score", "Nothing finer than a bin"),
        ("latency_ratio", "factor of e", "Not the serving machine"),
        ("latency_p99", "cut-off fixed before", "Not the 99 % quantile itself"),
        ("ratio", "ratio of the sums", "Not the mean of the rows' own ratios"),
    ],
)
def test_a_metric_says_both(metric, proves, not_proven):
    ((_, first, second),) = said(run_with(metric))
    assert proves in first
    assert not_proven in second


def test_a_metric_with_slices_is_said_once():
    run = run_with("latency_ratio")
    run["evidence"]["evidence"][1]["metric"] = "latency_ratio"
    assert len(said(run)) == 1


@pytest.mark.parametrize(
    ("parts", "test"),
    [
        ({"decision": {"anchor": {"name": "m", "version": "1"}}}, "Against the anchor"),
        ({"decision": {"again": {"how": "resume"}}}, "Attempts that go on"),
        (
            {"manifest": {"policy": {"claim": "window"}, "planning": {"requests": {"newest": 9}}}},
            "This window, with planning",
        ),
    ],
)
def test_a_way_of_asking_is_said(parts, test):
    assert [row[0] for row in said(run_with(**parts))] == [test]


@pytest.mark.parametrize(
    "parts",
    [
        {"decision": {"again": {"how": "spend"}}},
        {"manifest": {"policy": {"claim": "window"}, "planning": {"requests": {"table": 0}}}},
        {"manifest": {"policy": {"claim": "process"}, "planning": {"requests": {"newest": 9}}}},
    ],
)
def test_what_the_run_did_not_do_is_not_said(parts):
    assert said(run_with(**parts)) == []


def test_the_page_shows_it():
    run = run_with("ratio")
    page = render_html(view_from_run(**{name: run.get(name) for name in FILES}))
    assert TITLE in page

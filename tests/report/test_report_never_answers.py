"""The page of a candidate that answers nothing, on traffic without recorded answers."""

import copy

import pytest
from report_examples import EXAMPLES
from test_report_view import view_of


@pytest.fixture
def run():
    """A run whose candidate ended after three requests, before any row was compared."""
    run = copy.deepcopy(EXAMPLES["rollback"]())
    run["summary"]["outcomes"] = {
        "baseline": {"OK": 256},
        "candidate": {"TIMEOUT": 3, "NOT_RUN": 253},
    }
    run["manifest"] |= {
        "seed": 7_548_829_339_368_026_032,
        "composition": "recorded",
        "composition_why": "nothing shows that batches leave the candidate's answers as they are",
        "alone": [{"said": "baseline: 1,092 requests run alone: answered as in their batches"}],
    }
    run["manifest"]["window"] |= {
        "count": 5000,
        "not_sealed": [],
        "not_answered": [["no response recorded", 5000]],
    }
    run["intermediates"]["floor"] = [
        {"name": "y[0]", "largest": 0.0, "scale": 2.9, "rows": 5000, "nondeterministic": False}
    ]
    return run


def facts_of(section):
    return {fact.label: fact for fact in section.facts}


def table_of(section, title):
    return next(table for table in section.tables if table.title.startswith(title))


def test_what_was_never_asked_is_no_failure(run):
    rows = table_of(view_of(run).behaviour, "Outcomes").rows
    marked = {row[0].text: row[3].text for row in rows}
    assert marked == {"answered": "", "no answer in time": "more failures", "never asked": ""}


def test_the_composition_says_what_was_done_and_why(run):
    fact = facts_of(view_of(run).method)["Composition"]
    assert fact.value == "each request by itself, as it was recorded"
    assert fact.note == (
        "nothing shows that batches leave the candidate's answers as they are; "
        "baseline: 1,092 requests run alone: answered as in their batches"
    )


def test_requests_without_a_recorded_answer_are_not_left_out(run):
    traffic = view_of(run).traffic
    left_out = table_of(traffic, "Recorded but left out")
    fact = facts_of(traffic)["Without a recorded answer"]
    assert not any("no response recorded" in cell.text for row in left_out.rows for cell in row)
    assert fact.value == "5,000 of 5,000 requests"
    assert fact.note.startswith("no response recorded (5,000): there the baseline's answers cannot")
    assert "replayed like the others" in fact.note


def test_traffic_with_all_its_answers_does_not_speak_of_them(run):
    run["manifest"]["window"]["not_answered"] = []
    assert "Without a recorded answer" not in facts_of(view_of(run).traffic)


def test_a_seed_keeps_its_digits(run):
    seed = facts_of(view_of(run).method)["Seed of the test order"]
    assert seed.value == "7548829339368026032"


def test_a_floor_of_one_column_is_told_as_one(run):
    floor = table_of(view_of(run).fidelity, "Noise floor")
    assert floor.empty == (
        "The baseline repeats itself exactly: no difference in 1 column, a wide tensor counted as one."
    )


def test_a_column_of_which_no_row_was_compared_repeats_nothing(run):
    run["intermediates"]["floor"][0]["rows"] = 0
    floor = table_of(view_of(run).fidelity, "Noise floor")
    assert floor.empty == "The noise floor was not measured in this run."


def test_a_column_that_is_nan_now_and_then_does_not_repeat(run):
    run["intermediates"]["floor"][0]["nondeterministic"] = True
    floor = table_of(view_of(run).fidelity, "Noise floor")
    assert [row[0].text for row in floor.rows] == ["y[0]"]

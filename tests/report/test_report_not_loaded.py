"""What the page of a run that replayed nothing says of its isolation."""

import pytest
from report_examples import EXAMPLES
from test_report_view import view_of

WHY = "not known: the process of the candidate ended before it said so"


@pytest.fixture
def run():
    run = EXAMPLES["does_not_load"]()
    run["manifest"]["isolation"]["looked"] = True
    return run


def test_what_the_look_was_closed_in_is_told(run):
    view = view_of(run)
    assert view.isolation.facts[0].value == "S2 – system calls filtered"
    assert view.isolation.lead.startswith("No request was replayed. To look at it, each version")
    assert len(view.isolation.tables[0].rows) == 4


def test_what_is_not_known_says_why(run):
    run["manifest"]["isolation"] = {"looked": True, "required": "S2", "why": WHY}
    view = view_of(run)
    glance = {fact.label: fact.value for fact in view.headline.facts}
    assert glance["Isolation"] == WHY
    assert view.isolation.facts[0].value == WHY
    assert "before it was given the model" in view.isolation.lead
    assert "in force" not in view.isolation.lead


def test_an_isolation_that_was_not_recorded_is_not_told_as_in_force(run):
    del run["manifest"]["isolation"], run["decision"]["isolation"]
    lead = view_of(run).isolation.lead
    assert "not recorded" in lead
    assert "in force" not in lead


def test_a_run_without_a_request_says_so_of_its_composition(run):
    facts = {fact.label: fact.value for fact in view_of(run).method.facts}
    assert facts["Composition"] == "no request was replayed"

"""Why a gate does not look into the graphs, as its page says it."""

import pytest

from harness.core.policies import GraphPolicy, When
from harness.pipeline.graph_pass import why_not


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, "nothing that was compared and counts differs beyond the floor"),
        ({"compared": False}, "no row was compared, of an output or of a feature"),
        ({"answers_differ": True}, "other answers are what a retrain is for"),
        ({"answers_differ": True, "same_model": True}, ""),
        ({"raw_differs": True}, ""),
    ],
)
def test_a_gate_says_why_it_does_not_look(facts, says):
    seen = {"raw_differs": False, "answers_differ": False, "same_model": False, "compared": True}
    found = why_not(GraphPolicy(), **(seen | facts))
    assert says in found
    assert bool(says) == bool(found)


def test_a_policy_that_asks_for_no_look_is_the_first_reason():
    asked = GraphPolicy(when=When.NEVER)
    facts = {"raw_differs": True, "answers_differ": True, "same_model": True, "compared": False}
    assert "graph.when" in why_not(asked, **facts)

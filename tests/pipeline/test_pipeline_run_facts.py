"""What is told of the isolation of a run that replayed nothing."""

from harness.pipeline.run_facts import isolation_of_look
from harness.sandbox.hello import LoadFailure
from harness.sandbox.isolation import Isolation, Layer


def refused(tier):
    """A version that did not load in a process that was closed in so far; None = it said nothing."""
    layer = Layer(name="seccomp", on=True, detail="tried")
    inside = Isolation(tier=tier, layers=(layer,), self_tests=()) if tier else None
    return LoadFailure(kind="load", message="no model", isolation=inside)


def test_the_least_isolated_process_is_told():
    seen = {"baseline": refused("S3"), "candidate": refused("S1"), "anchor": None}
    found = isolation_of_look(seen, "S2")
    assert (found["tier"], found["required"], found["looked"]) == ("S1", "S2", True)
    assert found["allowed_below"]
    assert [layer["name"] for layer in found["layers"]] == ["seccomp"]


def test_a_process_that_ended_before_it_said_so_is_told_as_that():
    found = isolation_of_look({"baseline": refused("S3"), "candidate": refused(None)}, "S2")
    assert "tier" not in found
    assert found["why"] == "not known: the process of the candidate ended before it said so"

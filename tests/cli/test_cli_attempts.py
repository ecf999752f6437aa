"""Asking again until the answer is pleasant costs error rate."""

import json

import pytest
from gates import REFACTOR, tiny_model, tiny_traffic

AS_OF = "2020-12-01T00:00:00Z"


@pytest.fixture
def gate(harness, write_policy, tmp_path):
    """A refactor of the tiny model that asks for more requests than there are: decision.json."""
    traffic = tiny_traffic(tmp_path / "traffic", 400)
    old, new = tiny_model(tmp_path / "old.onnx"), tmp_path / "new.onnx"
    tiny_model(new, raised="Abs({x})")

    def run(name, *, candidate=old, as_of=AS_OF, needed=100_000, mode="enforce"):
        policy = write_policy(REFACTOR, windows={"min_requests": needed}, mode=mode)
        ran = harness("gate", old, candidate, "-t", traffic, "-p", policy, "--as-of", as_of,
                      "-o", tmp_path / "runs" / name, "--json")  # fmt: skip
        return ran.code, json.loads(ran.out)

    run.other = new
    return run


def test_a_hold_halves_the_error_rate_of_the_next_attempt(gate):
    seen = [gate(f"run-{n}") for n in (1, 2, 3)]
    assert [(code, d["reason"]) for code, d in seen] == [(3, "too_few_requests")] * 3
    assert [d["attempt"] for _, d in seen] == [1, 2, 3]
    for level in ("promote", "rollback"):
        assert [d["alpha"][level] for _, d in seen] == [0.05, 0.025, 0.0125]


def test_a_hold_that_saw_nothing_is_no_attempt(gate):
    code, decision = gate("empty", as_of="2020-01-01T00:00:00Z")
    assert (code, decision["reason"]) == (3, "empty_window")
    assert gate("second")[1]["attempt"] == 1


def test_another_candidate_is_another_question(gate):
    gate("first")
    assert gate("second", candidate=gate.other)[1]["attempt"] == 1


def test_another_policy_is_another_question(gate):
    gate("first")
    assert gate("second", needed=99_999)[1]["attempt"] == 1


def test_a_promotion_is_no_failed_attempt(gate):
    assert gate("first", needed=300)[0] == 0
    assert gate("second", needed=300)[1]["attempt"] == 1


def test_looking_under_advise_first_is_an_attempt(gate):
    gate("look", mode="advise")
    assert gate("then")[1]["attempt"] == 2


def test_attempts_count_wherever_their_run_folders_are(gate):
    gate("one/run")
    assert gate("two/run")[1]["attempt"] == 2

"""How often the same question was asked before."""

import multiprocessing

import pytest

from harness.core.errors import UsageError
from harness.store.attempts import ANSWERED, PROMOTED, UNSEEN, AttemptLedger

LINEAGE = {"baseline": "a", "candidate": "b", "policy": "c"}


def test_the_first_is_the_first(tmp_path):
    assert AttemptLedger(tmp_path, LINEAGE).take("x") == 1


@pytest.mark.parametrize(
    ("state", "counts"), [(None, True), (ANSWERED, True), (UNSEEN, False), (PROMOTED, False)]
)
def test_what_counts_as_an_attempt(tmp_path, state, counts):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("earlier")
    if state is not None:
        ledger.close("earlier", state)
    assert ledger.take("now") == 1 + counts


@pytest.mark.parametrize("part", LINEAGE)
def test_another_candidate_baseline_or_policy_is_another_question(tmp_path, part):
    AttemptLedger(tmp_path, LINEAGE).take("earlier")
    assert AttemptLedger(tmp_path, {**LINEAGE, part: "other"}).take("now") == 1


def test_closing_one_attempt_leaves_the_others(tmp_path):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("a")
    ledger.take("b")
    ledger.close("a", UNSEEN)
    assert ledger.take("c") == 2


def _take(folder, token, numbers):
    numbers.put(AttemptLedger(folder, LINEAGE).take(token))


def test_gates_started_together_take_different_numbers(tmp_path):
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    gates = [context.Process(target=_take, args=(tmp_path, str(n), numbers)) for n in range(4)]
    for gate in gates:
        gate.start()
    taken = sorted(numbers.get(timeout=60) for _ in gates)
    for gate in gates:
        gate.join()
    assert taken == [1, 2, 3, 4]


def test_a_damaged_count_is_not_a_fresh_start(tmp_path):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("a")
    (file,) = tmp_path.glob("*.json")
    file.write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        ledger.take("b")


def test_a_folder_that_cannot_be_used_names_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="HARNESS_STATE_DIR"):
        AttemptLedger(tmp_path / "file", LINEAGE).take("a")

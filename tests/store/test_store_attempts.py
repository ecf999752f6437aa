"""How often the same question was asked before."""

import json
import multiprocessing
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.store.attempts import ANSWERED, HELD, PROMOTED, UNSEEN, AttemptLedger, resumable

LINEAGE = {"baseline": "a", "candidate": "b", "policy": "c"}
RUN = Path("run")


def test_the_first_is_the_first(tmp_path):
    assert AttemptLedger(tmp_path, LINEAGE).take("x", RUN).number == 1


@pytest.mark.parametrize(
    ("state", "counts"),
    [(None, True), (ANSWERED, True), (UNSEEN, False), (PROMOTED, True), (HELD, True)],
)
def test_what_counts_as_an_attempt(tmp_path, state, counts):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("earlier", RUN)
    if state is not None:
        ledger.close("earlier", state)
    assert ledger.take("now", RUN).number == 1 + counts


@pytest.mark.parametrize("part", LINEAGE)
def test_another_candidate_baseline_or_policy_is_another_question(tmp_path, part):
    AttemptLedger(tmp_path, LINEAGE).take("earlier", RUN)
    assert AttemptLedger(tmp_path, {**LINEAGE, part: "other"}).take("now", RUN).number == 1


def test_closing_one_attempt_leaves_the_others(tmp_path):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("a", RUN)
    ledger.take("b", RUN)
    ledger.close("a", UNSEEN)
    assert ledger.take("c", RUN).number == 2


def test_an_attempt_that_goes_on_keeps_the_level_and_its_number_counts(tmp_path):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("a", RUN)
    ledger.close("a", HELD, "digest")
    on = ledger.take("b", RUN, "a")
    assert (on.number, on.level, on.resumes) == (2, 1, "a")
    other = ledger.take("c", RUN)
    assert (other.number, other.level) == (3, 2)


def test_evidence_is_gone_on_from_by_one_attempt_only(tmp_path):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("a", RUN)
    ledger.close("a", HELD)
    ledger.take("b", RUN, "a")
    assert resumable(ledger.before()) == []
    late = ledger.take("c", RUN, "a")
    assert (late.level, late.resumes) == (2, "")


def test_an_attempt_that_saw_nothing_leaves_the_evidence_to_the_next(tmp_path):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("a", RUN)
    ledger.close("a", HELD)
    ledger.take("b", RUN, "a")
    ledger.close("b", UNSEEN)
    assert ledger.take("c", RUN, "a").level == 1


@pytest.mark.parametrize("state", [None, ANSWERED, PROMOTED])
def test_only_a_hold_on_sound_evidence_is_gone_on_from(tmp_path, state):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("a", RUN)
    if state is not None:
        ledger.close("a", state)
    assert ledger.take("b", RUN, "a").level == 2


def test_a_count_of_an_earlier_version_goes_on(tmp_path):
    ledger = AttemptLedger(tmp_path, LINEAGE)
    ledger.take("a", RUN)
    (file,) = tmp_path.glob("*.json")
    old = {"lineage": LINEAGE, "attempts": [{"token": "a", "attempt": "1", "state": "answered"}]}
    file.write_text(json.dumps(old))
    assert ledger.take("b", RUN).level == 2


def _take(folder, token, numbers):
    numbers.put(AttemptLedger(folder, LINEAGE).take(token, RUN).number)


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
    ledger.take("a", RUN)
    (file,) = tmp_path.glob("*.json")
    file.write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        ledger.take("b", RUN)


def test_a_folder_that_cannot_be_used_names_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="HARNESS_STATE_DIR"):
        AttemptLedger(tmp_path / "file", LINEAGE).take("a", RUN)

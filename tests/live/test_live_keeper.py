"""Turns: what is told when, what a jump of the clock and a failure change."""

import json
import os
import threading
from dataclasses import replace

import pytest
from canaries import POLICY, Traffic, live

from harness.core.errors import UsageError
from harness.live import label_file
from harness.live.folder import CanaryFolder
from harness.live.follow import follow
from harness.live.identity import Identity
from harness.live.keeper import Keeper, notes_of
from harness.live.label_file import LabelFile, check_label_file
from harness.live.labels import NOT_TAKEN, Label
from harness.live.steady_clock import SteadyClock


class Clock:
    """As the traffic's; the machine's may have jumped."""

    def __init__(self, traffic):
        self._traffic = traffic
        self.jump_s = 0.0

    def now_ns(self):
        return self._traffic.now_ns + 1

    def drift_s(self):
        return self.jump_s


def identity():
    return Identity.of(live(), seed="s", baseline="b", candidate="c")


@pytest.fixture
def kept(tmp_path):
    folder, canary = CanaryFolder.start(tmp_path / "c", live(), identity(), POLICY)
    traffic = Traffic(1)
    clock = Clock(traffic)
    return traffic, canary, folder, clock, Keeper(canary, folder, clock)


def told(folder):
    return [event["event"] for event in follow(folder.path, lambda: False)]


def test_answers_are_told_as_evidence_grows_and_steps_as_they_come(kept):
    traffic, canary, folder, _, keeper = kept
    traffic.harm = 0.1  # at the margin: nothing is proven
    for _ in range(8):
        traffic.answered(canary, 50)
        keeper.turn(())
    assert told(folder) == ["start", *["answer"] * 3, "step", *["answer"] * 4]
    for _ in range(400):  # a request a turn: one in fifty is told
        traffic.answered(canary, 1)
        keeper.turn(())
    assert told(folder).count("answer") < 50


def test_a_turn_without_news_writes_nothing_until_time_has_passed(kept):
    traffic, canary, _, _, keeper = kept
    traffic.answered(canary, 5)
    for _ in range(5):
        keeper.turn(())
    assert canary.next_batch == 1
    traffic.now_ns += 6 * 10**9
    keeper.turn(())
    assert canary.next_batch == 2


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_jump_of_the_machine_s_clock_is_told_once_and_changes_nothing(kept, jump_s):
    traffic, canary, folder, clock, keeper = kept
    clock.jump_s = jump_s
    for _ in range(3):
        traffic.answered(canary, 5)
        keeper.turn(())
    assert told(folder).count("clock_jump") == 1
    assert dict(keeper.standing.counts) == {"clock_jumps": 1}
    assert keeper.standing.n_closed == 15


def test_an_end_that_came_of_no_batch_is_told_once_and_written(kept):
    _, canary, folder, _, keeper = kept
    canary.stop("state_damaged", "a bit is wrong")
    for _ in range(3):
        keeper.turn(())
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "decision"]
    decision = json.loads((folder.path / "decision.json").read_text())
    assert (decision["decision"], decision["reason"]) == ("HOLD", "state_damaged")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (OSError(28, "No space left on device"), "state_not_saved"),
        (ZeroDivisionError("x"), "judge_failed"),
    ],
)
def test_whatever_goes_wrong_is_hold_and_the_baseline(kept, trouble, reason):
    traffic, canary, folder, _, keeper = kept
    keeper.give_up(trouble, ())
    assert (keeper.standing.reason, keeper.standing.final) == (reason, True)
    assert traffic.request(canary) is None
    assert told(folder)[-1] == "decision"
    assert "traffic goes to the baseline" in keeper.standing.explanation


def test_a_verdict_is_told_once_also_over_restarts_and_written_where_it_was_not(kept, tmp_path):
    traffic, canary, folder, clock, keeper = kept
    traffic.harm = 0.4
    while not canary.ended:
        traffic.answered(canary, 50)
        keeper.turn(())
    for _ in range(3):
        keeper.turn(())
        keeper.give_up(OSError(28, "No space left"), ())
    for _ in range(2):
        folder.close()
        (folder.path / "decision.json").unlink()
        folder, canary = CanaryFolder.start(folder.path, live(), identity(), POLICY)
        keeper = Keeper(canary, folder, clock)
        keeper.turn(())
        assert (folder.path / "decision.json").exists()
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    found = [json.loads(line)["event"] for line in lines]
    assert (found.count("decision"), found.count("restart")) == (1, 2)
    folder.close()


def test_the_clock_starts_behind_what_was_judged_and_never_goes_back():
    ahead = SteadyClock().now_ns() + 10**12
    clock = SteadyClock(ahead)
    looks = [clock.now_ns() for _ in range(100)]
    assert ahead < looks[0]
    assert looks == sorted(looks)
    assert clock.drift_s() < -900


def test_labels_are_read_as_they_are_appended_and_what_is_none_is_counted(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"unit": "a", "label": 1}\n{"unit": "", "label": 1}\n[1]\nnoise\n{"unit": "b"')
    labels = LabelFile(path)
    first, *none = labels.read(5)
    assert (first.unit, first.value, first.ts_ns, first.offset) == ("a", 1.0, 5, 26)
    assert [(line.unit, line.offset) for line in none] == [("", 51), ("", 55), ("", 61)]
    assert labels.read(6) == []
    with path.open("a") as file:
        file.write(', "label": 0, "guardrail": "g"}\n\n')
    (second,) = labels.read(7)
    assert (second.unit, second.value, second.guardrail) == ("b", 0.0, "g")
    (again,) = LabelFile(path, first.offset).read(8)[-1:]
    assert again.unit == "b"


def test_a_label_file_that_is_cut_or_gone_is_told_and_goes_on(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"unit": "a", "label": 1}\n' * 3)
    labels = LabelFile(path)
    assert len(labels.read(1)) == 3
    path.write_text('{"unit": "b", "label": 1}\n')
    assert [label.unit for label in labels.read(2)] == ["b"]
    assert "shorter" in labels.trouble
    path.unlink()
    assert labels.read(3) == []
    assert "cannot be read" in labels.trouble


def _read_until(labels, n):
    """All labels of so many reads."""
    return [label.unit for i in range(n) for label in labels.read(i)]


@pytest.mark.parametrize("taken", [2, 300], ids=["short", "long"])
def test_another_label_file_is_read_from_its_beginning_also_after_a_restart(tmp_path, taken):
    path, other = tmp_path / "labels.jsonl", tmp_path / "other.jsonl"
    path.write_text("\n" + '{"unit": "a", "label": 1}\n' * taken + "\n\n")
    labels = LabelFile(path)
    last = labels.read(1)[-1]
    other.write_text('{"unit": "b", "label": 1}\n' * (taken + 5))
    same, restarted = (
        LabelFile(path, last.offset, last.head),
        LabelFile(other, last.offset, last.head),
    )
    with path.open("a") as file:
        file.write('{"unit": "c", "label": 1}\n')
    for reader in (labels, same):
        assert (_read_until(reader, 2), reader.trouble) == (["c"], "")
    assert _read_until(restarted, 2) == ["b"] * (taken + 5)
    assert "another one than before: it is read from its beginning" in restarted.trouble
    other.replace(path)
    assert _read_until(labels, 2) == ["b"] * (taken + 5)
    assert (labels.troubles, "another one" in labels.trouble) == (1, True)


def test_a_label_file_that_becomes_a_pipe_holds_nothing_up_and_is_refused_at_a_start(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"unit": "a", "label": 1}\n')
    labels = LabelFile(path)
    assert len(labels.read(1)) == 1
    path.unlink()
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    os.write(writer, b'{"unit": "b", "label": 1}\n')
    assert _read_until(labels, 3) == []
    os.close(writer)
    assert (labels.troubles, "no regular file" in labels.trouble) == (1, True)
    with pytest.raises(UsageError, match="no regular one"):
        check_label_file(path)


def test_a_label_file_that_does_not_answer_is_waited_for_once_and_read_when_it_does(
    tmp_path, monkeypatch
):
    path, mounted = tmp_path / "labels.jsonl", threading.Event()
    path.write_text('{"unit": "a", "label": 1}\n')
    opened = os.open

    def hanging(*given, **more):
        mounted.wait(60)
        return opened(*given, **more)

    monkeypatch.setattr(label_file.os, "open", hanging)
    monkeypatch.setattr(label_file, "_PATIENCE_S", 0.1)
    labels = LabelFile(path)
    assert _read_until(labels, 50) == []
    assert (labels.troubles, "has not answered" in labels.trouble) == (1, True)
    mounted.set()
    labels._reading.result(60)
    assert _read_until(labels, 2) == ["a"]


def test_every_count_has_a_sentence(kept):
    _, canary, _, _, _ = kept
    named = [
        *(f"label_{why}" for why in ("late_or_unknown", "second_label", "contradicting")), *NOT_TAKEN,
        "arm_changed", "after_maturity", "repeated_batches", "answered_late", "neither_answered",
        "label_file_troubles",
    ]  # fmt: skip
    standing = replace(canary.standing(), counts=tuple((name, 7) for name in named))
    found = notes_of(standing)
    assert len(found) == len(named)
    assert all(note.startswith("7 ") for note in found)


def test_labels_that_were_not_taken_are_counted_over_a_kill(kept):
    traffic, canary, folder, _, keeper = kept
    canary.labelled(Label(unit="u", value=1.0, ts_ns=traffic.now_ns, guardrail="none"))
    traffic.answered(canary, 5)
    keeper.turn(())
    assert dict(keeper.standing.counts) == {"label_for_no_guardrail": 1}
    folder.close()  # nothing is saved
    asked = Identity.of(live(), seed="s", baseline="b", candidate="c")
    again, canary = CanaryFolder.start(folder.path, live(), asked, POLICY)
    again.close()
    assert canary.counts == {"label_for_no_guardrail": 1}

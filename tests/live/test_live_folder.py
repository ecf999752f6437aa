"""What a canary keeps on disk: killed anywhere it goes on; what cannot be believed is HOLD."""

import json
import os
import re
from functools import partial

import numpy as np
import pytest
from canaries import POLICY, Traffic, live

from harness.core.errors import GateError, UsageError
from harness.core.verdicts import Decision
from harness.live.arrivals import Arrival, Arrivals
from harness.live.endings import Ending
from harness.live.folder import CanaryFolder
from harness.live.folder_files import EVENTS
from harness.live.follow import follow, text_of
from harness.live.identity import Identity
from harness.live.journal import line_from_entry

LIVE = live()


def identity(**changes):
    return Identity.of(LIVE, **{"seed": "s", "baseline": "old", "candidate": "new", **changes})


def start(path, **changes):
    return CanaryFolder.start(path, LIVE, identity(**changes), POLICY)


def turns(folder, watched, traffic, n, *, save=()):
    for number in range(n):
        traffic.answered(watched, 20)
        entry = watched.batch(traffic.now_ns + 1)
        folder.append(entry, watched.counts)
        watched.judge(entry)
        if number in save:
            folder.save(watched)
    return watched.standing()


def restarted(path, folder, **changes):
    """As after a kill: nothing of the former process is asked."""
    folder.close()
    return start(path, **changes)


def test_arrivals_are_there_after_the_process_and_the_oldest_give_way(tmp_path):
    kept = Arrivals(tmp_path / "a", capacity=8)
    arrivals = [Arrival(i, 10**18 + i, 2**63 + i, 0.25, 1, i % 2 == 0) for i in range(1, 13)]
    for arrival in arrivals:
        kept.put(arrival)
    assert Arrivals(tmp_path / "a", capacity=8).after(9) == arrivals[9:]
    assert [a.seq for a in kept.after(0)] == list(range(5, 13))


@pytest.mark.parametrize("save", [(), (0,), (3,), (1, 4)])
def test_a_kill_after_any_batch_changes_no_answer(tmp_path, save):
    traffic, twin = (Traffic(1, harm=0.1, silent=5) for _ in range(2))
    folder, watched = start(tmp_path / "one")
    other_folder, other = start(tmp_path / "other")
    for _ in range(3):
        turns(folder, watched, traffic, 5, save=save)
        folder, watched = restarted(tmp_path / "one", folder)
        assert watched.standing() == turns(other_folder, other, twin, 5)
    assert watched.evidence() == other.evidence()
    assert watched.evidence()[0].n == 240


def test_what_was_under_way_at_a_kill_enters_as_failed_under_its_name(tmp_path):
    traffic = Traffic(2)
    folder, watched = start(tmp_path / "c")
    turns(folder, watched, traffic, 2)
    lost = [traffic.request(watched, f"gone-{i}") for i in range(7)]
    folder, watched = restarted(tmp_path / "c", folder)
    assert watched.last_ns >= lost[-1].ts_ns
    again = traffic.request(watched, "gone-0")
    assert (again.unit, again.candidate) == (lost[0].unit, lost[0].candidate)
    watched.answered(again.seq, {"score": 0.3, "errors": 0.0}, {})
    entry = watched.batch(traffic.now_ns + 1)
    assert entry.batch.requests.ts_ns[:7].tolist() == [a.ts_ns for a in lost]
    assert np.isnan(entry.batch.requests.values["score"]).tolist() == [True] * 7 + [False]
    standing = watched.judge(entry)
    assert standing.n_units == 47
    assert dict(standing.counts) == {"lost_at_a_restart": 7, "after_maturity": 1}


@pytest.mark.parametrize("seq", [2**64 - 22, 2**40])
def test_an_arrival_that_was_never_written_so_is_damage(tmp_path, seq):
    kept = Arrivals(tmp_path / "a", capacity=8)
    kept.put(Arrival(1, 1, 1, 0.5, 0, False))
    kept.close()
    content = bytearray((tmp_path / "a").read_bytes())
    content[40:48] = seq.to_bytes(8, "little")
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(GateError, match="damaged"):
        Arrivals(tmp_path / "a", capacity=8).after(0)


def test_what_was_lost_without_a_trace_is_hold(tmp_path):
    traffic = Traffic(3)
    folder, watched = start(tmp_path / "c")
    turns(folder, watched, traffic, 1)
    folder.arrivals._capacity = 4  # as if far more had come than the file holds
    for _ in range(9):
        traffic.request(watched)
    folder.close()
    folder, watched = start(tmp_path / "c")
    assert (watched.standing().reason, watched.standing().final) == ("observations_lost", True)
    assert dict(watched.standing().counts)["lost_without_a_trace"] > 0


@pytest.mark.parametrize("saved", [False, True])
def test_half_a_line_at_the_end_is_lost_and_no_damage(tmp_path, saved):
    traffic = Traffic(4)
    folder, watched = start(tmp_path / "c")
    turns(folder, watched, traffic, 2, save=(1,) if saved else ())
    traffic.answered(watched, 20)
    entry = watched.batch(traffic.now_ns + 1)
    (journal,) = (tmp_path / "c").glob("journal-*")
    with journal.open("ab") as file:
        file.write(line_from_entry(entry, {})[:-30])  # killed while it is written
    folder, watched = restarted(tmp_path / "c", folder)
    assert dict(watched.standing().counts) == {"lost_at_a_restart": 20}
    standing = turns(folder, watched, traffic, 1)
    assert standing.n_units == 80
    assert not standing.final
    # The half line is followed by a whole one: the next start must not take it for damage.
    folder, watched = restarted(tmp_path / "c", folder)
    assert watched.standing() == standing


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("cut", ["line", "half", "all"])
def test_a_journal_that_lost_lines_at_its_end_is_hold(tmp_path, cut, saved):
    traffic = Traffic(5)
    folder, watched = start(tmp_path / "c")
    turns(folder, watched, traffic, 3, save=(0,) if saved else ())
    (journal,) = (tmp_path / "c").glob("journal-*")
    content = journal.read_bytes()
    *lines, _ = content.split(b"\n")
    left = {"line": len(content) - len(lines[-1]) - 1, "half": len(content) - 30, "all": 0}[cut]
    os.truncate(journal, left)
    folder, watched = restarted(tmp_path / "c", folder)
    standing = watched.standing()
    assert (standing.reason, standing.final) == ("state_damaged", True)
    gone = {"line": 1, "half": 1, "all": 2 if saved else 3}[cut]
    assert f"the last {gone} batches that were in the journal are gone" in standing.explanation
    folder.close()


def test_a_kill_between_the_journal_s_line_and_its_count_is_no_damage(tmp_path):
    traffic = Traffic(6)
    folder, watched = start(tmp_path / "c")
    turns(folder, watched, traffic, 2)
    traffic.answered(watched, 20)
    (journal,) = (tmp_path / "c").glob("journal-*")
    with journal.open("ab") as file:
        file.write(line_from_entry(watched.batch(traffic.now_ns + 1), {}))
    folder, watched = restarted(tmp_path / "c", folder)
    assert (watched.standing().n_requests, watched.standing().final) == (60, False)
    folder, watched = restarted(tmp_path / "c", folder)
    assert (watched.standing().n_requests, watched.standing().final) == (60, False)
    folder.close()


def damage_state(path):
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text.replace('"entered_seq": 40', '"entered_seq": 41'))


def damage_journal(path):
    """A score is another one: a plausible batch, but not the one that was written."""
    (journal,) = path.glob("journal-*")
    content = journal.read_bytes()
    changed = re.sub(rb'"score":\[0\.\d', b'"score":[0.9', content, count=1)
    assert changed != content
    journal.write_bytes(changed)


def lose_a_batch(path):
    (journal,) = path.glob("journal-*")
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[1:]))


FILES = (
    "state.json", "arrivals.bin", "manifest.json", "events.jsonl", "policy.yaml", ".boot", "journal-*",
)  # fmt: skip


def lose(name, path):
    for file in path.glob(name):
        file.unlink()


@pytest.mark.parametrize("name", ["state.json", "manifest.json", "events.jsonl", "arrivals.bin"])
def test_a_rollback_stays_whatever_file_is_lost_after_it(tmp_path, name):
    traffic = Traffic(6, harm=0.4)
    folder, watched = start(tmp_path / "c")
    while not watched.ended:
        turns(folder, watched, traffic, 1)
    standing = watched.standing()
    folder.tell("decision", standing)
    folder.publish(standing, watched.evidence(), ())
    folder.save(watched)
    kept = (tmp_path / "c" / "evidence.json").read_bytes()
    folder.close()
    lose(name, tmp_path / "c")
    for _ in range(2):
        folder, watched = start(tmp_path / "c")
        told = watched.standing()
        assert (told.decision, told.reason) == (Decision.ROLLBACK, standing.reason)
        assert not watched.standing_arm
        folder.publish(told, watched.evidence(), ())
        folder.close()
    if name == "state.json":  # nothing is written over what is left
        assert (tmp_path / "c" / "evidence.json").read_bytes() == kept


def test_a_promotion_whose_evidence_is_lost_is_hold(tmp_path):
    folder, watched = start(tmp_path / "c")
    watched.keep(Ending(decision=Decision.PROMOTE, reason="all_guardrails_pass", explanation="x"))
    folder.tell("decision", watched.standing())
    folder.save(watched)
    folder.close()
    lose("state.json", tmp_path / "c")
    folder, watched = start(tmp_path / "c")
    assert (watched.standing().reason, watched.standing_arm) == ("state_damaged", False)
    folder.close()


def test_an_end_that_was_told_and_not_saved_is_an_end(tmp_path):
    folder, watched = start(tmp_path / "c")
    watched.stop("version_changed", "x")
    folder.tell("decision", watched.standing())
    folder, watched = restarted(tmp_path / "c", folder)
    assert watched.ended
    folder.close()


def test_a_restart_after_the_end_says_nothing_of_requests_that_were_lost(tmp_path):
    traffic = Traffic(6, harm=0.4)
    folder, watched = start(tmp_path / "c")
    turns(folder, watched, traffic, 1)
    for _ in range(5):
        traffic.request(watched)
    watched.stop("budget_spent", "x")
    folder.save(watched)
    folder.end_without_room()
    folder, watched = restarted(tmp_path / "c", folder)
    assert dict(watched.standing().counts) == {}
    folder.close()


@pytest.mark.parametrize(
    "damage",
    [
        damage_state,
        damage_journal,
        lose_a_batch,
        lambda path: (path / "state.json").write_text('{"plan"'),
        lambda path: (path / "state.json").write_text("null"),
        lambda path: (path / "state.json").write_text("[]"),
        lambda path: (path / "manifest.json").write_text(""),
        lambda path: (path / "manifest.json").write_text("[]"),
        lambda path: os.truncate(path / "arrivals.bin", 100),
        *(partial(lose, name) for name in FILES),
    ],
)
def test_damaged_evidence_is_hold_with_all_traffic_on_the_baseline(tmp_path, damage):
    traffic = Traffic(5)
    folder, watched = start(tmp_path / "c")
    turns(folder, watched, traffic, 5, save=(1,))
    folder.close()
    damage(tmp_path / "c")
    folder, watched = start(tmp_path / "c")
    standing = watched.standing()
    assert (standing.decision, standing.reason, standing.final) == (
        Decision.HOLD, "state_damaged", True,
    )  # fmt: skip
    assert "cannot be believed" in standing.explanation
    assert traffic.request(watched) is None
    assert not watched.standing_arm


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": "t"}, "another seed"),
        ({"candidate": "newer"}, "another candidate"),
        ({"baseline": "older"}, "another baseline"),
    ],
)
def test_a_restart_that_asks_something_else_is_refused(tmp_path, changes, says):
    folder, _ = start(tmp_path / "c")
    folder.close()
    with pytest.raises(UsageError, match=says):
        start(tmp_path / "c", **changes)
    start(tmp_path / "c")[0].close()


def test_a_folder_of_an_older_form_is_refused_and_says_what_to_do(tmp_path):
    folder, watched = start(tmp_path / "c")
    turns(folder, watched, Traffic(1), 2)
    folder.close()
    manifest = tmp_path / "c" / "manifest.json"
    found = json.loads(manifest.read_text())
    del found["form"]
    manifest.write_text(json.dumps(found))
    with pytest.raises(UsageError, match=r"another version of harness.*name another folder"):
        start(tmp_path / "c")


def test_a_restart_with_another_policy_is_refused(tmp_path):
    start(tmp_path / "c")[0].close()
    other = live(POLICY.replace("margin: 0.1", "margin: 0.2"))
    asked = Identity.of(other, seed="s", baseline="old", candidate="new")
    with pytest.raises(UsageError, match="another policy"):
        CanaryFolder.start(tmp_path / "c", other, asked, POLICY)


def test_two_processes_never_share_a_folder(tmp_path):
    folder, _ = start(tmp_path / "c")
    with pytest.raises(UsageError, match="another process"):
        start(tmp_path / "c")
    folder.close()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "note").write_text("x")
    with pytest.raises(UsageError, match="not an empty folder"):
        start(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").write_text("{}")
    with pytest.raises(UsageError):
        start(tmp_path / "c")


def test_a_full_disk_shows_before_a_request_is_served(tmp_path, monkeypatch):
    import os

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(GateError, match="No space left"):
        start(tmp_path / "c")


def test_a_machine_that_was_started_again_is_told(tmp_path):
    folder, _ = start(tmp_path / "c")
    folder.close()
    (tmp_path / "c" / ".boot").write_bytes(b"another")
    folder, watched = start(tmp_path / "c")
    assert dict(watched.standing().counts) == {"reboots": 1}
    folder, watched = restarted(tmp_path / "c", folder)
    assert dict(watched.standing().counts) == {}


def test_a_verdict_outlives_a_restart(tmp_path):
    traffic = Traffic(6, harm=0.4)
    folder, watched = start(tmp_path / "c")
    while not watched.ended:
        turns(folder, watched, traffic, 1)
    folder, watched = restarted(tmp_path / "c", folder)
    assert watched.standing().decision is Decision.ROLLBACK
    assert traffic.request(watched) is None


def test_followers_read_what_is_told_until_the_end(tmp_path):
    traffic = Traffic(7, harm=0.4)
    folder, watched = start(tmp_path / "c")
    looks = iter(range(5))

    def wait():
        if next(looks) == 0:
            turns(folder, watched, traffic, 3)
            folder.tell("answer", watched.standing())
        elif not watched.ended:
            while not watched.ended:
                turns(folder, watched, traffic, 1)
            folder.tell("decision", watched.standing())
        return True

    told = list(follow(tmp_path / "c", wait))
    assert [event["event"] for event in told] == ["start", "answer", "decision"]
    assert told[-1]["decision"] == "ROLLBACK"
    assert text_of(told[-1]).split()[1] == "ROLLBACK"
    with pytest.raises(UsageError, match="no canary's folder"):
        next(follow(tmp_path, wait))


def test_a_torn_event_is_said_and_what_comes_behind_it_is_followed(tmp_path):
    folder, _ = start(tmp_path / "c")
    events = tmp_path / "c" / EVENTS
    whole = events.read_bytes()
    events.write_bytes(whole + whole[:50] + whole + b"noise\n" + whole)
    heard = []
    told = list(follow(tmp_path / "c", lambda: False, heard.append))
    assert [event["event"] for event in told] == ["start"] * 3
    assert len(heard) == 2
    assert all("a line is damaged" in line for line in heard)
    folder.close()


def test_a_line_that_a_kill_left_open_is_ended_at_the_restart(tmp_path):
    folder, _ = start(tmp_path / "c")
    with (tmp_path / "c" / EVENTS).open("ab") as file:
        file.write(b'{"event": "answ')
    folder, _ = restarted(tmp_path / "c", folder)
    lines = (tmp_path / "c" / EVENTS).read_bytes().splitlines()
    assert (len(lines), json.loads(lines[2])["event"]) == (3, "restart")
    folder.close()


def test_followers_hear_once_that_nobody_serves_until_somebody_does(tmp_path):
    folder, watched = start(tmp_path / "c")
    heard = []
    looks = iter(range(200))

    def wait():
        nonlocal folder, watched
        match next(looks):
            case 30:
                assert heard == []
                folder.close()
            case 100:
                assert len(heard) == 1
                folder, watched = start(tmp_path / "c")
            case 120:
                folder.close()
            case 199:
                return False
        return True

    list(follow(tmp_path / "c", wait, heard.append))
    assert ["nobody serves" in line for line in heard] == [True, True]


def test_decision_and_evidence_are_written_as_in_a_run(tmp_path):
    from harness.store.files import sha256_of_file

    traffic = Traffic(8, harm=0.4)
    folder, watched = start(tmp_path / "c")
    while not watched.ended:
        turns(folder, watched, traffic, 1)
    folder.publish(watched.standing(), watched.evidence(), ("nobody looked at the moon",))
    decision = json.loads((tmp_path / "c" / "decision.json").read_text())
    assert (decision["decision"], decision["binding_guardrail"]) == ("ROLLBACK", "score")
    assert decision["not_compared"] == ["nobody looked at the moon"]
    assert decision["evidence_sha256"] == sha256_of_file(tmp_path / "c" / "evidence.json")
    rails = {row["name"]: row["verdict"] for row in decision["guardrails"]}
    assert (set(rails), rails["score"]) == ({"score", "errors"}, "FAIL")
    assert (decision["baseline"], decision["candidate"]) == ({"given": "old"}, {"given": "new"})
    evidence = json.loads((tmp_path / "c" / "evidence.json").read_text())
    assert evidence["evidence"][0]["verdict"] == "FAIL"
    assert (evidence["decision"], evidence["reason"]) == (decision["decision"], decision["reason"])


def test_a_version_outlives_a_kill(tmp_path):
    folder, watched = start(tmp_path / "c")
    watched.saw_versions(candidate=True, versions={"1"})
    turns(folder, watched, Traffic(1), 1)
    folder, watched = restarted(tmp_path / "c", folder)
    watched.saw_versions(candidate=True, versions={"2"})
    assert watched.standing().reason == "version_changed"
    folder.close()


def test_time_in_which_nothing_was_served_is_no_stay(tmp_path):
    asked = live(POLICY.replace("{requests: 200}", "{time: 60s}"))
    same = Identity.of(asked, seed="s", baseline="old", candidate="new")
    folder, watched = CanaryFolder.start(tmp_path / "c", asked, same, POLICY)
    traffic = Traffic(1)
    turns(folder, watched, traffic, 2)
    for _ in range(2):
        # The second kill finds the first stop in the journal only.
        folder.close()
        folder, watched = CanaryFolder.start(tmp_path / "c", asked, same, POLICY)
        traffic.now_ns += 3600 * 10**9
        watched.resumed(traffic.now_ns)
        assert turns(folder, watched, traffic, 2).step == 0
    turns(folder, watched, traffic, 40)
    assert watched.standing().step == 1
    folder.close()


def test_after_a_restart_nothing_goes_up_before_the_candidate_has_answered(tmp_path):
    folder, watched = start(tmp_path / "c")
    traffic = Traffic(1)
    turns(folder, watched, traffic, 3)
    for _ in range(2):  # the second one finds the first in the journal only
        folder, watched = restarted(tmp_path / "c", folder)
        watched.resumed(traffic.now_ns)
        standing = turns(folder, watched, traffic, 1)
        assert (standing.step, standing.n_units >= 200) == (0, traffic.sent >= 200)
        assert "Since the last start the candidate has given" in standing.explanation
    assert turns(folder, watched, traffic, 9).step == 1
    folder.close()


def test_a_restart_on_a_full_disk_serves_the_baseline_and_stays_so(tmp_path):
    """An ended canary asks nothing of the disk; room that is made later does not wake it."""
    path, traffic = tmp_path / "c", Traffic(3)
    folder, watched = start(path)
    turns(folder, watched, traffic, 3)
    events = path / EVENTS
    events.unlink()
    events.symlink_to("/dev/full")
    folder, watched = restarted(path, folder)
    told = watched.standing()
    assert (told.decision, told.reason, told.final) == (Decision.HOLD, "state_not_saved", True)
    assert "No space left" in told.explanation
    events.unlink()
    folder, watched = restarted(path, folder)
    assert watched.standing().reason == "state_not_saved"
    assert traffic.request(watched, "later") is None  # the baseline's, and nothing is kept
    folder.close()


def test_an_end_that_found_no_room_is_kept(tmp_path):
    path, traffic = tmp_path / "c", Traffic(4)
    folder, watched = start(path)
    turns(folder, watched, traffic, 3)
    folder.end_without_room()
    folder, watched = restarted(path, folder)
    assert watched.standing().reason == "state_not_saved"
    folder.close()


WRITTEN_BY_A_START = (
    "manifest.json", "events.jsonl", "state.json", "journal-*", ".boot", "arrivals.bin",
    "policy.yaml", ".run", ".lock",
)  # fmt: skip


@pytest.mark.parametrize("n", range(1, len(WRITTEN_BY_A_START) + 1))
@pytest.mark.parametrize("half", [False, True])
def test_a_first_start_that_was_killed_before_it_served_is_begun_anew(tmp_path, n, half):
    path = tmp_path / "c"
    folder, _ = start(path)
    folder.close()
    for name in WRITTEN_BY_A_START[:n]:
        lose(name, path)
    if half and not (path / "arrivals.bin").exists() and (path / ".run").exists():
        (path / "arrivals.bin").write_bytes(bytes(100))
    if half:
        (path / f".{WRITTEN_BY_A_START[n - 1]}.12.tmp").write_bytes(b"half")
    folder, watched = start(path, seed="t")
    turns(folder, watched, Traffic(1), 2)
    folder, watched = restarted(path, folder, seed="t")
    assert (watched.standing().n_requests, watched.standing().final) == (40, False)
    events = [event["event"] for event in follow(path, lambda: False)]
    assert events == ["start", "restart"]
    assert not list(path.glob(".*.tmp"))
    folder.close()


@pytest.mark.parametrize("evidence", ["an arrival", "a batch", "a verdict", "a file of somebody"])
def test_a_folder_without_manifest_that_holds_anything_is_not_begun_anew(tmp_path, evidence):
    path = tmp_path / "c"
    folder, watched = start(path)
    if evidence == "an arrival":
        Traffic(1).request(watched)
    elif evidence == "a batch":
        folder.arrivals.put_batch(0)
    elif evidence == "a verdict":
        watched.stop("budget_spent", "x")
        folder.tell("decision", watched.standing())
    else:
        (path / "mirror.json").write_text("{}")
    folder.close()
    lose("manifest.json", path)
    folder, watched = start(path)
    assert watched.ended
    folder.close()


def test_a_start_that_is_under_way_is_left_alone(tmp_path):
    folder, _ = start(tmp_path / "c")
    lose("manifest.json", tmp_path / "c")
    with pytest.raises(UsageError, match="another process"):
        start(tmp_path / "c")
    folder.close()

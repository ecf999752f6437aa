"""A run that was interrupted anywhere goes on to the verdict of a run that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gates import AS_OF, FEW_ALONE, MODELS, RETRAIN, ROOT

from harness.core.errors import TrafficError, UsageError
from harness.pipeline import judgement, room
from harness.pipeline import prepare as preparation
from harness.pipeline.gate import resume_gate, run_gate
from harness.store.runs import RunFolder
from harness.store.traffic import TrafficSource, TrafficWriter

SEED = 20130701
BATCH = 128
INTERRUPTED = """
import os, sys
from harness.pipeline import alone, loop
from harness.pipeline.gate import resume_gate
from pathlib import Path

loop.STATE_S = float(sys.argv[5])
alone.WANTED = int(sys.argv[6])

run, stage, after, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sent = []

def listener(event):
    if event.stage == stage and event.done >= after and not sent:
        sent.append(event)
        os.kill(os.getpid(), number)

resume_gate(run, listener=listener)
"""
"""Goes on with a run and sends itself a signal when a stage has come so far."""

STRICT = {
    **RETRAIN,
    "windows": {**RETRAIN["windows"], "min_requests": 100_000},
}
"""Never stops early, so that there is something to interrupt."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, some_flights, windows):
    """A run that is prepared and not begun, in batches of 128."""
    import yaml

    folder = tmp_path_factory.mktemp("prepared")
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(STRICT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation.secrets, "randbits", lambda _: SEED)
        patch.setattr(preparation, "BATCH_REQUESTS", BATCH)
        patch.setattr("harness.pipeline.gate.conclude", _not_now)
        with pytest.raises(KeyboardInterrupt):
            run_gate(
                str(MODELS / "v1.onnx"), str(MODELS / "v2.onnx"), traffic=[some_flights],
                policy=policy, as_of=AS_OF, out=folder / "run", cache_dir=windows,
            )  # fmt: skip
    return folder / "run"


def _not_now(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def uninterrupted(prepared):
    """The same run, ended without interruption."""
    run = copy_of(prepared, "uninterrupted")
    resume_gate(run)
    return run


def copy_of(prepared, name):
    return Path(shutil.copytree(prepared, prepared.parent / name))


def interrupted(run, stage, after, number, *, state_s=0.0):
    """The exit status of a process that was interrupted while it went on with the run.

    Every chunk has a state of its own, unless they are to be further apart.
    """
    ended = subprocess.run(
        [
            sys.executable, "-c", INTERRUPTED, run, stage, str(after), str(int(number)),
            str(state_s), str(FEW_ALONE),
        ],
        capture_output=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert not (run / "decision.json").exists()
    return ended.returncode


def read(run, name):
    """A JSON file; of a decision's digests, those of files without measured or saved times."""
    content = json.loads((run / f"{name}.json").read_text())
    if name == "decision":
        for timed in ("summary.json", "state.npz"):
            del content["files_sha256"][timed]
    return content


def chunks(run):
    folder = RunFolder.open(run)
    return [folder.read_pairs(n) for n in folder.pairs_chunks()]


def pairs(run):
    parts = chunks(run)
    return {
        name: np.concatenate([c[name] for c in parts]) for name in parts[0] if "latency" not in name
    }


def without_times(summary):
    return {k: v for k, v in summary.items() if k != "latency"}


def assert_same_outcome(run, other):
    for name in ("decision", "evidence", "findings", "intermediates"):
        assert read(run, name) == read(other, name)
    assert without_times(read(run, "summary")) == without_times(read(other, "summary"))
    mine, theirs = pairs(run), pairs(other)
    assert mine.keys() == theirs.keys()
    for name, column in mine.items():
        np.testing.assert_array_equal(column, theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("stage", "batches", "number", "kept"),
    [
        ("floor", 1, signal.SIGKILL, 0),
        pytest.param("floor", 1, signal.SIGTERM, 0, marks=pytest.mark.long),
        # Killed in the floor, early and late stands beside it.
        pytest.param("replay", 1, signal.SIGKILL, 0, marks=pytest.mark.long),
        ("replay", 3, signal.SIGINT, 3),
        # Killed between two states stands in the test of chunks that share one.
        pytest.param("replay", 11, signal.SIGKILL, 8, marks=pytest.mark.long),
        pytest.param("replay", 11, signal.SIGTERM, 11, marks=pytest.mark.long),
        pytest.param("replay", 24, signal.SIGKILL, 24, marks=pytest.mark.long),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    prepared, uninterrupted, stage, batches, number, kept
):
    run = copy_of(prepared, f"{stage}-{batches}-{number.name}")
    assert interrupted(run, stage, batches * BATCH, number) != 0
    assert sum(len(c["seq"]) for c in chunks(run)) == kept * BATCH
    resume_gate(run)
    assert_same_outcome(run, uninterrupted)


def test_a_run_interrupted_again_and_again_ends_the_same(prepared, uninterrupted):
    run = copy_of(prepared, "again")
    for batches, number in ((9, signal.SIGKILL), (13, signal.SIGTERM), (28, signal.SIGKILL)):
        interrupted(run, "replay", batches * BATCH, number)
    events = []
    resume_gate(run, listener=events.append)
    assert_same_outcome(run, uninterrupted)
    # A second measurement of a noisy baseline would be another floor.
    assert "floor" not in {e.stage for e in events}


def test_an_interrupted_run_has_a_report_that_says_so_and_forgets_no_failure(prepared, harness):
    run = copy_of(prepared, "flaky")
    assert interrupted(run, "replay", 11 * BATCH, signal.SIGTERM) != 0
    assert harness("report", run).code == 0
    assert "did not finish" in (run / "summary.md").read_text()
    with RunFolder.open(run, write=True) as folder:
        chunk, arrays, meta = folder.load_state()
        folder.save_state(chunk, arrays, meta | {"flaky": meta["flaky"] + 2})
    resume_gate(run)
    assert "HOLD" in (run / "summary.md").read_text()
    (found,) = [f for f in read(run, "findings")["findings"] if f["kind"] == "candidate_flaky"]
    assert found["what"].startswith("2 batches")


def test_a_fresh_run_and_a_resumed_one_agree(
    prepared, uninterrupted, some_flights, windows, tmp_path, monkeypatch
):
    monkeypatch.setattr(preparation.secrets, "randbits", lambda _: SEED)
    monkeypatch.setattr(preparation, "BATCH_REQUESTS", BATCH)
    fresh = run_gate(
        str(MODELS / "v1.onnx"), str(MODELS / "v2.onnx"), traffic=[some_flights],
        policy=prepared / "policy.yaml", as_of=AS_OF, out=tmp_path / "run", cache_dir=windows,
    )  # fmt: skip
    assert read(fresh.run, "evidence") == read(uninterrupted, "evidence")


def test_a_kill_while_sealing_leaves_nothing_to_resume_and_a_usable_cache(
    some_flights, tmp_path, write_policy
):
    script = f"""
import os
from pathlib import Path
from harness.pipeline.gate import run_gate

def listener(event):
    if event.stage == "seal" and event.done >= 1000:
        os.kill(os.getpid(), 9)

run_gate({str(MODELS / "v1.onnx")!r}, {str(MODELS / "v2.onnx")!r}, traffic=[Path({str(some_flights)!r})],
         policy=Path({str(write_policy(RETRAIN))!r}), as_of={AS_OF!r}, out=Path({str(tmp_path / "killed")!r}),
         cache_dir=Path({str(tmp_path / "cache")!r}), listener=listener)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(UsageError, match="before anything was fixed"):
        resume_gate(tmp_path / "killed")
    again = run_gate(
        str(MODELS / "v1.onnx"), str(MODELS / "v2.onnx"), traffic=[some_flights],
        policy=write_policy(RETRAIN), as_of=AS_OF, out=tmp_path / "again",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    assert again.decision == "PROMOTE"


def test_ctrl_c_while_sealing_leaves_no_half_a_run(some_flights, tmp_path, write_policy):
    def listener(event):
        if event.stage == "seal" and event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_gate(
            str(MODELS / "v1.onnx"), str(MODELS / "v2.onnx"), traffic=[some_flights],
            policy=write_policy(RETRAIN), as_of=AS_OF, out=tmp_path / "run",
            cache_dir=tmp_path / "cache", listener=listener,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


_COMMAND = f"""
import os, sys, threading
from harness import cli
from harness.pipeline import alone

alone.WANTED = {FEW_ALONE}
sign, held = sys.argv[1], []

def hold(event, _):
    if event not in ("open", "os.rename", "subprocess.Popen") or held or not os.path.exists(sign):
        return
    if threading.current_thread() is threading.main_thread():
        held.append(event)
        sys.stdin.readline()

sys.addaudithook(hold)
sys.argv = ["harness", *sys.argv[2:]]
cli.main()
"""
"""The command, asking as few requests alone as these tests do; it goes no further than the sign until it is told to."""
PATIENCE_S = 120.0
"""For a command that nothing is wrong with."""


@pytest.mark.parametrize(
    ("sign", "number"),
    [
        ("models/probes/baseline.onnx", signal.SIGTERM),
        # The other two are each signal and each place once.
        pytest.param("models/probes/baseline.onnx", signal.SIGINT, marks=pytest.mark.long),
        ("pairs/00000.parquet", signal.SIGINT),
    ],
)
def test_ctrl_c_on_the_command_exits_4_and_can_be_resumed(
    prepared, uninterrupted, number, sign, harness
):
    run = copy_of(prepared, f"command-{number.name}-{Path(sign).stem}")
    (run / sign).unlink(missing_ok=True)  # what the command itself writes is the sign
    command = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, run / sign, "gate", "--resume", run],
        cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(run / sign, command)
    os.killpg(command.pid, number)
    _, said = command.communicate("go on\n", timeout=PATIENCE_S)
    assert command.returncode == 4
    assert "interrupted" in said
    assert f"harness gate --resume {run}" in said
    assert "Traceback" not in said
    assert harness("gate", "--resume", run, "-q").code == 3
    assert_same_outcome(run, uninterrupted)


_SWALLOWED = f"""
import os, signal, sys, weakref
from harness import cli
from harness.pipeline import alone
import harness.pipeline.gate

alone.WANTED = {FEW_ALONE}

class Gone: pass

def restored(*given, restore=harness.pipeline.gate.restore):
    gone = Gone()
    heard = weakref.ref(gone, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del gone  # what the handler raises in a weak reference's callback is dropped
    return restore(*given)

harness.pipeline.gate.restore = restored
sys.argv = ["harness", "gate", "--resume", sys.argv[1]]
cli.main()
"""


def test_an_interruption_that_python_swallowed_is_heard_before_the_verdict(
    prepared, uninterrupted, harness
):
    run = copy_of(prepared, "swallowed")
    ran = subprocess.run(
        [sys.executable, "-c", _SWALLOWED, str(run)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "Exception ignored in" in ran.stderr
    assert ran.returncode == 4
    assert f"harness gate --resume {run}" in ran.stderr
    assert harness("gate", "--resume", run, "-q").code == 3
    assert_same_outcome(run, uninterrupted)


def wait_for(path, process):
    until = time.perf_counter() + PATIENCE_S
    while not path.exists() and process.poll() is None and time.perf_counter() < until:
        time.sleep(0.005)
    assert path.exists()


def test_chunks_that_share_a_state_come_again_after_a_kill(prepared, uninterrupted):
    run = copy_of(prepared, "shared-state")
    assert interrupted(run, "replay", 18 * BATCH, signal.SIGKILL, state_s=3600.0) == -signal.SIGKILL
    assert sorted(p.name for p in (run / "pairs").glob("0*")) == ["00000.parquet", "00001.parquet"]
    assert RunFolder.open(run).pairs_chunks() == (0,)
    resume_gate(run)
    assert_same_outcome(run, uninterrupted)


def test_a_finished_run_is_not_resumed(uninterrupted, harness):
    ran = harness("gate", "--resume", uninterrupted)
    assert ran.code == 2
    assert "this run is finished" in ran.err
    assert "harness report" in ran.err


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path, harness):
    ran = harness("gate", "--resume", tmp_path)
    assert ran.code == 2
    assert "no run folder" in ran.err


def test_a_run_without_manifest_is_not_resumed(prepared, harness):
    run = copy_of(prepared, "no-manifest")
    (run / "manifest.json").unlink()
    ran = harness("gate", "--resume", run)
    assert ran.code == 2
    assert "new folder" in ran.err


@pytest.mark.parametrize("part", ["request", "seed", "order_sha256", "selection", "candidate"])
def test_a_run_of_an_older_form_is_refused_and_says_what_it_lacks(prepared, harness, part):
    run = copy_of(prepared, f"older-{part}")
    manifest = read(run, "manifest")
    del manifest[part]
    (run / "manifest.json").write_text(json.dumps(manifest))
    ran = harness("gate", "--resume", run)
    assert (ran.code, "Traceback" in ran.err) == (2, False)
    assert f"'{part}' is missing" in ran.err
    assert "start a new one" in ran.err


@pytest.mark.parametrize(("part", "other"), [("format", 1), ("harness_version", "0.0.1")])
def test_a_run_that_another_version_began_is_refused(prepared, harness, part, other):
    run = copy_of(prepared, f"another-{part}")
    manifest = read(run, "manifest") | {part: other}
    (run / "manifest.json").write_text(json.dumps(manifest))
    ran = harness("gate", "--resume", run)
    assert ran.code == 2
    assert "it was begun by harness" in ran.err
    assert "Go on with the version that began the run" in ran.err


def test_evidence_of_an_older_form_is_refused(prepared, harness):
    run = copy_of(prepared, "older-state")
    with RunFolder.open(run, write=True) as folder:
        folder.save_state(0, {}, {"next_batch": 1})
    ran = harness("gate", "--resume", run)
    assert (ran.code, "Traceback" in ran.err) == (2, False)
    assert "saved evidence is not what this version of harness writes" in ran.err


def test_a_second_process_on_one_run_is_refused(prepared, harness):
    run = copy_of(prepared, "two")
    with RunFolder.open(run, write=True):
        ran = harness("gate", "--resume", run)
    assert ran.code == 2
    assert "another process is writing this run" in ran.err


def test_a_resume_takes_no_other_settings(prepared, harness):
    ran = harness("gate", "--resume", prepared, "--as-of", AS_OF)
    assert ran.code == 2
    assert "--as-of" in ran.err


def test_a_pinned_model_that_was_changed_is_refused(prepared):
    run = copy_of(prepared, "changed-model")
    manifest = read(run, "manifest")
    copied = Path(shutil.copy(manifest["candidate"]["path"], run / "changed.onnx"))
    copied.write_bytes(copied.read_bytes() + b"\0")
    manifest["candidate"]["path"] = str(copied)
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="the run pinned"):
        resume_gate(run)


def test_another_window_is_refused(prepared):
    run = copy_of(prepared, "other-window")
    manifest = read(run, "manifest")
    manifest["window"]["window_hash"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TrafficError, match="not the one of this run"):
        resume_gate(run)


def elsewhere(prepared, name, traffic):
    """A copy of the run that was begun on other traffic files, whose window is no longer there."""
    run = copy_of(prepared, name)
    manifest = read(run, "manifest")
    manifest["request"]["cache_dir"] = str(run / "cache")
    manifest["request"]["traffic"] = [str(traffic)]
    manifest["window"]["path"] = str(run / "cache" / "cleared")
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


def test_a_window_that_is_gone_is_sealed_again(prepared, uninterrupted, some_flights):
    run = elsewhere(prepared, "cleared", some_flights)
    resume_gate(run)
    for name in ("evidence", "findings", "intermediates"):
        assert read(run, name) == read(uninterrupted, name)


def test_a_window_that_is_gone_with_its_traffic_is_refused(prepared, tmp_path, harness):
    run = elsewhere(prepared, "gone", tmp_path / "no-traffic")
    ran = harness("gate", "--resume", run)
    assert ran.code == 2
    assert "cannot be sealed again" in ran.err
    assert str(tmp_path / "no-traffic") in ran.err
    assert "harness traffic seal" not in ran.err


def test_a_window_that_is_gone_and_whose_traffic_changed_is_refused(
    prepared, some_flights, tmp_path, harness
):
    traffic = Path(shutil.copytree(some_flights, tmp_path / "traffic"))
    exchanges = list(TrafficSource.open([traffic]).exchanges())
    for file in traffic.glob("*.parquet"):
        file.unlink()
    with TrafficWriter(traffic) as writer:
        writer.write(exchanges[1:])
    ran = harness("gate", "--resume", elsewhere(prepared, "other-traffic", traffic))
    assert ran.code == 2
    assert "not the one it was sealed from" in ran.err


def test_a_sealed_window_that_was_the_traffic_and_is_gone_is_refused(prepared, tmp_path, harness):
    run = elsewhere(prepared, "no-window", tmp_path / "window")
    manifest = read(run, "manifest")
    manifest["window"]["path"] = str(tmp_path / "window")
    (run / "manifest.json").write_text(json.dumps(manifest))
    ran = harness("gate", "--resume", run)
    assert ran.code == 2
    assert "the sealed window of this run is gone" in ran.err


def test_a_window_that_was_changed_is_refused(prepared):
    run = copy_of(prepared, "changed-window")
    manifest = read(run, "manifest")
    window = Path(shutil.copytree(manifest["window"]["path"], run / "window"))
    manifest["window"]["path"] = str(window)
    (run / "manifest.json").write_text(json.dumps(manifest))
    columns = bytearray((window / "columns.arrow").read_bytes())
    columns[len(columns) // 2] ^= 1
    (window / "columns.arrow").write_bytes(columns)
    with pytest.raises(TrafficError):
        resume_gate(run)


def test_an_order_that_was_changed_is_refused(prepared):
    run = copy_of(prepared, "changed-order")
    with np.load(run / "order.npz") as saved:
        arrays = dict(saved)
    arrays["newest"] = arrays["newest"][::-1]
    with (run / "order.npz").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(UsageError, match="order"):
        resume_gate(run)


def test_a_policy_that_was_changed_is_refused(prepared):
    run = copy_of(prepared, "changed-policy")
    policy = run / "policy.yaml"
    policy.write_text(policy.read_text().replace("margin: 0.02", "margin: 0.2"))
    with pytest.raises(UsageError, match=r"policy\.yaml"):
        resume_gate(run)


@pytest.mark.parametrize(
    "before", ["mixing_of_run", pytest.param("largest_batch", marks=pytest.mark.long)]
)
def test_batches_follow_from_the_floor_that_an_interrupted_run_measured(
    prepared, monkeypatch, before
):
    """Only the floor has shown how heavy answers with features are."""
    # Fewer than usual with features, the usual ones without.
    monkeypatch.setattr(room, "MOST_ANSWERED", 20_000)
    planned = []
    for name, stops in (("whole", ()), ("stopped", (before,))):
        run = copy_of(prepared, f"{name}-{before}")
        for stop in (*stops, "answering_of_run"):
            with monkeypatch.context() as patch:
                patch.setattr(judgement, stop, _not_now)
                with pytest.raises(KeyboardInterrupt):
                    resume_gate(run)
        planned.append((read(run, "batching")["requests"], read(run, "batching")["why"]))
    assert planned[0] == planned[1]
    assert planned[0][0] < BATCH

"""What ends a child, and what is said of it: memory from outside, and deadlines by the scheduler's word."""

import itertools
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import sandbox_models as models
from test_sandbox_hostile import PRELUDE, fault_of, hostile

from harness.core.errors import SandboxError
from harness.core.observations import Cause, Outcome
from harness.core.policies import SandboxPolicy
from harness.sandbox import deadlines
from harness.sandbox.answers import BatchAnswer, BatchFault
from harness.sandbox.child_process import ChildProcess
from harness.sandbox.process import Sandbox
from harness.sandbox.watchdog import Watchdog

MIB = 1 << 20
UNLIMITED = PRELUDE.replace(
    'layers = lockdown.stage_a(config["parent"], config["memory_bytes"], die_with_parent=True)',
    "layers = {}",
)


def forever(seconds: float = 600.0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import time; time.sleep({seconds})"], start_new_session=True
    )


def test_a_process_over_its_limit_is_ended_and_one_within_is_not():
    dog, inside, over = Watchdog(), forever(), forever()
    watches = [dog.join(inside.pid, 1 << 40), dog.join(over.pid, 1)]
    try:
        assert over.wait(timeout=60) == -9
        # The first look may have come before this one had grown, or have come to the other one first.
        until = time.perf_counter() + 60
        while watches[0].peak_bytes <= MIB and time.perf_counter() < until:
            time.sleep(0.005)
        assert watches[0].peak_bytes > MIB
        assert inside.poll() is None
        assert [w.killed for w in watches] == [False, True]
    finally:
        for watch, process in zip(watches, (inside, over), strict=True):
            dog.leave(watch)
            process.kill()
            process.wait()


def test_what_a_watch_reads_is_closed_when_it_is_left(descriptors):
    before = descriptors()
    dog, process = Watchdog(), forever()
    watch = dog.join(process.pid, 1 << 40)
    try:
        until = time.perf_counter() + 60
        while not watch.peak_bytes and time.perf_counter() < until:
            time.sleep(0.005)
        assert len(descriptors()) > len(before)
        dog.leave(watch)
        assert descriptors() == before
    finally:
        dog.leave(watch)
        process.kill()
        process.wait()


def test_the_watch_ends_with_the_last_process():
    before = psutil.Process().num_threads()
    dog, process = Watchdog(), forever()
    dog.leave(dog.join(process.pid, 1 << 40))
    process.kill()
    process.wait()
    until = time.perf_counter() + 60
    while psutil.Process().num_threads() > before and time.perf_counter() < until:
        time.sleep(0.005)
    # Threads of earlier tests may end meanwhile, too.
    assert psutil.Process().num_threads() <= before


def test_a_child_without_an_address_limit_is_stopped_near_its_memory(tmp_path):
    script = hostile(
        tmp_path,
        """
        hello()
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1 << 20)))
        """,
    )
    script.write_text(script.read_text().replace(PRELUDE, UNLIMITED))
    assert "stage_a" not in script.read_text()
    limits = SandboxPolicy(require="S0", memory_bytes=200 * MIB, batch_deadline_s=20.0)
    sandbox = Sandbox.start(
        models.identity(tmp_path / "m.onnx"), name="c", limits=limits, python=script,
        allow_weaker=True,
    )  # fmt: skip
    assert isinstance(sandbox, Sandbox), sandbox
    with sandbox:
        sandbox.submit({"x": np.zeros((2, 2), np.float32)}, 2, trace=False)
        fault = sandbox.collect()
    assert isinstance(fault, BatchFault)
    assert (fault.kind, fault.cause) == (Outcome.CRASH, Cause.MEMORY_LIMIT)
    assert "200 MiB" in fault.message


def test_a_request_that_the_address_limit_refuses_is_told_as_memory(tmp_path):
    limits = SandboxPolicy(memory_bytes=1 << 30)
    sandbox = Sandbox.start(models.hungry(tmp_path / "m.onnx"), name="c", limits=limits)
    assert isinstance(sandbox, Sandbox)
    with sandbox:
        sandbox.submit({"x": np.array([50 << 28])}, 1, trace=False)
        fault = sandbox.collect()
        assert isinstance(fault, BatchFault)
        assert (fault.kind, fault.cause, fault.alive) == (Outcome.ERROR, Cause.MEMORY_LIMIT, True)


@pytest.mark.parametrize(
    ("lines", "cause", "word"),
    [
        ("while True:\n    pass", Cause.SPINNING, "computing"),
        ("time.sleep(60)", Cause.BLOCKED, "blocked"),
    ],
)
def test_a_deadline_says_what_the_child_did(tmp_path, monkeypatch, lines, cause, word):
    monkeypatch.setattr(deadlines, "PATIENCE", 100.0)
    fault = fault_of(tmp_path, lines)
    assert (fault.kind, fault.cause) == (Outcome.TIMEOUT, cause)
    assert word in fault.message


@contextmanager
def crowded(pid: int, others: int):
    """Shares one processor between a process and some that want all of it."""
    core = min(os.sched_getaffinity(0))
    # Sessions of their own: a scheduler that groups by session gives each as much as the child.
    busy = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", "print(flush=True)\nwhile True: pass"],
            stdout=subprocess.PIPE, start_new_session=True,
        )
        for _ in range(others)
    ]  # fmt: skip
    try:
        for process in busy:
            process.stdout.readline()
            os.sched_setaffinity(process.pid, {core})
        os.sched_setaffinity(pid, {core})
        yield
    finally:
        for process in busy:
            process.kill()
            process.communicate()


def counting(folder: Path, deadline_s: float) -> Sandbox:
    limits = SandboxPolicy(require="S0", batch_deadline_s=deadline_s)
    sandbox = Sandbox.start(models.counting(folder / "m.onnx"), name="c", limits=limits)
    assert isinstance(sandbox, Sandbox)
    return sandbox


def cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def counted(sandbox: Sandbox, times: int, timeout_s: float | None = None):
    sandbox.submit({"x": np.array([times])}, 1, trace=False)
    return sandbox.collect(timeout_s)


def test_a_child_without_a_processor_is_not_called_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(
        deadlines, "LEAST_PATIENCE_S", 0.0
    )  # in which it would compute for its deadline
    with counting(tmp_path, 0.2) as sandbox, crowded(sandbox.pid, 9):
        fault = counted(sandbox, 1 << 40)
    assert isinstance(fault, BatchFault)
    assert (fault.kind, fault.cause) == (Outcome.TIMEOUT, Cause.HOST_STARVED)
    assert "gave it no processor" in fault.message


def test_a_child_that_waited_for_a_processor_has_more_time(tmp_path, monkeypatch):
    monkeypatch.setattr(deadlines, "PATIENCE", 100.0)
    with counting(tmp_path, 0.4) as sandbox:
        counted(sandbox, 1000, 30.0)
        took_s = []
        for _ in range(5):
            before = cpu_s(sandbox.pid)
            counted(sandbox, 20_000, 30.0)
            took_s.append(cpu_s(sandbox.pid) - before)
        # Well below the deadline by its own time, as a busy machine slows that down, too; with eight
        # others beyond it by the clock. The least: what another machine takes away may be counted as its own.
        wanted = int(20_000 * 0.15 / min(took_s))
        with crowded(sandbox.pid, 8):
            answer = counted(sandbox, wanted)
    assert isinstance(answer, BatchAnswer)
    assert answer.service_s > 0.4


def test_a_stopped_child_could_not_run_and_a_busy_one_could():
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    child = SimpleNamespace(pid=process.pid)
    try:
        process.stdout.readline()
        assert ChildProcess.could_run(child)
        psutil.Process(process.pid).suspend()
        until = time.perf_counter() + 60
        while ChildProcess.could_run(child) and time.perf_counter() < until:
            time.sleep(0.005)
        assert not ChildProcess.could_run(child)
    finally:
        process.kill()
        process.communicate()
    assert not ChildProcess.could_run(child)


SPINNING_BESIDE = """
import hashlib, threading
data = bytes(1 << 22)
def spin():
    while True:
        hashlib.sha256(data).digest()
threading.Thread(target=spin, daemon=True).start()
print(flush=True)
threading.Event().wait()
"""


def test_what_other_threads_compute_is_counted():
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", SPINNING_BESIDE], stdout=subprocess.PIPE
    )
    child = SimpleNamespace(pid=process.pid, cpu_times_s=lambda: (cpu_s(process.pid), 0.0))
    try:
        process.stdout.readline()
        until = time.perf_counter() + 30
        while (found := ChildProcess.cpu_of_other_threads_s(child)) < 0.2:
            assert time.perf_counter() < until, found
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("others_s", "cause"), [(0.0, Cause.HOST_STARVED), (1.9, Cause.SPINNING)])
def test_a_child_that_takes_the_processor_from_itself_is_not_starved(others_s, cause):
    """Its main thread computed for 0.05 s and waited for 1.9 of 2 s, all of it or none for the host."""
    readings = iter([(0.0, 0.0), (0.05, 1.9)])
    child = SimpleNamespace(
        cpu_times_s=lambda: next(readings), cpu_of_other_threads_s=lambda: others_s
    )
    deadline = deadlines.Deadline(child, 0.5)
    deadline._began -= 2.0
    assert deadline.overdue().cause == cause


def test_a_child_that_had_its_processor_time_is_not_starved_however_long_it_waited():
    """It computed for 0.46 s of a deadline of 0.5 s, and waited for 1.6 of 2 s."""
    readings = iter([(0.0, 0.0), (0.46, 1.6)])
    child = SimpleNamespace(cpu_times_s=lambda: next(readings), cpu_of_other_threads_s=lambda: 0.0)
    deadline = deadlines.Deadline(child, 0.5)
    deadline._began -= 2.0
    assert deadline.overdue().cause == Cause.SPINNING


class Readings:
    """A child as the scheduler tells of it, reading by reading: (processor time, waited, could run)."""

    def __init__(self, *readings):
        self.readings = list(readings)

    def cpu_times_s(self):
        return self.readings[0][:2]

    def could_run(self):
        return self.readings.pop(0)[2]


def test_a_wait_that_nobody_has_counted_yet_is_looked_at_again():
    child = Readings((0.0, 0.0, True), (0.0, 0.0, True), (0.0, 0.0, False))
    deadline = deadlines.Deadline(child, 1.0)
    assert [deadline.owed_s() > 0 for _ in range(3)] == [True, True, False]


def test_a_child_that_runs_is_looked_at_once():
    child = Readings((0.9, 0.0, True), (0.92, 0.0, True))
    deadline = deadlines.Deadline(child, 1.0)
    assert [deadline.owed_s() > 0 for _ in range(2)] == [True, False]


def test_a_short_deadline_waits_for_a_busy_host_as_long_as_a_longer_one():
    child = SimpleNamespace(could_run=lambda: True, cpu_times_s=lambda: (0.0, waited_s))
    waited_s = 0.0
    deadline = deadlines.Deadline(child, 0.05)
    waited_s = 4.0
    assert deadline.owed_s() == 4.0
    waited_s = 40.0
    assert [deadline.owed_s() for _ in range(3)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("used_s", "could_run", "cause"),
    [
        (0.02, True, Cause.HOST_STARVED),
        (0.02, False, Cause.BLOCKED),
        (0.19, True, Cause.SPINNING),
    ],
)
def test_a_wait_that_is_not_over_when_patience_is_counts(used_s, could_run, cause):
    """It stands from the first look at it to the last, and the kernel counts a wait when it ends."""
    times = [(0.0, 0.0)]
    child = SimpleNamespace(
        cpu_times_s=lambda: times[-1],
        could_run=lambda: could_run,
        cpu_of_other_threads_s=lambda: 0.0,
    )
    deadline = deadlines.Deadline(child, 0.2)
    times.append((used_s, 0.0))
    deadline._began -= 0.2
    while owed_s := deadline.owed_s():
        deadline._began -= owed_s
    assert deadline.overdue().cause == cause


def test_a_child_that_runs_only_when_its_time_is_over_was_not_kept_from_it():
    looks = itertools.count()
    child = SimpleNamespace(
        cpu_times_s=lambda: (0.001 * next(looks), 0.0),
        could_run=lambda: True,
        cpu_of_other_threads_s=lambda: 0.0,
    )
    deadline = deadlines.Deadline(child, 0.2)
    deadline._began -= 0.2
    while owed_s := deadline.owed_s():
        deadline._began -= owed_s
    assert deadline.overdue().cause == Cause.BLOCKED


def test_a_load_without_a_processor_is_the_machines_fault(tmp_path, monkeypatch, children):
    class Starving(deadlines.Deadline):
        def overdue(self) -> deadlines.Overdue:
            return deadlines.Overdue(cause=Cause.HOST_STARVED, words="none for 9 s")

    monkeypatch.setattr(deadlines, "Deadline", Starving)
    with pytest.raises(SandboxError, match=r"none for 9 s.*less busy"):
        Sandbox.start(
            models.identity(tmp_path / "m.onnx"), name="c",
            limits=SandboxPolicy(require="S0", load_deadline_s=0.2),
            python=hostile(tmp_path, "ready()\ntime.sleep(60)"),
        )  # fmt: skip
    assert children() == set()

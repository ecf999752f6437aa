"""Children that answer what no honest worker would: each ends as a value, none harms the parent."""

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import sandbox_models as models

from harness.core.observations import Cause, Outcome
from harness.core.policies import SandboxPolicy
from harness.sandbox import child_process
from harness.sandbox.answers import BatchFault
from harness.sandbox.child_texts import MAX_TEXT
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox

REPOSITORY = Path(__file__).parents[2]
LIMITS = SandboxPolicy(
    require="S0", batch_deadline_s=0.5, load_deadline_s=2.0, memory_bytes=1 << 28
)

PRELUDE = f"""\
#!{sys.executable}
import json, os, struct, sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from harness.sandbox.child import frames, lockdown
requests, answers, slots, mailbox = (int(a) for a in sys.argv[5:9])
reader = frames.Reader(requests)
config = frames.read_frame(reader, 0).header
def prefix(header, body, magic=frames.MAGIC, number=1, flags=0):
    os.write(answers, frames.PREFIX.pack(magic, header, body, number, flags))
def send(header, body=b"", number=0):
    frames.write_all(answers, frames.packed(header, [memoryview(body)], number=number))
VERSIONS = dict.fromkeys(("python", "numpy", "onnxruntime"), "1.0")
def ready(versions=VERSIONS):
    layers = lockdown.stage_a(config["parent"], config["memory_bytes"], die_with_parent=True)
    send({{"kind": "ready", "layers": layers, "versions": versions}})
    return frames.read_frame(reader, 0).header
def hello():
    ready()
    said()
def said(kind="tensor(float)", shape=(None, 2)):
    x = {{"name": "x", "type": "tensor(float)", "shape": [None, 2]}}
    y = dict(x, name="y", type=kind, shape=shape)
    send({{"kind": "hello", "ok": True, "inputs": [x], "outputs": [y]}})
    frames.read_frame(reader, 1 << 30)
def answer(seq=1, shape=(2, 2), dtype="float32", size=16, body=bytes(64), **more):
    y = {{"name": "y", "dtype": dtype, "shape": list(shape), "size": size}}
    send({{"kind": "answer", "ok": True, "outputs": [y], "features": [],
          "trace_outputs": [], "keys": {{}}, "left_out": [], **more}}, body, seq)
"""


def hostile(folder: Path, lines: str) -> Path:
    script = folder / "hostile.py"
    script.write_text(PRELUDE + textwrap.dedent(lines))
    script.chmod(0o755)
    return script


def start(folder: Path, lines: str, limits: SandboxPolicy = LIMITS) -> Sandbox | LoadFailure:
    model = models.identity(folder / "m.onnx")
    return Sandbox.start(model, name="c", limits=limits, python=hostile(folder, lines))


def fault_of(
    folder: Path, lines: str, hello: str = "hello()", limits: SandboxPolicy = LIMITS
) -> BatchFault:
    sandbox = start(folder, f"{hello}\n{textwrap.dedent(lines)}", limits)
    assert isinstance(sandbox, Sandbox), sandbox
    with sandbox:
        sandbox.submit({"x": np.zeros((2, 2), np.float32)}, 2, trace=False)
        fault = sandbox.collect()
        assert isinstance(fault, BatchFault)
        assert not sandbox.alive
        assert not psutil.pid_exists(sandbox.pid)
    return fault


def test_the_honest_answer_of_these_fixtures_is_accepted(tmp_path):
    sandbox = start(tmp_path, "hello()\nanswer()\ntime.sleep(60)")
    assert isinstance(sandbox, Sandbox)
    with sandbox:
        sandbox.submit({"x": np.zeros((2, 2), np.float32)}, 2, trace=False)
        answer = sandbox.collect()
    assert not isinstance(answer, BatchFault)
    assert answer.outputs["y"].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("os.write(answers, os.urandom(4096))", "no frame begins with"),
        ("answer(seq=2)", "answered number 2 when number 1 was due"),
        ("answer(seq=2**64 - 1)", "when number 1 was due"),
        ("send({'kind': 'hello'})", "expected a frame of the kind 'answer'"),
        ("prefix(4, 0); os.write(answers, b'[[[[')", "no JSON"),
        ("prefix(100000, 0); os.write(answers, b'[' * 100000)", "no JSON"),
        ("prefix(2, 0); os.write(answers, b'[]')", "no JSON object"),
        ("prefix(1 << 31, 0)", "over the limit"),
        ("prefix(2, 1 << 62)", "over the limit"),
        ("answer(shape=(2**31, 2**15))", "do not hold"),
        ("answer(shape=(-1, 2))", "has the shape"),
        ("answer(shape=(2.0, 2))", "has the shape"),
        ("answer(shape=[1] * 40)", "no valid size or shape"),
        ("answer(size=1 << 40)", "do not hold"),
        ("answer(shape=(2, 0, 2**47, 2**47), size=0, body=b'')", "has the shape"),
        ("prefix(2, 40 << 20)", "over the limit of"),
        (
            ("answer(features=[{'name': 'f', 'dtype': 'bool', 'shape': [2], 'size': 2}],"
            " trace_error='none')"),
            "the word that it failed",
        ),
        (
            ("answer(features=[{'name': 'f', 'dtype': 'bool', 'shape': [2], 'size': 2}],"
            " left_out=['f'])"),
            "sent and left out",
        ),
        ("answer(alone=True)", "nobody asked for"),
        ("answer(alone=True, trace_error='none')", "another one beside it"),
        ("answer(left_out=['\\ud800'])", "half a character"),
        (
            "answer(features=[{'name': '\\ud800', 'dtype': 'bool', 'shape': [2], 'size': 2}])",
            "half a character",
        ),
        ("answer(body=b'')", "the frame holds 0 bytes, its tensors 64"),
        ("answer(dtype='object')", "unknown dtype"),
        ("answer(dtype='float64', size=32)", "declared as FP32"),
        ("answer(body=bytes(128))", "the frame holds 128 bytes"),
        ("answer(outputs=[], body=b'')", "not those of the signature"),
        ("answer(outputs='y')", "tensor list is missing"),
        ("answer(keys={'y': ['a', 'b']})", "class names are missing"),
        ("answer(left_out=['y'], outputs=[], body=b'')", "not those of the signature"),
        ("answer(trace_error=3)", "a text is missing"),
        (
            "answer(outputs=[{'name': 'y', 'dtype': 'str', 'shape': [2, 2], 'size': 40}])",
            "declared as FP32",
        ),
    ],
)  # fmt: skip
def test_a_broken_protocol_is_invalid(tmp_path, lines, message):
    fault = fault_of(tmp_path, lines + "\ntime.sleep(60)")
    assert (fault.kind, fault.alive) == (Outcome.INVALID, False)
    assert message in fault.message
    assert len(fault.message) < 5000


@pytest.mark.parametrize("shape", [(2_000_000_000, 1), (None, 2_000_000_000)])
def test_no_declared_shape_makes_an_answer_longer_than_the_memory_of_a_leg(tmp_path, shape):
    hello = f"ready(); said(shape={shape})"
    fault = fault_of(tmp_path, f"prefix(2, {LIMITS.memory_bytes + 1})\ntime.sleep(60)", hello)
    assert fault.kind == Outcome.INVALID
    assert "over the limit of" in fault.message


def test_an_answer_that_the_parent_has_no_memory_for_is_a_fault_of_that_kind(tmp_path):
    limits = replace(LIMITS, memory_bytes=1 << 50)
    fault = fault_of(
        tmp_path, "prefix(0, 1 << 50)\ntime.sleep(60)", "ready(); said(shape=())", limits
    )
    assert (fault.kind, fault.cause) == (Outcome.CRASH, Cause.MEMORY_LIMIT)
    assert "no memory" in fault.message


def test_half_a_character_in_a_message_is_replaced(tmp_path):
    lines = "hello()\nsend({'kind': 'answer', 'ok': False, 'error': 'bad \\ud800'}, number=1)\ntime.sleep(60)"
    sandbox = start(tmp_path, lines)
    assert isinstance(sandbox, Sandbox)
    with sandbox:
        sandbox.submit({"x": np.zeros((2, 2), np.float32)}, 2, trace=False)
        fault = sandbox.collect()
    assert isinstance(fault, BatchFault)
    assert (fault.kind, fault.message) == (Outcome.ERROR, "bad \ufffd")


def test_a_child_that_starts_many_threads_is_ended(tmp_path):
    lines = """
    import threading
    threading.stack_size(1 << 17)
    for _ in range(200):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    time.sleep(60)
    """
    # The watch may get its processor late.
    fault = fault_of(tmp_path, lines, limits=replace(LIMITS, batch_deadline_s=20.0))
    assert fault.kind == Outcome.CRASH
    assert "more than 16 threads" in fault.message


def test_a_flood_of_answers_is_read_one_at_a_time(tmp_path):
    sandbox = start(tmp_path, "hello()\nwhile True:\n    answer()")
    assert isinstance(sandbox, Sandbox)
    with sandbox:
        results = []
        for _ in range(2):
            sandbox.submit({"x": np.zeros((2, 2), np.float32)}, 2, trace=False)
            results.append(sandbox.collect())
    assert isinstance(results[1], BatchFault)
    assert results[1].kind == Outcome.INVALID


def test_a_truncated_frame_is_a_timeout(tmp_path):
    fault = fault_of(tmp_path, "prefix(9, 9)\ntime.sleep(60)")
    assert fault.kind == Outcome.TIMEOUT


def test_an_exit_in_the_middle_of_a_frame_is_a_crash(tmp_path):
    fault = fault_of(tmp_path, "prefix(9, 9)\nos._exit(3)")
    assert (fault.kind, fault.message) == (Outcome.CRASH, "the process exited with code 3")


def test_a_closed_pipe_with_a_running_process_is_a_crash(tmp_path):
    fault = fault_of(tmp_path, "os.close(answers)\ntime.sleep(60)")
    assert (fault.kind, fault.message) == (
        Outcome.CRASH,
        "the process closed its pipe and ran on",
    )


LEADERLESS = """
    import ctypes, threading
    def last():
        while b") Z " not in open("/proc/self/stat", "rb").read():
            time.sleep(.01)
        os.close(answers)
        time.sleep({seconds})
        os._exit(3)
    threading.Thread(target=last).start()
    ctypes.CDLL(None).syscall({{"x86_64": 60, "aarch64": 93}}[os.uname().machine], 0)
"""
"""Its main thread is ending, as far as the kernel tells; the process ends so many seconds later."""


def test_a_process_that_is_ending_is_given_the_time_for_it(tmp_path):
    limits = replace(LIMITS, batch_deadline_s=20.0)
    fault = fault_of(tmp_path, LEADERLESS.format(seconds=1.5), limits=limits)
    assert (fault.kind, fault.message) == (Outcome.CRASH, "the process exited with code 3")


def test_a_process_that_never_comes_to_its_end_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(child_process, "_EXITING_S", 1.0)
    limits = replace(LIMITS, batch_deadline_s=20.0)
    fault = fault_of(tmp_path, LEADERLESS.format(seconds=60), limits=limits)
    assert fault.message == "the process closed its pipe and ran on"


def test_a_flood_of_its_standard_error_does_not_hold_the_parent_up(tmp_path):
    fault = fault_of(tmp_path, "while True:\n    os.write(2, b'\\x1b[31mnoise\\x07 ' * 1000)")
    assert fault.kind == Outcome.TIMEOUT


def test_terminal_codes_do_not_reach_messages(tmp_path):
    fault = fault_of(
        tmp_path, "os.write(2, b'\\x1b[31mred\\x1b[m\\x07')\ntime.sleep(.05)\nos.abort()"
    )
    assert (fault.kind, fault.last_words) == (Outcome.CRASH, "red")


def test_children_of_the_child_die_with_it(tmp_path):
    sandbox = start(
        tmp_path, "hello()\nif not os.fork():\n    time.sleep(60)\nanswer()\ntime.sleep(60)"
    )
    assert isinstance(sandbox, Sandbox)
    with sandbox:
        sandbox.submit({"x": np.zeros((2, 2), np.float32)}, 2, trace=False)
        sandbox.collect()
        offspring = psutil.Process(sandbox.pid).children()
    assert len(offspring) == 1
    _, alive = psutil.wait_procs(offspring, timeout=30)
    assert alive == []


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ("time.sleep(60)", "timeout"),
        ("os._exit(0)", "crash"),
        ("send({'kind': 'hello', 'ok': False, 'error': 3})", "invalid"),
        ("send({'kind': 'hello', 'ok': True, 'inputs': 3})", "invalid"),
        (
            """send({'kind': 'hello', 'ok': True, 'inputs': [],
                    'outputs': [{'name': 'y', 'type': 'tensor(float)', 'shape': [1]}] * 2})""",
            "invalid",
        ),
    ],
)
def test_a_start_that_goes_wrong_is_a_load_failure(tmp_path, children, lines, kind):
    failure = start(tmp_path, f"ready()\n{lines}\ntime.sleep(60)")
    assert isinstance(failure, LoadFailure)
    assert failure.kind == kind
    assert children() == set()


def test_a_start_that_only_the_probed_copy_ends_goes_on_without_it(tmp_path):
    model = models.identity(tmp_path / "m.onnx")
    python = hostile(
        tmp_path,
        "load = ready()\nif len(load['sizes']) > 1:\n    os.abort()\nsaid()\ntime.sleep(60)",
    )
    sandbox = Sandbox.start(model, name="c", limits=LIMITS, python=python, trace_model=model)
    assert isinstance(sandbox, Sandbox)
    with sandbox:
        assert "SIGABRT" in sandbox.trace_error


def test_a_child_that_lies_about_its_limits_reaches_no_tier(tmp_path):
    sandbox = Sandbox.start(
        models.identity(tmp_path / "m.onnx"),
        name="c",
        limits=LIMITS,
        allow_weaker=True,
        python=hostile(
            tmp_path,
            """
            names = ("no_new_privs", "rlimit_as")
            send({"kind": "ready", "layers": dict.fromkeys(names, ""), "versions": VERSIONS})
            frames.read_frame(reader, 0)
            send({"kind": "hello", "ok": True, "inputs": [], "outputs": []})
            time.sleep(60)
            """,
        ),
    )
    assert isinstance(sandbox, Sandbox)
    with sandbox:
        assert sandbox.isolation.tier == "none"


@pytest.mark.parametrize("left_out", ["python", "numpy", "onnxruntime"])
def test_a_ready_frame_that_leaves_a_version_out_is_a_broken_protocol(tmp_path, left_out):
    failure = start(tmp_path, f"ready({{k: v for k, v in VERSIONS.items() if k != {left_out!r}}})")
    assert isinstance(failure, LoadFailure)
    assert failure.kind == "invalid"
    assert f"names no version of {left_out}" in failure.message


@pytest.mark.parametrize(
    "lines",
    [
        "answer(dtype='x' * (3 << 20))",
        "answer(features=[{'name': 'f' * (3 << 20), 'dtype': 'bool', 'shape': [2], 'size': 9}])",
        "answer(forms={'n' * (3 << 20): 5})",
        (
            "send({'kind': 'answer', 'ok': True, 'outputs': [{'name': 'y' * (3 << 20), 'dtype': 'float32',"
            " 'shape': [2, 2], 'size': 16}], 'features': []}, bytes(64), 1)"
        ),
    ],
)
def test_a_name_of_megabytes_is_cut_in_the_message(tmp_path, lines):
    fault = fault_of(tmp_path, lines)
    assert fault.kind is Outcome.INVALID
    assert 20 < len(fault.message) <= MAX_TEXT


def test_a_refusal_without_a_word_says_so(tmp_path):
    failure = start(
        tmp_path, "ready(); send({'kind': 'hello', 'ok': False, 'error': ''}); time.sleep(60)"
    )
    assert isinstance(failure, LoadFailure)
    assert failure.message == "it gave no reason"


def test_signs_that_turn_or_break_a_line_are_written_as_numbers(tmp_path):
    failure = start(
        tmp_path,
        "ready(); send({'kind': 'hello', 'ok': False, 'error': 'a\\u202eb\\u2028c é'}); time.sleep(60)",
    )
    assert isinstance(failure, LoadFailure)
    assert failure.message == "a\\u202eb\\u2028c é"

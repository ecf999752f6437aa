"""Batches in shared memory: what fits lies there, and a child can do the parent no harm through it."""

import errno
from pathlib import Path

import numpy as np
import pytest
import sandbox_models as models
from onnx import TensorProto
from test_sandbox_hostile import fault_of, start

from harness.core.observations import Outcome
from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.child import ring
from harness.sandbox.process import Sandbox

LIMITS = SandboxPolicy()
GIVEN = np.float32([[1, 2], [3, 4]])


def started(model: Path) -> Sandbox:
    sandbox = Sandbox.start(model, name="c", limits=LIMITS, allow_weaker=True)
    assert isinstance(sandbox, Sandbox), sandbox
    return sandbox


def collected(sandbox: Sandbox) -> BatchAnswer:
    answer = sandbox.collect()
    assert isinstance(answer, BatchAnswer), answer
    return answer


# Numbers and their answers as the child sees and writes them, over the real shared memory.
HONEST = """
    ready()
    x = {"name": "x", "type": "tensor(float)", "shape": [None, 2]}
    send({"kind": "hello", "ok": True, "inputs": [x], "outputs": [dict(x, name="y")]})
    from harness.sandbox.child.ring import Ring
    memory = Ring(slots)
    def answered():
        asked = frames.read_frame(reader, 1 << 30).prefix
        given = bytes(memory.request(asked.number, 16))
        memory.answer(asked.number, 64)[:] = given + bytes(48)
        y = {"name": "y", "dtype": "float32", "shape": [2, 2], "size": 16}
        text = {"kind": "answer", "ok": True, "outputs": [y]}
        frames.write_all(answers, frames.packed(text, number=asked.number, in_slot=64))
        return asked
"""


def hostile_sandbox(folder: Path, lines: str) -> Sandbox:
    sandbox = start(folder, HONEST + lines)
    assert isinstance(sandbox, Sandbox), sandbox
    return sandbox


def test_a_batch_that_fits_lies_in_shared_memory_both_ways(tmp_path):
    with hostile_sandbox(tmp_path, "    answered()\n    time.sleep(60)") as sandbox:
        sandbox.submit({"x": GIVEN}, 2, trace=False)
        assert collected(sandbox).outputs["y"].tolist() == GIVEN.tolist()


def test_what_a_child_writes_after_its_answer_changes_nothing(tmp_path):
    scribbles = """
    answered()
    frames.read_frame(reader, 1 << 30)
    memory.answer(1, 64)[:] = bytes(range(64))
    memory.request(1, 64)[:] = bytes(range(64))
    send({"kind": "answer", "ok": False, "error": "scribbled"}, number=2)
    time.sleep(60)
"""
    with hostile_sandbox(tmp_path, scribbles) as sandbox:
        sandbox.submit({"x": GIVEN}, 2, trace=False)
        first = collected(sandbox)
        sandbox.submit({"x": GIVEN}, 2, trace=False)
        second = sandbox.collect()
    assert not isinstance(second, BatchAnswer)
    assert second.message == "scribbled"
    assert first.outputs["y"].tolist() == GIVEN.tolist()


@pytest.mark.parametrize(("size", "error"), [(0, errno.EPERM), (1 << 40, errno.EFBIG)])
def test_a_child_cannot_change_the_size_of_the_shared_memory(tmp_path, size, error):
    resizes = f"""
    try:
        os.ftruncate(slots, {size})
    except OSError as error:
        os.write(2, str(error.errno).encode())
    answered()
    os.abort()
"""
    with hostile_sandbox(tmp_path, resizes) as sandbox:
        sandbox.submit({"x": GIVEN}, 2, trace=False)
        assert collected(sandbox).outputs["y"].tolist() == GIVEN.tolist()
        sandbox.submit({"x": GIVEN}, 2, trace=False)
        fault = sandbox.collect()
    assert not isinstance(fault, BatchAnswer)
    assert fault.last_words == str(error)


@pytest.mark.parametrize(
    ("flags", "size", "message"),
    [
        ("frames.IN_SLOT", ring.SLOT_BYTES + 1, "in a slot of"),
        ("frames.IN_SLOT | frames.SLOT_FREE", 16, "has the flags 0x3"),
        ("frames.SLOT_FREE", 0, "has the flags 0x2"),
        ("1 << 9", 0, "unknown flags"),
        ("frames.IN_SLOT", 32, "the frame holds 32 bytes, its tensors 64"),
    ],
)
def test_a_false_place_is_a_broken_protocol(tmp_path, flags, size, message):
    lines = f"""
y = {{"name": "y", "dtype": "float32", "shape": [2, 2], "size": 16}}
text = json.dumps({{"kind": "answer", "ok": True, "outputs": [y]}}).encode()
prefix(len(text), {size}, flags={flags})
os.write(answers, text)
time.sleep(60)
"""
    fault = fault_of(tmp_path, lines)
    assert fault.kind == Outcome.INVALID
    assert message in fault.message


def test_a_batch_larger_than_a_slot_goes_through_the_pipes(tmp_path):
    given = np.arange(ring.SLOT_BYTES // 4 + 2, dtype=np.float32).reshape(-1, 2)
    small = given[:3]
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        for batch in (given, small, given):
            sandbox.submit({"x": batch}, len(batch), trace=False)
        found = [collected(sandbox).outputs["y"] for _ in range(3)]
    assert [np.array_equal(f, g) for f, g in zip(found, (given, small, given), strict=True)] == [
        True
    ] * 3


def test_more_batches_than_slots_keep_their_answers(tmp_path):
    count = 3 * ring.SLOTS
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        for i in range(count):
            sandbox.submit({"x": np.full((2, 2), i, np.float32)}, 2, trace=False)
        found = [collected(sandbox).outputs["y"][0, 0] for _ in range(count)]
    assert found == list(range(count))


def test_nothing_stays_mapped(tmp_path):
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        sandbox.submit({"x": GIVEN}, 2, trace=False)
        collected(sandbox)
        assert "memfd:ring" in Path("/proc/self/maps").read_text()
    assert "memfd:ring" not in Path("/proc/self/maps").read_text()
    assert not [p for p in Path("/proc/self/fd").iterdir() if "memfd" in str(p.resolve())]


def test_text_that_is_garbage_is_a_broken_protocol(tmp_path):
    sandbox = start(
        tmp_path,
        """
        ready()
        said("tensor(string)")
        answer(dtype="str", size=40, body=struct.pack("<5q", 0, 9, 3, 1, 0) + bytes(24))
        time.sleep(60)
        """,
    )
    assert isinstance(sandbox, Sandbox), sandbox
    with sandbox:
        sandbox.submit({"x": np.zeros((2, 2), np.float32)}, 2, trace=False)
        fault = sandbox.collect()
    assert not isinstance(fault, BatchAnswer)
    assert "out of order" in fault.message


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.STRING, TensorProto.BOOL])
def test_an_empty_batch_of_any_type_passes(tmp_path, kind):
    dtype = {TensorProto.FLOAT16: np.float16, TensorProto.STRING: object, TensorProto.BOOL: bool}
    given = np.empty((0, 2), dtype[kind])
    with started(models.identity(tmp_path / "m.onnx", kind)) as sandbox:
        sandbox.submit({"x": given}, 0, trace=False)
        found = collected(sandbox).outputs["y"]
    assert (found.shape, found.dtype) == ((0, 2), given.dtype)

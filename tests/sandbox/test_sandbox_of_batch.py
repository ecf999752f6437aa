"""Outputs about a batch as a whole: in each of its rows, where they are not one for each row."""

import numpy as np
import onnx
import pytest

from harness.core.observations import Cause, Outcome
from harness.core.policies import SandboxPolicy
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.of_batch import about_batch, in_every_row
from harness.sandbox.process import Sandbox
from harness.sandbox.starting import Start

TABLE = np.arange(6.0).reshape(3, 2)
LENGTHS = {"t": frozenset({3})}
MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] y, float[{length}] t) {{
  y = Neg(x)
  k = Constant<value = float[4] {{1.0, 2.0, 3.0, 9.0}}>()
  shape = Shape(x)
  zero = Constant<value = int64[1] {{0}}>()
  none = Mul(shape, zero)
  three = Constant<value = int64[1] {{3}}>()
  end = Add(none, three)
  {t}
}}
"""
"""No length can be inferred of t."""
CONSTANT = "t = Slice(k, zero, end)"
A_ROW_EACH = "t = Abs(x)"
REFUSES_MORE = "r = Reshape(x, three)\n  t = Abs(r)"


@pytest.fixture
def answered(tmp_path):
    """What a process without a past answers to batches of so many rows: of each, its t, or None."""

    def answer(t, *batches, length="3", beside=(), tables=("t",)):
        onnx.save(onnx.parser.parse_model(MODEL.format(length=length, t=t)), tmp_path / "m.onnx")
        with ModelFiles(tmp_path / "m.onnx") as files:
            start = Start(files, limits=SandboxPolicy(), lengths=beside, tables=tables)
            with Sandbox.started(start, name="candidate") as sandbox:
                found = []
                for rows in batches:
                    x = np.arange(rows, dtype=np.float32)
                    sandbox.submit({"x": x}, rows, trace=False)
                    found.append(getattr(sandbox.collect(), "outputs", {}).get("t"))
                return found

    return answer


def shapes(found):
    return [None if array is None else array.shape for array in found]


def test_a_table_of_its_declared_length_is_in_every_row():
    of_batch = about_batch({"t": TABLE}, 5, LENGTHS, ())
    found = in_every_row({"t": TABLE, "y": np.zeros(5)}, 5, of_batch)
    assert of_batch == {"t"}
    assert found["t"].shape == (5, 3, 2)
    assert (found["t"] == TABLE).all()
    assert found["y"].shape == (5,)


def test_a_table_takes_no_memory_for_each_row_and_may_not_be_too_much_to_compare(tmp_path):
    onnx.save(onnx.parser.parse_model(MODEL.format(length="3", t=CONSTANT)), tmp_path / "m.onnx")
    limits = SandboxPolicy(memory_bytes=1 << 29)
    most = (limits.memory_bytes >> 2) // TABLE[:, 0].astype(np.float32).nbytes
    found = []
    with (
        ModelFiles(tmp_path / "m.onnx") as files,
        Sandbox.started(Start(files, limits=limits), name="candidate") as sandbox,
    ):
        for rows in (9, most + 2, 2):
            sandbox.submit({"x": np.zeros(rows, np.float32)}, rows, trace=False)
            found.append(sandbox.collect())
    assert found[0].outputs["t"].strides[0] == 0
    assert (found[1].kind, found[1].cause) == (Outcome.ERROR, Cause.MEMORY_LIMIT)
    assert "more than 128 MiB, a quarter of the policy's sandbox.memory" in found[1].message
    assert found[2].outputs["t"].tolist() == [[1.0, 2.0, 3.0]] * 2


def test_a_row_for_each_row_stays_that_whatever_was_declared():
    assert about_batch({"t": np.zeros((5, 2))}, 5, LENGTHS, ()) == set()
    assert about_batch({"t": TABLE}, 3, LENGTHS, ()) == set()


def test_with_as_many_rows_as_it_is_long_what_is_known_decides_of_outputs_that_may_be_tables():
    assert about_batch({"t": TABLE}, 3, LENGTHS, ("t",)) == {"t"}
    assert about_batch({"y": TABLE}, 3, LENGTHS, ("y",)) == set()


def test_other_lengths_than_declared_are_left_to_be_told():
    assert about_batch({"t": TABLE[:2]}, 5, LENGTHS, ()) == set()


def test_a_process_that_is_new_reads_a_table_as_one_that_has_answered_other_batches(answered):
    assert shapes(answered(CONSTANT, 3, 3, 1, 3)) == [(3, 3), (3, 3), (1, 3), (3, 3)]


@pytest.mark.parametrize("t", [CONSTANT, A_ROW_EACH, REFUSES_MORE])
def test_what_is_not_known_as_a_table_keeps_a_row_for_each(answered, t):
    (found,) = answered(t, 3, tables=())
    assert found.shape == (3,)


@pytest.mark.parametrize(("length", "beside"), [("K", 3), ("4", 3), ("3", 4), ("3", 3)])
def test_a_length_that_either_version_declares_is_known_of_both(answered, length, beside):
    found = answered(CONSTANT, 1, 3, 4, length=length, beside=[("t", beside)])
    assert shapes(found) == [(1, 3), (3, 3), (4, 3)]


def test_a_length_that_neither_declares_is_no_answer(answered):
    assert shapes(answered(CONSTANT, 1, 3, length="K")) == [None, (3,)]

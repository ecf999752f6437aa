"""Sequences and optionals on their way out of a sandbox, and what a child could claim about them."""

import json

import numpy as np
import pytest
import sandbox_models as models
from onnx import TensorProto, helper

from harness.core.policies import SandboxPolicy
from harness.core.tensors import Nested, Signature, TensorSpec
from harness.sandbox.answers import Answers
from harness.sandbox.child import columns, nested, sessions
from harness.sandbox.child.frames import Frame, FrameError, Prefix
from harness.sandbox.hello import Hello
from harness.sandbox.process import Sandbox

KINDS = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT64: np.int64,
    TensorProto.STRING: object,
}
PLAIN = helper.make_tensor_type_proto(TensorProto.FLOAT, None)


def returning(path, kind, *nodes, opset=18):
    """A model of x (N, 2) that returns s, of this type."""
    graph = helper.make_graph(
        list(nodes), "g",
        [models.tensor("x", TensorProto.FLOAT, 2)],
        [helper.make_value_info("s", kind), models.tensor("y", TensorProto.FLOAT, 2)],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    path.write_bytes(made.SerializeToString())
    return path


def answer_of(model, rows=2):
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    sandbox = Sandbox.start(model, name="candidate", limits=SandboxPolicy())
    with sandbox:
        sandbox.submit({"x": x}, rows, trace=False)
        return sandbox.signature, sandbox.collect().outputs, x


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_sequence_comes_whole_with_every_tensor(tmp_path, kind):
    element = helper.make_sequence_type_proto(helper.make_tensor_type_proto(kind, None))
    model = returning(
        tmp_path / "m.onnx", element,
        models.node("Cast", ["x"], ["c"], to=kind),
        models.node("Transpose", ["c"], ["t"], perm=[1, 0]),
        models.node("SequenceConstruct", ["c", "t"], ["s"]),
        models.node("Neg", ["x"], ["y"]),
    )  # fmt: skip
    signature, outputs, x = answer_of(model, rows=3)
    value = outputs["s"][0]
    assert signature.outputs[0].datatype.startswith("NESTED:seq(")
    assert signature.outputs[0].shown() == f"s {signature.outputs[0].datatype[7:]}"
    assert value.form == "[tt]"
    assert [leaf.dtype for leaf in value.leaves] == [np.dtype(KINDS[kind])] * 2
    assert [leaf.shape for leaf in value.leaves] == [(3, 2), (2, 3)]
    assert np.array_equal(value.leaves[0].astype(np.float32), x)
    assert all(cell is value for cell in outputs["s"])
    assert outputs["y"].tolist() == (-x).tolist()


@pytest.mark.parametrize("there", [True, False])
def test_an_optional_is_there_or_absent(tmp_path, there):
    if there:
        made = models.node("Optional", ["x"], ["s"])
    else:
        made = models.node("Optional", [], ["s"], type=PLAIN)
    kind = helper.make_optional_type_proto(PLAIN)
    model = returning(tmp_path / "m.onnx", kind, made, models.node("Neg", ["x"], ["y"]))
    _, outputs, x = answer_of(model)
    assert outputs["s"][0].form == ("t" if there else "-")
    assert [leaf.tolist() for leaf in outputs["s"][0].leaves] == ([x.tolist()] if there else [])


def test_an_empty_sequence_and_a_scalar_in_one_are_values(tmp_path):
    kind = helper.make_sequence_type_proto(PLAIN)
    empty = models.node("SequenceEmpty", [], ["s"], dtype=TensorProto.FLOAT)
    negated = models.node("Neg", ["x"], ["y"])
    _, outputs, _ = answer_of(returning(tmp_path / "e.onnx", kind, empty, negated))
    assert outputs["s"][0] == Nested(form="[]", leaves=())
    scalar = (
        models.node("ReduceSum", ["x"], ["r"], keepdims=0),
        models.node("SequenceConstruct", ["r"], ["s"]),
    )
    _, outputs, x = answer_of(returning(tmp_path / "s.onnx", kind, *scalar, negated))
    assert outputs["s"][0] == Nested(form="[t]", leaves=(np.asarray(x.sum()),))


def test_values_are_equal_by_form_and_bits_only():
    one = Nested(form="[t]", leaves=(np.float32([0.0, np.nan]),))
    assert one == Nested(form="[t]", leaves=(np.float32([0.0, np.nan]),))
    assert one != Nested(form="[t]", leaves=(np.float32([-0.0, np.nan]),))
    assert one != Nested(form="t", leaves=one.leaves)
    assert one != Nested(form="[tt]", leaves=(*one.leaves, *one.leaves))


@pytest.mark.parametrize(
    ("kind", "can"),
    [
        ("tensor(float)", True), ("tensor(bfloat16)", False),
        ("seq(tensor(string))", True), ("optional(seq(tensor(int8)))", True),
        ("optional(tensor(double))", True), ("seq(tensor(bfloat16))", False),
        ("seq(map(int64,tensor(float)))", True), ("seq(map(int64,tensor(string)))", False),
        ("seq(seq(tensor(float)))", False), ("seq(optional(tensor(float)))", False),
        ("sparse_tensor(float)", False), ("optional(sparse_tensor(float))", False),
    ],
)  # fmt: skip
def test_which_types_come_back_at_all(kind, can):
    assert sessions.readable(kind) is can


HELLO = Hello(
    signature=Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=()),),
        outputs=(
            TensorSpec(name="s", datatype="NESTED:seq(tensor(float))", shape=()),
            TensorSpec(name="o", datatype="NESTED:optional(seq(tensor(int64)))", shape=()),
        ),
    ),
    loose=frozenset({"s", "o"}), trace_missing=(), trace_error="",
)  # fmt: skip
FLOATS, WHOLE = np.zeros(2, np.float32), np.zeros((), np.int64)


def read(forms, leaves, claimed=None):
    """What the parent makes of an answer with these forms and tensors, or what is claimed of them."""
    described, buffers = columns.encoded(leaves)
    header = {"kind": "answer", "ok": True, "outputs": [], "forms": forms,
              "leaves": claimed or json.loads(described)}  # fmt: skip
    body = memoryview(bytearray(b"".join(buffers)))
    frame = Frame(json.dumps(header).encode(), body, Prefix(0, body.nbytes, 1, 0))
    return Answers(HELLO, 1 << 30).read(frame, seq=1, rows=2, service_s=0.0)


def test_what_an_honest_child_says_is_believed():
    found = read({"s": "[tt]", "o": "[t]"}, {"0": FLOATS, "1": FLOATS + 1, "2": WHOLE})
    assert found.outputs["s"][1] == Nested(form="[tt]", leaves=(FLOATS, FLOATS + 1))
    assert found.outputs["o"][0] == Nested(form="[t]", leaves=(WHOLE,))
    assert read({"s": "[]", "o": "-"}, {}).outputs["o"][0].form == "-"


@pytest.mark.parametrize(
    ("forms", "leaves", "said"),
    [
        ({"s": "[t]"}, {"0": FLOATS}, "not those of the signature"),
        ({"s": "[t]", "o": "-", "z": "-"}, {"0": FLOATS}, "not those of the signature"),
        ({"s": "[tt]", "o": "-"}, {"0": FLOATS}, "1 tensors came for sequences that hold 2"),
        ({"s": "[t]", "o": "-"}, {"0": FLOATS, "1": FLOATS}, "2 tensors came for sequences that hold 1"),
        ({"s": "[t]", "o": "-"}, {"1": FLOATS}, "1 tensors came"),
        ({"s": "[tt]", "o": "-"}, {"1": FLOATS, "0": FLOATS}, "2 tensors came"),
        ({"s": "t", "o": "-"}, {"0": FLOATS}, "declared as seq"),
        ({"s": "-", "o": "-"}, {}, "declared as seq"),
        ({"s": "[t]", "o": "t"}, {"0": FLOATS, "1": WHOLE}, "declared as optional"),
        ({"s": "[t]", "o": "-"}, {"0": WHOLE}, "came as [t] of int64"),
        ({"s": "[tt]", "o": "-"}, {"0": FLOATS, "1": WHOLE}, "mixes types"),
        ({"s": "[[t]]", "o": "-"}, {"0": FLOATS}, "no valid form"),
        ({"s": "[" * 100_000, "o": "-"}, {}, "no valid form"),
        ({"s": f"[{'t' * (nested.MOST_LEAVES + 1)}]", "o": "-"}, {}, "no valid form"),
        ({"s": ["t"], "o": "-"}, {"0": FLOATS}, "no valid form"),
        ({"s": "[t]\n", "o": "-"}, {"0": FLOATS}, "no valid form"),
        ([], {}, "forms of sequences are missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_refused(forms, leaves, said):
    with pytest.raises(FrameError) as error:
        read(forms, leaves)
    assert said in str(error.value)


def test_a_length_that_no_frame_holds_is_refused():
    entry = {"name": "0", "dtype": "float32", "shape": [2**46], "size": 2**48 - 1}
    with pytest.raises(FrameError):
        read({"s": "[t]", "o": "-"}, {}, claimed=[entry])
    short = {"name": "0", "dtype": "float32", "shape": [64], "size": 256}
    with pytest.raises(FrameError):
        read({"s": "[t]", "o": "-"}, {}, claimed=[short])


def test_a_sequence_longer_than_can_be_told_is_an_error_of_that_request(tmp_path):
    kind = helper.make_sequence_type_proto(PLAIN)
    split = models.node("SplitToSequence", ["x", "one"], ["s"], axis=0)
    one = models.node("Constant", [], ["one"], value_int=1)
    model = returning(tmp_path / "m.onnx", kind, one, split, models.node("Neg", ["x"], ["y"]))
    sandbox = Sandbox.start(model, name="candidate", limits=SandboxPolicy())
    rows = nested.MOST_LEAVES
    with sandbox:
        for extra in (1, 0):
            x = np.zeros((rows + extra, 2), np.float32)
            sandbox.submit({"x": x}, rows + extra, trace=False)
        refused, told = sandbox.collect(), sandbox.collect()
    assert f"at most {rows} can be compared" in refused.message
    assert refused.alive
    assert len(told.outputs["s"][0].leaves) == rows

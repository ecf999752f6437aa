"""The trace session answers alone: outputs and features of one run, and the model where it cannot."""

import numpy as np
import pytest
import sandbox_models as models
from onnx import TensorProto, helper

from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import BatchAnswer, BatchFault
from harness.sandbox.process import Sandbox

LIMITS = SandboxPolicy(require="S0")
FLOAT = TensorProto.FLOAT


def shifted(path, by, *, feature="t", check=None):
    """y = x + by, which is also the feature; with `check` only where a division allows it."""
    nodes = [models.node("Add", ["x", "by"], ["y"]), models.node("Identity", ["y"], [feature])]
    outputs = [models.tensor("y", FLOAT), models.tensor(feature, FLOAT)]
    if check:
        nodes += [
            models.node("Cast", ["x"], ["i"], to=TensorProto.INT32),
            models.node("Div", ["one", "i"], ["d"]),
        ]
        outputs.append(models.tensor("d", TensorProto.INT32))
    constants = {"by": np.float32([by]), "one": np.int32([1])}
    return models.saved(path, nodes, [models.tensor("x", FLOAT)], outputs, constants=constants)


def model(path, by=1.0):
    return models.saved(
        path, [models.node("Add", ["x", "by"], ["y"])], [models.tensor("x", FLOAT)],
        [models.tensor("y", FLOAT)], constants={"by": np.float32([by])},
    )  # fmt: skip


def asked(sandbox, *questions):
    """Answers to (x, alone)."""
    for x, alone in questions:
        sandbox.submit({"x": np.float32(x)}, len(x), trace=True, alone=alone)
    return [sandbox.collect() for _ in questions]


def started(tmp_path, probed, tensors, made=model):
    sandbox = Sandbox.start(
        made(tmp_path / "m.onnx"), name="c", limits=LIMITS, trace_model=probed,
        trace_tensors=tensors,
    )  # fmt: skip
    assert isinstance(sandbox, Sandbox), sandbox
    return sandbox


def test_outputs_and_features_are_of_the_trace_session(tmp_path):
    # A copy that answers otherwise shows whose answer it is.
    with started(tmp_path, shifted(tmp_path / "p.onnx", 5.0), ("t",)) as sandbox:
        beside, alone, again = asked(sandbox, ([1, 2], False), ([1, 2], True), ([7, 9], True))
    assert not beside.alone
    assert beside.outputs["y"].tolist() == [2, 3]
    assert beside.trace_outputs["y"].tolist() == [6, 7]
    for answer, expected in ((alone, [6, 7]), (again, [12, 14])):
        assert answer.alone
        assert answer.outputs["y"].tolist() == answer.features["t"].tolist() == expected
        assert answer.trace_outputs == {}


def test_answers_of_both_sessions_are_those_of_their_own_batch_each_time(tmp_path):
    with started(tmp_path, shifted(tmp_path / "p.onnx", 5.0), ("y", "t")) as sandbox:
        for i, answer in enumerate(asked(sandbox, *[([i, 2], False) for i in range(6)])):
            assert not answer.alone
            assert answer.outputs["y"].tolist() == [i + 1, 3]
            assert answer.trace_outputs["y"].tolist() == [i + 5, 7]
            assert {n: a.tolist() for n, a in answer.features.items()} == {
                "y": [i + 5, 7],
                "t": [i + 5, 7],
            }


def test_the_model_answers_what_its_probes_break(tmp_path):
    probed = shifted(tmp_path / "p.onnx", 5.0, check=True)
    with started(tmp_path, probed, ("t", "d")) as sandbox:
        good, broken = asked(sandbox, ([1, 2], True), ([1, 0], True))
    assert (good.alone, good.outputs["y"].tolist()) == (True, [6, 7])
    assert (broken.alone, broken.outputs["y"].tolist()) == (False, [2, 1])
    assert broken.trace_error
    assert broken.features == {}


def test_a_model_that_raises_is_not_answered_by_its_copy(tmp_path):
    def dividing(path):
        return models.saved(
            path, [models.node("Div", ["one", "x"], ["y"])], [models.tensor("x", TensorProto.INT32)],
            [models.tensor("y", TensorProto.INT32)], constants={"one": np.int32([1])},
        )  # fmt: skip

    with started(tmp_path, dividing(tmp_path / "p.onnx"), ("y",), made=dividing) as sandbox:
        sandbox.submit({"x": np.int32([0])}, 1, trace=True, alone=True)
        fault = sandbox.collect()
    assert isinstance(fault, BatchFault)
    assert fault.alive


def test_class_names_come_along(tmp_path):
    with started(tmp_path, models.zipmap(tmp_path / "p.onnx"), ("n",), models.zipmap) as sandbox:
        for _ in range(2):
            sandbox.submit({"x": np.float32([[0.2, 0.8]])}, 1, trace=True, alone=True)
        answers = [sandbox.collect() for _ in range(2)]
    for answer in answers:
        assert isinstance(answer, BatchAnswer)
        assert answer.alone
        assert answer.keys == {"p": ("late", "on time")}
        assert answer.outputs["p"].astype(np.float32).tolist() == np.float32([[0.2, 0.8]]).tolist()
        assert answer.features["n"].tolist() == np.float32([[-0.2, -0.8]]).tolist()


def test_a_model_with_sequences_answers_itself(tmp_path):
    def listed(path):
        sequence = helper.make_tensor_sequence_value_info("s", FLOAT, ["N"])
        return models.saved(
            path,
            [models.node("Neg", ["x"], ["y"]), models.node("SequenceConstruct", ["x"], ["s"])],
            [models.tensor("x", FLOAT)],
            [models.tensor("y", FLOAT), sequence],
        )

    with started(tmp_path, listed(tmp_path / "p.onnx"), ("y",), listed) as sandbox:
        (answer,) = asked(sandbox, ([1, 2], True))
    assert isinstance(answer, BatchAnswer)
    assert not answer.alone
    assert set(answer.outputs) == {"y", "s"}


@pytest.mark.parametrize("rows", [3, 0])
def test_tensors_without_rows_are_left_out_the_second_time_too(tmp_path, rows):
    probed = models.saved(
        tmp_path / "p.onnx",
        [
            models.node("Add", ["x", "by"], ["y"]),
            models.node("ReduceSum", ["x"], ["sum"], keepdims=0),
        ],
        [models.tensor("x", FLOAT)],
        [models.tensor("y", FLOAT), models.tensor("sum", FLOAT, scalar=True)],
        constants={"by": np.float32([1])},
    )
    x = list(range(rows))
    with started(tmp_path, probed, ("sum",)) as sandbox:
        answers = asked(sandbox, (x, True), (x, True), (x, True))
    for answer in answers:
        assert (answer.alone, answer.left_out, answer.features) == (True, ("sum",), {})
        assert answer.outputs["y"].tolist() == [i + 1 for i in range(rows)]


def test_a_feature_that_is_an_output_comes_as_both_each_time(tmp_path):
    with started(tmp_path, shifted(tmp_path / "p.onnx", 5.0), ("y", "t")) as sandbox:
        for answer in asked(sandbox, *[([i, 2], True) for i in range(3)]):
            assert answer.alone
            assert answer.outputs["y"].tolist() == answer.features["y"].tolist()
            assert set(answer.features) == {"y", "t"}

"""Answers whose shape contradicts what the model declares: the version's own fault, told and not hidden."""

from pathlib import Path

import numpy as np
import pytest
import sandbox_models as models
from onnx import TensorProto

from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.process import Sandbox

FLOAT = TensorProto.FLOAT


def answer_of(path: Path, x: np.ndarray) -> BatchAnswer:
    sandbox = Sandbox.start(path, name="c", limits=SandboxPolicy())
    assert isinstance(sandbox, Sandbox), sandbox
    with sandbox:
        sandbox.submit({"x": x.astype(np.float32)}, len(x), trace=False)
        answer = sandbox.collect()
    assert isinstance(answer, BatchAnswer), answer
    return answer


def model(path: Path, operator: str, *trailing: int | str) -> Path:
    nodes = [models.node(operator, ["x"], ["y"])]
    return models.saved(
        path, nodes, [models.tensor("x", FLOAT, "F", "G")], [models.tensor("y", FLOAT, *trailing)]
    )


@pytest.mark.parametrize(
    ("operator", "declared", "words"),
    [
        ("Identity", (3, 1), "declared as (rows, 3, 1) and came as (rows, 4, 1)"),
        ("Identity", ("F", 2), "declared as (rows, ?, 2) and came as (rows, 4, 1)"),
        ("Squeeze", (4, 1), "declared as (rows, 4, 1) and came as (rows, 4)"),
        ("Squeeze", (), "declared as (rows) and came as (rows, 4)"),
    ],
)
def test_an_answer_that_contradicts_the_signature_is_told_and_stays_an_answer(
    tmp_path, operator, declared, words
):
    found = answer_of(model(tmp_path / "m.onnx", operator, *declared), np.ones((5, 4, 1)))
    assert found.undeclared == (("y", words),)
    assert found.outputs["y"].shape[:2] == (5, 4)


@pytest.mark.parametrize("declared", [("F", 1), (4, "G"), (4, 1)])
def test_free_and_fitting_lengths_are_no_contradiction(tmp_path, declared):
    found = answer_of(model(tmp_path / "m.onnx", "Identity", *declared), np.ones((5, 4, 1)))
    assert found.undeclared == ()


def test_an_output_of_unknown_rank_declares_nothing(tmp_path):
    path = models.saved(
        tmp_path / "m.onnx", [models.node("Identity", ["x"], ["y"])],
        [models.tensor("x", FLOAT, "F", "G")], [models.tensor("y", FLOAT, scalar=True)],
    )  # fmt: skip
    assert answer_of(path, np.ones((5, 4, 1))).undeclared == ()

"""The gate's own limits: a version that meets one is not blamed for it, an environment is not thrown away."""

import itertools
import sys
from pathlib import Path

import onnx
import pytest
import sandbox_models as models
from onnx import TensorProto

from harness.core.errors import EnvironmentUnavailableError, UsageError
from harness.core.policies import SandboxPolicy
from harness.pipeline.run_facts import load_facts
from harness.pipeline.run_findings import load_findings
from harness.sandbox.graphs import Look, Looked, look
from harness.sandbox.hello import LoadFailure
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.process import Sandbox
from harness.sandbox.starting import DESCRIPTION, Start, refuse_broken_environment

LIMITS = SandboxPolicy(require="S0")


def test_names_that_outgrow_a_header_are_looked_at(tmp_path):
    names = ["x", *(f"t{i}".ljust(9000, "_") for i in range(600)), "y"]
    nodes = [models.node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    model = models.saved(
        tmp_path / "m.onnx",
        nodes,
        [models.tensor("x", TensorProto.FLOAT)],
        [models.tensor("y", TensorProto.FLOAT)],
    )
    (looked,) = look([Look(model=model)], LIMITS)
    assert isinstance(looked, Looked), looked
    assert set(names[1:-1]) <= set(looked.graph.tensors)


def test_a_signature_that_outgrows_a_frame_blames_nobody(tmp_path):
    names = [f"y{i}".ljust(9000, "_") for i in range(500)]
    model = models.saved(
        tmp_path / "m.onnx",
        [models.node("Identity", ["x"], [name]) for name in names],
        [models.tensor("x", TensorProto.FLOAT)],
        [models.tensor(name, TensorProto.FLOAT) for name in names],
    )
    with pytest.raises(UsageError, match=r"over the limit of 4194304"):
        Sandbox.start(model, name="c", limits=LIMITS)


@pytest.fixture
def environment(tmp_path):
    """An interpreter that works, with a description where one of a version's own has it."""
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "environment" / DESCRIPTION).write_text("{}")
    return python


def refused(model: Path, python: Path, limits: SandboxPolicy) -> EnvironmentUnavailableError:
    with ModelFiles(model) as files:
        failure = Start(files, limits=limits, python=python, allow_weaker=True).finish()
    assert isinstance(failure, LoadFailure)
    assert failure.unseen
    with pytest.raises(EnvironmentUnavailableError) as told:
        refuse_broken_environment(failure, python, limits)
    return told.value


def test_too_little_memory_is_named_and_the_environment_kept(tmp_path, environment):
    limits = SandboxPolicy(require="S0", memory_bytes=64 << 20)
    error = refused(models.identity(tmp_path / "m.onnx"), environment, limits)
    assert "sandbox.memory, which is 64 MiB" in error.remedy
    assert (environment.parent.parent / DESCRIPTION).exists()


def test_too_little_time_is_named_and_the_environment_kept(tmp_path, environment):
    environment.write_text("#!/bin/sh\nexec sleep 60\n")
    limits = SandboxPolicy(require="S0", start_deadline_s=0.3)
    error = refused(models.identity(tmp_path / "m.onnx"), environment, limits)
    assert "within 0.3 s, its sandbox.start_deadline (blocked: " in error.what
    assert (environment.parent.parent / DESCRIPTION).exists()


def test_a_model_that_takes_more_than_its_load_is_given_is_told_with_the_limit(tmp_path):
    folded = "".join(f"t{i + 1} = MatMul(t{i}, t0)\n" for i in range(40))
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>\ng (float[N] x) => (float[N] y) {\n'
        "shape = Constant<value = int64[2] {1600, 1600}>()\nt0 = ConstantOfShape(shape)\n"
        f"{folded}most = ReduceMax<keepdims = 0>(t40)\ny = Add(x, most)\n}}"
    )
    onnx.save(onnx.parser.parse_model(text), str(tmp_path / "slow.onnx"))
    limits = SandboxPolicy(require="S0", load_deadline_s=0.5)
    (failure,) = look([Look(model=tmp_path / "slow.onnx")], limits)
    assert isinstance(failure, LoadFailure)
    assert failure.message.startswith(
        "no answer within 0.5 s, its sandbox.load_deadline (computing: "
    )
    facts = load_facts(failure, failure)
    assert facts.load_limits == dict.fromkeys(("baseline", "candidate"), "sandbox.load_deadline")
    assert all("Raise sandbox.load_deadline" in f.remedy for f in load_findings(facts))


def test_a_model_that_takes_more_memory_than_its_load_is_given_is_told_with_the_limit(tmp_path):
    model = onnx.load(models.identity(tmp_path / "m.onnx"))
    held = onnx.helper.make_tensor(
        "h", TensorProto.FLOAT, [80_000_000], bytes(320_000_000), raw=True
    )
    model.graph.initializer.append(held)
    model.graph.node.append(onnx.helper.make_node("Neg", ["h"], ["negative"]))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("negative", TensorProto.FLOAT, None)
    )
    onnx.save(model, str(tmp_path / "m.onnx"))
    limits = SandboxPolicy(require="S0", memory_bytes=256 << 20)
    (failure,) = look([Look(model=tmp_path / "m.onnx")], limits)
    assert isinstance(failure, LoadFailure)
    assert load_facts(failure, failure).load_limits["candidate"] == "sandbox.memory"
    assert "sandbox.memory is 256 MiB" in failure.message


def test_a_damaged_environment_loses_its_description(tmp_path, environment):
    environment.write_text("#!/bin/sh\nexit 3\n")
    error = refused(models.identity(tmp_path / "m.onnx"), environment, LIMITS)
    assert "built anew" in error.remedy
    assert not (environment.parent.parent / DESCRIPTION).exists()

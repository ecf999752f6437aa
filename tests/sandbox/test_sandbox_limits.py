"""The gate's own limits: a version that meets one is not blamed for it, an environment is not thrown away."""

import itertools
import sys
from pathlib import Path

import pytest
import sandbox_models as models
from onnx import TensorProto

from harness.core.errors import EnvironmentUnavailableError, UsageError
from harness.core.policies import SandboxPolicy
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
    assert "sandbox.start_deadline is 0.3 s" in error.what
    assert (environment.parent.parent / DESCRIPTION).exists()


def test_a_damaged_environment_loses_its_description(tmp_path, environment):
    environment.write_text("#!/bin/sh\nexit 3\n")
    error = refused(models.identity(tmp_path / "m.onnx"), environment, LIMITS)
    assert "built anew" in error.remedy
    assert not (environment.parent.parent / DESCRIPTION).exists()

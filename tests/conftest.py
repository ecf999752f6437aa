"""Fixtures several packages share: small ONNX models and a real MLflow registry on sqlite.

Creating a registry's database takes MLflow 0.6 s of migrations, opening one 0.04 s: it is made
once per test run, under a lock so that the processes of pytest-xdist share it, and copied per test.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

pytest_plugins = ("forked", "gates", "looks", "s3_servers", "simulated")

# An example's time follows from what else the machine does. Which examples are drawn follows from the test itself:
# one in thousands that shows a fault is found by `--hypothesis-profile "drawn anew"`, not by somebody else's change.
settings.register_profile("drawn anew", deadline=None)
settings.register_profile("any machine", deadline=None, derandomize=True)
settings.load_profile("any machine")
# Nor from which modules a process happens to have imported before.
providers.is_local_module_file = lambda _: False

# Threads of one process's linear algebra would take the processor from the other processes of the run.
for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

# A shell that runs the tests in its background has SIGINT ignored, and every process here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports MLflow: it starts telemetry on import.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# Fixtures of a wider scope than one test count their attempts here, never in the user's own folder.
_STATES = tempfile.mkdtemp(prefix="harness-tests-state-")
_NUMBERS = itertools.count()
os.environ["HARNESS_STATE_DIR"] = _STATES
atexit.register(shutil.rmtree, _STATES, ignore_errors=True)

# Environments of single versions: built once per test run, for all processes of pytest-xdist.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["HARNESS_ENVIRONMENTS_DIR"] = tempfile.mkdtemp(prefix="harness-tests-environments-")
    atexit.register(shutil.rmtree, os.environ["HARNESS_ENVIRONMENTS_DIR"], ignore_errors=True)

# What several processes of one test run lock.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["HARNESS_TESTS_RUN_DIR"] = tempfile.mkdtemp(prefix="harness-tests-run-")
    atexit.register(shutil.rmtree, os.environ["HARNESS_TESTS_RUN_DIR"], ignore_errors=True)

# Warnings are errors; these are raised inside MLflow by MLflow's own code, and nothing here can
# avoid them.
_THIRD_PARTY_WARNINGS = (
    # Importing mlflow.pyfunc describes MLflow's own chat types.
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",
    # MLflow's own tables, when the first of them is used: now and then outside what ignores it.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)

MakeModel = Callable[..., Path]
_DRAWN: dict[str, Any] = {}
"""Module → the state of its generator before its first test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry of one test's own."""

    uri: str
    """sqlite:///PATH"""
    folder: Path
    """Where the database and the artifacts lie."""

    def register(
        self,
        model: Path,
        *,
        name: str = "flights",
        alias: str | None = None,
        training_cutoff: str | None = None,
        requirements: tuple[str, ...] = (),
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Registers a model as the product does; returns the version."""
        from harness.pipeline.registry import register

        return register(
            model, name=name, registry_uri=self.uri, alias=alias,
            training_cutoff=training_cutoff, requirements=requirements, tags=tags,
        )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Adds the exceptions from "warnings are errors"."""
    for line in _THIRD_PARTY_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """In a new checkout each module's assertions are rewritten by one process; the others read what it wrote.

    Half of a process's collection is that work, and all processes collect the same modules at the same time.
    """
    if not isinstance(collector, pytest.Module) or sys.dont_write_bytecode:
        return (yield)
    path = collector.path
    rewritten = f"{path.stem}.{sys.implementation.cache_tag}-pytest-*.pyc"
    if any((path.parent / "__pycache__").glob(rewritten)):
        return (yield)
    with _locked(Path(os.environ["HARNESS_TESTS_RUN_DIR"]) / "rewriting.lock"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """What collection makes stays to the end: nobody looks for garbage in it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(autouse=True)
def _no_registry_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer's shell points at is never read or written by a test."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "HARNESS_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="module")
def _attempts_of_its_modules() -> Iterator[None]:
    """What a module's fixtures ask is a first attempt, also where pytest-xdist has them set up again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_STATE_DIR", f"{_STATES}/{next(_NUMBERS)}")
        yield


@pytest.fixture(autouse=True)
def _attempts_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking the same question in another test is no second attempt.

    Most tests write no file: they get the name of a folder, and none is made for them.
    """
    monkeypatch.setenv("HARNESS_STATE_DIR", f"{_STATES}/{next(_NUMBERS)}")


@pytest.fixture(autouse=True)
def _draws_of_its_own(request: pytest.FixtureRequest) -> None:
    """A module's generator RNG draws the same for a test whatever ran before: pytest-xdist divides modules."""
    rng = getattr(request.module, "RNG", None)
    if rng is not None:
        state = _DRAWN.setdefault(request.module.__name__, rng.bit_generator.state)
        rng.bit_generator.state = state


@pytest.fixture
def registry(tmp_path: Path, registry_template: Path) -> Registry:
    """An empty registry; nothing in it outlives the test."""
    folder = tmp_path / "registry"
    folder.mkdir()
    shutil.copyfile(registry_template, folder / "registry.db")
    return Registry(uri=f"sqlite:///{folder / 'registry.db'}", folder=folder)


@pytest.fixture(scope="session")
def registry_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database, made once per test run."""
    from harness.pipeline.registry import create_database

    base = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have a folder each below the run's.
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    template = shared / "registry-template.db"
    with _locked(shared / "registry-template.lock"):
        create_database(f"sqlite:///{template}")
    return template


@pytest.fixture(scope="session")
def write_onnx() -> MakeModel:
    """`write_model` below, for fixtures that outlive a test."""
    return write_model


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Writes x → x * scale as ONNX: `make_model(file name, scale=…, external=…)`."""

    def make(file: str = "model.onnx", *, scale: float = 2.0, external: bool = False) -> Path:
        return write_model(tmp_path / file, scale=scale, external=external)

    return make


def write_model(path: Path, *, scale: float = 2.0, external: bool = False) -> Path:
    """Writes a one-node model: y = x * scale, x and y FP32[?, 1024].

    Args:
      path: where to; parent folders are made.
      scale: the constant.
      external: whether the constant lies in `weights.bin` beside the model.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1024])

    constant = numpy_helper.from_array(np.full((1, 1024), scale, np.float32), "scale")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "scaled", [tensor("x")], [tensor("y")], [constant],
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 15)])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=external,
        location="weights.bin" if external else None,
    )
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

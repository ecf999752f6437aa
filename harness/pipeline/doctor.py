"""What this machine has and allows, each with what to do about it.

Nothing is inferred that can be tried: onnxruntime runs a model in a real sandbox, whose isolation
is the one reported. MLflow, seconds to import, is imported only when a registry is named.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.errors import HarnessError
from harness.core.jsonable import jsonable
from harness.core.policies import SandboxPolicy
from harness.pipeline import machine
from harness.pipeline.assets import default_cache_dir, default_environments_dir
from harness.pipeline.isolation_advice import isolation_checks
from harness.pipeline.machine import Check, State
from harness.pipeline.surroundings import surroundings
from harness.sandbox.answers import BatchFault
from harness.sandbox.environments import cached_environments
from harness.sandbox.hello import LoadFailure
from harness.sandbox.installing import InstallError, uv_program
from harness.sandbox.one_node import ONE_NODE
from harness.sandbox.process import Sandbox

_PACKAGE = "harness"
_OLDEST_PYTHON = (3, 11)
_REINSTALL = "Reinstall onnxruntime and numpy: python3 bootstrap.py setup"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """All checks, in the order they were made."""

    checks: tuple[Check, ...]
    """What was looked at."""

    @property
    def exit_code(self) -> int:
        """0: no problem stands in the way; 3: one does."""
        return 3 if any(check.state is State.PROBLEM for check in self.checks) else 0

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(jsonable(self), indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """The report for a terminal: a line a check, the remedy below those that need one."""
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            lines.append(f"{check.state:<8} {check.name:<{width}}  {check.found}")
            if check.remedy:
                lines.append(f"{'':<8} {'':<{width}}  → {check.remedy}")
        return "\n".join(lines)


def doctor(*, registry_uri: str | None = None, cache_dir: Path | None = None) -> DoctorReport:
    """Checks Python, packages, onnxruntime, the sandbox, the registry and the machine.

    Args:
      registry_uri: MLflow registry to reach; None = the environment's or ./mlflow.db, if any.
      cache_dir: where sealed windows are kept; None = the user's cache folder.

    Returns:
      A report; checks that fail are in it, never raised.
    """
    cache = cache_dir or default_cache_dir()
    return DoctorReport(
        checks=(
            python_version(),
            packages(),
            *sandboxed_run(),
            registry(registry_uri),
            environments(default_environments_dir()),
            machine.disk(cache),
            machine.processors(),
            machine.shared_memory(),
            machine.kernel(),
            machine.clock(),
        )
    )


def python_version() -> Check:
    """Whether this Python is new enough."""
    found = f"{platform.python_version()} at {sys.prefix}"
    if sys.version_info >= _OLDEST_PYTHON:
        return Check(name="python", state=State.OK, found=found)
    remedy = f"Use Python {'.'.join(map(str, _OLDEST_PYTHON))} or newer."
    return Check(name="python", state=State.PROBLEM, found=found, remedy=remedy)


def packages(distribution: str = _PACKAGE) -> Check:
    """Whether the installed packages are those that this package declares.

    Args:
      distribution: whose declarations.
    """
    # Costs some hundredths of a second and is needed here only.
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in importlib.metadata.requires(distribution) or ()]
    except importlib.metadata.PackageNotFoundError:
        return Check(
            name="packages",
            state=State.WARNING,
            found=f"{distribution} is not installed, so nothing says which versions it needs",
            remedy="Set it up with: python3 bootstrap.py setup",
        )
    wanted = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = [text for r in wanted if (text := _mismatch(r.name, r.specifier.contains, str(r)))]
    if wrong:
        return Check(
            name="packages",
            state=State.PROBLEM,
            found="; ".join(wrong),
            remedy="Install what requirements.lock pins: python3 bootstrap.py setup",
        )
    shown = (f"{r.name} {importlib.metadata.version(r.name)}" for r in wanted)
    return Check(name="packages", state=State.OK, found=", ".join(shown))


def sandboxed_run() -> Iterator[Check]:
    """Runs a one-node model in a sandbox, and reports the isolation it really had."""
    try:
        with tempfile.TemporaryDirectory(prefix="harness-doctor-") as scratch:
            model = Path(scratch) / "one-node.onnx"
            model.write_bytes(ONE_NODE)
            limits = SandboxPolicy()
            started = Sandbox.start(model, name="doctor", limits=limits, allow_weaker=True)
            if isinstance(started, LoadFailure):
                yield _no_run(f"{started.kind}: {started.message}")
                return
            with started:
                yield _one_batch(started)
                yield from isolation_checks(started.isolation, surroundings())
    except HarnessError as error:
        yield _no_run(error.what, error.remedy)
    except OSError as error:
        yield _no_run(str(error))


def environments(folder: Path) -> Check:
    """Which environments of single versions are cached, and whether more can be built.

    Args:
      folder: where they are kept; need not exist.
    """
    cached = cached_environments(folder)
    size = sum(e.size_bytes for e in cached) >> 20
    shown = "".join(
        f"; {' '.join(f'{name} {version}' for name, version in e.packages)} (Python {e.python})"
        for e in cached
    )
    found = f"{len(cached)} in {folder}, {size:,} MiB{shown}"
    try:
        uv_program()
    except InstallError as error:
        return Check(
            name="environments",
            state=State.WARNING,
            found=f"{found}; none can be built: {error.what}",
            remedy=error.remedy,
        )
    return Check(name="environments", state=State.OK, found=found)


def registry(registry_uri: str | None = None) -> Check:
    """Whether the MLflow registry that is meant can be read.

    Args:
      registry_uri: as given; None = the environment's or ./mlflow.db, if any.
    """
    from harness.resolve.mlflow_client import check_readable, named_registry

    if registry_uri is None and named_registry() is None:
        return Check(name="registry", state=State.OK, found="none named; models come from files")
    try:
        found = check_readable(registry_uri)
    except HarnessError as error:
        return Check(
            name="registry",
            state=State.PROBLEM,
            found=f"{error.where}: {error.what}",
            remedy=error.remedy,
        )
    return Check(name="registry", state=State.OK, found=found)


def _mismatch(name: str, accepts: Callable[[str], bool], declared: str) -> str:
    """What is wrong with one package; "" when nothing is."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is missing ({declared})"
    return "" if accepts(version) else f"{name} is {version}, declared: {declared}"


def _no_run(found: str, remedy: str = _REINSTALL) -> Check:
    """What is reported when onnxruntime cannot run."""
    return Check(
        name="onnxruntime",
        state=State.PROBLEM,
        found=found,
        remedy=remedy,
    )


def _one_batch(sandbox: Sandbox) -> Check:
    """Three rows through the one-node model."""
    rows = np.arange(3, dtype=np.float32)
    sandbox.submit({"x": rows}, 3, trace=False)
    answer = sandbox.collect()
    if isinstance(answer, BatchFault):
        return _no_run(f"a one-node model failed: {answer.message}")
    if not np.array_equal(answer.outputs["y"], rows):
        return _no_run("a one-node model that copies its input returned something else")
    versions = ", ".join(f"{name} {version}" for name, version in sandbox.versions.items())
    return Check(
        name="onnxruntime",
        state=State.OK,
        found=f"ran a one-node model in a process of its own ({versions});"
        f" started in {sandbox.start_s:.2f} s",
    )

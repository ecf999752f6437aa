"""Environments of their own for versions whose runtime is not the running one, built once and kept.

One folder for each (Python, platform, requirement lines), named by their digest. It is built under
another name, tried on a one-node model in a sandbox, described in `environment.json` and then renamed:
what has the final name is whole. A lock beside it lets several gates build it once.

Only wheels are installed, so that no package's code runs while it is installed; only the named
packages, without their dependencies, because a leg imports nothing else (checked with 1.15 to 1.31).
Whatever the user's uv is configured to use (index, proxy, certificates) is used here.

What a folder holds is compared with its description each time by names, sizes and the times of the
last change, which takes some milliseconds; where only times differ, as in a copy, every byte is hashed.
A folder that does not fit is built again, and so is one in which a process did not get as far as its
model: it loses its description (`starting.refuse_broken_environment`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import EnvironmentUnavailableError, UsageError
from harness.core.jsonable import sha256
from harness.core.policies import SandboxPolicy
from harness.sandbox.hello import LoadFailure
from harness.sandbox.installing import InstallError, install
from harness.sandbox.one_node import ONE_NODE
from harness.sandbox.process import Sandbox
from harness.sandbox.starting import DESCRIPTION

FORMAT = "harness-environment/3"
_BYTE_CODE = "__pycache__"
_NAME_LENGTH = 32
_PARTS = ("bin", "lib", "pyvenv.cfg")
_Mark = tuple[int, int, str]
"""(bytes, time of the last change in ns, sha256 or target of a link) of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One environment as it lies in the cache."""

    path: Path
    """Its folder."""
    requirements: tuple[str, ...]
    """What it was built from."""
    python: str
    """Minor version of its Python, 3.11."""
    packages: tuple[tuple[str, str], ...]
    """(name, version) of what is installed, sorted."""
    size_bytes: int
    """Of its files, which are its own."""

    @property
    def interpreter(self) -> Path:
        """What `Sandbox.start` takes as python."""
        return self.path / "bin" / "python"


def environment_for(
    requirements: Sequence[str],
    cache: Path,
    *,
    where: str,
    second_python: str = "",
    building: Callable[[], None] = lambda: None,
) -> Environment:
    """Finds the environment that holds these requirements, or builds it.

    Args:
      requirements: lines for onnxruntime and numpy; nothing else is installed.
      cache: folder of all environments; made when missing.
      where: the model, for errors.
      second_python: minor version to take where the running one has no wheel of these; "" = none.
      building: called before work that takes seconds.

    Raises:
      UsageError: the cache is no folder that can be written.
      EnvironmentUnavailableError: it cannot be built, or does not run: uv is missing, the index cannot be reached, there
        is no such version for this Python, or the versions do not work together.
    """
    running = ".".join(platform.python_version_tuple()[:2])
    pythons = [p for p in dict.fromkeys((running, second_python)) if p]
    for python in pythons:
        found = _kept(environment_path(cache, requirements, python))
        if found is not None:
            return found
    building()
    refused: list[str] = []
    remedy = ""
    for python in pythons:
        try:
            return _built_once(environment_path(cache, requirements, python), python, requirements)
        except InstallError as error:
            refused.append(f"{error.what} (Python {python})")
            remedy = remedy or error.remedy
            if not error.for_this_python:
                break
    raise EnvironmentUnavailableError(
        where,
        f"its environment with {' and '.join(requirements)} cannot be built: {'; '.join(refused)}",
        remedy,
    )


def environment_path(cache: Path, requirements: Sequence[str], python: str) -> Path:
    """Where the environment of these requirements lies.

    Args:
      cache: folder of all environments.
      requirements: lines.
      python: minor version.
    """
    key = sha256(
        {
            "format": FORMAT,
            "python": python,
            "platform": [platform.system(), platform.machine(), *platform.libc_ver()],
            "requirements": sorted(requirements),
        }
    )
    return cache / key[:_NAME_LENGTH]


def cached_environments(cache: Path) -> list[Environment]:
    """The whole ones in a cache, by name.

    Args:
      cache: folder of all environments; need not exist.
    """
    found = (_kept(path) for path in sorted(cache.glob("[0-9a-f]*")) if path.is_dir())
    return [environment for environment in found if environment is not None]


def _built_once(home: Path, python: str, requirements: Sequence[str]) -> Environment:
    """Builds under the lock, unless another process just did."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        lock = home.with_suffix(".lock").open("ab")
    except OSError as error:
        raise UsageError(
            str(home.parent),
            f"environments cannot be kept here ({error.strerror})",
            "Name a folder that can be written: HARNESS_ENVIRONMENTS_DIR.",
        ) from None
    with lock:
        # It ends with the process, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _kept(home)
        if found is not None:
            return found
        begun = f".building-{home.name}-"
        for left in home.parent.glob(f"{begun}*"):
            # Whoever built there was killed. What its uv still writes is left to the next builder.
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=begun, dir=home.parent) as scratch:
            fresh = Path(scratch) / "environment"
            install(requirements, fresh, python)
            packages = _installed(fresh)
            _try_out(fresh / "bin" / "python", dict(packages))
            _describe(fresh, python, requirements, packages)
            if home.exists():  # damaged: what `_kept` refused
                home.rename(Path(scratch) / "damaged")
            fresh.rename(home)
    built = _kept(home)
    if built is None:
        raise InstallError(
            f"{home} changed while it was built",
            "Give the command again; nothing else writes there.",
        )
    return built


def _try_out(python: Path, packages: dict[str, str]) -> None:
    """Runs a one-node model in a sandbox: versions that do not fit each other fail here, by name."""
    with tempfile.TemporaryDirectory(prefix="harness-environment-") as scratch:
        model = Path(scratch) / "one-node.onnx"
        model.write_bytes(ONE_NODE)
        limits = SandboxPolicy(require="S0")
        started = Sandbox.start(
            model, name="environment", limits=limits, python=python, allow_weaker=True
        )
    if isinstance(started, LoadFailure):
        shown = " and ".join(f"{name} {version}" for name, version in packages.items())
        raise InstallError(
            f"{shown} do not run together: {started.message}",
            "Pin versions that work with each other and register the version again.",
        )
    started.close()


def _describe(
    folder: Path, python: str, requirements: Sequence[str], packages: Sequence[tuple[str, str]]
) -> None:
    """Writes what `_kept` reads and compares."""
    files = {
        name: (entry.st_size, entry.st_mtime_ns, _content(folder / name))
        for name, entry in _files(folder)
    }
    about = {
        "format": FORMAT,
        "python": python,
        "requirements": list(requirements),
        "packages": dict(packages),
        "files": files,
    }
    (folder / DESCRIPTION).write_text(json.dumps(about))


def _kept(home: Path) -> Environment | None:
    """An environment that still is what its description says; None when it is not, or not there."""
    try:
        about: dict[str, Any] = json.loads((home / DESCRIPTION).read_text())
        files: dict[str, _Mark] = about["files"]
        whole = (
            about["format"] == FORMAT
            and (home / "bin" / "python").exists()
            and _is_unchanged(home, files)
        )
        return (
            Environment(
                path=home,
                requirements=tuple(about["requirements"]),
                python=about["python"],
                packages=tuple(sorted(about["packages"].items())),
                size_bytes=sum(size for size, _, _ in files.values()),
            )
            if whole
            else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_unchanged(home: Path, files: dict[str, _Mark]) -> bool:
    """Whether a folder holds these files; bytes are read only where times differ."""
    found = dict(_files(home))
    return found.keys() == files.keys() and all(
        found[name].st_size == size
        and (found[name].st_mtime_ns == changed_ns or _content(home / name) == content)
        for name, (size, changed_ns, content) in files.items()
    )


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(name relative to the folder, what it is) of every file but byte code, which may be added."""
    waiting = [name for name in _PARTS if (folder / name).is_dir()]
    yield from ((n, (folder / n).lstat()) for n in _PARTS if (folder / n).is_file())
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting += [f"{below}/{entry.name}"] * (entry.name != _BYTE_CODE)
                else:
                    yield f"{below}/{entry.name}", entry.stat(follow_symlinks=False)


def _content(path: Path) -> str:
    """What tells whether a file is the same: where a link leads, or a digest."""
    if path.is_symlink():
        return str(path.readlink())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installed(folder: Path) -> list[tuple[str, str]]:
    """(name, version) of the installed distributions, without running anything of them."""
    found = [
        p.name.removesuffix(".dist-info") for p in folder.glob("lib/*/site-packages/*.dist-info")
    ]
    return sorted((name, version) for name, _, version in (f.rpartition("-") for f in found))

"""What a version says it needs to run: pip requirements and the Python it was made with.

MLflow writes the same thing three times. `requirements.txt` is what it installs, so it comes first.
What `conda.yaml` and `python_env.yaml` say beyond it of onnxruntime and numpy counts, too: a version
is refused where they contradict each other (`runtime`), and no pin is lost because it stands in one
of them only. A plain `model.onnx` records nothing, unless `model.requirements.txt` lies beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from harness.core.errors import ResolveError
from harness.resolve.conda_specs import conda_file
from harness.resolve.recorded_files import yaml_from_file
from harness.resolve.requirement_files import RequirementFiles
from harness.resolve.requirement_line import places_named, requirement_from_line, seen

REQUIREMENTS_FILE = "requirements.txt"
CONDA_FILE = "conda.yaml"
PYTHON_FILE = "python_env.yaml"
_MOST_LINES = 2000
_LONGEST_LINE = 1000
"""Characters of a requirement without its hashes."""
_LONGEST_SHOWN = 40
_REMEDY = "Correct the version's requirements and log the model again."
_MLFLOW_OWN = {"mlflow", "mlflow-skinny", "mlflow-tracing"}
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")
_PYTHON = re.compile(r"^\d+\.\d+(\.\d+)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a version needs to run, as it was recorded."""

    requirements: tuple[str, ...] = ()
    """pip requirements, mlflow's own left out."""
    python: str = ""
    """3.11.7 or 3.11; "" when it is not recorded."""
    not_followed: tuple[str, ...] = ()
    """Options that say where packages come from, such as --index-url: left out."""


def recorded_in_folder(
    folder: Path, where: str, *, conda_name: str = CONDA_FILE, python_name: str = PYTHON_FILE
) -> Recorded:
    """Reads what lies in an MLflow model folder.

    Args:
      folder: the model folder.
      where: how errors name it.
      conda_name: the conda file, as MLmodel names it.
      python_name: the file of the Python and its packages, as MLmodel names it.

    Raises:
      ResolveError: a file is there and cannot be read, or may name a runtime in words that cannot.
    """
    files = RequirementFiles(folder=folder, where=where)
    conda = conda_file(yaml_from_file(folder / conda_name, where), where)
    environment = _mapping(folder / python_name, where)
    installed = [
        str(line)
        for key in ("build_dependencies", "dependencies")
        for line in _listed(environment, key, where)
    ]
    first, places = _without_places(files.lines(folder / REQUIREMENTS_FILE) or ())
    others, more_places = _without_places(
        (
            *conda.runtime,
            *files.lines_of_text(conda.pip, folder / conda_name),
            *files.lines_of_text("\n".join(installed), folder / python_name),
        )
    )
    first = checked_requirements(first, where)
    known = set(first)
    more = checked_requirements((x for x in dict.fromkeys(others) if x not in known), where)
    if first:
        more = tuple(line for line in more if requirement_from_line(line, where).concerns_leg)
    versions = [environment.get("python"), *conda.pythons]
    return Recorded(
        requirements=(*first, *more),
        python=next((v for v in map(str, versions) if _PYTHON.match(v)), ""),
        not_followed=tuple(dict.fromkeys((*places, *more_places))),
    )


def _without_places(lines: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines that are no index settings, and the options of those that are."""
    kept: list[str] = []
    places: list[str] = []
    for line in lines:
        found = places_named(line)
        places += found
        if not found:
            kept.append(line)
    return tuple(kept), tuple(dict.fromkeys(places))


def _mapping(path: Path, where: str) -> dict[str, Any]:
    found = yaml_from_file(path, where)
    if not isinstance(found, dict | None):
        raise ResolveError(where, f"{path.name} holds no mapping", _REMEDY)
    return found or {}


def _listed(environment: dict[str, Any], key: str, where: str) -> list[Any]:
    found = environment.get(key)
    if not isinstance(found, list | None):
        raise ResolveError(where, f"{PYTHON_FILE} has no list of {key}", _REMEDY)
    return found or []


def recorded_beside(model: Path, where: str) -> Recorded:
    """Reads `model.requirements.txt` beside a plain `model.onnx`.

    Args:
      model: the .onnx file.
      where: how errors name it.

    Raises:
      ResolveError: as `recorded_in_folder`.
    """
    files = RequirementFiles(folder=model.parent, where=where)
    given, places = _without_places(files.lines(model.with_suffix(f".{REQUIREMENTS_FILE}")) or ())
    return Recorded(requirements=checked_requirements(given, where), not_followed=places)


def checked_requirements(lines: Iterable[str], where: str) -> tuple[str, ...]:
    """The lines without mlflow itself, once all of them are understood.

    mlflow adds itself to every model it logs; a sandbox that only runs the graph has no use for it.

    Args:
      lines: pip requirement lines.
      where: how errors name the version.

    Raises:
      ResolveError: there are too many, one is too long, or one may name a runtime and cannot be read.
    """
    kept = []
    for line in lines:
        name = _NAME.match(line)
        if name is None or canonicalize_name(name[0]) not in _MLFLOW_OWN:
            kept.append(line)
    if len(kept) > _MOST_LINES:
        raise ResolveError(where, f"it records more than {_MOST_LINES:,} requirements", _REMEDY)
    for line in kept:
        if len(line.split(" --hash", 1)[0]) > _LONGEST_LINE:
            what = f"the requirement '{seen(line[:_LONGEST_SHOWN])}…' is longer than {_LONGEST_LINE:,} characters"
            raise ResolveError(where, what, _REMEDY)
        requirement_from_line(line, where)
    return tuple(kept)

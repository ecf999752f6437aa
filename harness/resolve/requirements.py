"""What a version says it needs to run: pip requirements and the Python it was made with.

MLflow writes the same thing three times. `requirements.txt` is what it installs, so it comes first;
`conda.yaml` is read where that file is missing, and `python_env.yaml` (or conda's `python=`) names
the Python. A plain `model.onnx` records nothing, unless `model.requirements.txt` lies beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.core.errors import ResolveError

REQUIREMENTS_FILE = "requirements.txt"
_CONDA_FILE = "conda.yaml"
_PYTHON_FILE = "python_env.yaml"
_LIMIT_BYTES = 1 << 20
_MLFLOW_OWN = {"mlflow", "mlflow-skinny", "mlflow-tracing"}
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")
_PYTHON = re.compile(r"^\d+\.\d+(\.\d+)?$")
_CONDA_PYTHON = re.compile(r"^python\s*={1,2}\s*([\d.]+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a version needs to run, as it was recorded."""

    requirements: tuple[str, ...] = ()
    """pip requirements, mlflow's own left out."""
    python: str = ""
    """3.11.7 or 3.11; "" when it is not recorded."""


def recorded_in_folder(folder: Path, where: str) -> Recorded:
    """Reads what lies in an MLflow model folder.

    Args:
      folder: the model folder.
      where: how errors name it.

    Raises:
      ResolveError: a file is there and cannot be read.
    """
    conda = _dependencies(folder / _CONDA_FILE, where)
    given = _text(folder / REQUIREMENTS_FILE, where)
    if given is None:
        pip = [d.get("pip") for d in conda if isinstance(d, dict)]
        given = "\n".join(str(line) for lines in pip if isinstance(lines, list) for line in lines)
    python = _mapping(folder / _PYTHON_FILE, where).get("python")
    versions = [python, *(m[1] for d in conda if (m := _CONDA_PYTHON.match(str(d))))]
    return Recorded(
        requirements=requirements_from_text(given),
        python=next((v for v in map(str, versions) if _PYTHON.match(v)), ""),
    )


def recorded_beside(model: Path, where: str) -> Recorded:
    """Reads `model.requirements.txt` beside a plain `model.onnx`.

    Args:
      model: the .onnx file.
      where: how errors name it.

    Raises:
      ResolveError: the file is there and cannot be read.
    """
    given = _text(model.with_suffix(f".{REQUIREMENTS_FILE}"), where)
    return Recorded(requirements=requirements_from_text(given or ""))


def requirements_from_text(text: str) -> tuple[str, ...]:
    """Reads requirements.txt: comments, options and mlflow itself are left out.

    mlflow adds itself to every model it logs; a sandbox that only runs the graph has no use for it.
    A line that ends in a backslash goes on in the next one: that is how hashes are written.
    """
    joined = re.sub(r"\s*\\\r?\n\s*", " ", text)
    lines = (line.split(" #", 1)[0].strip() for line in joined.splitlines())
    kept = []
    for line in lines:
        name = _NAME.match(line)
        if name and name[0].lower().replace("_", "-") not in _MLFLOW_OWN:
            kept.append(line)
    return tuple(kept)


def _text(path: Path, where: str) -> str | None:
    """A small text file; None when there is none."""
    if not path.is_file():
        return None
    if path.stat().st_size > _LIMIT_BYTES:
        raise ResolveError(where, f"{path.name} is larger than 1 MiB", "Log the model again.")
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise ResolveError(where, f"{path.name} is no text", "Log the model again.") from error


def _mapping(path: Path, where: str) -> dict[str, Any]:
    """A YAML file's mapping; empty when there is no file, or something else in it."""
    text = _text(path, where)
    try:
        found = yaml.safe_load(text or "")
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise ResolveError(
            where, f"{path.name} is no YAML ({first})", "Log the model again."
        ) from error
    return found if isinstance(found, dict) else {}


def _dependencies(path: Path, where: str) -> list[Any]:
    """The list of dependencies in a conda file."""
    found = _mapping(path, where).get("dependencies")
    return found if isinstance(found, list) else []

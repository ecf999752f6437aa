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

from harness.core.errors import ResolveError
from harness.resolve.recorded_files import text_from_file, yaml_from_file

REQUIREMENTS_FILE = "requirements.txt"
_CONDA_FILE = "conda.yaml"
_PYTHON_FILE = "python_env.yaml"
_MOST_LINES = 2000
_LONGEST_LINE = 1000
"""Characters of a requirement without its hashes."""
_REMEDY = "Correct the version's requirements and log the model again."
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
    given = text_from_file(folder / REQUIREMENTS_FILE, where)
    if given is None:
        pip = [d.get("pip") for d in conda if isinstance(d, dict)]
        given = "\n".join(str(line) for lines in pip if isinstance(lines, list) for line in lines)
    python = _mapping(folder / _PYTHON_FILE, where).get("python")
    versions = [python, *(m[1] for d in conda if (m := _CONDA_PYTHON.match(str(d))))]
    return Recorded(
        requirements=_recorded(given, where),
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
    given = text_from_file(model.with_suffix(f".{REQUIREMENTS_FILE}"), where)
    return Recorded(requirements=_recorded(given or "", where))


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


def _mapping(path: Path, where: str) -> dict[str, Any]:
    """A YAML file's mapping; empty when there is no file, or something else in it."""
    found = yaml_from_file(path, where)
    return found if isinstance(found, dict) else {}


def _dependencies(path: Path, where: str) -> list[Any]:
    """The list of dependencies in a conda file."""
    found = _mapping(path, where).get("dependencies")
    return found if isinstance(found, list) else []


def _recorded(text: str, where: str) -> tuple[str, ...]:
    """The requirements in a text, once there are so few and so short that each can be parsed."""
    lines = requirements_from_text(text)
    if len(lines) > _MOST_LINES:
        raise ResolveError(where, f"it records more than {_MOST_LINES:,} requirements", _REMEDY)
    for line in lines:
        if len(line.split(" --hash", 1)[0]) > _LONGEST_LINE:
            start = "".join(filter(str.isprintable, line[:40]))
            raise ResolveError(
                where,
                f"the requirement '{start}…' is longer than {_LONGEST_LINE:,} characters",
                _REMEDY,
            )
    return lines

"""Registers ONNX models in a local MLflow registry, with the tags that the gate checks later.

The model folder is written by hand: `mlflow.onnx.log_model` parses the model in this process (and
so cannot register one that does not load, which a gate must be able to refuse), needs a signature
and a run, and takes ten times as long. `mlflow.onnx.load_model` reads what is written here.

A first database costs about 0.6 s of migrations, an existing one 0.04 s; keeping a migrated
template in a cache was measured and left, as it saves that once per registry. Tests, which make
one each, do copy a template (tests/conftest.py).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.core.clock import ts_ns_from_iso
from harness.core.errors import UsageError
from harness.resolve import tags as tag_names
from harness.resolve.files import METADATA_FILE, copy_model, model_source
from harness.resolve.golden import GOLDEN_FILE, golden_place
from harness.resolve.mlflow_client import connect, explained, quiet, shown, sqlite_path
from harness.resolve.requirements import REQUIREMENTS_FILE, checked_requirements

_SAFE = re.compile(r"[^A-Za-z0-9._-]+")


def create_database(registry_uri: str) -> None:
    """Creates and migrates the database of a sqlite registry; an existing one is left alone.

    Args:
      registry_uri: sqlite:///PATH.

    Raises:
      UsageError: the URI names no sqlite file.
    """
    database = _database(registry_uri)
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with quiet(), explained(registry_uri):
        from mlflow.tracking import MlflowClient

        # Made elsewhere and moved: an interrupted migration must not leave half a registry. The
        # scratch folder is not the target's, whose disk may be slow at the many small commits.
        with tempfile.TemporaryDirectory(prefix="harness-registry-") as scratch:
            fresh = Path(scratch) / database.name
            MlflowClient(f"sqlite:///{fresh}", f"sqlite:///{fresh}").search_registered_models()
            partial = database.with_name(f".{database.name}.partial")
            shutil.copyfile(fresh, partial)
            partial.replace(database)


def register(
    model: Path,
    *,
    name: str,
    registry_uri: str,
    alias: str | None = None,
    training_cutoff: str | None = None,
    requirements: tuple[str, ...] = (),
    tags: Mapping[str, str] | None = None,
) -> str:
    """Registers a model as a new version of a name; the same content again is the same version.

    Args:
      model: an .onnx file (its external data beside it) or an MLflow model folder. It is not
        parsed, so one that does not load can be registered, too.
      name: registered name, made when missing.
      registry_uri: sqlite:///PATH; the database is made when missing, artifacts lie beside it.
      alias: set to the version, also when that exists already.
      training_cutoff: last instant whose data the model was trained on, ISO 8601.
      requirements: pip requirements; () = those recorded in a model folder.
      tags: further tags of the version.

    Returns:
      The version.

    Raises:
      UsageError: no sqlite registry, or a cut-off that is no time.
      ResolveError: there is no usable model, or the registry fails.
    """
    if training_cutoff is not None:
        ts_ns_from_iso(training_cutoff, "training_cutoff")
    database = _database(registry_uri)
    create_database(registry_uri)
    source = model_source(model, str(model))
    if requirements:
        kept = checked_requirements(requirements, str(model))
        recorded = dataclasses.replace(source.recorded, requirements=kept)
        source = dataclasses.replace(source, recorded=recorded)
    with quiet(), tempfile.TemporaryDirectory(prefix=".register-", dir=database.parent) as scratch:
        copied, content = copy_model(source, Path(scratch), str(model))
        wanted = {**dict(source.metadata), **(tags or {}), tag_names.DIGEST: content.digest}
        if training_cutoff is not None:
            wanted[tag_names.TRAINING_CUTOFF] = training_cutoff
        _write_metadata(copied, requirements=content.requirements, metadata=wanted)
        if golden_place(model).is_file():
            shutil.copyfile(golden_place(model), copied.parent / GOLDEN_FILE)
        client = connect(registry_uri, registry_uri)
        with explained(registry_uri):
            version = _same_content(client, name, content.digest)
            if version is None:
                home = _home(database, name, content.digest)
                _move(copied.parent, home)
                version = str(client.create_model_version(name, str(home), tags=wanted).version)
            else:
                for key, value in wanted.items():
                    client.set_model_version_tag(name, version, key, value)
            if alias is not None:
                client.set_registered_model_alias(name, alias, version)
    return version


def _database(registry_uri: str) -> Path:
    """The database file behind a registry URI that this module may write to."""
    database = sqlite_path(registry_uri)
    if database is None:
        raise UsageError(
            shown(registry_uri),
            "only a local sqlite registry can be written to",
            "Use sqlite:///PATH here, and mlflow.onnx.log_model for a server.",
        )
    return database.resolve()


def _home(database: Path, name: str, digest: str) -> Path:
    """Where a version's artifacts lie: beside the database."""
    return database.with_name(f"{database.stem}-artifacts") / _SAFE.sub("_", name) / digest[:32]


def _same_content(client: Any, name: str, digest: str) -> str | None:  # noqa: ANN401 - untyped
    """The newest version of a name with this content; the name is made when it is missing."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.search_model_versions(f"tags.`{tag_names.DIGEST}` = '{digest}'")
    versions = [int(v.version) for v in found if v.name == name]
    return str(max(versions)) if versions else None


def _move(folder: Path, home: Path) -> None:
    """Puts a written model folder in its place; leftovers of an interrupted one are replaced."""
    home.parent.mkdir(parents=True, exist_ok=True)
    if home.exists():
        shutil.rmtree(home)
    folder.rename(home)


def _write_metadata(
    model: Path, *, requirements: tuple[str, ...], metadata: Mapping[str, str]
) -> None:
    """Writes what makes a folder with a model an MLflow model folder."""
    folder, python = model.parent, platform.python_version()
    # mlflow's loaders want these two names in a version's environment.
    pip = [f"mlflow=={importlib.metadata.version('mlflow')}", *requirements]
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": pip}],
    }
    described = {
        "flavors": {
            "onnx": {
                "code": None,
                "data": model.name,
                "onnx_session_options": None,
                "onnx_version": importlib.metadata.version("onnx"),
                "providers": ["CPUExecutionProvider"],
            },
            "python_function": {
                "data": model.name,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.onnx",
                "python_version": python,
            },
        },
        "metadata": dict(metadata),
        "mlflow_version": importlib.metadata.version("mlflow"),
    }
    python_env = {"python": python, "dependencies": ["-r requirements.txt"]}
    for file, value in (
        (METADATA_FILE, described),
        ("conda.yaml", conda),
        ("python_env.yaml", python_env),
    ):
        (folder / file).write_text(yaml.safe_dump(value, sort_keys=False))
    (folder / REQUIREMENTS_FILE).write_text("\n".join(pip) + "\n")

"""Pins registered model versions: an alias is resolved once, artifacts are copied and checked."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from harness.core.errors import ResolveError, nearest
from harness.core.models import PinnedModel
from harness.resolve import tags
from harness.resolve.files import copy_model, model_source
from harness.resolve.golden import GOLDEN_FILE, pin_golden
from harness.resolve.mlflow_client import (
    connect,
    explained,
    first_line,
    quiet,
    registry_uris,
    shown,
)
from harness.resolve.reference import RegistryReference

_LISTED = 20
"""How many existing names or versions an error shows at most."""
_SEARCHED = 200
"""How many registered models are read to find the nearest name."""
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""MLflow's codes for an unknown name, version and alias (the alias is the second)."""

_T = TypeVar("_T")


class MlflowRegistry:
    """A registry's models, by name and version; one client for all questions.

    Args:
      registry_uri: MLflow registry; None = the environment's (`mlflow_client.registry_uris`).

    Raises:
      ResolveError: no registry is named, it is not there, or it does not answer in time.
    """

    def __init__(self, registry_uri: str | None = None) -> None:
        self._tracking_uri, self._registry_uri = registry_uris(registry_uri)
        self._client = connect(self._tracking_uri, self._registry_uri)

    def pin(self, reference: RegistryReference, into: Path) -> PinnedModel:
        """Fixes a reference to one version and a copy of its bytes.

        Args:
          reference: name with alias or version.
          into: folder that receives the copy.

        Raises:
          ResolveError: unknown name, alias or version; a version that is not ready, is no ONNX
            model, or whose bytes are not those that were registered; a registry that fails.
        """
        with quiet():
            found = self._version(reference)
            where = f"models:/{reference.name}/{found.version}"
            if found.status != "READY":
                raise ResolveError(
                    reference.given,
                    f"version {found.version} is {found.status}: {found.status_message or 'no reason'}",
                    "Wait until the registration is done, or register the model again.",
                )
            with self._artifacts(reference.name, str(found.version), into) as folder:
                source = model_source(folder, where)
                recorded = dict(found.tags)
                path, content = copy_model(
                    source, into, where, recorded_digest=recorded.get(tags.DIGEST, "")
                )
                golden = pin_golden(folder, into)
        return PinnedModel(
            given=reference.given,
            uri=where,
            name=reference.name,
            version=str(found.version),
            digest=content.digest,
            path=path,
            external=content.external_names,
            requirements=source.recorded.requirements,
            python=source.recorded.python,
            not_followed=source.recorded.not_followed,
            training_cutoff_ns=tags.training_cutoff_ns(recorded, where),
            tags=tuple(sorted(_with_note(recorded).items())),
            golden=golden,
        )

    def log_golden(self, reference: RegistryReference, rows: Path) -> str:
        """Adds golden rows to a version's artefacts, beside its model.

        Args:
          reference: name with alias or version.
          rows: the file, called GOLDEN_FILE.

        Returns:
          The version, as models:/NAME/VERSION.

        Raises:
          ResolveError: no such version, it has golden rows, or its artefacts cannot be written.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with quiet():
            found = self._version(reference)
            where = f"models:/{reference.name}/{found.version}"
            with explained(self._registry_uri):
                uri = self._client.get_model_version_download_uri(reference.name, found.version)
            try:
                repository = get_artifact_repository(
                    uri, tracking_uri=self._tracking_uri, registry_uri=self._registry_uri
                )
                there = {Path(entry.path).name for entry in repository.list_artifacts()}
                if GOLDEN_FILE not in there:
                    repository.log_artifact(str(rows))
            except Exception as error:
                raise ResolveError(
                    where,
                    f"its artifacts cannot be written ({first_line(error, self._tracking_uri)})",
                    f"Check access to the artifact store of {shown(self._tracking_uri)}.",
                ) from error
        if GOLDEN_FILE in there:
            raise ResolveError(
                where, "golden rows were logged with it already", "Register a new version."
            )
        return where

    def _version(self, reference: RegistryReference) -> Any:  # noqa: ANN401 - mlflow has no types
        """The model version that a reference means, looked up by number."""
        name, number = reference.name, reference.version
        if reference.alias:
            number = self._ask(
                lambda: self._client.get_model_version_by_alias(name, reference.alias).version,
                lambda: self._unknown_alias(reference),
            )
        return self._ask(
            lambda: self._client.get_model_version(name, str(number)),
            lambda: self._unknown_version(reference, str(number)),
        )

    def _ask(self, question: Callable[[], _T], absent: Callable[[], ResolveError]) -> _T:
        """Asks the registry; what does not exist is explained by `absent`."""
        from mlflow.exceptions import MlflowException

        with explained(self._registry_uri):
            try:
                return question()
            except MlflowException as error:
                if error.error_code not in _ABSENT:
                    raise
                raise absent() from error

    def _unknown_alias(self, reference: RegistryReference) -> ResolveError:
        """Which aliases there are instead; or which names, when the name is unknown."""
        name = reference.name
        aliases = self._ask(
            lambda: dict(self._client.get_registered_model(name).aliases),
            lambda: self._unknown_name(reference),
        )
        if not aliases:
            return ResolveError(
                reference.given,
                f"{name} has no aliases",
                f"Set one, or name a version: models:/{name}/1.",
            )
        known = ", ".join(f"{a} → {v}" for a, v in sorted(aliases.items()))
        return ResolveError(
            reference.given,
            f"{name} has no alias '{reference.alias}' ({known})",
            f"Aliases are case-sensitive; {nearest(reference.alias, aliases)}",
        )

    def _unknown_version(self, reference: RegistryReference, number: str) -> ResolveError:
        """Which versions there are instead; or which names, when the name is unknown."""
        name = reference.name
        self._ask(
            lambda: self._client.get_registered_model(name),
            lambda: self._unknown_name(reference),
        )
        quote = "'" if "'" not in name else '"'
        with explained(self._registry_uri):
            versions = self._client.search_model_versions(
                f"name={quote}{name}{quote}", max_results=_LISTED
            )
        known = ", ".join(sorted((str(v.version) for v in versions), key=int))
        return ResolveError(
            reference.given,
            f"{name} has no version {number}",
            f"Versions: {known}." if known else f"{name} has no versions; register one.",
        )

    def _unknown_name(self, reference: RegistryReference) -> ResolveError:
        """Which registered names there are instead."""
        with explained(self._registry_uri):
            models = self._client.search_registered_models(max_results=_SEARCHED)
        names = sorted(m.name for m in models)
        what = f"{shown(self._registry_uri)} has no registered model '{reference.name}'"
        if not names:
            return ResolveError(reference.given, what, "It is empty; register a model first.")
        listed = ", ".join(names[:_LISTED]) + (" …" if len(names) > _LISTED else "")
        close = nearest(reference.name, names)
        hint = f" {close[0].upper()}{close[1:]}" if close.endswith("?") else ""
        return ResolveError(reference.given, what, f"It has: {listed}.{hint}")

    @contextlib.contextmanager
    def _artifacts(self, name: str, number: str, into: Path) -> Iterator[Path]:
        """A version's model folder: the registry's own when it is local, else a download."""
        where = f"models:/{name}/{number}"
        with explained(self._registry_uri):
            uri = self._client.get_model_version_download_uri(name, number)
        local = _local_path(uri)
        if local is not None:
            if not local.is_dir():
                raise ResolveError(
                    where,
                    f"its artifacts are gone: there is no folder {local}",
                    "Restore the registry's artifacts, or register the model again.",
                )
            yield local
            return
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=into) as scratch:
            yield self._downloaded(uri, scratch, where)

    def _downloaded(self, uri: str, scratch: str, where: str) -> Path:
        """Downloads artifacts; each kind of store raises exceptions of its own."""
        from mlflow.artifacts import download_artifacts

        try:
            return Path(
                download_artifacts(
                    artifact_uri=uri,
                    dst_path=scratch,
                    tracking_uri=self._tracking_uri,
                    registry_uri=self._registry_uri,
                )
            )
        except Exception as error:
            raise ResolveError(
                where,
                f"its artifacts cannot be read ({first_line(error, self._tracking_uri)})",
                f"Check access to the artifact store of {shown(self._tracking_uri)}.",
            ) from error


def _local_path(uri: str) -> Path | None:
    """The folder of a local artifact URI; None when it must be downloaded."""
    address = urlsplit(uri)
    if address.scheme == "file" and address.hostname in {None, "localhost"}:
        return Path(url2pathname(address.path))
    return Path(uri) if not address.scheme else None


def _with_note(recorded: dict[str, str]) -> dict[str, str]:
    """Tags, with a note when the registry recorded no digest to check the bytes against."""
    if tags.DIGEST in recorded:
        return recorded
    note = (
        f"The registry recorded no digest (tag {tags.DIGEST}): the bytes were hashed when pinned,"
        " but nothing shows that they are those that were registered."
    )
    return {**recorded, tags.NOTE: note}

"""Golden rows as an artefact of a registered version."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import ResolveError
from harness.resolve.mlflow_registry import MlflowRegistry
from harness.resolve.reference import RegistryReference, registry_reference


def log_golden(rows: Path, reference: str, *, registry_uri: str | None = None) -> str:
    """Adds golden rows to the artefacts of a registered version.

    Args:
      rows: the file, called GOLDEN_FILE.
      reference: models:/NAME/VERSION or models:/NAME@ALIAS.
      registry_uri: as for `pin`.

    Returns:
      The version, as models:/NAME/VERSION.

    Raises:
      ResolveError: it is none, it has golden rows already, or its artefacts cannot be written.
    """
    return MlflowRegistry(registry_uri).log_golden(registered(reference), rows)


def registered(reference: str) -> RegistryReference:
    """Reads a reference to a registered version.

    Raises:
      ResolveError: it is none.
    """
    found = registry_reference(reference)
    if found is None:
        raise ResolveError(
            reference, "this is no registered version", "Write models:/NAME/VERSION."
        )
    return found

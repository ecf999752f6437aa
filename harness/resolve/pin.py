"""Pins a reference, whatever its kind; MLflow is imported only for registry references."""

from __future__ import annotations

from pathlib import Path

from harness.core.models import PinnedModel
from harness.resolve.files import pin_path
from harness.resolve.reference import registry_reference


def pin(reference: str, into: Path, *, registry_uri: str | None = None) -> PinnedModel:
    """Fixes a reference to one version and its bytes for a whole run.

    Args:
      reference: models:/NAME@ALIAS, models:/NAME/VERSION, or a path to an .onnx file or an MLflow
        model folder.
      into: folder that receives the copy, in a subfolder named by its digest; two references may
        share it.
      registry_uri: MLflow registry; None = MLFLOW_REGISTRY_URI, MLFLOW_TRACKING_URI, or
        ./mlflow.db when there is one.

    Raises:
      ResolveError: the reference leads to no single intact version; nothing was pinned.
    """
    found = registry_reference(reference)
    if found is None:
        return pin_path(reference, into)
    # MLflow takes seconds to import; a plain file must not pay for it.
    from harness.resolve.mlflow_registry import MlflowRegistry

    return MlflowRegistry(registry_uri).pin(found, into)

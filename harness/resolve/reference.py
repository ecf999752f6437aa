"""What a user may write for a model, and what each form means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.core.errors import ResolveError

SCHEME = "models:"
_FORMS = (
    "Write models:/NAME@ALIAS, models:/NAME/VERSION, or a path to an .onnx file or model folder."
)
_OTHER_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+:/")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryReference:
    """A registered model and either an alias or a version of it."""

    given: str
    """As the user wrote it."""
    name: str
    """Registered name."""
    alias: str = ""
    """Case-sensitive; "" when a version is named."""
    version: str = ""
    """Digits; "" when an alias is named."""


def registry_reference(given: str) -> RegistryReference | None:
    """Reads a reference; None means that it is a path.

    Raises:
      ResolveError: it looks like a URI but names no single version.
    """
    if not given.startswith(SCHEME):
        if _OTHER_SCHEME.match(given):
            raise ResolveError(given, "this kind of reference cannot be pinned", _FORMS)
        return None
    path = given.removeprefix(SCHEME)
    if not path.startswith("/") or path.startswith("//"):
        raise ResolveError(given, "it has no registered name after models:/", _FORMS)
    return _from_path(given, path.removeprefix("/"))


def _from_path(given: str, path: str) -> RegistryReference:
    """Reads NAME@ALIAS or NAME/VERSION.

    Raises:
      ResolveError: neither, or a moving target such as latest or a stage.
    """
    name, slash, version = path.partition("/")
    if not slash:
        name, at, alias = path.rpartition("@")
        if not (at and name and alias):
            raise ResolveError(given, "it names no version and no alias", _FORMS)
        return RegistryReference(given=given, name=name, alias=alias)
    if not name or not version or "/" in version:
        raise ResolveError(given, "it is not of the form models:/NAME/VERSION", _FORMS)
    if version.lower() == "latest":
        raise ResolveError(
            given,
            "'latest' is whatever was registered last, so it may change while the gate runs and"
            " nobody chose it",
            "Name a version (models:/NAME/3) or an alias that someone set (models:/NAME@ALIAS).",
        )
    if not (version.isascii() and version.isdigit()):
        raise ResolveError(
            given, f"'{version}' is no version number (stages are not supported)", _FORMS
        )
    return RegistryReference(given=given, name=name, version=str(int(version)))

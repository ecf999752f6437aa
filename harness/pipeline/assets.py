"""Where the models, traffic and scenarios of this project lie: a clone's folders or the installed copy."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core.errors import UsageError


def assets_root() -> Path:
    """The folder that holds models/ and scenarios/.

    Raises:
      UsageError: neither a clone nor an installed copy has them.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package.parent, package / "_data"):
        if (root / "scenarios").is_dir() and (root / "models" / "flights").is_dir():
            return root
    raise UsageError(
        "scenarios",
        "the flight models and the recorded traffic are not installed with this package",
        "Run from a clone of the project, or install it with its data.",
    )


def default_cache_dir() -> Path:
    """Where sealed windows are kept unless the user names a folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "harness" / "windows"


def default_environments_dir() -> Path:
    """Where environments of single versions are kept, unless HARNESS_ENVIRONMENTS_DIR names a folder."""
    named = os.environ.get("HARNESS_ENVIRONMENTS_DIR")
    return Path(named) if named else default_cache_dir().parent / "environments"


def default_state_dir() -> Path:
    """Where attempts are counted unless HARNESS_STATE_DIR or the caller names a folder."""
    named = os.environ.get("HARNESS_STATE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "harness" / "attempts"

"""Options that are either a word or the name of a file."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UsageError


def text_of_file(option: str, name: str) -> str | None:
    """The text of the file that an option names; None where it names none.

    Args:
      option: what was given.
      name: of the option, e.g. --map.

    Raises:
      UsageError: there is such a file, and it cannot be read.
    """
    try:
        if not Path(option).is_file():
            return None
    except (OSError, ValueError):
        # No file has such a name.
        return None
    try:
        return Path(option).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise UsageError(f"{name} {option}", what, "Give a YAML text file.") from error

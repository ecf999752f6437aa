"""A run folder of another version: what does not read back is the folder's, and said so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import UsageError


@contextmanager
def read_back(path: Path, what: str) -> Iterator[None]:
    """Around code that only turns a run's files into values.

    Args:
      path: the run folder.
      what: is read.

    Raises:
      UsageError: a part is missing, or is something else.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        lacks = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            str(path),
            f"its {what} is not what this version of harness writes ({lacks})",
            "Go on with the version that began the run, or start a new one.",
        ) from error

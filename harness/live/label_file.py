"""A file of labels that somebody appends to: {"unit": "u17", "label": 1}, one a line."""

from __future__ import annotations

import json
import os
from pathlib import Path

from harness.core.errors import UsageError
from harness.live.labels import Label

_MOST_BYTES = 4 << 20
"""Read at once, so that a long file does not hold up the judge."""


class LabelFile:
    """Reads what has been appended.

    Args:
      path: JSON lines; `guardrail` may say which one a label is for.
      offset: bytes whose labels have been taken before.

    Raises:
      UsageError: there is no such file.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset
        self.unreadable = 0
        """Lines that are no label."""
        self.trouble = ""
        """Why labels may be missing; "" = nothing is known to be wrong."""
        if not path.is_file():
            raise UsageError(
                f"--labels {path}", "there is no such file", "Create it; labels are appended to it."
            )

    def read(self, now_ns: int) -> list[Label]:
        """Labels of complete lines that came since the last time.

        Args:
          now_ns: when they became known here.

        Returns:
          None of them where the file cannot be read: without labels nothing is proven, and `trouble` says why.
        """
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self.trouble = "the label file became shorter: labels may be missing"
                    self._offset = 0
                file.seek(self._offset)
                content = file.read(_MOST_BYTES)
        except OSError as error:
            self.trouble = f"the label file cannot be read: {error.strerror}"
            return []
        found = []
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            self._offset += len(line)
            label = _label(line, now_ns, self._offset)
            if label is not None:
                found.append(label)
            elif line.strip():
                self.unreadable += 1
        return found


def _label(line: bytes, now_ns: int, offset: int) -> Label | None:
    try:
        given = json.loads(line)
    except ValueError:
        return None
    if not isinstance(given, dict):
        return None
    unit, label, rail = given.get("unit"), given.get("label"), given.get("guardrail", "")
    if not isinstance(unit, str) or not unit or not isinstance(rail, str):
        return None
    if not isinstance(label, int | float):
        return None
    return Label(unit=unit, value=float(label), ts_ns=now_ns, guardrail=rail, offset=offset)

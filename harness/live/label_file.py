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
        self._inside = False
        self.trouble = ""
        """Why labels may be missing; "" = nothing is known to be wrong."""
        if not path.is_file():
            raise UsageError(
                f"--labels {path}", "there is no such file", "Create it; labels are appended to it."
            )

    def read(self, now_ns: int) -> list[Label]:
        """Labels of complete lines that came since the last time; see `Label.unit` for lines that are none.

        Args:
          now_ns: when they became known here.

        Returns:
          None of them where the file cannot be read: without labels nothing is proven, and `trouble` says why.
        """
        content = self._content()
        found = []
        if len(content) == _MOST_BYTES and b"\n" not in content:
            # A line so long is no label: what is read of it is dropped, and it is told once it ends.
            self._offset += len(content)
            self._inside = True
            return []
        *lines, _ = content.split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            label = None if self._inside else _label(line, now_ns, self._offset)
            if label is not None:
                found.append(label)
            elif self._inside or line.strip():
                found.append(Label(unit="", value=0.0, ts_ns=now_ns, offset=self._offset))
            self._inside = False
        return found

    def _content(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self.trouble = "the label file became shorter: labels may be missing"
                    self._offset, self._inside = 0, False
                file.seek(self._offset)
                return file.read(_MOST_BYTES)
        except OSError as error:
            self.trouble = f"the label file cannot be read: {error.strerror}"
            return b""


def _label(line: bytes, now_ns: int, offset: int) -> Label | None:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict):
        return None
    unit, label, rail = given.get("unit"), given.get("label"), given.get("guardrail", "")
    if not isinstance(unit, str) or not unit or not isinstance(rail, str):
        return None
    if not isinstance(label, int | float) or isinstance(label, bool):
        return None
    try:
        value = float(label)
    except OverflowError:
        return None
    return Label(unit=unit, value=value, ts_ns=now_ns, guardrail=rail, offset=offset)

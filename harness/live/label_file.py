"""A file of labels that somebody appends to: {"unit": "u17", "label": 1}, one a line.

It is read in a thread of its own: a mount that hangs holds no judge up. A file that is another one than
before, by the bytes that it begins with, is read from its beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.core.errors import UsageError
from harness.live.labels import Label
from harness.live.own_thread import begun

_MOST_BYTES = 4 << 20
"""Read at once, so that a long file does not hold up the judge."""
_HEAD_BYTES = 4096
"""Of the file's beginning, by which it is known again."""
_PATIENCE_S = 2.0
"""The judge waits so long for the file, and then goes on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What one look at the file found."""

    start: int = 0
    """Where in the file the content begins: where it was asked for, or 0."""
    content: bytes = b""
    """What is there from then on, up to `_MOST_BYTES`."""
    head: bytes = b""
    """The file's first bytes."""
    trouble: str = ""
    """Why labels may be missing; "" = nothing is wrong."""
    readable: bool = True
    """False: nothing was read."""


def check_label_file(path: Path) -> None:
    """Refuses a wrong path at a first start; later, when production depends on it, it is a trouble.

    Args:
      path: that labels are said to come in.

    Raises:
      UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(
            f"--labels {path}", "there is no such file, or it is no regular one",
            "Create it; labels are appended to it.",
        )  # fmt: skip


class LabelFile:
    """Reads what has been appended.

    Args:
      path: JSON lines; `guardrail` may say which one a label is for.
      offset: bytes whose labels have been taken before.
      head: of the file that they were taken from; see `Label.head`.
    """

    def __init__(self, path: Path, offset: int = 0, head: str = "") -> None:
        self._path = path
        self._offset = offset
        self._head = head
        self._inside = False
        self._reading: Future[_Read] | None = None
        self._in_trouble = False
        self.troubles = 0
        """How often something was wrong that had not been before."""
        self.trouble = ""
        """Why labels may be missing, as it was last; "" = nothing was wrong so far."""

    def read(self, now_ns: int) -> list[Label]:
        """Labels of complete lines that came since the last time; see `Label.unit` for lines that are none.

        Args:
          now_ns: when they became known here.

        Returns:
          None of them where the file cannot be read, or does not answer: without labels nothing is proven,
          and `trouble` says why.
        """
        found = self._looked()
        if found is None:
            return []
        if found.start != self._offset:
            self._offset, self._inside = found.start, False
        content = found.content
        if len(content) == _MOST_BYTES and b"\n" not in content:
            # A line so long is no label: what is read of it is dropped, and it is told once it ends.
            self._offset += len(content)
            self._inside = True
            self._head = _digest(found.head, self._offset)
            return []
        labels = []
        whole = _digest(found.head, _HEAD_BYTES)
        *lines, _ = content.split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            if self._inside or line.strip():
                known = None if self._inside else _label(line)
                unit, value, rail = known or ("", 0.0, "")
                early = self._offset < _HEAD_BYTES
                head = _digest(found.head, self._offset) if early else whole
                labels.append(
                    Label(unit=unit, value=value, ts_ns=now_ns, guardrail=rail,
                          offset=self._offset, head=head)
                )  # fmt: skip
            self._inside = False
        self._head = _digest(found.head, self._offset)
        return labels

    def _looked(self) -> _Read | None:
        """The file as it is now; None where nothing is known of it."""
        if self._reading is None:
            self._reading = begun(partial(_read, self._path, self._offset, self._head))
            patience_s = _PATIENCE_S
        else:
            patience_s = 0.0  # it was waited for already
        try:
            found = self._reading.result(patience_s)
        except TimeoutError:
            self._say(f"the label file has not answered for {_PATIENCE_S:g} s or longer")
            return None
        self._reading = None
        self._say(found.trouble)
        return found if found.readable else None

    def _say(self, trouble: str) -> None:
        if trouble:
            self.troubles += not self._in_trouble
            self.trouble = trouble
        self._in_trouble = bool(trouble)


def _read(path: Path, offset: int, head: str) -> _Read:
    try:
        # Not to wait for somebody who writes, where it is a pipe by now.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _read_opened(handle, offset, head)
        finally:
            os.close(handle)
    except OSError as error:
        return _Read(trouble=f"the label file cannot be read: {error.strerror}", readable=False)


def _read_opened(handle: int, offset: int, head: str) -> _Read:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        what = "the label file is no regular file any more, and is not read"
        return _Read(trouble=what, readable=False)
    # A file object would refuse a directory before it owns the descriptor.
    with os.fdopen(handle, "rb", closefd=False) as file:
        first = file.read(_HEAD_BYTES)
        trouble = ""
        if file.seek(0, os.SEEK_END) < offset:
            trouble = "the label file became shorter: labels may be missing"
        elif head and _digest(first, offset) != head:
            trouble = "the label file is another one than before: it is read from its beginning"
        start = 0 if trouble else offset
        file.seek(start)
        return _Read(start=start, content=file.read(_MOST_BYTES), head=first, trouble=trouble)


def _digest(first: bytes, offset: int) -> str:
    """Of the beginning of what has been read; the rest of the file may still grow."""
    return hashlib.sha256(first[: min(offset, _HEAD_BYTES)]).hexdigest()


def _label(line: bytes) -> tuple[str, float, str] | None:
    """(unit, value, guardrail) of a line; None = it is no label."""
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
    return unit, value, rail

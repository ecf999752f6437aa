"""Lines for whoever reads them, without waiting for a reader who has stopped.

What judges must never wait for a terminal or a pipe. Lines go through a bounded queue to a thread of
their own; where it is full, the oldest are dropped and the reader is told how many.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable

import click

MOST_LINES = 1_000
_LAST_WORDS_S = 2.0
"""So long the end waits for a reader."""
_LOOKS = 20
"""Parts of that time: where the machine lets this process stand still, that is one of them, however long."""


class Printer:
    """Prints lines in their order. The thread never keeps the process from ending.

    Args:
      dropped: the line that says how many are missing.
      most: lines that wait at most.
    """

    def __init__(self, dropped: Callable[[int], str], most: int = MOST_LINES) -> None:
        self._dropped = dropped
        self._most = most
        self._lines: deque[str] = deque()
        self._lost = 0
        self._busy = self._gone = False
        self._changed = threading.Condition()
        self._out = _descriptor()
        threading.Thread(target=self._print, daemon=True).start()

    def line(self, text: str) -> None:
        """Prints a line at some time, or drops the oldest that waits; returns at once."""
        with self._changed:
            if len(self._lines) >= self._most:
                self._lines.popleft()
                self._lost += 1
            self._lines.append(text)
            self._changed.notify_all()

    def close(self, wait_s: float = _LAST_WORDS_S) -> int:
        """Waits a little until all is printed.

        Args:
          wait_s: at most so long, besides what the whole process stands still.

        Returns:
          Lines that nobody will read.
        """
        with self._changed:
            for _ in range(_LOOKS):
                if self._changed.wait_for(self._is_done, wait_s / _LOOKS):
                    break
            return self._lost + len(self._lines) + self._busy

    def _is_done(self) -> bool:
        return self._gone or not (self._lines or self._busy)

    def _print(self) -> None:
        lost = 0
        while True:
            with self._changed:
                self._busy = False
                self._lost -= lost
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                lost = self._lost
                text = "".join(f"{line}\n" for line in (*self._said(lost), self._lines.popleft()))
                self._busy = True
            try:
                self._write(text)
            except OSError:
                # The reader has gone: nothing is printed any more, and all goes on.
                with self._changed:
                    self._gone = True
                    self._changed.notify_all()
                return

    def _said(self, lost: int) -> tuple[str, ...]:
        return (self._dropped(lost),) if lost else ()

    def _write(self, text: str) -> None:
        if self._out is None:
            click.echo(text, nl=False)
            return
        # Not through Python's buffer: its lock would be held while the reader stands still.
        left = text.encode("utf-8", "replace")
        while left:
            left = left[os.write(self._out, left) :]


def _descriptor() -> int | None:
    """Of the standard output; None where it is no file."""
    try:
        sys.stdout.flush()
        return sys.stdout.fileno()
    except (io.UnsupportedOperation, AttributeError, OSError):
        return None

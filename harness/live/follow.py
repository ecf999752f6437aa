"""What a canary says, as it comes: from its folder, by any number of readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.live.folder_files import EVENTS
from harness.store.runs import is_written

_BEGINNING = b'{"event": '
_LOOKS = 25
"""Of so many looks without news one asks whether anybody serves."""


def follow(
    path: Path, wait: Callable[[], bool], said: Callable[[str], None] = lambda _: None
) -> Iterator[dict[str, Any]]:
    """Every event of a canary's folder, until the final one.

    Args:
      path: the folder.
      wait: called when there is nothing new; says whether to look again.
      said: hears what is no event: of lines that are damaged, and that nobody serves.

    Yields:
      Events as they were written.

    Raises:
      UsageError: no canary's folder.
    """
    file = path / EVENTS
    if not file.is_file():
        raise UsageError(str(path), "no canary's folder", "Give the folder of `--out`.")
    at = 0
    served = _Served(path, said)
    while True:
        lines = _whole_lines(file, at)
        at += sum(map(len, lines))
        for line in lines:
            event = _event(line)
            if event is None or line.rfind(_BEGINNING):
                said(f"{file}: a line is damaged, and what can be read of it is shown")
            if event is not None:
                yield event
                if event.get("final"):
                    return
        served.look(news=bool(lines))
        if not wait():
            return


def _whole_lines(file: Path, at: int) -> list[bytes]:
    """Lines that have ended, from so many bytes on."""
    with file.open("rb") as opened:
        opened.seek(at)
        return [line for line in opened if line.endswith(b"\n")]


class _Served:
    """Says once, until there is news again, that nobody serves."""

    def __init__(self, path: Path, said: Callable[[str], None]) -> None:
        self._path = path
        self._said = said
        self._idle = 0
        self._alone = False

    def look(self, *, news: bool) -> None:
        self._idle = 0 if news else self._idle + 1
        self._alone = self._alone and not news
        if self._idle % _LOOKS == 1 and not self._alone and not is_written(self._path):
            self._alone = True
            self._said("nobody serves this canary now; it is followed until somebody does")


def _event(line: bytes) -> dict[str, Any] | None:
    """An event; of a line that was torn and then written on, the last one; None = there is none."""
    for text in (line, line[max(line.rfind(_BEGINNING), 0) :]):
        with suppress(ValueError, KeyError, TypeError):
            found: dict[str, Any] = json.loads(text)
            found["event"], found["at"], found["explanation"]
            return found
    return None


def text_of(event: dict[str, Any]) -> str:
    """One line a person reads."""
    word = event["decision"] if event["final"] else event["event"]
    proof = ", ".join(f"{clock} {log_e / 2.302585:.1f}" for clock, log_e in event["log_e_rollback"])
    return (
        f"{event['at']}  {word:<8}  {event['share']:.0%} to the candidate, "
        f"{event['n_closed']:,} units judged, evidence of harm 10^({proof})  {event['explanation']}"
    )

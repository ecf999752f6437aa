"""What a canary says, as it comes: from its folder, by any number of readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.live.folder_files import EVENTS

_CERTAIN = 20.0
"""A log e-value shown in words beyond it says nothing more."""


def follow(path: Path, wait: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Every event of a canary's folder, until the final one.

    Args:
      path: the folder.
      wait: called when there is nothing new; says whether to look again.

    Yields:
      Events as they were written.

    Raises:
      UsageError: no canary's folder, or a damaged file.
    """
    file = path / EVENTS
    if not file.is_file():
        raise UsageError(str(path), "no canary's folder", "Give the folder of `--out`.")
    at = 0
    while True:
        with file.open("rb") as opened:
            opened.seek(at)
            content = opened.read()
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            at += len(line)
            event = _event(file, line)
            yield event
            if event.get("final"):
                return
        if not wait():
            return


def _event(file: Path, line: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
        found["event"], found["at"], found["explanation"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(str(file), "a line is damaged", "Read decision.json instead.") from None
    return found


def text_of(event: dict[str, Any]) -> str:
    """One line a person reads."""
    word = event["decision"] if event["final"] else event["event"]
    proof = ", ".join(f"{clock} {log_e / 2.302585:.1f}" for clock, log_e in event["log_e_rollback"])
    return (
        f"{event['at']}  {word:<8}  {event['share']:.0%} to the candidate, "
        f"{event['n_closed']:,} units judged, evidence of harm 10^({proof})  {event['explanation']}"
    )

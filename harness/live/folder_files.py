"""The files of a canary's folder, and what is left of them where some are gone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from harness.live.arrivals import FILE_BYTES
from harness.live.endings import Ending

EVENTS = "events.jsonl"
MANIFEST, STATE, ARRIVALS = "manifest.json", "state.json", "arrivals.bin"
POLICY, DECISION = "policy.yaml", "decision.json"
JOURNAL, JOURNALS = "journal-{:012d}.jsonl", "journal-*.jsonl"
FIRST_JOURNAL = JOURNAL.format(0)
_PAIRS = "pairs"
BOOT = ".boot"
ENDED = ".ended"
"""What `.boot` is called once a canary has ended without room to say so: a new name needs none."""

_OF_A_START = {
    ".run", ".lock", _PAIRS, POLICY, ARRIVALS, BOOT, STATE, EVENTS, FIRST_JOURNAL,
}  # fmt: skip
"""What is there before the manifest; the first three belong to every run folder."""
_HALF_WRITTEN = re.compile(r"\..*\.tmp")
_FINAL = b'"final": true'
_SAID = ("decision", "reason", "explanation")


def begun(path: Path) -> bool:
    """Whether a folder holds, or held, what only a canary or a shadow writes."""
    return any((path / name).exists() for name in (ARRIVALS, STATE, EVENTS)) and not cut_short(path)


def goes_on(path: Path) -> bool:
    """Whether a start on a folder goes on with what is in it."""
    return (path / MANIFEST).exists() or begun(path)


def cut_short(path: Path) -> bool:
    """Whether a first start was killed before it served anybody: no evidence is lost by beginning anew.

    The manifest comes last and nobody is served before it. So without one, and without a single arrival,
    batch or answer, what is left is what every start begins with.

    Args:
      path: the folder.
    """
    try:
        names = {file.name for file in path.iterdir() if not _HALF_WRITTEN.fullmatch(file.name)}
        if not names or names - _OF_A_START:
            return False
        written = names & {BOOT, STATE, EVENTS, FIRST_JOURNAL}
        arrivals = (path / ARRIVALS).read_bytes() if ARRIVALS in names else b""
        return (
            not any(arrivals)
            and (len(arrivals) == FILE_BYTES if written else len(arrivals) <= FILE_BYTES)
            and (FIRST_JOURNAL not in names or not (path / FIRST_JOURNAL).stat().st_size)
            and (EVENTS not in names or (path / EVENTS).read_bytes().count(b"\n") <= 1)
            and (_PAIRS not in names or not any((path / _PAIRS).iterdir()))
        )
    except OSError:
        return False


def missing_files(path: Path) -> list[str]:
    """Files of a folder that was begun which are not there, or not whole as far as their size tells."""
    if not begun(path):
        return []
    found = [] if _is_mapping(path / MANIFEST) else [MANIFEST]
    found += [name for name in (STATE, EVENTS, POLICY) if not (path / name).exists()]
    arrivals = path / ARRIVALS
    if not arrivals.exists() or arrivals.stat().st_size != FILE_BYTES:
        found.append(ARRIVALS)
    if not any((path / name).exists() for name in (BOOT, ENDED)):
        found.append(BOOT)
    if not any(path.glob(JOURNALS)):
        found.append("the journal")
    return found


def _is_mapping(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def told_end(path: Path) -> Ending | None:
    """The verdict that followers were told.

    Args:
      path: the folder.

    Returns:
      None where none was told, or nothing of it can be read.
    """
    for text in (*_final_events(path / EVENTS), *_whole(path / DECISION)):
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(text)
            if found["final"]:
                return Ending.from_state([found[key] for key in _SAID])
    return None


def last_told(path: Path) -> str:
    """Reason of the last verdict that followers were told; "" = none, as far as can be read.

    Args:
      path: the folder.
    """
    reason = ""
    with suppress(OSError):
        for text in _final_events(path / EVENTS):
            with suppress(ValueError, KeyError, TypeError):
                found = json.loads(text)
                if found["final"] and found["event"] == "decision":
                    reason = str(found["reason"])
    return reason


def mend_last_line(path: Path) -> None:
    """Ends the line of `events.jsonl` that a killed process left open, so that the next one is whole.

    Args:
      path: the folder.

    Raises:
      OSError: it cannot be written.
    """
    file = path / EVENTS
    if file.is_file() and file.stat().st_size:
        with file.open("r+b") as lines:
            lines.seek(-1, os.SEEK_END)
            if lines.read(1) != b"\n":
                lines.write(b"\n")


def _final_events(file: Path) -> Iterator[bytes]:
    # Only a regular file has an end.
    if file.is_file():
        with file.open("rb") as lines:
            yield from (line for line in lines if _FINAL in line)


def _whole(file: Path) -> Iterator[bytes]:
    if file.is_file():
        yield file.read_bytes()

"""How often one question was asked: the same candidate, baseline and policy.

Asking again until the answer is pleasant spends error rate; `judge.attempts` says how much an attempt may
spend. The count is kept apart from the run folders, in one file a question below a state folder, because
run folders are named, moved and deleted by whoever asks. A number is taken before any evidence is seen,
under a lock, so that gates started together do not all believe they are the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.jsonable import canonical, sha256
from harness.store.files import locked, write_atomically

OPEN = "open"
"""Taken; the run has not ended, or was killed. It counts: somebody may have seen its evidence."""
ANSWERED = "answered"
"""Ended without promoting, after looking at evidence. It counts."""
UNSEEN = "unseen"
"""Ended before any evidence. It does not count."""
PROMOTED = "promoted"
"""Ended with a promotion. It does not count."""

_COUNTING = {OPEN, ANSWERED}


class AttemptLedger:
    """The attempts at one question.

    Args:
      folder: state folder, made when missing.
      lineage: digests that make two gates attempts at the same question.
    """

    def __init__(self, folder: Path, lineage: Mapping[str, str]) -> None:
        self._lineage = dict(lineage)
        self._folder = folder
        self._file = folder / f"{sha256(self._lineage)[:32]}.json"

    def take(self, token: str) -> int:
        """Takes the next number for a run.

        Args:
          token: names the run in `close`; drawn anew for every run.

        Returns:
          1 + the attempts before it that count, ≥ 1.

        Raises:
          UsageError: the state folder cannot be used.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(self._file.with_suffix(".lock"), wait=True):
                entries = self._entries()
                number = 1 + sum(entry["state"] in _COUNTING for entry in entries)
                entries.append({"token": token, "attempt": str(number), "state": OPEN})
                self._write(entries)
        except OSError as error:
            raise UsageError(
                str(self._folder),
                f"attempts cannot be counted there: {error}",
                "Name a writable folder with HARNESS_STATE_DIR.",
            ) from error
        return number

    def close(self, token: str, state: str) -> None:
        """Says how a run ended: ANSWERED, UNSEEN or PROMOTED."""
        if not self._file.exists():
            return
        with locked(self._file.with_suffix(".lock"), wait=True):
            entries = self._entries()
            for entry in entries:
                if entry["token"] == token and entry["state"] == OPEN:
                    entry["state"] = state
            self._write(entries)

    def _entries(self) -> list[dict[str, str]]:
        if not self._file.exists():
            return []
        try:
            content = json.loads(self._file.read_bytes())
            return [dict(entry) for entry in content["attempts"]]
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                str(self._file),
                "the count of attempts is damaged",
                "Restore it, or remove it and say so to whoever approves: attempts start at 1 again.",
            ) from None

    def _write(self, entries: list[dict[str, str]]) -> None:
        write_atomically(
            self._file, canonical({"lineage": self._lineage, "attempts": entries}) + b"\n"
        )

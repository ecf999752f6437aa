"""How often one question was asked: the same candidate, baseline and policy.

Asking again until the answer is pleasant spends error rate; `judge.attempts` says how much an attempt may
spend, and when it may go on from the evidence of the one before it. The count is kept apart from the run
folders, in one file a question below a state folder, because run folders are named, moved and deleted by
whoever asks. A number is taken before any evidence is seen, under a lock, so that gates started together do
not all believe they are the first, and evidence is gone on from once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.jsonable import canonical, sha256
from harness.store.files import locked, write_atomically

OPEN = "open"
"""Taken; the run has not ended, or was killed. It counts: somebody may have seen its evidence."""
ANSWERED = "answered"
"""Ended after looking at evidence that nothing goes on from. It counts."""
HELD = "held"
"""Ended undecided on sound evidence, from which one later attempt may go on. It counts."""
UNSEEN = "unseen"
"""Ended before any evidence. It does not count."""
PROMOTED = "promoted"
"""Ended with a promotion. It counts: a harmless candidate would else be rolled back sooner or later by
asking on, at full α each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One entry of the ledger."""

    token: str
    """Names the run in `close`."""
    number: int
    """1 + the attempts before it that count."""
    level: int
    """r of the error rate α·2^(1−r): attempts that go on from each other share it."""
    state: str = OPEN
    """One of the words above."""
    run: str = ""
    """Its run folder; "" where an earlier version did not write it down."""
    resumes: str = ""
    """Token of the attempt whose evidence it goes on from; "" = none."""
    decision_sha256: str = ""
    """Of its decision.json, so that evidence that was changed since is not gone on from."""


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

    def before(self) -> tuple[Attempt, ...]:
        """The attempts so far that count, oldest first.

        Raises:
          UsageError: the count is damaged.
        """
        return tuple(a for a in self._attempts() if a.state != UNSEEN)

    def questions(self) -> int:
        """Different questions that were asked about this pair of versions, this one among them.

        Each policy is a question with error rates of its own: who changes a margin until the answer is
        pleasant leaves this number behind.
        """
        pair = ("baseline", "candidate")
        found = 0
        for file in self._folder.glob("*.json"):
            try:
                content = json.loads(file.read_bytes())
                same = all(content["lineage"].get(key) == self._lineage.get(key) for key in pair)
                asked = [_attempt(entry) for entry in content["attempts"]]
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # another question's damaged count is said when that question is asked
            found += same and any(attempt.state != UNSEEN for attempt in asked)
        return found

    def take(self, token: str, run: Path, resumes: str = "") -> Attempt:
        """Takes the next number for a run.

        Args:
          token: names the run in `close`; drawn anew for every run.
          run: its folder.
          resumes: token of the attempt whose evidence it wants to go on from; "" = none.

        Returns:
          The attempt. Its `resumes` is "" when another run has gone on from that evidence meanwhile:
          then it starts anew, at a level of its own.

        Raises:
          UsageError: the state folder cannot be used.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(self._file.with_suffix(".lock"), wait=True):
                attempts = self._attempts()
                counting = [a for a in attempts if a.state != UNSEEN]
                source = next((a for a in resumable(counting) if a.token == resumes), None)
                mine = Attempt(
                    token=token,
                    number=1 + len(counting),
                    level=source.level if source else 1 + sum(not a.resumes for a in counting),
                    run=str(run),
                    resumes=source.token if source else "",
                )
                self._write([*attempts, mine])
        except OSError as error:
            raise UsageError(
                str(self._folder),
                f"attempts cannot be counted there: {error}",
                "Name a writable folder with HARNESS_STATE_DIR.",
            ) from error
        return mine

    def close(self, token: str, state: str, decision_sha256: str = "") -> None:
        """Says how a run ended.

        Args:
          token: as it was taken.
          state: ANSWERED, HELD, UNSEEN or PROMOTED.
          decision_sha256: of its decision.json.
        """
        if not self._file.exists():
            return
        with locked(self._file.with_suffix(".lock"), wait=True):
            ended = [
                replace(a, state=state, decision_sha256=decision_sha256)
                if a.token == token and a.state == OPEN
                else a
                for a in self._attempts()
            ]
            self._write(ended)

    def _attempts(self) -> list[Attempt]:
        if not self._file.exists():
            return []
        try:
            content = json.loads(self._file.read_bytes())
            return [_attempt(entry) for entry in content["attempts"]]
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                str(self._file),
                "the count of attempts is damaged",
                "Restore it, or remove it and say so to whoever approves: attempts start at 1 again.",
            ) from None

    def _write(self, attempts: list[Attempt]) -> None:
        content = {"lineage": self._lineage, "attempts": attempts}
        write_atomically(self._file, canonical(content) + b"\n")


def resumable(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those that ended undecided on sound evidence and that nobody has gone on from, oldest first."""
    taken = {a.resumes for a in attempts}
    return [a for a in attempts if a.state == HELD and a.token not in taken]


def _attempt(entry: Mapping[str, str]) -> Attempt:
    """An entry; those of earlier versions name their number `attempt` and have no level of their own."""
    number = int(entry["number"] if "number" in entry else entry["attempt"])
    return Attempt(
        token=str(entry["token"]),
        number=number,
        level=int(entry.get("level", number)),
        state=str(entry["state"]),
        run=str(entry.get("run", "")),
        resumes=str(entry.get("resumes", "")),
        decision_sha256=str(entry.get("decision_sha256", "")),
    )

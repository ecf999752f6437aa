"""What a shadow has seen, for a person and for a pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from harness.store.files import write_atomically

NOT_MIRRORED = {
    "sampled_out": "not in the sample",
    "queue_full": "dropped because too many waited, or not asked before the end",
    "too_large": "too large",
    "mirror_gone": "after the mirror's process had ended",
    "client_gone": "ended before the baseline had answered, by their clients or by the end of the shadow",
    "other_models": "for other models",
    "other_calls": "calls other than ModelInfer",
}
"""Why a request was not shown to the candidate."""

_DECIDED = {"PROMOTE": 0, "ROLLBACK": 1, "HOLD": 3}
_ANSWERS = {0: "EQUAL", 1: "DIFFERENT", 2: "NOTHING COMPARED"}
_TOO_LITTLE = 2
_BROKEN = 4
_LEAST_COMPARED = 0.95
"""Of the requests that both versions answer; with fewer nothing is called equal."""
RESULT = "shadow.json"
_BEGUN = ".begun.json"
"""What was known when the last start began to serve: all there is where it leaves no last word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the starts before have told at their ends."""

    mirrored: int = 0
    """Requests that the candidate was shown."""
    not_mirrored: Mapping[str, int] = field(default_factory=dict)
    """`NOT_MIRRORED` → how many."""
    lost: int = 0
    """See `ShadowResult.lost`."""
    cut: int = 0
    """Starts that ended without their last word, or whose mirror was lost."""
    taken: int = 0
    """Requests that the mirror had counted by then."""

    @classmethod
    def read(cls, result: Path) -> Self:
        """Reads the result of the start before.

        Where there is none, that one was cut, and what was known when it began is known still.

        Args:
          result: the file of results.
        """
        for file in (result, result.with_name(_BEGUN)):
            try:
                found = json.loads(file.read_bytes())
                return cls(
                    mirrored=int(found["mirrored"]),
                    not_mirrored={why: int(found["not_mirrored"][why]) for why in NOT_MIRRORED},
                    lost=int(found["lost"]),
                    cut=int(found["cut"]) + (found["exit_code"] == _BROKEN),
                    taken=int(found.get("taken", 0)),  # a lost mirror leaves no count
                )
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return cls(cut=1)

    def begin(self, result: Path) -> None:
        """Leaves this to the next start, and no last word: from now on one that leaves none was cut.

        A full disk stops no production: the next start knows less then.

        Args:
          result: the file of results.

        Raises:
          OSError: the last word of the start before cannot be taken away.
        """
        told = {
            "mirrored": self.mirrored,
            "not_mirrored": dict.fromkeys(NOT_MIRRORED, 0) | dict(self.not_mirrored),
            "lost": self.lost, "cut": self.cut, "taken": self.taken, "exit_code": _BROKEN,
        }  # fmt: skip
        with suppress(OSError):
            write_atomically(result.with_name(_BEGUN), json.dumps(told).encode())
        result.unlink(missing_ok=True)

    def cut_with(self, taken_before: int) -> int:
        """`cut`, and 1 more where the mirror's account of what it had told of is gone or another one.

        Args:
          taken_before: requests of earlier starts that the mirror knows of.
        """
        return self.cut + (taken_before < self.taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowResult:
    """What a shadow has seen on its folder: in this start and in those before."""

    mirrored: int
    """Requests that the candidate was shown."""
    not_mirrored: dict[str, int]
    """`NOT_MIRRORED` → how many."""
    report: dict[str, Any]
    """See `mirror_judge.MirrorReport`; {} where the mirror's process left none."""
    lost: int = 0
    """Requests that the mirror's process had when it ended too early, and that are in no count."""
    killed: bool = False
    """It did not end by itself when it was to."""
    cut: int = 0
    """Earlier starts that ended without their last word, or whose account is gone: see `Before.cut_with`."""
    unsaved: str = ""
    """Why the mirror's report could not be written at the end; "" = it was."""

    @property
    def exit_code(self) -> int:
        """With a policy 0, 1 or 3; without one 0 equal, 1 different, 2 too little compared; 4 broken."""
        if self._broken():
            return _BROKEN
        if self.report["standing"] is not None:
            return _DECIDED[self.report["standing"]["decision"]]
        alone = self.report["candidate_failed"] + self.report["baseline_failed"]
        if self.report["differ"] or alone or self.report["disagreements_before"]:
            return 1
        if self.cut or self.lost or self.report["version_changes"]:
            return _TOO_LITTLE
        compared = self.report["compared"]
        both = compared + self.report["left_out"]
        return 0 if compared and compared >= _LEAST_COMPARED * both else 2

    def to_json(self) -> str:
        """Everything as JSON."""
        told = {
            "mirrored": self.mirrored, "not_mirrored": self.not_mirrored, "lost": self.lost,
            "killed": self.killed, "cut": self.cut, "unsaved": self.unsaved, **self.report,
        }  # fmt: skip
        return json.dumps({**told, "exit_code": self.exit_code}, indent=2)

    def to_text(self) -> str:
        """The answer first, then the counts."""
        left = [f"{n:,} {NOT_MIRRORED[why]}" for why, n in self.not_mirrored.items() if n]
        lines = [self._answer(), f"  {self.mirrored:,} requests handed to the mirror"]
        lines += [f"  not mirrored: {why}" for why in left]
        if self.lost:
            lines.append(
                f"  {self.lost:,} lost with the mirror's process: neither compared nor judged"
            )
        if self.cut:
            lines.append(
                f"  {self.cut:,} earlier starts on this folder ended without their last word, or their account is "
                "gone: what they had in hand, or had found, is not known"
            )
        if not self.report:
            return "\n".join(lines)
        found = self.report
        one_sided = (found["candidate_failed"], found["baseline_failed"])
        lines.append(f"  {found['compared']:,} compared, {found['differ']:,} differ")
        if any(one_sided):
            told = "{:,} answered by the baseline only, {:,} by the candidate only"
            lines.append(f"  {told.format(*one_sided)}")
        kept = (found["disagreements_kept"], found["disagreements_not_kept"])
        lines.append("  {:,} disagreements kept with both answers, {:,} not kept".format(*kept))
        if found["disagreements_before"]:
            lines.append("  disagreements of earlier starts are among them")
        lines += [f"- {column['name']}: {column['text']}" for column in found["outputs"]]
        before = found["outputs_before"]
        lines += [f"- {column['name']}, in an earlier start: {column['text']}" for column in before]
        lines += [f"  not compared: {note}" for note in found["not_compared"]]
        return "\n".join(lines)

    def _broken(self) -> str:
        """Why it says nothing about the versions; "" = it does."""
        if self.killed:
            return "the mirror's process did not end and was killed; production was served all the time"
        if self.unsaved:
            return (
                f"the report cannot be written ({self.unsaved}); production was served all the time"
            )
        if not self.report.get("whole"):
            return "the mirror's process ended by itself; production was served all the time"
        return str(self.report["failed"])

    def _answer(self) -> str:
        broken = self._broken()
        if broken:
            return f"BROKEN: {broken}"
        standing = self.report["standing"]
        changes = self.report["version_changes"]
        if standing is not None:
            return f"{standing['decision']}: {standing['explanation']}"
        if self.exit_code == _TOO_LITTLE and changes:
            return f"TWO VERSIONS COMPARED: {changes[0]}"
        if self.exit_code == _TOO_LITTLE and self.report["compared"]:
            return "TOO LITTLE COMPARED"
        return _ANSWERS[self.exit_code]

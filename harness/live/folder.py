"""A canary's folder: what it must not lose, and what others may follow.

    manifest.json     versions, policy, seed: what may not change at a restart
    policy.yaml       the policy as it was given
    journal-*.jsonl   every batch since the last state, before it is judged
    state.json        the canary after some batch
    arrivals.bin      every arrival, in memory that outlives the process
    events.jsonl      starts, steps, answers, the end: append-only, to be followed
    evidence.json, decision.json   as in a run folder

A kill loses at most what had not reached the journal, and the arrivals name it. A power cut may lose
arrivals since the last look, too: the restart says that it happened. A damaged or missing file is
told from another policy, seed or version: the one ends in HOLD (or stays at the ROLLBACK that was told)
with all traffic on the baseline, the other is a user's mistake and is refused. So that a missing file
shows, all but evidence and decision are there from the start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core.clock import iso, now_ns
from harness.core.errors import GateError, HarnessError
from harness.core.jsonable import jsonable
from harness.core.live import Live, Standing
from harness.core.verdicts import Decision, DecisionRecord, Evidence
from harness.live.arrivals import Arrivals
from harness.live.canary import Canary
from harness.live.endings import Ending
from harness.live.entries import Entry
from harness.live.folder_files import (
    ARRIVALS,
    BOOT,
    DECISION,
    ENDED,
    EVENTS,
    JOURNAL,
    JOURNALS,
    MANIFEST,
    POLICY,
    STATE,
    begun,
    cut_short,
    goes_on,
    mend_last_line,
    missing_files,
    told_end,
)
from harness.live.identity import Identity, manifest_of, same
from harness.live.journal import entry_from_line, line_from_entry
from harness.store.files import sha256_of_file, write_atomically
from harness.store.runs import RunFolder

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WITHOUT_ROOM = Ending(
    decision=Decision.HOLD,
    reason="state_not_saved",
    explanation="The evidence could not be saved in an earlier start: traffic stays with the baseline. "
    "Make room, then start anew in another folder.",
)
_COMPACT = (
    "name", "metric", "slice", "window", "margin", "direction", "gating", "verdict", "reason", "n",
    "e_promote", "e_rollback", "lower", "upper",
)  # fmt: skip


class CanaryFolder:
    """One canary's folder, locked until `close`. `start` makes or continues it."""

    def __init__(self, run: RunFolder, identity: Identity, live: Live) -> None:
        self._run = run
        self._identity = identity
        self._live = live
        self.arrivals = Arrivals(run.path / ARRIVALS)
        self._journal: Path | None = None
        self.heard: Callable[[dict[str, Any]], None] = lambda _: None
        """Hears of every event that is told, in this process."""
        self.since_state = 0
        """Batches in the journal that the saved state does not have."""
        self._verdict_stays = False
        """Evidence was lost after the verdict: what is left of it is not written over."""

    @property
    def path(self) -> Path:
        """The folder."""
        return self._run.path

    @classmethod
    def start(
        cls, path: Path, live: Live, identity: Identity, policy_text: str
    ) -> tuple[CanaryFolder, Canary]:
        """Makes a folder, or continues the canary that is in it.

        Args:
          path: the folder.
          live: the policy's live section.
          identity: what the evidence is about; its seed "" = the one in the folder, else a new one.
          policy_text: kept for the reader.

        Returns:
          The folder and the canary as it was; one that has ended where the folder is damaged.

        Raises:
          UsageError: another policy, seed or version than the folder's.
          GateError: it cannot be written.
        """
        if goes_on(path):
            return cls._continued(path, live, identity)
        run = _new(path)
        try:
            run.write_text(POLICY, policy_text)
            folder = cls(run, identity, live)
            write_atomically(run.path / BOOT, _boot())
            canary = Canary(live, identity.seed, folder.arrivals.put)
            folder.save(canary)
            folder.tell("start", _began(canary))
            run.write_json(MANIFEST, manifest_of(identity))
        except BaseException:
            run.close()
            raise
        return folder, canary

    @classmethod
    def _continued(cls, path: Path, live: Live, identity: Identity) -> tuple[CanaryFolder, Canary]:
        missing = missing_files(path)
        run = RunFolder.open(path, write=True, mend=begun(path))
        try:
            if MANIFEST not in missing:
                same(run, identity)
            rebooted = (path / BOOT).exists() and _boot() != _read_boot(path)
            folder = cls(run, identity, live)
            canary = folder._found(missing)
            if rebooted and not canary.ended:
                # Arrivals since the last look were in memory only: nobody knows how many.
                canary.count("reboots")
            try:
                write_atomically(path / BOOT, _boot())
                mend_last_line(path)
                folder.tell("restart", _began(canary))
            except OSError as error:
                # The baseline needs no disk: production is answered, and nothing is judged.
                canary.stop("state_not_saved", error.strerror or type(error).__name__)
                folder.end_without_room()
        except BaseException:
            run.close()
            raise
        return folder, canary

    def _found(self, missing: list[str]) -> Canary:
        """The canary as it was; where that cannot be known, one that has ended."""
        told = told_end(self.path)
        what = f"{missing[0]} is missing or damaged" if missing else ""
        try:
            canary = self._restored()
        except (HarnessError, ValueError, KeyError, TypeError, AttributeError, OSError) as damage:
            what = what or (damage.what if isinstance(damage, HarnessError) else str(damage))
            canary = Canary(self._live, self._identity.seed, self.arrivals.put)
        if (self.path / ENDED).exists():
            canary.keep(_WITHOUT_ROOM)
        if canary.ended and not canary.standing_arm:
            return canary
        if told is not None and not canary.ended:
            what = what or "a verdict was told that it does not have"
        if what:
            canary = Canary(self._live, self._identity.seed, self.arrivals.put)
            if told is not None and told.decision is not Decision.PROMOTE:
                self._verdict_stays = True
                canary.keep(told)
            else:
                canary.stop("state_damaged", what)
        return canary

    def _restored(self) -> Canary:
        state = json.loads((self.path / STATE).read_bytes())
        canary = Canary.from_state(state, self._live, self._identity.seed, self.arrivals.put)
        for entry, counts in self._entries():
            if entry.batch.number >= canary.next_batch:
                # A batch that is missing is refused by the judge.
                canary.judge(entry)
                self.since_state += 1
            # An older line than the state, or one of a repetition, has counts only.
            canary.counts = {
                name: max(n, counts.get(name, 0)) for name, n in (counts | canary.counts).items()
            }
        if canary.next_batch < self.arrivals.batches:
            gone = self.arrivals.batches - canary.next_batch
            raise GateError(
                "the journal", f"the last {gone:,} batches that were in the journal are gone",
                "Start anew.",
            )  # fmt: skip
        if not canary.ended:
            unsaved = self.arrivals.after(canary.entered_seq)
            canary.lost(unsaved, unsaved[-1].seq if unsaved else canary.entered_seq)
        return canary

    def _entries(self) -> Iterator[tuple[Entry, dict[str, int]]]:
        for path in sorted(self.path.glob(JOURNALS)):
            content = path.read_bytes()
            *lines, half = content.split(b"\n")
            if half:
                # What was being written when the process was killed is lost, not damaged: its
                # requests are among the arrivals. The next batch may come into the same file.
                os.truncate(path, len(content) - len(half))
            for line in lines:
                yield entry_from_line(path.name, line)

    def append(self, entry: Entry, counts: dict[str, int]) -> None:
        """Adds a batch to the journal.

        Raises:
          OSError: it cannot be written.
        """
        if self._journal is None:
            self._journal = self.path / JOURNAL.format(entry.batch.number)
        with self._journal.open("ab") as file:
            file.write(line_from_entry(entry, counts))
            file.flush()
            os.fsync(file.fileno())
        self.arrivals.put_batch(entry.batch.number)
        self.arrivals.sync()
        self.since_state += 1

    def save(self, canary: Canary) -> None:
        """Saves the canary and begins a new journal.

        Raises:
          OSError: it cannot be written.
        """
        if self._verdict_stays:
            return
        journal = self.path / JOURNAL.format(canary.next_batch)
        journal.touch()
        self._run.write_text(STATE, json.dumps(canary.state()))
        self._journal = journal
        self.since_state = 0
        for path in self.path.glob(JOURNALS):
            if path != journal:
                path.unlink()

    def end_without_room(self) -> None:
        """Keeps that this canary has ended where nothing more can be written: a restart is HOLD, too."""
        with suppress(OSError):
            (self.path / BOOT).replace(self.path / ENDED)

    def tell(self, event: str, standing: Standing) -> None:
        """Appends to what others follow.

        Raises:
          OSError: it cannot be written.
        """
        line = {"event": event, "at": iso(standing.ts_ns), **jsonable(standing)}
        with (self.path / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.heard(line)

    def publish(
        self, standing: Standing, evidence: tuple[Evidence, ...], notes: tuple[str, ...]
    ) -> None:
        """Writes evidence.json and decision.json as they are now.

        Args:
          standing: where it stands.
          evidence: of every guardrail.
          notes: what was not compared, each as a sentence.

        Raises:
          OSError: they cannot be written.
        """
        if self._verdict_stays:
            return
        self._run.write_json(
            "evidence.json",
            {
                "evidence": evidence,
                "standing": standing,
                "identity": self._identity,
                "measured": {g.name: g.metric for g in self._live.guardrails},
                "decision": standing.decision,
                "reason": standing.reason,
            },
        )
        record = DecisionRecord(
            decision=standing.decision,
            reason=standing.reason,
            explanation=standing.explanation,
            binding_guardrail=standing.culprits[0] if standing.culprits else "",
            next="" if standing.final else "It goes on: start it again on this folder.",
            n_requests=standing.n_closed,
            n_window=standing.n_requests,
            alpha={"promote": self._live.alpha_promote, "rollback": self._live.alpha_rollback},
            attempt=1,
            not_compared=notes,
        )
        digest = sha256_of_file(self.path / "evidence.json")
        rows = jsonable(evidence)
        self._run.write_json(
            DECISION,
            {
                **jsonable(record),
                "final": standing.final,
                "guardrails": [{key: row[key] for key in _COMPACT} for row in rows],
                "baseline": {"given": self._identity.baseline},
                "candidate": {"given": self._identity.candidate},
                "windows": {"live": {"n": standing.n_requests, "judged": standing.n_closed}},
                "isolation": {},
                "evidence_sha256": digest,
            },
        )

    def close(self) -> None:
        """Gives the folder back."""
        self.arrivals.close()
        self._run.close()


def _new(path: Path) -> RunFolder:
    """A folder in which nothing is kept yet; also where an earlier start was killed before it served."""
    if not cut_short(path):
        return RunFolder.create(path)
    run = RunFolder.open(path, write=True, mend=True)
    if not cut_short(path):  # somebody else began there before the lock was ours
        run.close()
        return RunFolder.create(path)
    (path / EVENTS).unlink(missing_ok=True)
    return run


def _began(canary: Canary) -> Standing:
    """Where it stands when it starts to serve: the instant is that of the start, not of the last batch."""
    return replace(canary.standing(), ts_ns=max(now_ns(), canary.last_ns))


def _boot() -> bytes:
    """What changes when the machine is started again, and only then."""
    try:
        return _BOOT_ID.read_bytes()
    except OSError:
        return b""


def _read_boot(path: Path) -> bytes:
    try:
        return (path / BOOT).read_bytes()
    except OSError:
        return b""

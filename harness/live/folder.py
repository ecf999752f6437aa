"""A canary's folder: what it must not lose, and what others may follow.

    manifest.json     versions, policy, seed: what may not change at a restart
    policy.yaml       the policy as it was given
    journal-*.jsonl   every batch since the last state, before it is judged
    state.json        the canary after some batch
    arrivals.bin      every arrival, in memory that outlives the process
    events.jsonl      starts, steps, answers, the end: append-only, to be followed
    evidence.json, decision.json   as in a run folder

A kill loses at most what had not reached the journal, and the arrivals name it. A power cut may lose
arrivals since the last look, too: the restart says that it happened. A damaged file is
told from another policy, seed or version: the one ends in HOLD with all traffic on the baseline, the
other is a user's mistake and is refused.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from harness.core.clock import iso, now_ns
from harness.core.errors import GateError, HarnessError, UsageError
from harness.core.jsonable import canonical, jsonable, sha256
from harness.core.live import Live, Standing
from harness.core.tensors import Floats
from harness.core.verdicts import DecisionRecord, Evidence
from harness.judge.exposures import Requests
from harness.judge.live_plan import Labels, LiveBatch
from harness.live.arrivals import Arrivals
from harness.live.canary import Canary, Entry
from harness.store.files import sha256_of_file, write_atomically
from harness.store.runs import RunFolder

EVENTS = "events.jsonl"
FORM = 3
"""Of state and journal; one of another form is not gone on with."""
_MANIFEST, _STATE, _ARRIVALS = "manifest.json", "state.json", "arrivals.bin"
_BOOT = ".boot"
_ENDED = ".ended"
"""What `.boot` is called once a canary has ended without room to say so: a new name needs none."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_JOURNAL = "journal-{:012d}.jsonl"
_CHECK_DIGITS = 8
_COMPACT = (
    "name", "metric", "slice", "window", "margin", "direction", "gating", "verdict", "reason", "n",
    "e_promote", "e_rollback", "lower", "upper",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What evidence is about; a restart must give the same."""

    policy: str
    """sha256 of what the live section means."""
    seed: str
    """Of the split."""
    baseline: str
    """Address, and version where it was said."""
    candidate: str
    """The same."""
    kind: str = "canary"
    """Or shadow."""
    model: str = ""
    """The only one that is split; "" = whatever is asked for."""
    sample: str = ""
    """Share of the requests that is mirrored; "" = all are split."""
    deadline: str = ""
    """The candidate of a shadow has so long for each."""

    @classmethod
    def of(
        cls, live: Live, *, seed: str, baseline: str, candidate: str, kind: str = "canary",
        model: str = "", sample: str = "", deadline: str = "",
    ) -> Self:  # fmt: skip
        """From the policy and the options."""
        return cls(
            policy=sha256(live),
            seed=seed,
            baseline=baseline,
            candidate=candidate,
            kind=kind,
            model=model,
            sample=sample,
            deadline=deadline,
        )


class CanaryFolder:
    """One canary's folder, locked until `close`. `start` makes or continues it."""

    def __init__(self, run: RunFolder, identity: Identity, live: Live) -> None:
        self._run = run
        self._identity = identity
        self._live = live
        self.arrivals = Arrivals(run.path / _ARRIVALS)
        self._journal: Path | None = None
        self.heard: Callable[[dict[str, Any]], None] = lambda _: None
        """Hears of every event that is told, in this process."""
        self.since_state = 0
        """Batches in the journal that the saved state does not have."""

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
        if (path / _MANIFEST).exists():
            return cls._continued(path, live, identity)
        run = RunFolder.create(path)
        try:
            run.write_text("policy.yaml", policy_text)
            folder = cls(run, identity, live)
            write_atomically(run.path / _BOOT, _boot())
            canary = Canary(live, identity.seed, folder.arrivals.put)
            run.write_json(_MANIFEST, {"form": FORM, **jsonable(identity)})
            folder.tell("start", _began(canary))
        except BaseException:
            run.close()
            raise
        return folder, canary

    @classmethod
    def _continued(cls, path: Path, live: Live, identity: Identity) -> tuple[CanaryFolder, Canary]:
        run = RunFolder.open(path, write=True)
        try:
            _same(run, identity)
            kept_boot = _read_boot(path)
            had_arrivals = (path / _ARRIVALS).exists()
            folder = cls(run, identity, live)
            try:
                if not had_arrivals:
                    raise GateError(_ARRIVALS, "is missing", "Start anew.")
                canary = folder._restored()
            except (HarnessError, ValueError, KeyError, TypeError, OSError) as damage:
                canary = Canary(live, identity.seed, folder.arrivals.put)
                what = damage.what if isinstance(damage, HarnessError) else str(damage)
                canary.stop("state_damaged", what)
            if _boot() != kept_boot:
                # Arrivals since the last look were in memory only: nobody knows how many.
                canary.count("reboots")
            if (path / _ENDED).exists():
                canary.stop("state_not_saved", "it had ended so before this start")
            try:
                write_atomically(path / _BOOT, _boot())
                folder.tell("restart", _began(canary))
            except OSError as error:
                # The baseline needs no disk: production is answered, and nothing is judged.
                canary.stop("state_not_saved", error.strerror or type(error).__name__)
                folder.end_without_room()
        except BaseException:
            run.close()
            raise
        return folder, canary

    def _restored(self) -> Canary:
        state = json.loads((self.path / _STATE).read_bytes()) if self._run.has(_STATE) else None
        seed, put = self._identity.seed, self.arrivals.put
        canary = (
            Canary(self._live, seed, put)
            if state is None
            else Canary.from_state(state, self._live, seed, put)
        )
        for entry, counts in self._entries():
            if entry.batch.number >= canary.next_batch:
                # A batch that is missing is refused by the judge.
                canary.judge(entry)
                self.since_state += 1
            # An older line than the state, or one of a repetition, has counts only.
            canary.counts = {
                name: max(n, counts.get(name, 0)) for name, n in (counts | canary.counts).items()
            }
        unsaved = self.arrivals.after(canary.entered_seq)
        canary.lost(unsaved, unsaved[-1].seq if unsaved else canary.entered_seq)
        return canary

    def _entries(self) -> Iterator[tuple[Entry, dict[str, int]]]:
        for path in sorted(self.path.glob("journal-*.jsonl")):
            content = path.read_bytes()
            *lines, half = content.split(b"\n")
            if half:
                # What was being written when the process was killed is lost, not damaged: its
                # requests are among the arrivals. The next batch may come into the same file.
                os.truncate(path, len(content) - len(half))
            for line in lines:
                yield _entry_from_line(path.name, line)

    def append(self, entry: Entry, counts: dict[str, int]) -> None:
        """Adds a batch to the journal.

        Raises:
          OSError: it cannot be written.
        """
        if self._journal is None:
            self._journal = self.path / _JOURNAL.format(entry.batch.number)
        with self._journal.open("ab") as file:
            file.write(_line_from_entry(entry, counts))
            file.flush()
            os.fsync(file.fileno())
        self.arrivals.sync()
        self.since_state += 1

    def save(self, canary: Canary) -> None:
        """Saves the canary and begins a new journal.

        Raises:
          OSError: it cannot be written.
        """
        self._run.write_text(_STATE, json.dumps(canary.state()))
        self._journal = None
        self.since_state = 0
        for path in self.path.glob("journal-*.jsonl"):
            path.unlink()

    def end_without_room(self) -> None:
        """Keeps that this canary has ended where nothing more can be written: a restart is HOLD, too."""
        with suppress(OSError):
            (self.path / _BOOT).replace(self.path / _ENDED)

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
            "decision.json",
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
        return (path / _BOOT).read_bytes()
    except OSError:
        return b""


def seed_in(path: Path) -> str:
    """The seed of the canary in a folder; "" when there is none."""
    try:
        return str(json.loads((path / _MANIFEST).read_bytes())["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _same(run: RunFolder, identity: Identity) -> None:
    """Refuses a restart that asks something else.

    Raises:
      UsageError: names what differs.
    """
    kept = run.read_json(_MANIFEST)
    if not isinstance(kept, dict) or kept.get("kind") != identity.kind:
        raise UsageError(str(run.path), "holds another kind of run", "Name another folder.")
    if kept.get("form") != FORM:
        raise UsageError(
            str(run.path), "was begun by another version of harness, which kept evidence otherwise",
            "Go on with that version, or name another folder.",
        )  # fmt: skip
    given: dict[str, str] = jsonable(identity)
    for what, value in given.items():
        if kept.get(what, "") != value:
            shown = "" if what in {"policy", "seed"} else f" ({kept.get(what)} before, {value} now)"
            raise UsageError(
                str(run.path), f"was begun with another {what}{shown}",
                "Evidence cannot be carried over: give the same again, or name another folder.",
            )  # fmt: skip


def _line_from_entry(entry: Entry, counts: dict[str, int]) -> bytes:
    batch = entry.batch
    body = canonical(
        {
            "number": batch.number,
            "until_ns": batch.until_ns,
            "requests": batch.requests,
            "labels": batch.labels,
            "seq": entry.seq,
            "answers": entry.answers,
            "label_offset": entry.label_offset,
            "versions": entry.versions,
            "down_ns": entry.down_ns,
            "unheard": entry.unheard,
            "digest": entry.digest,
            "counts": counts,
        }
    )
    return f"{zlib.crc32(body):08x} ".encode() + body + b"\n"


def _entry_from_line(name: str, line: bytes) -> tuple[Entry, dict[str, int]]:
    body = line[_CHECK_DIGITS + 1 :]
    if line[:_CHECK_DIGITS] != f"{zlib.crc32(body):08x}".encode():
        raise GateError(name, "a batch was damaged", "Start anew.")
    found: dict[str, Any] = json.loads(body)
    requests = found["requests"]
    batch = LiveBatch(
        number=found["number"],
        until_ns=found["until_ns"],
        requests=Requests(
            ts_ns=np.array(requests["ts_ns"], np.int64),
            unit=np.array(requests["unit"], object),
            candidate=np.array(requests["candidate"], np.bool_),
            propensity=_floats(requests["propensity"]),
            values={name: _floats(column) for name, column in requests["values"].items()},
            left_out={
                name: np.array(column, np.bool_) for name, column in requests["left_out"].items()
            },
        ),
        labels={
            name: Labels(
                unit=np.array(labels["unit"], object),
                value=_floats(labels["value"]),
                ts_ns=np.array(labels["ts_ns"], np.int64),
            )
            for name, labels in found["labels"].items()
        },
    )
    answers = {name: _floats(column) for name, column in found["answers"].items()}
    entry = Entry(
        batch=batch, seq=found["seq"], answers=answers, label_offset=found["label_offset"],
        versions=found["versions"], down_ns=found["down_ns"], unheard=found["unheard"],
        digest=found["digest"],
    )  # fmt: skip
    return entry, dict(found["counts"])


def _floats(column: list[Any]) -> Floats:
    # "NaN" is how JSON keeps one; float() reads it.
    return np.array([float(value) for value in column], np.float64)

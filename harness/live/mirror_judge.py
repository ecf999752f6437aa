"""What the mirror's process makes of both answers: differences, disagreements, verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.calls import Call
from harness.core.errors import HarnessError, UsageError
from harness.core.live import Live, LiveGuardrail, LiveKind, LiveMetric, Standing
from harness.core.traffic import OK_CODE
from harness.diff.reports import ParityVerdict, TensorReport
from harness.live.canary import Canary
from harness.live.diffing import FIRST, LiveDiff, Mirrored
from harness.live.disagreements import Disagreements
from harness.live.earlier import COUNTED, Earlier
from harness.live.folder import CanaryFolder
from harness.live.identity import Identity
from harness.live.keeper import Keeper
from harness.live.paired_values import paired_values
from harness.live.policy import read_live_policy
from harness.live.steady_clock import SteadyClock
from harness.live.unit_key import unit_of
from harness.live.values import other_outputs
from harness.live.versions import Versions, asked_of, version_of
from harness.record.redaction import Redaction

_HELD_TURNS = 20
"""First answers wait for so many turns at most until scales are fixed."""
_HELD_BYTES = 64 << 20
_PUBLISH_TURNS = 20
REPORT = "mirror.json"
"""In the shadow's folder; the next start goes on from it."""
MOST_TIMES = 3
"""So often the candidate is asked at most for one request: again where nobody knows whether it was late."""
_MARGIN_S = 5.0
"""From the candidate's last deadline until its silence is taken for an end of its own."""

REPORTING = Live(
    guardrails=(
        LiveGuardrail(
            name="outputs",
            kind=LiveKind.PAIRED,
            margin=0.01,
            metric=LiveMetric.PARITY,
            gating=False,
        ),
    )
)
"""Without a policy: the share of requests that differ is estimated, and nothing is decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReport:
    """What a shadow has seen on its folder, in this start and in those before."""

    whole: bool = False
    """It is the last word: all that was taken in is in it."""
    taken: int = 0
    """Requests that are in the counts below."""
    taken_before: int = 0
    """Of these: in earlier starts."""
    compared: int = 0
    """Requests that both versions answered, all of it compared."""
    differ: int = 0
    """Of these: an output differs beyond its tolerance."""
    candidate_failed: int = 0
    """Requests that only the baseline answers."""
    baseline_failed: int = 0
    """Requests that only the candidate answers."""
    both_failed: int = 0
    """Requests that neither answers."""
    left_out: int = 0
    """Requests that both answer, in a form that is not compared."""
    disagreements_kept: int = 0
    """In `disagreements/`."""
    disagreements_not_kept: int = 0
    """For want of space."""
    disagreements_before: bool = False
    """There were disagreements in the folder when this start began."""
    outputs: tuple[TensorReport, ...] = ()
    """Per output column, of this start."""
    outputs_before: tuple[dict[str, Any], ...] = ()
    """The same of earlier starts."""
    versions: dict[str, str] = field(default_factory=dict)
    """See `versions.Versions.known`."""
    version_changes: tuple[str, ...] = ()
    """What another version came for, each as words."""
    not_compared: tuple[str, ...] = ()
    """Each as a sentence."""
    standing: Standing | None = None
    """Of the judge; None without a policy."""
    not_asked: int = 0
    """Requests that still waited at the end."""
    failed: str = ""
    """Why the comparison itself could not go on; "" = it did."""


@dataclass(slots=True)
class _Turns:
    """What waits between turns."""

    held: list[tuple[int | None, Mirrored]] = field(default_factory=list)
    waited: int = 0
    unpublished: int = 0


class MirrorJudge:
    """Compares, keeps and judges. `arrived` is called on the event loop, the rest in a thread."""

    def __init__(
        self,
        live: Live,
        canary: Canary,
        folder: CanaryFolder,
        kept: Disagreements,
        *,
        decides: bool,
        earlier: Earlier,
    ) -> None:
        self._live = live
        self._canary = canary
        self._clock = SteadyClock(canary.last_ns)
        canary.resumed(self._clock.now_ns())
        self._keeper = Keeper(canary, folder, self._clock)
        self._kept = kept
        self._decides = decides
        self._earlier = earlier
        self._versions = Versions(earlier.versions, earlier.changes)
        self._version_untold = 0
        """Answers of whose version a change would not be noticed."""
        self._diff = LiveDiff()
        self._turns = _Turns()
        self._unfit: dict[str, str] = {}
        self._failed = ""
        self._n_taken = 0

    @classmethod
    def start(
        cls,
        out: Path,
        policy: Path | None,
        *,
        seed: str,
        baseline: str,
        candidate: str,
        keep_bytes: int,
        deadline_s: float,
        redaction: Redaction,
        model: str = "",
        sample: float = 1.0,
    ) -> MirrorJudge:
        """Makes the folder, or continues what is in it.

        Raises:
          UsageError: a policy with steps, or another shadow than the folder's.
        """
        live = REPORTING if policy is None else read_live_policy(policy)
        if live.steps:
            what = "the live section has steps, and a shadow splits nothing"
            raise UsageError(str(policy), what, "Leave out `steps`, or use `harness canary`.")
        identity = Identity.of(
            live, seed=seed, baseline=baseline, candidate=candidate, kind="shadow", model=model,
            sample=f"{sample:g}", deadline=f"{deadline_s:g} s",
        )  # fmt: skip
        text = "" if policy is None else policy.read_text(encoding="utf-8")
        # Nobody is split: every unit is in one arm, which paired tests do not look at.
        patience_s = max(live.patience_s, MOST_TIMES * deadline_s + _MARGIN_S)
        unsplit = replace(live, steps=(0.0,), patience_s=patience_s)
        folder, canary = CanaryFolder.start(out, unsplit, identity, text)
        kept = Disagreements(out, keep_bytes, redaction)
        earlier = Earlier.read(out / REPORT)
        return cls(live, canary, folder, kept, decides=policy is not None, earlier=earlier)

    def arrived(self, call: Call) -> int | None:
        """Takes a request in; its number, or None where it is compared and not judged."""
        unit = unit_of(self._live.unit, self._live.unit_in, call.request, call.metadata)
        arrival = self._canary.route(unit, self._clock.now_ns())
        return None if arrival is None else arrival.seq

    def turn(self, done: Sequence[tuple[int | None, Mirrored]]) -> None:
        """Compares and judges what has been answered since the last turn.

        Args:
          done: (number of its arrival, both answers), in any order.
        """
        turns = self._turns
        turns.held += done
        turns.waited += 1
        if self._failed:
            turns.held.clear()
            return
        few = len(turns.held) < FIRST and _bytes_of(turns.held) < _HELD_BYTES
        if not self._diff.ready and few and turns.waited < _HELD_TURNS:
            return
        self._take(turns)

    def _take(self, turns: _Turns) -> None:
        held, turns.held = turns.held, []
        turns.waited = 0 if self._diff.ready or held else turns.waited
        try:
            self._compare(held)
            turns.unpublished += 1
            if turns.unpublished >= _PUBLISH_TURNS:
                turns.unpublished = 0
                self._kept.publish()
            self._keeper.turn(self._notes())
        except (OSError, HarnessError) as trouble:
            self._failed = str(trouble)
            self._keeper.give_up(trouble, self._notes())

    def _compare(self, held: list[tuple[int | None, Mirrored]]) -> None:
        if not held:
            return
        mirrored = [one for _, one in held]
        diffed = self._diff.update(mirrored)
        self._n_taken += len(held)
        self._look_at_versions(mirrored)
        left_out = other_outputs(self._live, [one.call.request for one in mirrored])
        values, enter, unfit = paired_values(self._live, diffed, left_out)
        self._unfit |= unfit
        for i, (seq, _) in enumerate(held):
            if seq is None:
                continue
            given = {name: float(column[i]) for name, column in values.items()}
            silent = frozenset(name for name, at in left_out.items() if at[i])
            if silent:
                self._canary.count("other_outputs")
            if enter[i]:
                self._canary.answered(seq, given, {}, silent)
            else:
                self._canary.left_out(seq, "neither_answered")
        self._kept.add([mirrored[i] for i in np.flatnonzero(diffed.disagrees()).tolist()])

    def _look_at_versions(self, mirrored: list[Mirrored]) -> None:
        for one in mirrored:
            asked = asked_of(one.call.request)
            for arm, answer in (("baseline", one.call), ("candidate", one.candidate)):
                if answer.code == OK_CODE:
                    told = self._versions.saw(arm, asked, version_of(answer.response))
                    self._version_untold += not told
        if self._versions.changes:
            self._canary.retract("version_changed", self._versions.changes[0])

    def _notes(self) -> tuple[str, ...]:
        """What was not compared, each as a sentence."""
        return tuple(dict.fromkeys((*self._earlier.notes, *self._notes_of_this_start())))

    def _notes_of_this_start(self) -> tuple[str, ...]:
        said = [f"guardrail {name} was not measured: {why}" for name, why in self._unfit.items()]
        if self._diff.unlike:
            said.append(f"the candidate's answers have another form: {self._diff.unlike}")
        if self._diff.misnamed:
            said.append(
                f"{self._diff.misnamed:,} answers bear another id or model name than the other "
                "version's: they count as failed"
            )
        said += [f"a version was changed meanwhile: {what}" for what in self._versions.changes]
        if self._version_untold:
            said.append(
                f"{self._version_untold:,} answers name no version: a change there is not noticed"
            )
        if self._diff.left_out:
            said.append(
                f"{self._diff.left_out:,} requests: both answers have a form that is not compared"
            )
        report = self._diff.finish()
        return (*said, *(report.not_compared if report else ()))

    def close(self) -> MirrorReport:
        """The last turn; then everything is saved."""
        if not self._failed:
            self._take(self._turns)
        try:
            self._kept.publish()
        except OSError as error:
            self._failed = self._failed or str(error)
        self._keeper.close(self._notes())
        return self.report(whole=True)

    def report(self, *, whole: bool) -> MirrorReport:
        """What has been seen so far; call it from the thread that takes the turns.

        Args:
          whole: nothing more comes.
        """
        report = self._diff.finish()
        before = {name: self._earlier.counts.get(name, 0) for name in COUNTED}
        return MirrorReport(
            whole=whole,
            taken=before["taken"] + self._n_taken,
            taken_before=before["taken"],
            compared=before["compared"] + (report.requests if report else 0),
            differ=before["differ"] + (report.mismatched_requests if report else 0),
            candidate_failed=before["candidate_failed"] + self._diff.candidate_failed,
            baseline_failed=before["baseline_failed"] + self._diff.baseline_failed,
            both_failed=before["both_failed"] + self._diff.both_failed,
            left_out=before["left_out"] + self._diff.left_out,
            disagreements_kept=before["disagreements_kept"] + self._kept.kept,
            disagreements_not_kept=before["disagreements_not_kept"] + self._kept.not_kept,
            disagreements_before=self._kept.before,
            outputs_before=self._earlier.outputs,
            versions=dict(self._versions.known),
            version_changes=tuple(self._versions.changes),
            outputs=tuple(o for o in report.outputs if o.verdict is not ParityVerdict.EQUAL)
            if report
            else (),
            not_compared=self._notes(),
            standing=self._keeper.standing if self._decides else None,
            failed=self._failed,
        )


def _bytes_of(held: Sequence[tuple[int | None, Mirrored]]) -> int:
    return sum(len(one.call.response) + len(one.candidate.response) for _, one in held)

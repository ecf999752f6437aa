"""The canary at work: what the proxy asks and tells, and the turns in which it is judged.

`route` and `offer` run on the proxy's event loop and are quick. `turn` runs in a thread: it measures
answers, writes the journal, judges and says what follows. Whatever goes wrong in it ends in HOLD
with all traffic on the baseline.
"""

from __future__ import annotations

import sys
from collections import deque
from contextlib import suppress

from harness.core.calls import Call, Metadata
from harness.core.errors import HarnessError
from harness.core.live import Live, OnFailure, Standing
from harness.live.arms import Arm, ForgivingArm, judged
from harness.live.canary import Canary
from harness.live.folder import CanaryFolder
from harness.live.label_file import LabelFile
from harness.live.steady_clock import SteadyClock
from harness.live.unit_key import unit_of
from harness.live.values import Answered, Measurer
from harness.record.upstream import Callee, Upstream
from harness.wire import MODEL_INFER

_MOST_BYTES = 256 << 20
"""Answers that wait to be measured; beyond it they enter as not observed."""
_QUIET_NS = 5_000_000_000
"""Without requests the tests are told this often that time has passed."""
_STATE_EVERY = 200
_STATE_COST = 20
"""A state is saved after so many batches, and takes at most this part of the time."""
_JUMP_S = 2.0
_GROWN = 1.02
"""An answer is told again when so many more units have entered."""


class Watcher:
    """Routes, listens and judges.

    Args:
      canary: as it starts or goes on.
      folder: what it must not lose.
      live: the policy's live section.
      upstreams: (baseline, candidate).
      clock: of arrivals.
      labels: None = none come.
    """

    def __init__(
        self,
        canary: Canary,
        folder: CanaryFolder,
        live: Live,
        upstreams: tuple[Upstream, Upstream],
        clock: SteadyClock,
        labels: LabelFile | None = None,
    ) -> None:
        self._canary = canary
        self._folder = folder
        self._live = live
        self._baseline, self._candidate = upstreams
        self._clock = clock
        self._labels = labels
        self._measurers = {arm: Measurer(live) for arm in (False, True)}
        self._told: deque[tuple[bool, int, Answered | None]] = deque()
        self._bytes = 0
        self._standing = canary.standing()
        self._quiet_since_ns = clock.now_ns()
        self._state_due = _STATE_EVERY
        self._jumped = False
        self._last_told = 0
        self._unfit: dict[str, str] = {}

    # On the proxy's event loop

    def route(self, method: str, request: bytes, metadata: Metadata) -> Callee:
        """Who answers a call."""
        canary = self._canary
        if method == MODEL_INFER and not canary.ended:
            unit = unit_of(self._live.unit, self._live.unit_in, request, metadata)
            arrival = canary.route(unit, self._clock.now_ns())
            if arrival is not None:
                if not arrival.candidate:
                    return Arm(self._baseline, arrival)
                if self._live.on_failure is OnFailure.BASELINE:
                    return ForgivingArm(
                        self._candidate, arrival, self._baseline, self._candidate_failed
                    )
                return Arm(self._candidate, arrival)
        elif method != MODEL_INFER and not canary.ended:
            canary.count("not_split")
        return self._candidate if canary.standing_arm else self._baseline

    def offer(self, call: Call) -> None:
        """Hears of a finished call."""
        self._tell(call.upstream, Answered(call.response, call.code, call.latency_ns / 1e9))

    def _candidate_failed(self, name: str, code: int) -> None:
        self._tell(name, Answered(b"", code, 0.0))

    def _tell(self, name: str, answered: Answered) -> None:
        found = judged(name)
        if found is None:
            return
        if self._bytes + len(answered.response) > _MOST_BYTES:
            self._told.append((*found, None))
            return
        self._bytes += len(answered.response)
        self._told.append((*found, answered))

    # In the judging thread

    @property
    def standing(self) -> Standing:
        """Where it stands after the last turn."""
        return self._standing

    def turn(self) -> None:
        """Judges what has ended since the last turn."""
        if self._canary.ended:
            self._told.clear()
            self._bytes = 0
            return
        try:
            self._turn()
        except (OSError, HarnessError) as trouble:
            self.give_up(trouble)

    def give_up(self, trouble: BaseException) -> None:
        """Ends in HOLD because evidence can no longer be kept or made."""
        what = trouble.strerror if isinstance(trouble, OSError) else str(trouble)
        self._canary.stop("state_not_saved", what or type(trouble).__name__)
        sys.stderr.write(f"harness canary: {self._canary.standing().explanation}\n")
        with suppress(OSError, HarnessError):
            self._ended()
        self._standing = self._canary.standing()

    def _turn(self) -> None:
        now_ns = self._clock.now_ns()
        self._measure()
        for label in self._labels.read(now_ns) if self._labels else ():
            self._canary.labelled(label)
        self._look_at_the_clock()
        entry = self._canary.batch(now_ns)
        worth = len(entry.batch.requests) or entry.batch.labels
        if not worth and now_ns - self._quiet_since_ns < _QUIET_NS:
            return
        self._quiet_since_ns = now_ns
        self._folder.append(entry, self._canary.counts)
        before, self._standing = self._standing, self._canary.judge(entry)
        self._tell_followers(before)
        if self._folder.since_state >= self._state_due:
            self._save()

    def _save(self) -> None:
        began_ns = self._clock.now_ns()
        self._folder.save(self._canary)
        self._folder.publish(self._standing, self._canary.evidence(), self.notes())
        took_s = (self._clock.now_ns() - began_ns) / 1e9
        self._state_due = max(_STATE_EVERY, round(_STATE_COST * took_s))

    def _measure(self) -> None:
        """Answers that have come, as values, one version after the other."""
        come: dict[bool, tuple[list[int], list[Answered]]] = {False: ([], []), True: ([], [])}
        for _ in range(len(self._told)):
            arm, seq, answered = self._told.popleft()
            if answered is None:
                self._canary.answered(seq, None, {})
                continue
            self._bytes -= len(answered.response)
            come[arm][0].append(seq)
            come[arm][1].append(answered)
        for arm, (seqs, answers) in come.items():
            if not seqs:
                continue
            found = self._measurers[arm].measure(answers)
            self._unfit |= dict(found.unfit)
            for i, seq in enumerate(seqs):
                values = {name: float(column[i]) for name, column in found.values.items()}
                kept = {name: float(column[i]) for name, column in found.answers.items()}
                self._canary.answered(seq, values, kept)

    def _look_at_the_clock(self) -> None:
        """Says once when the machine's clock has left ours; nothing depends on it."""
        jumped = abs(self._clock.drift_s()) > _JUMP_S
        if jumped and not self._jumped:
            self._canary.count("clock_jumps")
            self._folder.tell("clock_jump", self._canary.standing())
        self._jumped = jumped

    def _tell_followers(self, before: Standing) -> None:
        now = self._standing
        if now.final:
            self._ended()
        elif now.step != before.step:
            self._folder.tell("step", now)
        elif now.reason != before.reason or now.n_closed >= _GROWN * max(self._last_told, 1):
            self._folder.tell("answer", now)
        else:
            return
        self._last_told = now.n_closed

    def _ended(self) -> None:
        """Writes what the end leaves behind, each as far as it can be written."""
        now = self._standing = self._canary.standing()
        self._folder.tell("decision", now)
        self._folder.publish(now, self._canary.evidence(), self.notes())
        self._folder.save(self._canary)

    def close(self) -> Standing:
        """The last turn; then everything is saved and the folder given back."""
        self.turn()
        with suppress(OSError):
            if not self._canary.ended:
                self._folder.tell("stop", self._canary.standing())
                self._save()
        self._folder.close()
        return self._canary.standing()

    def notes(self) -> tuple[str, ...]:
        """What was not compared, each as a sentence."""
        counts = dict(self._canary.standing().counts)
        said = [text.format(n=counts[name]) for name, text in _NOTES.items() if counts.get(name)]
        said += [
            f"guardrail {name} could not be measured: {why}" for name, why in self._unfit.items()
        ]
        if self._labels and self._labels.unreadable:
            said.append(f"{self._labels.unreadable:,} lines of the label file are no labels")
        return tuple(said)


_NOTES = {
    "without_unit": "{n:,} requests named no unit and were answered by the baseline",
    "not_split": "{n:,} calls other than ModelInfer, streams among them, went to the baseline",
    "never_answered": "{n:,} requests had no answer in time and count as failed",
    "not_observed": "{n:,} answers were dropped before they were measured; they count as failed",
    "lost_at_a_restart": "{n:,} requests were lost when the process ended; they count as failed",
    "lost_without_a_trace": "{n:,} requests were lost when the process ended, without a trace",
    "unwatched": "{n:,} requests came while nobody judged and were answered by the baseline",
}

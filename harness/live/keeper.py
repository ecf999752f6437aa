"""One comparison's turns: a batch, the journal, the judge, and what followers and the folder are told.

The journal comes before the judge: what has been acted on can always be read again. Whatever goes wrong
ends in HOLD with all traffic on the baseline.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from harness.core.errors import HarnessError
from harness.core.live import Standing
from harness.live.canary import Canary
from harness.live.folder import CanaryFolder
from harness.live.folder_files import last_told
from harness.live.labels import NOT_TAKEN
from harness.live.steady_clock import SteadyClock
from harness.live.values import WITHOUT_VALUE

JUDGE_FAILED = "judge_failed"
"""Why a comparison ended that met a mistake of this program's."""
_QUIET_NS = 5_000_000_000
"""Without requests the tests are told this often that time has passed."""
_STATE_EVERY = 200
_STATE_COST = 20
"""A state is saved after so many batches, and takes at most this part of the time."""
_JUMP_S = 2.0
_GROWN = 1.02
"""An answer is told again when so many more units have entered."""


class Keeper:
    """Takes the turns.

    Args:
      canary: as it starts or goes on.
      folder: what it must not lose.
      clock: of arrivals.
    """

    def __init__(self, canary: Canary, folder: CanaryFolder, clock: SteadyClock) -> None:
        self._canary = canary
        self._folder = folder
        self._clock = clock
        self.standing = canary.standing()
        """After the last turn."""
        self._quiet_since_ns = clock.now_ns()
        self._state_due_ns = 0
        self._jumped = False
        self._last_told = 0
        self._said_end = ""
        self._told_end = last_told(folder.path)
        """Reason of the verdict that followers heard last, also from an earlier process."""
        self._said_failing = False

    def turn(self, notes: tuple[str, ...], now_ns: int | None = None) -> None:
        """Judges what has ended since the last turn.

        Args:
          notes: what was not compared, besides what is counted.
          now_ns: the instant up to which answers have been taken in; None = now.

        Raises:
          OSError, HarnessError: evidence can no longer be kept or made; see `give_up`.
        """
        if self._canary.ended:
            self._finish(notes)
            return
        now_ns = self._clock.now_ns() if now_ns is None else now_ns
        self._look_at_the_clock()
        entry = self._canary.batch(now_ns)
        worth = len(entry.batch.requests) or entry.batch.labels
        if not worth and now_ns - self._quiet_since_ns < _QUIET_NS:
            return
        self._quiet_since_ns = now_ns
        self._folder.append(entry, self._canary.counts)
        before, self.standing = self.standing, self._canary.judge(entry)
        self._tell(before, notes)
        if self._folder.since_state >= _STATE_EVERY and now_ns >= self._state_due_ns:
            self._save(notes)

    def give_up(self, trouble: BaseException, notes: tuple[str, ...]) -> None:
        """Ends in HOLD because evidence can no longer be kept or made.

        Args:
          trouble: what went wrong.
          notes: as for `turn`.
        """
        if isinstance(trouble, OSError | HarnessError):
            what = trouble.strerror if isinstance(trouble, OSError) else trouble.what
            self._canary.stop("state_not_saved", what or type(trouble).__name__)
        else:
            self._canary.stop(JUDGE_FAILED, f"{type(trouble).__name__}: {trouble}")
        self.standing = self._canary.standing()
        try:
            self._ended(notes)
        except (OSError, HarnessError):
            self._folder.end_without_room()

    def close(self, notes: tuple[str, ...]) -> Standing:
        """Saves what is to be gone on with, and gives the folder back.

        Args:
          notes: as for `turn`.
        """
        self.standing = self._canary.standing()
        with suppress(OSError):
            if not self._canary.ended:
                self._folder.tell("stop", self.standing)
                self._save(notes)
        self._folder.close()
        return replace(self.standing, notes=self._notes(notes))

    def say(self, event: str, what: str) -> None:
        """Tells followers of something beside the evidence.

        Args:
          event: its word.
          what: happened.

        Raises:
          OSError: it cannot be written.
        """
        now = self._canary.standing()
        said = f"{what[:1].upper()}{what[1:]}. {now.explanation}"
        self._folder.tell(event, replace(now, explanation=said))

    def _look_at_the_clock(self) -> None:
        """Says once when the machine's clock has left ours; nothing depends on it."""
        jumped = abs(self._clock.drift_s()) > _JUMP_S
        if jumped and not self._jumped:
            self._canary.count("clock_jumps")
            self._folder.tell("clock_jump", self._canary.standing())
        self._jumped = jumped

    def _tell(self, before: Standing, notes: tuple[str, ...]) -> None:
        now = self.standing
        if now.final:
            self._ended(notes)
        elif now.step != before.step:
            self._folder.tell("step", now)
        elif (
            now.reason != before.reason
            or self._canary.candidate_fails != self._said_failing
            or now.n_closed >= _GROWN * max(self._last_told, 1)
        ):
            self._folder.tell("answer", now)
        else:
            return
        self._last_told = now.n_closed
        self._said_failing = self._canary.candidate_fails

    def _finish(self, notes: tuple[str, ...]) -> None:
        """Says once that it ended, where that did not come of a batch, or ended otherwise."""
        self.standing = self._canary.standing()
        if self._said_end != self.standing.reason:
            self._ended(notes)

    def _ended(self, notes: tuple[str, ...]) -> None:
        self._said_end = self.standing.reason
        if self._told_end != self._said_end:
            self._folder.tell("decision", self.standing)
            self._told_end = self._said_end
        self._folder.publish(self.standing, self._canary.evidence(), self._notes(notes))
        self._folder.save(self._canary)

    def _save(self, notes: tuple[str, ...]) -> None:
        began_ns = self._clock.now_ns()
        self._folder.save(self._canary)
        self._folder.publish(self.standing, self._canary.evidence(), self._notes(notes))
        now_ns = self._clock.now_ns()
        self._state_due_ns = now_ns + _STATE_COST * (now_ns - began_ns)

    def _notes(self, more: tuple[str, ...]) -> tuple[str, ...]:
        return (*notes_of(self.standing), *more)


def notes_of(standing: Standing) -> tuple[str, ...]:
    """What is counted and entered nothing, or entered as failed, each as a sentence."""
    counts = dict(standing.counts)
    return tuple(text.format(n=counts[name]) for name, text in _NOTES.items() if counts.get(name))


_OF_AN_ARM = {
    f"{arm}_{reason}": f"{{n:,}} requests to the {arm} {said}"
    for arm in ("baseline", "candidate")
    for reason, said in WITHOUT_VALUE.items()
}
_NOTES = {
    **_OF_AN_ARM,
    **{
        f"{arm}_version_unsaid": f"the {arm} does not say which version answers: a change of it would not be seen"
        for arm in ("baseline", "candidate")
    },
    "versions_untold": "too many models were asked for: of some nobody sees a change of version",
    "other_outputs": f"{{n:,}} requests {WITHOUT_VALUE['other_outputs']}",
    "without_unit": "{n:,} requests named no unit: the baseline answered them, and they are not judged",
    "not_split": "{n:,} calls other than ModelInfer, streams among them, went to the baseline",
    "other_models": "{n:,} requests asked for another model and went to the baseline",
    "never_answered": "{n:,} requests had no answer within the patience and count as failed",
    "not_observed": "{n:,} answers were dropped before they were measured: unknown, which counts against a "
    "promotion and never for a rollback",
    "lost_at_a_restart": "{n:,} requests were under way when the process ended: unknown, which counts "
    "against a promotion and never for a rollback",
    "lost_without_a_trace": "{n:,} requests were lost when the process ended, without a trace",
    "reboots": "the machine was started again {n:,} times: requests since the last look before are unknown",
    "neither_answered": "{n:,} requests that neither version answers enter nothing",
    "answered_late": "{n:,} answers came after their request had been counted as failed",
    "after_maturity": "{n:,} requests came of units that had entered the tests already: they enter nothing",
    "arm_changed": "{n:,} requests went to another arm than their unit's first one: they enter nothing",
    **NOT_TAKEN,
    "label_file_troubles": "{n:,} times the label file could not be read, did not answer, or was another one",
    "label_late_or_unknown": "{n:,} labels came too late, or before or without their unit: they enter nothing",
    "label_second_label": "{n:,} labels came for units that had one: the first one counts",
    "label_contradicting": "{n:,} labels contradict an earlier one of their unit, which no longer counts as labelled",
    "repeated_batches": "{n:,} batches came again and changed nothing",
    "unwatched": "{n:,} requests came while nobody judged and were answered by the baseline",
}

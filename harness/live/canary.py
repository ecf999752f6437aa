"""The canary: who answers a request, what is known of it, and what that means for the next one.

It holds no clock and does no I/O: instants, answers and labels are given to it. `route` may be
called from another thread than everything else, and is quick.

    route ── intake ── batch (journal) ── judge ── a step up, or the end
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np

from harness.core.live import Live, Standing
from harness.core.verdicts import Decision, Evidence
from harness.judge.live import LiveJudge
from harness.judge.live_plan import LiveAnswer, LiveBatch
from harness.judge.live_state import sealed, unsealed
from harness.live.arrivals import Arrival
from harness.live.coverage import Coverage, labels_missing
from harness.live.endings import Ending, held
from harness.live.entries import Entry
from harness.live.intake import Intake
from harness.live.labels import NOT_TAKEN, Label, LabelBook
from harness.live.lately import Lately
from harness.live.policy import live_plan
from harness.live.ramp import Ascent
from harness.live.returning import Returning
from harness.live.sent_batches import SentBatches
from harness.live.split import Split, name_of
from harness.live.versions import Versions

UNWATCHED_NS = 60_000_000_000
"""Nobody has looked at the evidence for so long: no further user is exposed until somebody does."""

_GOES_ON = "undecided"


class Canary:
    """One comparison of two versions on split traffic.

    Args:
      live: the policy's live section, with steps.
      seed: of the split; "" = somebody else splits, and names units.
      noted: hears of every arrival that will enter, before `route` returns.
    """

    def __init__(
        self, live: Live, seed: str, noted: Callable[[Arrival], None] = lambda _: None
    ) -> None:
        self._live = live
        self._plan = live_plan(live, names_recur=bool(live.unit) or not seed)
        self._split = Split(seed)
        self._ascent = Ascent(live.steps, live.ramp)
        self._coverage = Coverage(live)
        self._returning = Returning(live)
        self._lately = Lately(live, sent=not seed)
        self._judge = LiveJudge(self._plan)
        self._answer = self._judge.answer()
        self._labels = LabelBook(live.guardrails)
        self._intake = Intake(live, self._split, noted)
        self._intake.at(0, self._ascent.share)
        self._versions = Versions()
        self._down_ns = 0
        self._number = 0
        self._arms = (0, 0)
        self._until_ns = 0
        self._looked_ns: int | None = None
        self._sent = SentBatches()
        self._ending: Ending | None = None

    # Routing

    def route(self, unit: str | None, ts_ns: int) -> Arrival | None:
        """Chooses the version of a request that is judged.

        Args:
          unit: as the request names it; None = it names none.
          ts_ns: when it came.

        Returns:
          Its arrival; None where it enters nothing and `standing_arm` answers it.
        """
        if self._ending is not None:
            return None
        if unit is None:
            self.count("without_unit")
            return None
        if self._looked_ns is not None and ts_ns - self._looked_ns > UNWATCHED_NS:
            self.count("unwatched")
            return None
        return self._intake.arrive(unit, ts_ns)

    @property
    def ended(self) -> bool:
        """Nothing more is judged."""
        return self._ending is not None

    @property
    def standing_arm(self) -> bool:
        """Who answers requests that are not judged: the candidate only once it is promoted."""
        return self._ending is not None and self._ending.decision is Decision.PROMOTE

    # Outcomes

    def answered(
        self, seq: int, values: Mapping[str, float] | None, answers: Mapping[str, float],
        left_out: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """Takes in what became of a request; see `Intake.answered`."""
        self._intake.answered(seq, values, answers, left_out)

    def left_out(self, seq: int, reason: str) -> None:
        """Takes a request back that enters nothing; see `Intake.left_out`."""
        self._intake.left_out(seq, reason)

    def saw_versions(
        self, candidate: bool, versions: Iterable[str], asked: tuple[str, str] = ("", "")
    ) -> None:
        """Holds an arm to the first version that it answered with: another one is another question.

        Args:
          candidate: the arm.
          versions: that its answers say they are of; "" = one says none, and a change stays unseen.
          asked: (model, version) that their requests named: other models have versions of their own.
        """
        arm = "candidate" if candidate else "baseline"
        for version in sorted(versions):
            if not version:
                self.count(f"{arm}_version_unsaid")
            elif not self._versions.saw(arm, asked, version):
                self.count("versions_untold")
        if self._versions.changes:
            self.stop("version_changed", self._versions.changes[0])

    def resumed(self, now_ns: int) -> None:
        """Goes on after a stop, if there was one: see `Entry.down_ns`."""
        if self._until_ns:
            self._down_ns = max(now_ns - self._until_ns, 1)

    def labelled(self, label: Label) -> None:
        """Takes in a label whose unit is named as requests name it."""
        kept = label.unit and name_of(self._split.place(label.unit).unit)
        self._labels.add(replace(label, unit=kept))

    def lost(self, arrivals: Iterable[Arrival], last_seq: int) -> None:
        """Takes in what had arrived before the process ended and is in no batch.

        Args:
          arrivals: those whose names are known, in order; they enter as failed.
          last_seq: number of the last arrival there was; what has no name ends the canary.
        """
        traceless = self._intake.lost(arrivals, last_seq)
        if traceless:
            self.count("lost_without_a_trace", traceless)
            self.stop("observations_lost", f"{traceless:,}")

    def count(self, reason: str, by: int = 1) -> None:
        """Counts what enters nothing, or enters as failed."""
        self._intake.count(reason, by)

    # Batches

    def batch(self, now_ns: int) -> Entry:
        """What has ended, in order of arrival, up to the first request that may still be answered.

        Args:
          now_ns: the instant now, by the clock that `route` is given.
        """
        self._looked_ns = now_ns
        ended = self._intake.ended(now_ns)
        self._labels.expose_all(ended.requests, ended.answers)
        return Entry(
            batch=LiveBatch(
                number=self._number,
                until_ns=ended.until_ns,
                requests=ended.requests,
                labels=self._labels.take(ended.until_ns),
            ),
            seq=ended.seq,
            answers=ended.answers,
            label_offset=self._labels.offset,
            label_head=self._labels.head,
            versions=dict(self._versions.known),
            down_ns=self._down_ns,
        )

    def judge(self, entry: Entry) -> Standing:
        """Judges a batch and does what follows: a step up, or the end.

        Args:
          entry: from `batch`, from the journal, or from whoever splits traffic elsewhere.

        Returns:
          Where the canary stands.

        Raises:
          TrafficError: a batch that cannot be taken; nothing of it has been judged.
        """
        if self._ending is not None:
            return self.standing()
        batch = entry.batch
        if batch.number < self._number:
            self._sent.check(batch.number, entry.digest, self._number)
            self.count("repeated_batches")
            return self.standing()
        self._answer = self._judge.update(batch)
        self._number = batch.number + 1
        self._sent.add(batch.number, entry.digest)
        self._versions.known = {**entry.versions, **self._versions.known}
        self._until_ns = batch.until_ns
        self._intake.entered(entry.seq, batch.until_ns if entry.seq else 0)
        self._labels.expose_all(batch.requests, entry.answers)
        if entry.label_offset:
            self._labels.offset, self._labels.head = entry.label_offset, entry.label_head
        self._labels.forget(batch.until_ns)
        n = len(batch.requests)
        new = int(np.count_nonzero(batch.requests.candidate))
        self._arms = (self._arms[0] + n - new, self._arms[1] + new)
        self._coverage.add(batch.requests)
        opened = self._judge.opened
        at_step = 0
        if opened is not None:
            self._returning.add(batch.requests, opened)
            at_step = int(np.count_nonzero(opened.propensity == self._ascent.share))
        self._ascent.count(n, at_step, batch.until_ns)
        if entry.down_ns:
            self._ascent.resume(batch.until_ns, entry.down_ns)
            self._lately.restart()
            self._down_ns = 0
        self._lately.add(batch.requests, entry.answers)
        self._follow(self._answer)
        return self.standing()

    def _follow(self, answer: LiveAnswer) -> None:
        """What an answer means for the next request."""
        now_ns, ascent = self._until_ns, self._ascent
        promoted = answer.decision is Decision.PROMOTE
        enough = not self._held_up()
        proven = enough and ascent.at_top() and ascent.stayed(now_ns)
        if proven if promoted else answer.reason != _GOES_ON:
            self.keep(
                Ending(
                    decision=answer.decision, reason=answer.reason, explanation=answer.explanation
                )
            )
        elif what := ascent.spent(now_ns):
            self.stop("budget_spent", what)
        elif enough and ascent.advance(now_ns):
            self._intake.at(ascent.step, ascent.share)

    def stop(self, reason: str, what: str) -> None:
        """Ends in HOLD: all traffic to the baseline; see `keep`.

        Args:
          reason: one of those that end a canary by themselves: budget_spent, state_damaged …
          what: completes its sentence.
        """
        self.keep(held(reason, what, split=any(self._live.steps)))

    def retract(self, reason: str, what: str) -> None:
        """As `stop`, and a promotion no longer stands, either: where nobody is split it is a word only.

        Args:
          reason: see `stop`.
          what: see `stop`.
        """
        if self.standing_arm:
            self._ending = None
        self.stop(reason, what)

    def keep(self, ending: Ending) -> None:
        """Ends so; what has ended stays as it is."""
        if self._ending is None:
            self._ending = ending

    # What is told

    @property
    def counts(self) -> dict[str, int]:
        """What entered nothing, or entered as failed, by reason."""
        return self._intake.counts | self._labels.counts

    @counts.setter
    def counts(self, counts: Mapping[str, int]) -> None:
        self._intake.counts = {name: n for name, n in counts.items() if name not in NOT_TAKEN}
        self._labels.counts = {name: n for name, n in counts.items() if name in NOT_TAKEN}

    @property
    def next_batch(self) -> int:
        """Number of the batch that comes next."""
        return self._number

    @property
    def shares_so_far(self) -> tuple[float, ...]:
        """Candidate's shares that have been in force, the one that is in force last."""
        return self._live.steps[: self._ascent.step + 1]

    @property
    def entered_seq(self) -> int:
        """Number of the last arrival that is in a batch."""
        return self._intake.entered_seq

    @property
    def labels_taken(self) -> tuple[int, str]:
        """(bytes of the label file whose labels have been taken, its beginning: see `Label.head`)."""
        return self._labels.offset, self._labels.head

    @property
    def last_ns(self) -> int:
        """No later arrival is before it."""
        return max(self._intake.last_ns, self._until_ns)

    def standing(self) -> Standing:
        """Where the canary stands now."""
        answer, step = self._answer, self._ascent.step
        going_on = " ".join([answer.explanation, *self._still_missing()])
        now = self._ending or Ending(decision=Decision.HOLD, reason=_GOES_ON, explanation=going_on)
        counts = dict(answer.ignored) | self.counts
        return Standing(
            ts_ns=self._until_ns,
            decision=now.decision,
            reason=now.reason,
            explanation=now.explanation,
            final=self._ending is not None,
            step=step,
            share=self._ascent.share if self._ending is None else float(self.standing_arm),
            n_requests=sum(self._arms),
            arms=self._arms,
            n_units=answer.n_units,
            n_closed=answer.n_closed,
            sample_ratio_p=answer.sample_ratio_p,
            culprits=answer.culprits,
            log_e_rollback=answer.log_e_rollback,
            promote_at=answer.promote_at,
            counts=tuple(sorted(counts.items())),
        )

    def _still_missing(self) -> list[str]:
        """What keeps it where it is, besides proof; each a sentence."""
        said = []
        if self._answer.decision is Decision.PROMOTE:
            steps = len(self._live.steps)
            said.append(
                f"Not promoted yet: the ramp is at step {self._ascent.step + 1} of {steps}."
            )
            said += self._ascent.missing(self._until_ns)
        return said + self._returning.none_new() + self._held_up()

    def _held_up(self) -> list[str]:
        """What must be known, or better, for another step, each as a sentence."""
        ascent = self._ascent
        return [
            *self._coverage.missing(),
            *labels_missing(self._judge.labelled()),
            *self._returning.missing(),
            *self._lately.missing(ascent.share, self._until_ns, ascent.stay_over_ns),
        ]

    @property
    def candidate_fails(self) -> bool:
        """Its last requests have no usable answers; see `Lately.failing`."""
        return self._lately.failing

    def evidence(self) -> tuple[Evidence, ...]:
        """What every guardrail has shown."""
        return self._judge.evidence()

    # A restart

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `from_state` continues with what entered so far."""
        body = {
            "judge": self._judge.state(),
            "labels": self._labels.state(),
            "ascent": self._ascent.state(),
            "coverage": self._coverage.state(),
            "returning": self._returning.state(),
            "lately": self._lately.state(),
            "number": self._number,
            "entered_seq": self.entered_seq,
            "last_ns": self.last_ns,
            "until_ns": self._until_ns,
            "arms": list(self._arms),
            "counts": self.counts,
            "versions": self._versions.known,
            "sent": self._sent.state(),
            "ending": None if self._ending is None else self._ending.state(),
        }
        return sealed(self._plan, body)

    @classmethod
    def from_state(
        cls,
        state: Any,  # noqa: ANN401 - whatever was kept
        live: Live,
        seed: str,
        noted: Callable[[Arrival], None] = lambda _: None,
    ) -> Self:
        """Continues from `state`.

        Args:
          state: as read back.
          live: as in the first start.
          seed: as in the first start.
          noted: as in the first start.

        Raises:
          GateError: a damaged state, or one of another plan.
        """
        canary = cls(live, seed, noted)
        body = unsealed(canary._plan, state)
        canary._judge = LiveJudge.from_state(canary._plan, body["judge"])
        canary._answer = canary._judge.answer()
        canary._labels.restore(body["labels"])
        canary._ascent.restore(body["ascent"])
        canary._coverage.restore(body["coverage"])
        canary._returning.restore(body["returning"])
        canary._lately.restore(body["lately"])
        canary._intake.at(canary._ascent.step, canary._ascent.share)
        canary._intake.entered(int(body["entered_seq"]), int(body["last_ns"]))
        canary._number, canary._until_ns = int(body["number"]), int(body["until_ns"])
        canary._arms = (int(body["arms"][0]), int(body["arms"][1]))
        canary.counts, canary._versions = body["counts"], Versions(body["versions"])
        canary._sent.restore(body["sent"])
        if body["ending"] is not None:
            canary._ending = Ending.from_state(body["ending"])
        return canary

"""The canary at work: what the proxy asks and tells, and the turns in which it is judged.

`route` and `offer` run on the proxy's event loop and are quick. `turn` runs in a thread: it measures
answers, writes the journal, judges and says what follows. Whatever goes wrong in it ends in HOLD
with all traffic on the baseline.
"""

from __future__ import annotations

from collections import deque

from harness.core.calls import Call, Metadata
from harness.core.errors import HarnessError
from harness.core.live import Live, OnFailure, Standing
from harness.live.arms import Arm, ForgivingArm, judged
from harness.live.arrivals import Arrival
from harness.live.canary import Canary
from harness.live.folder import CanaryFolder
from harness.live.forms import Forms
from harness.live.heartbeat import Heartbeat
from harness.live.keeper import JUDGE_FAILED, Keeper
from harness.live.label_file import LabelFile
from harness.live.layouts import Answered
from harness.live.steady_clock import SteadyClock
from harness.live.unit_key import unit_of
from harness.live.values import Measurer
from harness.live.versions import versions_by_asked
from harness.record.upstream import Callee, Upstream
from harness.wire import MODEL_INFER
from harness.wire.scan import MODEL_NAME, bytes_field

_MOST_BYTES = 256 << 20
"""Requests and answers that wait to be measured; beyond it they enter as not observed."""


class Watcher:
    """Routes, listens and judges.

    Args:
      canary: as it starts or goes on.
      folder: what it must not lose.
      live: the policy's live section.
      upstreams: (baseline, candidate).
      clock: of arrivals.
      labels: None = none come.
      model: the only one that is split; "" = whatever is asked for.
    """

    def __init__(
        self,
        canary: Canary,
        folder: CanaryFolder,
        live: Live,
        upstreams: tuple[Upstream, Upstream],
        clock: SteadyClock,
        *,
        labels: LabelFile | None = None,
        model: str = "",
    ) -> None:
        self._canary = canary
        self._live = live
        self._baseline, self._candidate = upstreams
        self._clock = clock
        self._labels = labels
        self._model = model.encode()
        forms = Forms()
        self._measurers = {arm: Measurer(live, forms, candidate=arm) for arm in (False, True)}
        self._told: deque[tuple[bool, int, Answered | None]] = deque()
        # Each is written by one thread only; what waits is their difference.
        self._told_bytes = self._taken_bytes = 0
        canary.resumed(clock.now_ns())
        self._keeper = Keeper(canary, folder, clock)
        self._unfit: dict[str, str] = {}
        self.heartbeat = Heartbeat()
        """Of the proxy's event loop."""
        self._stopping = False

    # On the proxy's event loop

    def route(self, method: str, request: bytes, metadata: Metadata) -> Callee:
        """Who answers a call."""
        try:
            return self._chosen(method, request, metadata)
        except Exception as mistake:  # noqa: BLE001 - whatever is wrong here, production is served
            self._canary.stop(JUDGE_FAILED, f"{type(mistake).__name__}: {mistake}")
            return self._baseline

    def _chosen(self, method: str, request: bytes, metadata: Metadata) -> Callee:
        canary = self._canary
        if method != MODEL_INFER:
            return self._not_split("not_split", mine=not self._model)
        if self._model and bytes_field(request, MODEL_NAME) != self._model:
            return self._not_split("other_models", mine=False)
        arrival = None
        if not canary.ended:
            unit = unit_of(self._live.unit, self._live.unit_in, request, metadata)
            arrival = canary.route(unit, self._clock.now_ns())
        if arrival is None:
            return self._candidate if canary.standing_arm else self._baseline
        return self._arm(arrival)

    def _not_split(self, reason: str, *, mine: bool) -> Callee:
        """A call that is not judged: the baseline's, until the candidate has taken its place."""
        if not self._canary.ended:
            self._canary.count(reason)
        return self._candidate if mine and self._canary.standing_arm else self._baseline

    def _arm(self, arrival: Arrival) -> Callee:
        if not arrival.candidate:
            return Arm(self._baseline, arrival)
        if self._live.on_failure is OnFailure.BASELINE:
            return ForgivingArm(
                self._candidate,
                arrival,
                self._baseline,
                self._candidate_failed,
                self._live.patience_s,
                self.heartbeat,
            )
        return Arm(self._candidate, arrival)

    def offer(self, call: Call) -> None:
        """Hears of a finished call."""
        took_s = call.latency_ns / 1e9
        self._tell(call.upstream, Answered(call.response, call.code, took_s, call.request))

    def stopping(self) -> None:
        """From now on calls are cut here: what ends without an answer says nothing of either version."""
        self._stopping = True

    def _candidate_failed(self, name: str, code: int | None) -> None:
        self._tell(name, None if code is None else Answered(b"", code, 0.0))

    def _tell(self, name: str, answered: Answered | None) -> None:
        found = judged(name)
        if found is None:
            return
        if answered is None or (self._stopping and answered.code):
            self._told.append((*found, None))
            return
        size = len(answered.request) + len(answered.response)
        if self._told_bytes - self._taken_bytes + size > _MOST_BYTES:
            self._told.append((*found, None))
            return
        self._told_bytes += size
        self._told.append((*found, answered))

    # In the judging thread

    @property
    def standing(self) -> Standing:
        """Where it stands after the last turn."""
        return self._keeper.standing

    def turn(self) -> None:
        """Judges what has ended since the last turn."""
        # Whose patience ends while answers are measured is not silent yet.
        now_ns = self._clock.now_ns()
        try:
            if self._canary.ended:
                self._told.clear()
                self._taken_bytes = self._told_bytes
            else:
                self._measure()
                self._read_labels()
            self._keeper.turn(self.notes(), now_ns)
        except (OSError, HarnessError) as trouble:
            self.give_up(trouble)

    def _read_labels(self) -> None:
        if self._labels is None:
            return
        troubles = self._labels.troubles
        for label in self._labels.read(self._clock.now_ns()):
            self._canary.labelled(label)
        if self._labels.troubles > troubles:
            self._canary.count("label_file_troubles")
            self._keeper.say("label_file", self._labels.trouble)

    def give_up(self, trouble: BaseException) -> None:
        """Ends in HOLD because evidence can no longer be kept or made."""
        self._keeper.give_up(trouble, self.notes())

    def close(self) -> Standing:
        """The last turn; then everything is saved and the folder given back."""
        self.turn()
        return self._keeper.close(self.notes())

    def _measure(self) -> None:
        """Answers that have come, as values, one version after the other."""
        come: dict[bool, tuple[list[int], list[Answered]]] = {False: ([], []), True: ([], [])}
        for _ in range(len(self._told)):
            arm, seq, answered = self._told.popleft()
            if answered is None:
                self._canary.answered(seq, None, {})
                continue
            self._taken_bytes += len(answered.request) + len(answered.response)
            come[arm][0].append(seq)
            come[arm][1].append(answered)
        for arm, (seqs, answers) in come.items():
            if not seqs:
                continue
            self._see_versions(arm, answers)
            found = self._measurers[arm].measure(answers)
            self._unfit |= dict(found.unfit)
            name = "candidate" if arm else "baseline"
            for reason, n in found.counts.items():
                self._canary.count(f"{name}_{reason}", n)
            for i, seq in enumerate(seqs):
                values = {name: float(column[i]) for name, column in found.values.items()}
                kept = {name: float(column[i]) for name, column in found.answers.items()}
                silent = frozenset(name for name, at in found.left_out.items() if at[i])
                self._canary.answered(seq, values, kept, silent)

    def _see_versions(self, arm: bool, answers: list[Answered]) -> None:
        for asked, versions in versions_by_asked(answers).items():
            self._canary.saw_versions(arm, versions, asked)

    def notes(self) -> tuple[str, ...]:
        """What was not compared, each as a sentence."""
        said = [
            f"guardrail {name} could not be measured: {why}" for name, why in self._unfit.items()
        ]
        if self._labels and self._labels.trouble:
            said.append(self._labels.trouble)
        return tuple(said)

"""Features that the serving side logged, against the same ones recomputed: train/serve skew.

A recorded response tensor or a context column called `feature:NAME` is what production computed for the
feature NAME of the version that answered; a context column holds one value a request, so only requests
of one row are compared with it. The baseline's graph computes it again from the recorded raw fields; where
the two differ, the model is served something else than it was trained on. That is nobody's fault
among the two versions: it is reported and decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.core.observations import Observations, Outcome
from harness.core.tensors import Bools
from harness.core.traffic import RequestBatch
from harness.diff.any_size import any_size
from harness.diff.columns import compared_rows
from harness.diff.floor import Floor
from harness.diff.logged import logged_features
from harness.diff.measures import floors_by_column
from harness.diff.other_rows import asked_further
from harness.diff.remedies import Asker
from harness.diff.reports import ParityVerdict, ServedReport, TensorReport
from harness.diff.row_order import RowOrder
from harness.diff.sentences import remedy_for, sentence
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes
from harness.diff.swaps import in_another_order
from harness.diff.tally import TensorTally


class ServedDiff:
    """Compares logged features with the baseline's, batch by batch.

    Args:
      floor: tolerance and scale per feature column.
      coarse: features that are float64 with float32's digits only.
    """

    def __init__(self, floor: Floor, coarse: Collection[str] = ()) -> None:
        self._coarse = frozenset(coarse)
        self._floors = floors_by_column(floor.features)
        self._random = dict(floor.random)
        self._tallies: dict[str, TensorTally] = {}
        self._orders: dict[str, RowOrder] = {}
        self._requests = 0
        self._mismatched = 0
        self._unknown: dict[str, int] = {}
        self._unread: dict[str, tuple[int, str]] = {}

    @any_size
    def update(self, requests: RequestBatch, baseline: Observations) -> None:
        """Takes one batch that was traced."""
        logged, unread = logged_features(requests, baseline)
        for name, (count, example) in unread.items():
            before, first = self._unread.get(name, (0, example))
            self._unread[name] = (before + count, first)
        good = baseline.outcome == Outcome.OK
        if not logged or not good.any():
            return
        for name, (_, there) in logged.items():
            if name not in baseline.features:
                lost = int((good & there).sum())
                self._unknown[name] = self._unknown.get(name, 0) + lost
        compared, mismatch = (np.zeros(len(requests), dtype=np.bool_) for _ in range(2))
        for name in (n for n in baseline.features if n in logged and n not in self._random):
            values, there = logged[name]
            ok: Bools = np.asarray(good & there)
            if not ok.any():
                continue
            tally = self._tallies.setdefault(name, self._tally(name))
            view = compared_rows(requests, ok)
            self._orders.setdefault(name, RowOrder()).note(requests.seq, view)
            marked = tally.update(baseline.features[name], values, view)
            if marked is not None:
                mismatch |= marked
            compared |= ok
        self._requests += int(compared.sum())
        self._mismatched += int(mismatch.sum())

    @any_size
    def finish(self) -> ServedReport:
        """The report so far."""
        return ServedReport(
            features=tuple(_served(r) for t in self._tallies.values() for r in self._reports(t)),
            requests=self._requests if self._tallies else 0,
            mismatched_requests=self._mismatched,
            not_compared=(
                *(
                    f"logged feature {name}: {self._where(count, name)}the baseline's trace does not return it"
                    for name, count in self._unknown.items()
                    if count or name not in self._tallies
                ),
                *(
                    f"logged feature {name}: {count:,} values cannot be read, such as {example}"
                    for name, (count, example) in self._unread.items()
                ),
            ),
        )

    def state(self) -> State:
        """Everything so far, as arrays without objects."""
        head = [
            list(self._tallies),
            [self._requests, self._mismatched],
            self._unknown,
            self._unread,
        ]
        state: State = {"head": bytes_from_value(head)}
        for i, tally in enumerate(self._tallies.values()):
            state |= under(str(i), tally.state())
            state[f"order/{i}"] = self._orders[tally.name].state()
        return state

    @classmethod
    def from_state(cls, state: State, floor: Floor, coarse: Collection[str] = ()) -> ServedDiff:
        """Continues from `state()`; the other arguments as in the first construction."""
        diff = cls(floor, coarse)
        names, counts, unknown, unread = value_from_bytes(state["head"])
        diff._requests, diff._mismatched = counts
        diff._unknown = {name: int(count) for name, count in unknown.items()}
        diff._unread = {name: (count, example) for name, (count, example) in unread.items()}
        for i, name in enumerate(names):
            tally = diff._tally(name)
            tally.restore(inside(str(i), state))
            diff._tallies[name] = tally
            diff._orders[name] = RowOrder()
            diff._orders[name].restore(state[f"order/{i}"])
        return diff

    def _reports(self, tally: TensorTally) -> list[TensorReport]:
        """A tally's, with earlier rows and other logged features tried where nothing else is known."""
        further = asked_further(tally, self._orders[tally.name], [*self._tallies.values()])
        return in_another_order(tally, tally.reports(further=further))

    def _where(self, requests: int, name: str) -> str:
        """In how many requests, of a feature that was compared in others."""
        return f"not compared in {counted(requests)}: " if name in self._tallies else ""

    def _tally(self, name: str) -> TensorTally:
        return TensorTally(name, "served", self._floors, (), coarse=name in self._coarse)


def findings_from_served(report: ServedReport) -> list[Finding]:
    """One finding a feature that production computed otherwise."""
    return [
        Finding(
            kind="train_serve_skew",
            severity=Severity.WARNING,
            where=r.name,
            what=f"train/serve skew in {sentence(r)}",
            remedy=f"Production computes it otherwise than the model's graph. {remedy_for(r, Asker.COMPARISON)}",
            relation=r.relation,
            value=r.value,
            requests=r.examples,
        )
        for r in report.features
        if r.verdict is ParityVerdict.DIFFERS
    ]


def _served(report: TensorReport) -> TensorReport:
    """The same, in the words of this comparison."""
    text = report.text.replace("candidate", "served").replace("the baseline", "the recomputed one")
    return replace(report, text=text.replace("baseline", "recomputed"))

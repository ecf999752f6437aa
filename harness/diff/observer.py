"""The observer-effect guard: reading intermediates must not change the answers.

The trace session runs with optimisation off so that every named tensor exists. When its outputs
differ from the verdict session's, a divergence of features may be the optimiser's doing.
"""

from __future__ import annotations

import numpy as np

from harness.core.observations import Observations, Outcome, PairBatch
from harness.diff.columns import compared_rows
from harness.diff.floor import Floor
from harness.diff.measures import floors_by_column
from harness.diff.reports import ObserverReport
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes
from harness.diff.tally import TensorTally


class ObserverDiff:
    """Compares each version's traced outputs with its plain ones, batch by batch.

    Args:
      floor: tolerance and scale per output column; the candidate's renamed outputs are measured
        against each row's own magnitude.
    """

    def __init__(self, floor: Floor) -> None:
        self._floors = floors_by_column(floor.outputs)
        self._random = dict(floor.random)
        self._tallies: dict[tuple[str, str], TensorTally] = {}
        self._checked = 0
        self._unseen = 0
        self._mismatched = 0

    def update(self, pair: PairBatch) -> None:
        """Compares one batch, where it was traced."""
        for side, seen in (("baseline", pair.baseline), ("candidate", pair.candidate)):
            ok = np.asarray(seen.outcome == Outcome.OK)
            if not seen.trace_outputs or not ok.any():
                continue
            shown = [n for n in seen.outputs if n not in self._random]
            if any(n not in seen.trace_outputs for n in shown):
                self._unseen += int(ok.sum())
                continue
            view = compared_rows(pair.requests, ok)
            mismatch = np.zeros(len(pair), dtype=np.bool_)
            for name in shown:
                marked = self._tally(side, name).update(
                    seen.outputs[name], seen.trace_outputs[name], view, _keys(seen, name)
                )
                if marked is not None:
                    mismatch |= marked
            self._checked += int(ok.sum())
            self._mismatched += int(mismatch.sum())

    def _tally(self, side: str, name: str) -> TensorTally:
        if (side, name) not in self._tallies:
            self._tallies[side, name] = TensorTally(name, "output", self._floors, (), coarse=True)
        return self._tallies[side, name]

    def finish(self) -> ObserverReport:
        """The report so far."""
        if self._checked == 0:
            note = "Nothing was checked." if self._unseen else "Nothing was traced."
        elif self._mismatched:
            note = (
                f"Traced and plain answers differ in {self._mismatched} of {self._checked} cases: "
                "differing features may come from the optimiser, not from the model."
            )
        else:
            note = f"Traced and plain answers agree in all {self._checked} cases."
        if self._unseen:
            note += f" In {self._unseen} cases the traced answers are not whole."
        return ObserverReport(
            checked=self._checked,
            mismatched=self._mismatched,
            max_rel=max((tally.max_rel() for tally in self._tallies.values()), default=0.0),
            outputs=tuple(r for tally in self._tallies.values() for r in tally.reports()),
            note=note,
        )

    def state(self) -> State:
        """Everything so far, as arrays without objects."""
        head = [[list(key) for key in self._tallies], self._checked, self._unseen, self._mismatched]
        state: State = {"head": bytes_from_value(head)}
        for i, tally in enumerate(self._tallies.values()):
            state |= under(str(i), tally.state())
        return state

    @classmethod
    def from_state(cls, state: State, floor: Floor) -> ObserverDiff:
        """Continues from `state()`; the floor as in the first construction."""
        diff = cls(floor)
        keys, diff._checked, diff._unseen, diff._mismatched = value_from_bytes(state["head"])
        for i, (side, name) in enumerate(keys):
            diff._tally(side, name).restore(inside(str(i), state))
        return diff


def _keys(seen: Observations, name: str) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    keys = seen.keys.get(name)
    return keys, keys

"""The replayed baseline against what production answered: is the replay faithful at all?

If it is not, every later comparison is between the wrong things, so this is read first.
"""

from __future__ import annotations

import numpy as np

from harness.core.observations import Observations, Outcome
from harness.core.tensors import Bools
from harness.core.traffic import RequestBatch
from harness.diff.any_size import any_size
from harness.diff.columns import compared_rows
from harness.diff.floor import Floor
from harness.diff.logged import is_served
from harness.diff.measures import Floors, floors_by_column
from harness.diff.reports import FaithfulReport, RequestMismatch
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes
from harness.diff.tally import TensorTally


class FaithfulDiff:
    """Compares the baseline's outputs with the recorded ones, batch by batch.

    Tensors are matched by name. A ZipMap output is compared with a recorded matrix column by
    column in the order of its classes.

    Args:
      floor: tolerance and scale per output column.
    """

    def __init__(self, floor: Floor) -> None:
        self._floors = floors_by_column(floor.outputs)
        self._random = dict(floor.random)
        self._tallies: dict[str, TensorTally] = {}
        self._compared = 0
        self._mismatched = 0
        self._failed = 0
        self._one_sided: dict[str, str] = {}

    @any_size
    def update(self, requests: RequestBatch, baseline: Observations) -> RequestMismatch:
        """Compares one batch; returns which of its n requests production answered otherwise."""
        answered: Bools = np.asarray(requests.answered, dtype=np.bool_)
        ok = answered & np.asarray(baseline.outcome == Outcome.OK)
        mismatch = np.zeros(len(requests), dtype=np.bool_)
        self._failed += int((answered & ~ok).sum())
        names = [n for n in baseline.outputs if n in requests.recorded and n not in self._random]
        if not ok.any() or not names:
            self._note_one_sided(requests, baseline)
            return RequestMismatch(mismatch=mismatch, compared=np.zeros_like(ok))
        self._note_one_sided(requests, baseline)
        view = compared_rows(requests, ok)
        for name in names:
            tally = self._tallies.get(name)
            if tally is None:
                tally = self._tallies[name] = _tally(name, self._floors)
            keys = (baseline.keys.get(name), None)
            marked = tally.update(requests.recorded[name], baseline.outputs[name], view, keys[::-1])
            if marked is not None:
                mismatch |= marked
        self._compared += int(ok.sum())
        self._mismatched += int(mismatch.sum())
        return RequestMismatch(mismatch=mismatch, compared=ok)

    def _note_one_sided(self, requests: RequestBatch, baseline: Observations) -> None:
        if not baseline.outputs:
            return
        recorded = {name for name in requests.recorded if not is_served(name)}
        for name in recorded ^ baseline.outputs.keys():
            side = "only recorded" if name in requests.recorded else "not recorded"
            self._one_sided[name] = side

    @any_size
    def finish(self) -> FaithfulReport:
        """The report so far."""
        reports = [r for tally in self._tallies.values() for r in tally.reports()]
        return FaithfulReport(
            compared=self._compared,
            mismatched=self._mismatched,
            baseline_failed=self._failed,
            max_rel=max((tally.max_rel() for tally in self._tallies.values()), default=0.0),
            outputs=tuple(reports),
            not_compared=tuple(f"{n}: {side}" for n, side in sorted(self._one_sided.items())),
            note=self._note(),
        )

    def _note(self) -> str:
        if self._compared == 0:
            return (
                "No recorded answer could be compared: whether the replay is faithful is unknown."
            )
        if self._mismatched or self._failed:
            return (
                f"The replayed baseline answers {self._mismatched} of {self._compared} requests "
                f"otherwise than production did and fails {self._failed} that production answered: "
                "this replay is not production."
            )
        return f"The replayed baseline gives production's answer on all {self._compared} requests."

    def state(self) -> State:
        """Everything so far, as arrays without objects."""
        counts = [self._compared, self._mismatched, self._failed]
        head = [list(self._tallies), counts, self._one_sided]
        state: State = {"head": bytes_from_value(head)}
        for i, tally in enumerate(self._tallies.values()):
            state |= under(str(i), tally.state())
        return state

    @classmethod
    def from_state(cls, state: State, floor: Floor) -> FaithfulDiff:
        """Continues from `state()`; the floor as in the first construction."""
        diff = cls(floor)
        names, counts, diff._one_sided = value_from_bytes(state["head"])
        diff._compared, diff._mismatched, diff._failed = counts
        for i, name in enumerate(names):
            tally = _tally(name, diff._floors)
            tally.restore(inside(str(i), state))
            diff._tallies[name] = tally
        return diff


def _tally(name: str, floors: Floors) -> TensorTally:
    """Of one output; another processor's float64 is not held to its last digits."""
    return TensorTally(name, "output", floors, (), coarse=True)

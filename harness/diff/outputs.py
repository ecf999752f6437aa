"""The outputs of both versions, request by request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from harness.core.counted import counted
from harness.core.observations import Outcome, PairBatch
from harness.core.tensors import Bools
from harness.diff.any_size import any_size
from harness.diff.columns import Alike, compared_rows
from harness.diff.floor import Floor
from harness.diff.measures import floors_by_column
from harness.diff.other_rows import asked_further
from harness.diff.pairs import RelationKind
from harness.diff.reports import OutputReport, RequestMismatch, TensorReport, by_random
from harness.diff.row_order import RowOrder
from harness.diff.signature import SignatureMatch
from harness.diff.state import State, bytes_from_value, inside, under, value_from_bytes
from harness.diff.swaps import in_another_order
from harness.diff.tally import TensorTally


class OutputDiff:
    """Compares outputs batch by batch in test order; batch boundaries do not matter.

    Requests that either version failed are left out here: they are reported by outcome.

    Args:
      match: which outputs are compared.
      floor: tolerance and scale per column.
      expected_changes: outputs or columns that are meant to change; reported, not counted.
      coarse: the baseline's outputs that are float64 with float32's digits only.
      moved: its outputs that both versions hand on, see `handed_on`.
    """

    def __init__(
        self,
        match: SignatureMatch,
        floor: Floor,
        expected_changes: Collection[str] = (),
        coarse: Collection[str] = (),
        moved: Collection[str] = (),
    ) -> None:
        floors = floors_by_column(floor.outputs)
        self._match = match
        self._random = {n: why for n, why in floor.random if n in dict(match.outputs)}
        self._tallies = [
            (
                theirs,
                TensorTally(
                    ours, "output", floors, expected_changes,
                    coarse=ours in coarse, moved=ours in moved, alike=Alike.SAME,
                ),
            )
            for ours, theirs in match.outputs
            if ours not in self._random
        ]  # fmt: skip
        self._expected = frozenset(expected_changes)
        self._requests = 0
        self._without_rows = 0
        self._mismatched = 0
        self._missing: Counter[str] = Counter()

    @any_size
    def update(self, pair: PairBatch) -> RequestMismatch:
        """Compares one batch; returns which of its n requests differ."""
        before, after = pair.baseline, pair.candidate
        ok: Bools = np.asarray((before.outcome == Outcome.OK) & (after.outcome == Outcome.OK))
        mismatch = np.zeros(len(pair), dtype=np.bool_)
        whole = not self._unproven()
        if ok.any():
            view = compared_rows(pair.requests, ok)
            for theirs, tally in self._tallies:
                keys = (before.keys.get(tally.name), after.keys.get(theirs))
                ours = before.outputs.get(tally.name)
                other = after.outputs.get(theirs)
                if ours is None or other is None:
                    self._missing[tally.name] += int(ok.sum())
                    whole = whole and tally.name in self._expected
                    continue
                marked = tally.update(ours, other, view, keys)
                if marked is not None:
                    mismatch |= marked
        self._requests += int(ok.sum())
        self._without_rows += int((pair.requests.rows[ok] == 0).sum())
        self._mismatched += int(mismatch.sum())
        return RequestMismatch(mismatch=mismatch, compared=ok if whole else np.zeros_like(ok))

    def _unproven(self) -> tuple[tuple[str, str], ...]:
        """(output, why) of what is not compared, and not expected to change."""
        return tuple((n, why) for n, why in self._never() if n not in self._expected)

    def _never(self) -> tuple[tuple[str, str], ...]:
        """(output, why) of what is never compared."""
        odd = [(name, "of a kind that is not compared") for name in self._match.not_compared]
        return (*odd, *((name, by_random(why)) for name, why in self._random.items()))

    def _not_returned(self) -> tuple[tuple[str, str], ...]:
        """(output, why) of what some answers lack, and is not expected to change."""
        return tuple(
            (name, f"without values for the rows in {n:,} of {counted(self._requests)}")
            for name, n in self._missing.items()
            if n and name not in self._expected
        )

    @any_size
    def finish(self) -> OutputReport:
        """The report so far."""
        reports = [report for _, tally in self._tallies for report in self._reports(tally)]
        odd = [f"output {name}: {why}" for name, why in self._never()]
        extra = [f"output {n}: only the candidate has it" for n in self._match.extra_outputs]
        return OutputReport(
            outputs=tuple(reports),
            requests=self._requests,
            without_rows=self._without_rows,
            mismatched_requests=self._mismatched,
            extra_outputs=self._match.extra_outputs,
            not_compared=(
                *odd,
                *(f"output {n}: {why}" for n, why in self._not_returned()),
                *extra,
                *(f"{words}: accepted by the mapping" for words in self._match.narrower),
                *self._match.one_rank,
            ),
            one_sided_classes=tuple(
                f"{tally.name}[{label}] ({side})"
                for _, tally in self._tallies
                for label, side in sorted(tally.one_sided_labels.items())
            ),
            unproven=(
                *self._unproven(),
                *self._not_returned(),
                *(c for _, t in self._tallies for c in t.small_columns()),
            ),
            reshaped=tuple(
                (tally.name, tally.unlike)
                for _, tally in self._tallies
                if tally.unlike and tally.name not in self._expected
            ),
        )

    def _reports(self, tally: TensorTally) -> list[TensorReport]:
        """Those of one output, once where its columns changed places, else with other outputs that they hold."""
        plain = tally.reports()
        together = in_another_order(tally, plain)
        if together is not plain or not any(r.relation == RelationKind.OTHER for r in plain):
            return together
        # Answers are held against other columns only, not against earlier ones: no rows have their place in time.
        further = asked_further(tally, RowOrder(), [other for _, other in self._tallies])
        return tally.reports(further=further)

    def state(self) -> State:
        """Everything so far, as arrays without objects."""
        counts = [self._requests, self._without_rows, self._mismatched, self._missing]
        state: State = {"head": bytes_from_value(counts)}
        for i, (_, tally) in enumerate(self._tallies):
            state |= under(str(i), tally.state())
        return state

    @classmethod
    def from_state(
        cls,
        state: State,
        match: SignatureMatch,
        floor: Floor,
        expected_changes: Collection[str] = (),
        coarse: Collection[str] = (),
        moved: Collection[str] = (),
    ) -> OutputDiff:
        """Continues from `state()`; the other arguments as in the first construction."""
        diff = cls(match, floor, expected_changes, coarse, moved)
        head = value_from_bytes(state["head"])
        diff._requests, diff._without_rows, diff._mismatched, missing = head
        diff._missing = Counter(missing)
        for i, (_, tally) in enumerate(diff._tallies):
            tally.restore(inside(str(i), state))
        return diff

"""All tests together: may the run stop, and what has each guardrail shown?

Rollback: the weighted average of the gating tests' e-values reaches 1/α_R; an average of e-values is
an e-value under any dependence (Vovk & Wang 2021, Prop. 3.1). Culprits are named by e-BH (Wang &
Ramdas 2022), which names none unless the average has crossed. Promotion: every gating test on its
own reaches 1/α_P, an intersection–union test that needs no correction.

A proven rollback stays proven: Ville's inequality bounds the chance that a harmless candidate is
*ever* rejected, at any look. Promotion has no such memory: what counts is where every guardrail
stands at the same look.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Self

import numpy as np

from harness.core.errors import GateError, nearest
from harness.core.policies import Metric
from harness.core.tensors import Floats, Ints, Strings
from harness.core.verdicts import Evidence, PathPoint, Status
from harness.judge.binned import BinnedTrack
from harness.judge.culprits import named
from harness.judge.evidence import evidence_of
from harness.judge.metrics import Values
from harness.judge.plan import PlannedTest, TestPlan
from harness.judge.track import Track

Groups = dict[tuple[str, ...], Ints]
"""Slice values of a test → indices of the requests that carry them."""


class Judge:
    """Takes observations in, gives the state of the evidence at every look.

    A look is the end of an `update`. The log-wealth behind it is a sum over observations: how they
    were cut into updates matters to when one looks, not to what one sees.
    """

    def __init__(self, plan: TestPlan, alpha_promote: float, alpha_rollback: float) -> None:
        """Starts with no evidence.

        Args:
          plan: the tests.
          alpha_promote: P(promote while any gating guardrail is beyond its margin) ≤ this.
          alpha_rollback: P(rollback while all are within) ≤ this.
        """
        self._plan = plan
        self._plan_digest = ""
        """Of the plan, once asked for: it never changes."""
        self._alpha_promote = alpha_promote
        self._alpha_rollback = alpha_rollback
        self._tracks = [self._track(test) for test in plan.tests]
        self._left_out: dict[str, dict[str, int]] = {}
        self._rollback = False
        self._culprits: tuple[str, ...] = ()
        self._proven: dict[str, PathPoint] = {}
        """Test → the look that proved its harm."""

    def _track(self, test: PlannedTest) -> Track | BinnedTrack:
        if test.guardrail.metric is Metric.CALIBRATION_SHIFT:
            return BinnedTrack(
                direction=test.guardrail.direction,
                margin=test.margin,
                bounds=test.guardrail.bounds(),
                plan=(test.gap, test.second_moment),
                alphas=(self._alpha_promote, self._alpha_rollback),
                bins=test.guardrail.bins,
            )
        return Track(
            direction=test.guardrail.direction,
            margin=test.margin,
            bounds=test.guardrail.bounds(),
            plan=(test.gap, test.second_moment),
            alphas=(self._alpha_promote, self._alpha_rollback),
            sliced=bool(test.column),
            population=test.population,
            read=test.read,
        )

    def update(
        self, window: str, values: Mapping[str, Values], slices: Mapping[str, Strings]
    ) -> None:
        """Adds one batch of a window and looks.

        Args:
          window: newest or matured.
          values: guardrail name → observations of the same n requests; a guardrail of the window
            that is left out gets no data from them.
          slices: context column → value per request, shape (n,).

        Raises:
          GateError: an unknown guardrail, a length that differs, a value outside its bounds, or a
            slice column that is missing.
        """
        asked = {t.guardrail.name: t for t in self._plan.tests if t.guardrail.window == window}
        for name, observed in values.items():
            if name not in asked:
                what = f"no guardrail '{name}' in window '{window}'"
                raise GateError("judge", what, f"Report this; {nearest(name, asked)}")
            _check(asked[name], observed, slices)
        groups: dict[str, Groups] = {}
        parts = [
            (track, test, self._members(test, slices, groups))
            for test, track in zip(self._plan.tests, self._tracks, strict=True)
            if test.guardrail.window == window and test.guardrail.name in values
        ]
        for track, test, members in parts:
            _add(track, test, values[test.guardrail.name], members)
        for name, observed in values.items():
            counts = self._left_out.setdefault(name, {})
            for reason, count in observed.left_out:
                counts[reason] = counts.get(reason, 0) + count
        self._latch()

    def _members(
        self, test: PlannedTest, slices: Mapping[str, Strings], groups: dict[str, Groups]
    ) -> Ints | slice:
        """Indices of the requests a test sees; each column is sorted out once."""
        if not test.column:
            return slice(None)
        key = f"{test.column}\n{test.guardrail.min_slice}"
        if key not in groups:
            if test.column not in slices:
                what = f"slice column '{test.column}' is missing from the batch"
                raise GateError("judge", what, "Report this: the window was planned with it.")
            alike = [t.values for t in self._plan.tests if _same_parts(t, test)]
            groups[key] = _group(list(dict.fromkeys(alike)), slices[test.column])
        return groups[key][test.values]

    def _log_weighted(self) -> tuple[list[str], Floats]:
        """Names and log(w_k E_k) of the gating tests."""
        gating = [
            (test.name, math.log(test.weight) + track.log_e_rollback())
            for test, track in zip(self._plan.tests, self._tracks, strict=True)
            if test.gating
        ]
        return [name for name, _ in gating], np.array([value for _, value in gating])

    def _latch(self) -> None:
        """Remembers the first look that proves harm, and the first that names who did it.

        A test that does not decide is remembered for itself: it proves harm at α_R on its own.
        """
        bar = math.log(1.0 / self._alpha_rollback)
        for test, track in zip(self._plan.tests, self._tracks, strict=True):
            if not test.gating and test.name not in self._proven and track.log_e_rollback() >= bar:
                self._proven[test.name] = track.point()
        names, logs = self._log_weighted()
        if not len(logs) or float(np.logaddexp.reduce(logs)) < bar:
            return
        self._rollback = True
        if not self._culprits:
            found = dict(zip(names, logs.tolist(), strict=True))
            self._culprits = named(found, self._alpha_rollback)
            self._proven |= {
                test.name: track.point()
                for test, track in zip(self._plan.tests, self._tracks, strict=True)
                if test.name in self._culprits
            }

    def status(self, later: Collection[str] = ()) -> Status:
        """Where all tests together stand at the last look.

        Args:
          later: guardrails that are measured afterwards, and that a promotion need not wait for yet.
        """
        names, logs = self._log_weighted()
        combined = float(np.logaddexp.reduce(logs)) if len(logs) else 0.0
        order = np.argsort(-logs, kind="stable")
        return Status(
            rollback=self._rollback,
            promote_ready=self._promote_ready(later),
            log_e_rollback_combined=combined,
            culprits=self._culprits,
            shares=tuple((names[i], float(np.exp(logs[i] - combined))) for i in order),
            alpha_promote=self._alpha_promote,
            alpha_rollback=self._alpha_rollback,
        )

    def _promote_ready(self, later: Collection[str]) -> bool:
        bar = math.log(1.0 / self._alpha_promote)
        gating = [
            track.n > track.n_failed and track.log_e_promote() >= bar
            for test, track in zip(self._plan.tests, self._tracks, strict=True)
            if test.gating and test.guardrail.name not in later
        ]
        return (bool(gating) or bool(later)) and all(gating)

    def evidence(self) -> tuple[Evidence, ...]:
        """What every test has shown, in the plan's order."""
        status = self.status()
        return tuple(
            evidence_of(
                test,
                track,
                status,
                self._left_out.get(test.guardrail.name, {}),
                self._proven.get(test.name),
            )
            for test, track in zip(self._plan.tests, self._tracks, strict=True)
        )

    def left_out(self, guardrail: str) -> dict[str, int]:
        """Reason → requests of a guardrail that did not enter, as `metrics.Values` names them."""
        return dict(self._left_out.get(guardrail, {}))

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `from_state` continues identically."""
        self._plan_digest = self._plan_digest or self._plan.digest()
        return {
            "plan": self._plan_digest,
            "alphas": [self._alpha_promote, self._alpha_rollback],
            "rollback": self._rollback,
            "culprits": list(self._culprits),
            "proven": {name: list(point.row()) for name, point in self._proven.items()},
            "left_out": {name: dict(counts) for name, counts in self._left_out.items()},
            "tracks": [track.state() for track in self._tracks],
        }

    @classmethod
    def from_state(
        cls, plan: TestPlan, alpha_promote: float, alpha_rollback: float, state: dict[str, Any]
    ) -> Self:
        """Continues a saved judge: the same further batches give the identical answer.

        Raises:
          GateError: the state belongs to another plan or other levels.
        """
        if state["plan"] != plan.digest() or state["alphas"] != [alpha_promote, alpha_rollback]:
            raise GateError(
                "judge",
                "the saved evidence belongs to another plan or to other error levels",
                "Start a new run: evidence cannot be carried over to other questions.",
            )
        judge = cls(plan, alpha_promote, alpha_rollback)
        judge._rollback = bool(state["rollback"])
        judge._culprits = tuple(state["culprits"])
        judge._proven = {name: PathPoint.from_row(row) for name, row in state["proven"].items()}
        judge._left_out = {name: dict(counts) for name, counts in state["left_out"].items()}
        for track, saved in zip(judge._tracks, state["tracks"], strict=True):
            track.restore(saved)
        return judge


def _same_parts(one: PlannedTest, other: PlannedTest) -> bool:
    """Whether two tests split the same window's traffic in the same way."""
    left, right = one.guardrail, other.guardrail
    return (one.column, left.window, left.min_slice) == (
        other.column,
        right.window,
        right.min_slice,
    )


def _check(test: PlannedTest, observed: Values, slices: Mapping[str, Strings]) -> None:
    n = len(observed.x)
    name = test.guardrail.name
    lengths = {len(observed.failed), *(len(column) for column in slices.values())}
    if lengths != {n}:
        what = f"guardrail '{name}' has {n} observations beside columns of {sorted(lengths)}"
        raise GateError("judge", what, "Report this: a batch's columns must have one length.")
    lo, hi = test.guardrail.bounds()
    if np.any((observed.x < lo) | (observed.x > hi)):
        what = f"guardrail '{name}' has a value outside [{lo:g}, {hi:g}]"
        raise GateError("judge", what, "Report this: the test is valid only within its bounds.")


def _add(
    track: Track | BinnedTrack, test: PlannedTest, observed: Values, members: Ints | slice
) -> None:
    """Gives a test its share of a batch."""
    if isinstance(track, Track):
        track.add(*_entering(observed, members, every=test.population is not None))
        return
    if observed.score is None:
        what = f"guardrail '{test.guardrail.name}' has no score to sort its requests by"
        raise GateError("judge", what, "Report this: calibration is tested in bins.")
    track.add(observed.x[members], observed.failed[members], observed.score[members])


def _entering(observed: Values, members: Ints | slice, *, every: bool) -> tuple[Floats, int]:
    """Values that enter and the number of failed pairs, of the requests a test sees.

    A claim about exactly N requests has a value for every one of them: those that would not enter
    count as failed, so that N stays N.
    """
    x, failed = observed.x[members], observed.failed[members]
    enters = ~np.isnan(x) & ~failed
    n_failed = len(x) - int(np.count_nonzero(enters)) if every else int(np.count_nonzero(failed))
    return x[enters], n_failed


def _group(parts: list[tuple[str, ...]], column: Strings) -> Groups:
    """Splits a batch by slice with one stable sort; values of no part are in none."""
    code = {value: i for i, part in enumerate(parts) for value in part}
    codes = np.fromiter((code.get(value, -1) for value in column), np.int32, len(column))
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(parts) + 1))
    return {part: order[ends[i] : ends[i + 1]] for i, part in enumerate(parts)}

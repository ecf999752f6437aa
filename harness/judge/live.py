"""The live judge: observations in batches of any size, an answer after each, restartable anywhere.

It puts together what the other modules prove: units that enter once (`exposures`), label cohorts of
fixed age (`cohorts`), whole cycles for promotion (`cycles`), the test of each guardrail (`track`,
`overlap`, `counts`), and the declared split (`sample_ratio`). The order of answers is that of the
offline judge: a broken split is HOLD, then proven harm, then proven non-inferiority, else go on.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from harness.core.live import LiveGuardrail, LiveKind
from harness.core.tensors import Bools, Floats, Ints
from harness.core.verdicts import Decision, Evidence
from harness.judge.cohorts import Cohorts, Trace, first_rejection
from harness.judge.counts import Bursts, ErrorRatio
from harness.judge.culprits import named
from harness.judge.cycles import Cycle, CycleLooks, CyclesSeen, Silences
from harness.judge.exposures import Exposures, Units
from harness.judge.live_answer import answer_of, evidence_of_live
from harness.judge.live_blocks import in_blocks
from harness.judge.live_checks import check_batch
from harness.judge.live_input import read_batch
from harness.judge.live_plan import LiveAnswer, LiveBatch, LivePlan
from harness.judge.live_state import sealed, unsealed
from harness.judge.overlap import OverlapTrack
from harness.judge.sample_ratio import SampleRatio
from harness.judge.track import Track

Test = Track | OverlapTrack | ErrorRatio


class LiveJudge:
    """Takes live batches in; saved after any of them, it goes on elsewhere to the same answers."""

    def __init__(self, plan: LivePlan) -> None:
        """Starts with no evidence.

        Args:
          plan: the tests.
        """
        self._plan = plan
        self._levels = plan.levels()
        carried = tuple(g.name for g in plan.guardrails if g.label_maturity_s is None)
        self._exposures = Exposures(carried, plan.closing_s(), names_recur=plan.names_recur)
        self._cohorts = {
            g.name: Cohorts(g.label_maturity_s)
            for g in plan.guardrails
            if g.label_maturity_s is not None
        }
        self._tests: dict[str, Test] = {g.name: self._test(g) for g in plan.guardrails}
        self._bursts = {
            g.name: Bursts(plan.burst_gap_s, plan.burst_longest_s)
            for g in plan.guardrails
            if g.kind is LiveKind.ERRORS
        }
        self._split = SampleRatio(plan.sample_ratio_alpha)
        self._labelled = {name: SampleRatio(plan.sample_ratio_alpha) for name in self._cohorts}
        self._cycle = Cycle(length_s=plan.cycle_s)
        self._silences = Silences(self._cycle, plan.quiet_s)
        self._cycles = {name: CycleLooks() for name in self._tests}
        self._promote_at = dict.fromkeys(self._tests, -math.inf)
        self.opened: Units | None = None
        """Units first seen in the last batch; None before one, and after a restart."""
        self._start_ns: int | None = None
        self._until_ns: int | None = None
        self._next = 0
        self._repeated = 0
        self._n_closed = 0
        self._unfit = ""
        self._rejected: tuple[str, ...] = ()
        self._culprits: tuple[str, ...] = ()

    def _test(self, guardrail: LiveGuardrail) -> Test:
        plan = self._plan
        alphas = (plan.alpha_promote, self._levels.get(guardrail.clock(), plan.alpha_rollback))
        aim = (guardrail.gap, guardrail.second_moment)
        match guardrail.kind:
            case LiveKind.PAIRED:
                return Track(
                    direction=guardrail.direction,
                    margin=guardrail.margin,
                    bounds=guardrail.bounds,
                    plan=aim,
                    alphas=alphas,
                )
            case LiveKind.SHIFT:
                return OverlapTrack(
                    direction=guardrail.direction,
                    margin=guardrail.margin,
                    bounds=guardrail.bounds,
                    plan=aim,
                    alphas=alphas,
                )
            case LiveKind.ERRORS:
                return ErrorRatio(ratio=guardrail.margin, alphas=alphas)

    def update(self, batch: LiveBatch) -> LiveAnswer:
        """Adds a batch and answers.

        A batch whose number was seen before changes nothing and is counted, so that a sender who
        does not know whether a batch arrived before a crash sends it again.

        Args:
          batch: the next one.

        Returns:
          The answer now.

        Raises:
          TrafficError: a batch that skips a number, goes back in time, or holds values the tests
            cannot take; nothing of it has been added then.
        """
        batch = read_batch(batch)
        if batch.number < self._next:
            self._repeated += 1
            return self.answer()
        steps = frozenset(shares[1] for shares, _ in self._split.counts())
        check_batch(self._plan, batch, self._next, self._until_ns, steps)
        self._next = batch.number + 1
        self._until_ns = batch.until_ns
        blocks, requests = self._plan.block_s, batch.requests
        opened = self._exposures.add(in_blocks(requests, blocks) if blocks else requests)
        self.opened = opened
        if self._start_ns is None and len(opened.unit):
            self._start_ns = int(opened.first_ns[0])
        if self._start_ns is not None:
            self._silences.add(requests.ts_ns, self._start_ns)
        for name, cohort in self._cohorts.items():
            cohort.expose(opened, opened.absent.get(name))
            labels = batch.labels.get(name)
            if labels is not None:
                cohort.label(labels.unit, labels.value, labels.ts_ns)
        at = (
            self._split.add_each(opened.candidate, opened.propensity)
            if self._plan.split()
            else None
        )
        if not self._unfit:
            # What matured before the split broke is judged, whatever batch that falls into.
            self._mature(batch.until_ns if at is None else int(opened.first_ns[at]))
            if at is not None and not self._unfit:
                self._unfit = "sample_ratio_mismatch"
        return self.answer()

    def _mature(self, until_ns: int) -> None:
        """Closes what is old enough on every clock, feeds the tests, and looks."""
        broke_ns = self._labels_broke(until_ns)
        until_ns = until_ns if broke_ns is None else broke_ns
        closed = self._exposures.close(until_ns)
        self._n_closed += len(closed.unit)
        looks: dict[str, Trace] = {}
        for guardrail in self._plan.guardrails:
            name, age_ns = guardrail.name, self._age_ns(guardrail)
            aged = guardrail.label_maturity_s is not None
            units = self._cohorts[name].mature(until_ns, name) if aged else closed.present(name)
            before = self._tests[name].log_e_rollback()
            looks[name] = Trace.of(before, self._feed(guardrail, units, until_ns - age_ns))
        self._latch(looks, broke_ns)
        if broke_ns is not None:
            self._unfit = "labels_unequal"

    def _age_ns(self, guardrail: LiveGuardrail) -> int:
        """Age at which its values enter."""
        age_s = guardrail.label_maturity_s
        return round((self._plan.closing_s() if age_s is None else age_s) * 1e9)

    def _labels_broke(self, until_ns: int) -> int | None:
        """Counts labelled units that mature; the instant at which they no longer fit the split."""
        instants = []
        for guardrail in self._plan.guardrails if self._plan.split() else ():
            name = guardrail.name
            if name in self._cohorts:
                units = self._cohorts[name].due(until_ns, name)
                at = self._labelled[name].add_each(units.candidate, units.propensity)
                if at is not None:
                    instants.append(int(units.first_ns[at]) + self._age_ns(guardrail))
        return min(instants, default=None)

    def _feed(
        self, guardrail: LiveGuardrail, units: Units, exposed_until_ns: int
    ) -> list[tuple[Ints, Floats]]:
        """Adds units cycle by cycle; where a cycle is complete, promotion takes its look.

        Returns:
          Rollback's looks: (first request of what entered, log E then), part after part.
        """
        traces = []
        name = guardrail.name
        start = self._start_ns if self._start_ns is not None else exposed_until_ns
        numbers = self._cycle.number(units.first_ns, start)
        for number in np.unique(numbers).tolist():
            self._completed(name, number)
            traces.append(self._add(guardrail, units, numbers == number))
            self._cycles[name].enter(int(np.count_nonzero(numbers == number)))
        self._completed(name, self._cycle.completed(start, exposed_until_ns))
        if not self._plan.cycle_s:
            self._promote_at[name] = self._promotion(name)
        return traces

    def _completed(self, name: str, number: int) -> None:
        """Everything in the test lies in cycles before `number`."""
        if self._cycles[name].finish(number, self._silences.whole):
            self._promote_at[name] = self._promotion(name)

    def _promotion(self, name: str) -> float:
        test = self._tests[name]
        return test.log_e_promote() if test.n > test.n_failed else -math.inf

    def _add(self, guardrail: LiveGuardrail, units: Units, at: Bools) -> tuple[Ints, Floats]:
        values = units.values[guardrail.name][at]
        test = self._tests[guardrail.name]
        match test:
            case Track():
                return units.first_ns[at], test.add_each(values, np.isnan(values))
            case OverlapTrack():
                each = test.add(values, units.candidate[at], units.propensity[at])
                return units.first_ns[at], each
            case ErrorRatio():
                # A unit with any failed request, or one that cannot be read, is one error.
                erring = np.flatnonzero(at)[~(values == 0.0)]
                counted = erring[self._bursts[guardrail.name].starts(units.first_ns[erring])]
                each = test.add(units.candidate[counted], units.propensity[counted])
                return units.first_ns[counted], each

    def _latch(self, looks: dict[str, Trace], broke_ns: int | None) -> None:
        """Remembers the first look that proves harm, unless labels broke by then.

        Every unit is a look at the instant of its maturity, so how traffic is cut into batches does
        not change the answer. Clocks that prove harm at the same instant are both remembered.
        """
        if self._rejected:
            return
        gating = [g for g in self._plan.guardrails if g.gating]
        found = []
        for clock, level in self._levels.items():
            mine = [g for g in gating if g.clock() == clock]
            first = first_rejection({g.name: looks[g.name] for g in mine}, level)
            if first is not None:
                found.append((first[0] + self._age_ns(mine[0]), clock, first[1]))
        earliest = min((at_ns for at_ns, _, _ in found), default=0)
        for at_ns, clock, logs in found:
            if at_ns > earliest or (broke_ns is not None and at_ns >= broke_ns):
                continue
            self._rejected += (clock,)
            share = math.log(len(logs))
            weighted = {name: log_e - share for name, log_e in logs.items()}
            self._culprits += named(weighted, self._levels[clock])

    def _logs(self) -> dict[str, dict[str, float]]:
        """Clock → gating guardrail → natural log of its rollback e-value."""
        found: dict[str, dict[str, float]] = {clock: {} for clock in self._levels}
        for guardrail in self._plan.guardrails:
            if guardrail.gating:
                log_e = self._tests[guardrail.name].log_e_rollback()
                found[guardrail.clock()][guardrail.name] = log_e
        return found

    def answer(self) -> LiveAnswer:
        """Where the comparison stands; the same until the next batch."""
        bar = -math.log(self._plan.alpha_promote)
        gating = [g.name for g in self._plan.guardrails if g.gating]
        ready = bool(gating) and all(self._promote_at[name] >= bar for name in gating)
        if self._rejected:
            decision, reason = Decision.ROLLBACK, "guardrail_failed"
        elif self._unfit:
            decision, reason = Decision.HOLD, self._unfit
        elif ready:
            decision, reason = Decision.PROMOTE, "all_guardrails_pass"
        else:
            decision, reason = Decision.HOLD, "undecided"
        ignored = dict(self._exposures.ignored)
        for cohort in self._cohorts.values():
            for why, count in cohort.ignored.items():
                key = f"label_{why}"
                ignored[key] = ignored.get(key, 0) + count
        if self._repeated:
            ignored["repeated_batches"] = self._repeated
        return answer_of(
            self._plan,
            (decision, reason),
            culprits=self._culprits,
            cycles=self._counted(gating),
            units=(len(self._exposures), self._n_closed),
            sample_ratio_p=self._split.p_value(),
            logs=self._logs(),
            promote_at=self._promote_at,
            ignored=ignored,
        )

    def labelled(self) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
        """Gating guardrail that takes labels → its units, of the baseline's arm and of the candidate's.

        Returns:
          Of each arm (units that matured, of these with a label that no other one contradicts).
        """
        gating = {g.name for g in self._plan.guardrails if g.gating}
        return {
            name: (_with_label(cohort, 0), _with_label(cohort, 1))
            for name, cohort in self._cohorts.items()
            if name in gating
        }

    def _counted(self, gating: list[str]) -> CyclesSeen:
        looks = [self._cycles[name] for name in gating]
        return CyclesSeen(
            whole=min((look.whole for look in looks), default=0),
            in_part=max((look.in_part for look in looks), default=0),
            quiet_s=self._silences.quiet_s,
        )

    def evidence(self) -> tuple[Evidence, ...]:
        """What every guardrail has shown, in the plan's order."""
        return tuple(
            evidence_of_live(
                guardrail,
                self._tests[guardrail.name],
                self._plan,
                n_exposed=len(self._exposures),
                proven_harm=guardrail.name in self._culprits,
                promote_at=self._promote_at[guardrail.name],
            )
            for guardrail in self._plan.guardrails
        )

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `from_state` continues identically."""
        body = {
            "next": self._next,
            "repeated": self._repeated,
            "start_ns": self._start_ns,
            "until_ns": self._until_ns,
            "n_closed": self._n_closed,
            "unfit": self._unfit,
            "rejected": list(self._rejected),
            "culprits": list(self._culprits),
            "cycles": {name: looks.state() for name, looks in self._cycles.items()},
            "silences": self._silences.state(),
            "promote_at": {k: _finite(v) for k, v in self._promote_at.items()},
            "exposures": self._exposures.state(),
            "split": self._split.state(),
            "labelled": {name: ratio.state() for name, ratio in self._labelled.items()},
            "cohorts": {name: cohort.state() for name, cohort in self._cohorts.items()},
            "bursts": {name: bursts.state() for name, bursts in self._bursts.items()},
            "tests": {name: test.state() for name, test in self._tests.items()},
        }
        return sealed(self._plan, body)

    @classmethod
    def from_state(cls, plan: LivePlan, state: dict[str, Any]) -> Self:
        """Continues a saved judge: the same further batches give the identical answers.

        Raises:
          GateError: no saved judge, a damaged one, or one of another plan. The digest that tells
            is no security boundary (`live_state`).
        """
        state = unsealed(plan, state)
        judge = cls(plan)
        judge._next, judge._repeated = int(state["next"]), int(state["repeated"])
        judge._start_ns, judge._until_ns = state["start_ns"], state["until_ns"]
        judge._n_closed, judge._unfit = int(state["n_closed"]), str(state["unfit"])
        judge._rejected, judge._culprits = tuple(state["rejected"]), tuple(state["culprits"])
        for name, looks in judge._cycles.items():
            looks.restore(state["cycles"][name])
        judge._silences.restore(state["silences"])
        for name in judge._tests:
            value = state["promote_at"][name]
            judge._promote_at[name] = -math.inf if value is None else float(value)
        judge._exposures.restore(state["exposures"])
        judge._split.restore(state["split"])
        for name, ratio in judge._labelled.items():
            ratio.restore(state["labelled"][name])
        for name, cohort in judge._cohorts.items():
            cohort.restore(state["cohorts"][name])
        for name, bursts in judge._bursts.items():
            bursts.restore(state["bursts"][name])
        for name, test in judge._tests.items():
            test.restore(state["tests"][name])
        return judge


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _with_label(cohort: Cohorts, arm: int) -> tuple[int, int]:
    labelled = cohort.labelled[arm]
    return labelled + cohort.unlabelled[arm], labelled - cohort.contradicted[arm]

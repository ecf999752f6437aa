"""The running evidence of one gate: what diff, judge and the pairs table make of each batch.

All of it can be saved at a checkpoint and restored, so that a resumed run goes on exactly where the
interrupted one was; the state does not grow with the number of requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from harness.core.errors import GateError
from harness.core.models import ModelGraph
from harness.core.observations import LatencySample, Observations, PairBatch
from harness.core.policies import (
    LATENCY_METRICS,
    Against,
    Guardrail,
    Metric,
    Policy,
    Scope,
    WindowName,
)
from harness.core.tensors import Array, Bools, Columns, Floats, Strings
from harness.core.verdicts import Status
from harness.diff.faithful import FaithfulDiff
from harness.diff.features import FeatureDiff
from harness.diff.floor import Floor
from harness.diff.handed_on import handed_on_by_both
from harness.diff.observer import ObserverDiff
from harness.diff.outputs import OutputDiff
from harness.diff.probes import ProbeGuard
from harness.diff.reports import RequestMismatch
from harness.diff.served import ServedDiff
from harness.diff.signature import SignatureMatch
from harness.judge.answers import without_column
from harness.judge.combine import Judge
from harness.judge.latency import LatencyValues
from harness.judge.metrics import Sides, Values, observe, sides_of
from harness.judge.plan import TestPlan
from harness.judge.unit_sums import UnitSums
from harness.pipeline.baseline_failures import BaselineTally
from harness.pipeline.candidate_failures import CandidateFailures
from harness.pipeline.pairs_columns import decided, pairs_table
from harness.pipeline.parts import gathered, together
from harness.replay.forms import in_forms
from harness.replay.order import Batch

State = dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the evidence is measured against; fixed before the first pair."""

    policy: Policy
    plan: TestPlan
    alpha_promote: float
    alpha_rollback: float
    match: SignatureMatch
    floor: Floor
    graphs: tuple[ModelGraph, ModelGraph]
    """(baseline's, candidate's)."""
    proven: Mapping[str, str] = field(default_factory=dict)
    """The baseline's features that no trace returns, and that are known to be equal → why."""

    @property
    def moved(self) -> frozenset[str]:
        """The baseline's outputs that both versions hand on."""
        return handed_on_by_both(*self.graphs, self.match.outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What was seen of n requests."""

    values: dict[str, Values]
    """By guardrail."""
    columns: dict[str, Array]
    """Of the pairs table, shape (n,) each."""


class RunningEvidence:
    """Diffs, judge and counters, fed batch by batch in the run's order."""

    def __init__(self, terms: Terms) -> None:
        """Starts with no evidence."""
        self.terms = terms
        policy, floor = terms.policy, terms.floor
        self.judge = Judge(terms.plan, terms.alpha_promote, terms.alpha_rollback)
        coarse = terms.graphs[0].coarse
        self.outputs = OutputDiff(
            terms.match, floor, expected_changes(policy, Scope.OUTPUTS), coarse, terms.moved
        )
        self.features = FeatureDiff(
            floor, *terms.graphs, expected_changes(policy, Scope.FEATURES), policy.mapping,
            proven=terms.proven,
        )  # fmt: skip
        self.faithful = FaithfulDiff(floor)
        self.served = ServedDiff(floor, coarse)
        self.observer = ObserverDiff(floor)
        self.probes = ProbeGuard()
        self.failures = CandidateFailures()
        self.baseline = BaselineTally()
        self.judged: dict[str, int] = {}
        asked = [g for g in policy.guardrails if g.metric in LATENCY_METRICS]
        self.latency = LatencyValues(asked, policy.latency.planning)
        self.units = {g.name: UnitSums() for g in policy.guardrails if policy.unit}

    def carry(self, judge: dict[str, Any], judged: dict[str, int]) -> None:
        """Starts from the tests of an earlier attempt at the same question.

        Args:
          judge: state of its judge.
          judged: pairs it judged by window.

        Raises:
          GateError: other tests, or other error levels.
        """
        terms = self.terms
        levels = terms.alpha_promote, terms.alpha_rollback
        self.judge = Judge.from_state(terms.plan, *levels, judge)
        self.judged = dict(judged)

    def update(
        self,
        batch: Batch,
        pair: PairBatch,
        label: Floats,
        again: PairBatch | None = None,
        *,
        ends: Bools | None = None,
    ) -> Columns:
        """Takes one batch and looks.

        Args:
          batch: which window it is of.
          pair: both versions' observations.
          label: y per request, NaN where none counts, shape (n,).
          again: the same requests a second time, where a guardrail asks for it.
          ends: whether a request is its unit's last one, shape (n,); None = each counts once.

        Returns:
          The batch's rows of the pairs table.
        """
        self.probes.update(pair)
        self.baseline.update(batch.window, pair)
        parts = in_forms(pair, again)
        looks = [
            (at, self._look(batch, part, label[at], repetition, whole=len(parts) == 1))
            for at, part, repetition in parts
        ]
        columns = gathered([(at, look.columns) for at, look in looks], len(pair))
        values = {
            name: together([(at, look.values[name]) for at, look in looks], len(pair))
            for name in looks[0][1].values
        }
        self.judge.update(batch.window, *self._counting_once(values, pair, ends))
        self.judged[batch.window] = self.judged.get(batch.window, 0) + len(pair)
        return pairs_table(batch, pair, self.terms.policy, label, columns, values)

    def _look(
        self, batch: Batch, pair: PairBatch, label: Floats, again: PairBatch | None, *, whole: bool
    ) -> _Look:
        """What requests of a batch show, whose answers have one shape in each version; as in `update`.

        A rule that does not fit the answers to the whole batch is a mistake in it.
        """
        outputs = self.outputs.update(pair)
        features = self.features.update(pair) if batch.trace else _not_asked(len(pair))
        if batch.trace:
            self.served.update(pair.requests, pair.baseline)
        # What production recorded is compared with production's own session, and with no other.
        unfaithful = (
            _not_asked(len(pair))
            if pair.baseline.alone
            else self.faithful.update(pair.requests, pair.baseline)
        )
        self.observer.update(pair)
        seen, repetition = (
            self._named(pair, whole),
            again if again is None else self._named(again, whole),
        )
        self.failures.update(seen)
        sides = sides_of(seen)
        values = {
            g.name: self._observed(g, seen, label, outputs, features, sides=sides, again=repetition)
            for g in self.terms.policy.guardrails
            if g.window.value == batch.window and g.metric not in LATENCY_METRICS
        }
        flags = {"output_mismatch": outputs.mismatch, "feature_mismatch": features.mismatch,
                 "unfaithful": unfaithful.mismatch}  # fmt: skip
        return _Look(values=values, columns={**decided(seen, self.terms.policy), **flags})

    def _named(self, pair: PairBatch, whole: bool) -> PairBatch:
        """Answers as the guardrails read them."""
        rule, named = self.terms.policy.decision, under_baseline_names(pair, self.terms.match)
        return named if whole or rule is None else without_column(named, rule)

    def _counting_once(
        self, values: dict[str, Values], pair: PairBatch, ends: Bools | None
    ) -> tuple[dict[str, Values], Mapping[str, Strings]]:
        """What the tests see: the requests, or the units that end among them, with their slices."""
        sliced = {column for g in self.terms.policy.guardrails for column in g.slice_by}
        given = pair.requests.context
        context = {column: given[column] for column in given if column in sliced}
        if ends is None:
            return values, context
        context = {column: words[ends] for column, words in context.items()}
        return {name: self.units[name].add(v, ends) for name, v in values.items()}, context

    def _observed(
        self,
        guardrail: Guardrail,
        pair: PairBatch,
        label: Floats,
        outputs: RequestMismatch,
        features: RequestMismatch,
        *,
        sides: Sides,
        again: PairBatch | None,
    ) -> Values:
        """One guardrail's values.

        Parity that could not be compared speaks against both sides; a difference that was found is
        one, whatever else was not compared.
        """
        comparable = self.features.counts or bool(self.terms.proven)
        if guardrail.against is Against.ANCHOR:
            pair = _against_anchor(pair)
            sides = sides_of(pair)
        values = observe(
            guardrail, pair, self.terms.policy.decision, label, outputs.mismatch,
            features.mismatch if comparable else None, again=again, sides=sides,
        )  # fmt: skip
        if guardrail.metric is not Metric.PARITY_MISMATCH:
            return values
        seen = outputs if guardrail.scope is Scope.OUTPUTS else features
        unknown = ~seen.compared & ~seen.mismatch
        unseen: Bools = unknown & ~np.isnan(values.x) & pair.both_answered()
        return replace(values, failed=values.failed | unseen) if unseen.any() else values

    def take_latency(self, sample: LatencySample) -> None:
        """Takes pairs that were replayed singly, and looks.

        The first of them may only fix cut-offs (`latency.planning`).
        """
        values = self.latency.values(sample)
        if values:
            self.judge.update(WindowName.NEWEST.value, values, {})

    def status(self, *, replayed: bool = False) -> Status:
        """Where the guardrails stand at this look.

        Args:
          replayed: only those that the replay measures keep a promotion waiting; latency comes after.
        """
        return self.judge.status(latency_names(self.terms.policy) if replayed else ())

    def state(self) -> tuple[State, dict[str, Any]]:
        """Arrays and plain values from which `restored` goes on identically."""
        arrays: State = {}
        for name, part in self._diffs():
            arrays |= {f"{name}/{key}": value for key, value in part.state().items()}
        meta = {
            "judge": self.judge.state(),
            "failures": self.failures.state(),
            "baseline": self.baseline.state(),
            "judged": dict(self.judged),
            "latency": self.latency.state(),
            "probes": self.probes.state(),
            "units": {name: sums.state() for name, sums in self.units.items()},
        }
        return arrays, meta

    @classmethod
    def restored(cls, terms: Terms, arrays: State, meta: dict[str, Any]) -> Self:
        """Goes on from a checkpoint of the same run."""
        found = cls(terms)
        policy, floor = terms.policy, terms.floor

        def saved(name: str) -> State:
            return {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(name + "/")}

        found.judge = Judge.from_state(
            terms.plan, terms.alpha_promote, terms.alpha_rollback, meta["judge"]
        )
        found.outputs = OutputDiff.from_state(
            saved("outputs"), terms.match, floor, expected_changes(policy, Scope.OUTPUTS),
            terms.graphs[0].coarse, terms.moved,
        )  # fmt: skip
        found.features = FeatureDiff.from_state(
            saved("features"),
            floor,
            *terms.graphs,
            expected_changes(policy, Scope.FEATURES),
            policy.mapping,
            proven=terms.proven,
        )
        found.faithful = FaithfulDiff.from_state(saved("faithful"), floor)
        found.served = ServedDiff.from_state(saved("served"), floor, terms.graphs[0].coarse)
        found.observer = ObserverDiff.from_state(saved("observer"), floor)
        found.failures = CandidateFailures.from_state(meta["failures"])
        found.baseline = BaselineTally.from_state(meta["baseline"])
        found.judged = dict(meta["judged"])
        found.latency.restore(meta["latency"])
        found.probes = ProbeGuard.from_state(meta["probes"])
        found.units = {n: UnitSums.from_state(sums) for n, sums in meta["units"].items()}
        return found

    def _diffs(
        self,
    ) -> tuple[
        tuple[str, OutputDiff | FeatureDiff | FaithfulDiff | ServedDiff | ObserverDiff], ...
    ]:
        return (
            ("outputs", self.outputs),
            ("features", self.features),
            ("faithful", self.faithful),
            ("served", self.served),
            ("observer", self.observer),
        )


def _against_anchor(pair: PairBatch) -> PairBatch:
    if pair.anchor is None:
        raise GateError("anchor", "was not replayed", "Report this: a guardrail is against it.")
    return replace(pair, baseline=pair.anchor)


def latency_names(policy: Policy) -> tuple[str, ...]:
    """Guardrails that are measured on requests replayed singly."""
    return tuple(g.name for g in policy.guardrails if g.metric in LATENCY_METRICS)


def expected_changes(policy: Policy, scope: Scope) -> tuple[str, ...]:
    """Everything that the policy's guardrails of one scope expect to change."""
    listed = (g.expected_changes for g in policy.guardrails if g.scope is scope)
    return tuple(sorted({name for names in listed for name in names}))


def _not_asked(n: int) -> RequestMismatch:
    """What is known of n requests of which nothing was compared."""
    return RequestMismatch(mismatch=np.zeros(n, np.bool_), compared=np.zeros(n, np.bool_))


def under_baseline_names(pair: PairBatch, match: SignatureMatch) -> PairBatch:
    """The candidate's outputs under the baseline's names, where a mapping renames them."""
    renamed = {theirs: ours for ours, theirs in match.outputs if ours != theirs}
    if not renamed:
        return pair
    candidate: Observations = replace(
        pair.candidate,
        outputs={renamed.get(n, n): v for n, v in pair.candidate.outputs.items()},
        keys={renamed.get(n, n): v for n, v in pair.candidate.keys.items()},
        forms={renamed.get(n, n): v for n, v in pair.candidate.forms.items()},
    )
    return replace(pair, candidate=candidate)

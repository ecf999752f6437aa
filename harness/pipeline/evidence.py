"""The running evidence of one gate: what diff, judge and the pairs table make of each batch.

All of it can be saved at a checkpoint and restored, so that a resumed run goes on exactly where the
interrupted one was; the state does not grow with the number of requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from harness.core.tensors import Array, Bools, CodedText, Columns, Floats, PackedText, Strings
from harness.core.verdicts import Status
from harness.diff.faithful import FaithfulDiff
from harness.diff.features import FeatureDiff
from harness.diff.floor import Floor
from harness.diff.observer import ObserverDiff
from harness.diff.outputs import OutputDiff
from harness.diff.probes import ProbeGuard
from harness.diff.reports import RequestMismatch
from harness.diff.served import ServedDiff
from harness.diff.signature import SignatureMatch
from harness.judge.answers import positives, scores
from harness.judge.combine import Judge
from harness.judge.latency import LatencyValues
from harness.judge.metrics import Sides, Values, observe, sides_of
from harness.judge.plan import TestPlan
from harness.judge.unit_sums import UnitSums
from harness.pipeline.candidate_failures import CandidateFailures
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


class RunningEvidence:
    """Diffs, judge and counters, fed batch by batch in the run's order."""

    def __init__(self, terms: Terms) -> None:
        """Starts with no evidence."""
        self.terms = terms
        policy, floor = terms.policy, terms.floor
        self.judge = Judge(terms.plan, terms.alpha_promote, terms.alpha_rollback)
        coarse = terms.graphs[0].coarse
        self.outputs = OutputDiff(
            terms.match, floor, expected_changes(policy, Scope.OUTPUTS), coarse
        )
        self.features = FeatureDiff(
            floor, *terms.graphs, expected_changes(policy, Scope.FEATURES), policy.mapping
        )
        self.faithful = FaithfulDiff(floor)
        self.served = ServedDiff(floor, coarse)
        self.observer = ObserverDiff(floor)
        self.probes = ProbeGuard()
        self.failures = CandidateFailures()
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
        self.probes.update(pair)
        seen = under_baseline_names(pair, self.terms.match)
        repetition = None if again is None else under_baseline_names(again, self.terms.match)
        self.failures.update(seen)
        sides = sides_of(seen)
        values = {
            g.name: self._observed(g, seen, label, outputs, features, sides=sides, again=repetition)
            for g in self.terms.policy.guardrails
            if g.window.value == batch.window and g.metric not in LATENCY_METRICS
        }
        self.judge.update(batch.window, *self._counting_once(values, pair, ends))
        self.judged[batch.window] = self.judged.get(batch.window, 0) + len(pair)
        return _pairs_table(
            batch, seen, self.terms.policy, label,
            {"output_mismatch": outputs.mismatch, "feature_mismatch": features.mismatch,
             "unfaithful": unfaithful.mismatch},
            values,
        )  # fmt: skip

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
        comparable = bool(self.features.match.raw)
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
            terms.graphs[0].coarse,
        )  # fmt: skip
        found.features = FeatureDiff.from_state(
            saved("features"),
            floor,
            *terms.graphs,
            expected_changes(policy, Scope.FEATURES),
            policy.mapping,
        )
        found.faithful = FaithfulDiff.from_state(saved("faithful"), floor)
        found.served = ServedDiff.from_state(saved("served"), floor, terms.graphs[0].coarse)
        found.observer = ObserverDiff.from_state(saved("observer"), floor)
        found.failures = CandidateFailures.from_state(meta["failures"])
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
    )
    return replace(pair, candidate=candidate)


def _request_means(pair: PairBatch, rows: Floats) -> Floats:
    """Mean over each request's rows; NaN without rows, shape (n,)."""
    counts = pair.requests.rows.astype(np.float64)
    sums = np.bincount(pair.row_owner(), weights=rows, minlength=len(pair))
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = sums / counts
    return means


def _pairs_table(
    batch: Batch,
    pair: PairBatch,
    policy: Policy,
    label: Floats,
    flags: dict[str, Bools],
    values: dict[str, Values],
) -> Columns:
    """One row a request: who, what both said, what each guardrail saw."""
    n = len(pair)
    nothing: Floats = np.full(n, np.nan)
    table: dict[str, Array | CodedText | PackedText] = {
        "request_id": pair.requests.request_id,
        "seq": pair.requests.seq,
        "window": CodedText(codes=np.zeros(n, np.int32), words=np.array([batch.window], object)),
        "batch": np.full(n, batch.index, np.int64),
        "ts_ns": pair.requests.ts_ns,
        "rows": pair.requests.rows,
        "label": label,
        "baseline_outcome": pair.baseline.outcome,
        "candidate_outcome": pair.candidate.outcome,
        "baseline_latency_s": pair.baseline.latency_s,
        "candidate_latency_s": pair.candidate.latency_s,
        "baseline_score": nothing,
        "candidate_score": nothing,
        "baseline_decision": nothing,
        "candidate_decision": nothing,
        **flags,
    }
    rule = policy.decision
    if rule is not None:
        ok = np.repeat(pair.both_answered(), pair.requests.rows)
        parts = {"decision": positives(pair, rule)}
        if rule.score is not None or rule.rule.value != "none":
            parts["score"] = scores(pair, rule)
        for name, seen in parts.items():
            for leg, side in (("baseline", seen.baseline), ("candidate", seen.candidate)):
                table[f"{leg}_{name}"] = _request_means(pair, np.where(ok, side, np.nan))
    # Every chunk has the columns of every guardrail; one that reads another window saw nothing here.
    for guardrail in policy.guardrails:
        observed = values.get(guardrail.name)
        table[f"x:{guardrail.name}"] = nothing if observed is None else observed.x
        table[f"failed:{guardrail.name}"] = (
            np.zeros(n, np.bool_) if observed is None else observed.failed
        )
    coded = pair.requests.coded_context
    for name in pair.requests.context:
        table[f"cx:{name}"] = coded[name] if name in coded else pair.requests.context[name]
    return table

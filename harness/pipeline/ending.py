"""What a run ends with: the facts that the decision rests on, and all that is saved with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.core.findings import Finding
from harness.core.policies import Against, WindowName
from harness.core.tensors import Floats
from harness.core.verdicts import Evidence, Status
from harness.decide.decision import decide
from harness.decide.facts import AnchorFailures, Facts, FailureCount
from harness.judge.attempts import spent
from harness.judge.combine import Judge
from harness.judge.plan import TestPlan
from harness.pipeline.asked_again import AskedAgain
from harness.pipeline.batch_mates import Mixing
from harness.pipeline.describe import Described, batch_findings
from harness.pipeline.evidence import Terms
from harness.pipeline.first_cause import with_first_cause
from harness.pipeline.golden_of_run import flaky_on_golden, golden_findings, not_golden
from harness.pipeline.integrity import integrity_findings, label_facts, one_valued, traffic_facts
from harness.pipeline.left_out import (
    left_out,
    traffic_counts,
    window_facts,
    windows_json,
    without_claim,
)
from harness.pipeline.leg_findings import leg_findings
from harness.pipeline.loop import LoopResult
from harness.pipeline.noise import floor_above_margin
from harness.pipeline.prepare import Prepared
from harness.pipeline.probes import (
    Answering,
    effect_findings,
)
from harness.pipeline.publish import Outcome
from harness.pipeline.run_facts import isolation_of_look
from harness.pipeline.run_findings import failures_of_reference, latency_findings, load_findings
from harness.pipeline.runtimes import environment_findings
from harness.pipeline.summary import COLUMNS, Summary
from harness.pipeline.table_findings import about_units
from harness.replay.latency import LatencyLog
from harness.replay.leg_counters import LegCounters
from harness.store.quarantine import Note

_REFERENCE_FAILED = "baseline_failed"
"""What the judge calls it, also where the anchor stands in the baseline's place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What the ending of a run is told from."""

    prepared: Prepared
    plan: TestPlan
    terms: Terms
    result: LoopResult
    described: Described
    manifest: dict[str, Any]
    mixing: Mixing
    """Versions whose answers depend on the batch."""
    latency: LatencyLog | None
    """How latency was measured; None when it was not."""
    answering: Answering
    """Which session's answers were judged."""
    asked: AskedAgain
    """What became of what the candidate did not answer beside the replay."""

    @property
    def candidate(self) -> LegCounters:
        """What happened to the candidate's process, in the replay as before and beside it."""
        counters = self.asked.counted_in(self.result.candidate)
        golden = flaky_on_golden(self.manifest, "candidate")
        return replace(counters, flaky=counters.flaky + golden)

    @property
    def observer_effect(self) -> str:
        """How judged answers differ from production's; "" = they do not."""
        return self.result.evidence.probes.effect() if self.answering.alone else ""


def ended(run: Ran) -> Outcome:
    """The decision and everything that is saved with it."""
    prepared, evidence = run.prepared, run.result.evidence
    status = evidence.status()
    rows = tuple(about_units(prepared.policy, row) for row in evidence.judge.evidence())
    failures = evidence.failures
    saved = _summary(prepared)
    judged_by = _labelled(prepared, saved)
    facts = _facts(run, one_value=one_valued(*judged_by))
    notes = prepared.run.quarantined()
    findings = [
        *environment_findings(
            (prepared.baseline, prepared.candidate),
            run.manifest["isolation"]["versions"],
            differ=_differ(run.described),
        ),
        *leg_findings(
            "candidate",
            run.candidate,
            dict(failures.kinds),
            failures.ids,
            failures.messages,
            notes,
        ),
        *leg_findings("baseline", run.result.baseline, {}, (), (), notes),
        *_anchor_findings(run, notes),
        *golden_findings(run.manifest),
        *failures_of_reference("baseline", failures.baseline),
        *failures_of_reference("anchor", failures.anchor),
        *latency_findings(run.latency),
        *batch_findings(run.mixing),
        *run.asked.findings(),
        *effect_findings(run.observer_effect),
        *run.described.findings,
        *integrity_findings(run.manifest, *judged_by),
    ]
    record = decide(prepared.policy, status, rows, facts)
    record = with_first_cause(record, findings, proven=run.described.cause)
    return Outcome(
        record=record,
        evidence=rows,
        findings=tuple(findings),
        intermediates=run.described.intermediates,
        summary=saved,
        manifest=run.manifest,
        models=(prepared.baseline, prepared.candidate),
        windows=windows_json(prepared, evidence.judged),
        plan=run.plan,
        status=status,
    )


def _anchor_findings(run: Ran, notes: Sequence[Note]) -> list[Finding]:
    """What happened to the anchor's process, where there is one."""
    counters = run.result.anchor
    return [] if counters is None else leg_findings("anchor", counters, {}, (), (), notes)


def _differ(described: Described) -> bool:
    """Whether any answer or feature differs beyond the floor."""
    compared = described.intermediates["compared"]
    return bool(compared["output_mismatches"] or compared["feature_mismatches"])


def _summary(prepared: Prepared) -> dict[str, Any]:
    """What the saved pairs say besides the verdict."""
    sliced = [column for g in prepared.policy.guardrails for column in g.slice_by]
    summary = Summary(cover=prepared.policy.windows.cover, slices=sliced)
    context = prepared.window.info.context if prepared.window is not None else ()
    columns = (*COLUMNS, *(f"cx:{name}" for name in context))
    for chunk in prepared.run.pairs_chunks():
        summary.add(prepared.run.read_pairs(chunk, columns))
    return summary.finish(traffic_counts(prepared))


def _labelled(prepared: Prepared, saved: dict[str, Any]) -> tuple[Floats, list[float | None]]:
    """Labels of the requests that are judged by one, and how often the baseline decides yes by window."""
    name = WindowName.MATURED.value
    at = [batch.positions for batch in prepared.batches if batch.window == name]
    rates = [window["baseline"] for window in saved["decision_rate"].values()]
    return prepared.label[np.concatenate(at)] if at else np.empty(0), rates


def nothing_new(prepared: Prepared, plan: TestPlan) -> Outcome:
    """The outcome where the windows hold no request, or none that was not judged before."""
    carried, judge = prepared.carried, None
    judged: dict[str, int] = {}
    if carried is not None:
        levels = (prepared.policy.alpha_promote, prepared.policy.alpha_rollback)
        alphas = [spent(alpha, prepared.level) for alpha in levels]
        judge = Judge.from_state(plan, alphas[0], alphas[1], carried.judge)
        judged = carried.judged
    facts = Facts(windows=window_facts(prepared, judged), exhausted=True)
    return not_run(prepared, facts, prepared.manifest, plan, judge)


def not_run(
    prepared: Prepared,
    facts: Facts,
    manifest: dict[str, Any],
    plan: TestPlan | None = None,
    judge: Judge | None = None,
) -> Outcome:
    """The outcome of a run in which nothing was replayed; `judge` holds what was carried over."""
    seen = {
        "baseline": prepared.baseline_seen, "candidate": prepared.candidate_seen,
        "anchor": prepared.anchor_seen,
    }  # fmt: skip
    inside = isolation_of_look(seen, prepared.policy.sandbox.require)
    manifest = {**manifest, "isolation": inside}
    facts = replace(
        facts, attempt=prepared.attempt,
        traffic=traffic_facts(manifest), labels=label_facts(manifest),
        not_compared=("no request was replayed: outputs, features and losses were not compared",),
    )  # fmt: skip
    rows: tuple[Evidence, ...] = judge.evidence() if judge else ()
    status: Status | None = judge.status() if judge else None
    record = decide(prepared.policy, status, rows, facts)
    return Outcome(
        record=record, evidence=rows, intermediates={},
        findings=(*load_findings(facts), *golden_findings(manifest), *integrity_findings(manifest, np.empty(0), ())),
        summary={}, manifest=manifest, models=(prepared.baseline, prepared.candidate),
        windows=windows_json(prepared, {w.name: w.judged for w in facts.windows}), plan=plan, status=status,
    )  # fmt: skip


def _facts(run: Ran, *, one_value: bool) -> Facts:
    prepared, result = run.prepared, run.result
    labels = label_facts(run.manifest)
    failures = result.evidence.failures
    # An ended candidate leg is told by the failures that ended it; when none is, or when it was the
    # baseline's, evidence is missing.
    ended = (tuple(result.ended_leg.split(": ", 1)),) if result.ended_leg else ()
    return Facts(
        windows=window_facts(prepared, result.evidence.judged),
        traffic=traffic_facts(run.manifest),
        labels=replace(labels, one_value=one_value) if labels else None,
        candidate_only_failures=tuple(
            FailureCount(kind=kind.lower(), count=count, examples=tuple(failures.ids[:3]))
            for kind, count in failures.kinds.items()
        ),
        candidate_flaky=run.candidate.flaky,
        candidate_failed_trials=run.asked.counts(),
        baseline_failures=result.evidence.baseline.facts(),
        unfaithful_replay=run.described.unfaithful,
        observer_effect=run.observer_effect,
        anchor_failures=_anchor_failures(run),
        legs_ended_early=tuple((leg, why) for leg, why in ended),
        floor_above_margin=floor_above_margin(run.terms),
        outputs_not_compared=run.described.unproven[0],
        outputs_reshaped=run.described.reshaped,
        features_not_compared=run.described.unproven[1],
        attempt=prepared.attempt,
        exhausted=result.finished,
        without_claim=without_claim(prepared.policy, run.plan),
        not_compared=(
            *run.described.not_compared,
            *left_out(prepared, run.plan),
            *not_golden(run.manifest),
        ),
    )


def _anchor_failures(run: Ran) -> tuple[AnchorFailures, ...]:
    """What guardrails against the anchor could not read, as it failed there."""
    evidence = run.result.evidence
    found = []
    for guardrail in run.prepared.policy.guardrails:
        if guardrail.against is not Against.ANCHOR:
            continue
        left = evidence.judge.left_out(guardrail.name)
        failed = left.pop(_REFERENCE_FAILED, 0)
        if failed:
            asked = evidence.judged[guardrail.window.value] - sum(left.values())
            found.append(AnchorFailures(guardrail=guardrail.name, failed=failed, asked=asked))
    return tuple(found)

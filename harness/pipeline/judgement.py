"""From a prepared run to its outcome: floor, replay, and the facts that the decision rests on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.core.errors import SignatureError
from harness.core.findings import Finding, Severity
from harness.core.jsonable import jsonable, sha256
from harness.core.models import ModelGraph
from harness.core.policies import Mapping, Metric, Policy, WindowName
from harness.core.tensors import Floats
from harness.core.verdicts import Decision, DecisionRecord, Evidence, Status
from harness.decide.decision import decide
from harness.decide.facts import Facts, FailureCount
from harness.decide.fitness import one_decides
from harness.diff.features import match_features, only_fitted
from harness.diff.floor import Floor
from harness.diff.signature import SignatureMatch, check_signatures
from harness.judge.attempts import spent
from harness.judge.combine import Judge
from harness.judge.plan import TestPlan
from harness.pipeline.batch_mates import mixing_of_run, together
from harness.pipeline.batching import largest_batch
from harness.pipeline.carried import planned_tests
from harness.pipeline.describe import Described, batch_findings, describe
from harness.pipeline.evidence import Terms
from harness.pipeline.expected import check_expected_changes
from harness.pipeline.floorpass import FLOOR_FILE, floor_of_run
from harness.pipeline.gate_graph import with_graph
from harness.pipeline.golden_of_run import golden_failures, golden_findings, not_golden
from harness.pipeline.graph_pass import check_mapped_tensors
from harness.pipeline.integrity import integrity_findings, label_facts, one_valued, traffic_facts
from harness.pipeline.latency_pass import take_latency
from harness.pipeline.left_out import (
    left_out,
    traffic_counts,
    window_facts,
    windows_json,
    without_claim,
)
from harness.pipeline.leg_findings import leg_findings
from harness.pipeline.loop import LoopResult, import_mathematics, replay
from harness.pipeline.noise import answers_vary, floor_above_margin
from harness.pipeline.opening import LegRecipe, leg_recipe, open_legs
from harness.pipeline.planning_pass import with_planned_bets
from harness.pipeline.prepare import Prepared
from harness.pipeline.probes import (
    Answering,
    answering_of_run,
    effect_findings,
    not_guarded,
    with_guards,
)
from harness.pipeline.progress import Listener, Progress
from harness.pipeline.publish import Outcome
from harness.pipeline.run_facts import anchor_facts, isolation_json, load_facts, opening_failures
from harness.pipeline.run_findings import baseline_failures, latency_findings, load_findings
from harness.pipeline.runtimes import environment_findings
from harness.pipeline.summary import COLUMNS, Summary
from harness.pipeline.table_findings import about_units
from harness.pipeline.tracing import not_traced, with_traces
from harness.replay.latency import LatencyLog
from harness.replay.leg_counters import DECISIVE
from harness.replay.legs import Leg
from harness.replay.order import plan_sha256, schedule
from harness.sandbox.answers import LoadFailure
from harness.sandbox.pool import Pool
from harness.store.windows import SealedWindow


def conclude(prepared: Prepared, listener: Listener, pool: Pool) -> Outcome:
    """Runs a prepared gate to its decision.

    Args:
      prepared: the gate.
      listener: hears progress.
      pool: processes that wait for the versions.

    Raises:
      SignatureError: the versions take or return other things.
      UsageError: isolation below the policy's, traffic that lacks an input, a name in the policy
        that neither version has.
      Interrupted: a checkpoint was written; the run can be gone on with.
    """
    old, new = prepared.baseline_seen, prepared.candidate_seen
    if isinstance(old, LoadFailure) or isinstance(new, LoadFailure):
        return _not_run(prepared, load_facts(old, new), prepared.manifest)
    if isinstance(prepared.anchor_seen, LoadFailure):
        return _not_run(prepared, anchor_facts(prepared.anchor_seen), prepared.manifest)
    graphs = (old.graph, new.graph)
    match = check_signatures(graphs[0].signature, graphs[1].signature, prepared.policy.mapping)
    if prepared.anchor_seen is not None:
        _check_anchor(graphs[0], prepared.anchor_seen.graph)
    check_mapped_tensors(prepared.policy.mapping, graphs, str(prepared.request.policy))
    check_expected_changes(prepared.policy, (graphs[0], graphs[1]), str(prepared.request.policy))
    window = prepared.window
    if window is None:  # both load, so preparation sealed the traffic
        msg = "a run with two loadable versions has a window"
        raise AssertionError(msg)
    plan = planned_tests(prepared.policy, prepared.counts, prepared.carried, None)
    if not prepared.batches:
        return _nothing_new(prepared, plan)
    limits, weaker = prepared.policy.sandbox, prepared.request.allow_lower_isolation
    pythons = [runtime.python for runtime in prepared.runtimes]
    candidate = leg_recipe(
        "candidate", prepared.candidate, new.probe, limits=limits, python=pythons[1],
        allow_weaker=weaker, input_names=match.inputs,
    )  # fmt: skip
    recipes = (
        leg_recipe(
            "baseline", prepared.baseline, old.probe, limits=limits, python=pythons[0],
            allow_weaker=weaker,
        ),
        replace(candidate, caps=DECISIVE) if one_decides(prepared.policy, "crash") else candidate,
    )  # fmt: skip
    failed = golden_failures(prepared, recipes, pythons[-1])
    if failed is not None:
        return _not_run(prepared, failed, prepared.manifest, plan)
    third = [
        leg_recipe("anchor", model, None, limits=limits, python=pythons[-1], allow_weaker=weaker)
        for model in (prepared.anchor,)
        if model is not None
    ]
    return _replayed(
        prepared,
        window,
        plan,
        match,
        graphs=graphs,
        recipes=recipes,
        third=third,
        listener=listener,
        pool=pool,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What the ending of a run is told from."""

    prepared: Prepared
    plan: TestPlan
    terms: Terms
    result: LoopResult
    described: Described
    manifest: dict[str, Any]
    mixing: tuple[str, ...]
    """Versions whose answers depend on the batch."""
    latency: LatencyLog | None
    """How latency was measured; None when it was not."""
    answering: Answering
    """Which session's answers were judged."""

    @property
    def observer_effect(self) -> str:
        """How judged answers differ from production's; "" = they do not."""
        return self.result.evidence.probes.effect() if self.answering.alone else ""


def _replayed(
    prepared: Prepared,
    window: SealedWindow,
    plan: TestPlan,
    match: SignatureMatch,
    *,
    graphs: tuple[ModelGraph, ModelGraph],
    recipes: tuple[LegRecipe, LegRecipe],
    third: list[LegRecipe],
    listener: Listener,
    pool: Pool,
) -> Outcome:
    policy = prepared.policy
    trace = all(r.trace_model is not None for r in recipes)
    # The baseline a second time, for the floor, unless an interrupted run has measured it.
    again = () if prepared.run.has(FLOOR_FILE) else recipes[:1]
    import_mathematics()
    with open_legs(*recipes, *third, *again, pool=pool) as (baseline, candidate, *more):
        anchor = more[0] if third else None
        second = more[len(third) :]
        failed = opening_failures(baseline, candidate, anchor)
        if failed is not None:
            return _not_run(prepared, failed, prepared.manifest, plan)
        manifest = {
            **prepared.manifest,
            "isolation": isolation_json(prepared, baseline, candidate, *more[: len(third)]),
        }
        floor = floor_of_run(
            prepared.run, baseline, second, prepared.batches, window.read, trace=trace,
            policy=policy, fitted=only_fitted(*graphs),
            heard=lambda done, total: listener(Progress(stage="floor", done=done, total=total)),
        )  # fmt: skip
        manifest["floor_sha256"] = sha256(floor)
        mixing: tuple[str, ...] = ("baseline",) if floor.batch_dependent else ()
        if not mixing:
            others = (candidate, *more[: len(third)])
            mixing = mixing_of_run(prepared.run, others, prepared.batches, window.read)
        by_itself = together((baseline, candidate, *more[: len(third)]), mixing)
        manifest["limits"] = jsonable(policy.sandbox)
        manifest["composition"] = "recorded" if by_itself else "coalesced"
        terms = Terms(
            policy=policy,
            plan=plan,
            alpha_promote=spent(policy.alpha_promote, prepared.level),
            alpha_rollback=spent(policy.alpha_rollback, prepared.level),
            match=match,
            floor=floor,
            graphs=graphs,
        )
        terms, manifest = with_planned_bets(
            prepared, terms, manifest, (baseline, candidate), listener, trace=trace, anchor=anchor
        )
        vary = [g.name for g in policy.guardrails if answers_vary(g, floor)]
        plan = terms.plan.about_process(vary)
        terms = replace(terms, plan=plan)
        every = (baseline, candidate) if anchor is None else (baseline, candidate, anchor)
        prepared, answering = _scheduled(prepared, window, manifest, floor, every, trace=trace)
        with _second_legs(policy, recipes, singly=baseline.singly) as repeating:
            result = replay(
                prepared,
                terms,
                (baseline, candidate),
                listener,
                trace=trace,
                anchor=anchor,
                second=repeating,
            )
    latency = take_latency(prepared, window, result.evidence, recipes, listener=listener, pool=pool)
    if latency is not None:
        manifest["latency"] = jsonable(latency)
    untraced = [text for r in recipes for text in r.untraced]
    untraced += not_traced(prepared.batches, result.evidence.judged)
    untraced += not_guarded(answering, result.evidence.probes)
    manifest["probes"] = jsonable(answering) | {"guard": jsonable(result.evidence.probes.sides)}
    described = describe(
        result.evidence, policy, prepared.baseline, window.info, untraced, answering
    )
    pairs = match_features(*graphs, policy.mapping)
    described = with_graph(
        described,
        prepared,
        window,
        match,
        declared=(*pairs.raw, *pairs.fitted),
        singly=by_itself,
        recipes=recipes,
        listener=listener,
    )
    return _ended(
        _Run(
            prepared=prepared,
            plan=plan,
            terms=terms,
            result=result,
            described=described,
            manifest=manifest,
            mixing=mixing,
            latency=latency,
            answering=answering,
        )
    )


def _scheduled(
    prepared: Prepared,
    window: SealedWindow,
    manifest: dict[str, Any],
    floor: Floor,
    legs: tuple[Leg, ...],
    *,
    trace: bool,
) -> tuple[Prepared, Answering]:
    """The run with the batches that are replayed, and whose answers are judged; written into the manifest."""
    policy, usual = prepared.policy, int(manifest["batch_requests"])
    batching = largest_batch(prepared.run, legs, prepared.batches, window.read, usual)
    manifest["batching"] = jsonable(batching)
    batches = with_traces(
        schedule(prepared.orders, usual, batching.requests), policy, batching.traced
    )
    answering = answering_of_run(
        prepared.run, policy, floor, legs[:2], batches, window.read, trace=trace
    )
    if answering.alone:
        batches = with_guards(batches, prepared.seed)
    manifest["batch_plan_sha256"] = plan_sha256(batches)
    return replace(prepared, batches=batches), answering


@contextmanager
def _second_legs(
    policy: Policy, recipes: tuple[LegRecipe, LegRecipe], *, singly: bool
) -> Iterator[tuple[Leg, Leg] | None]:
    """Both versions in processes of their own for the repetition that a guardrail asks for, or none."""
    if all(g.metric is not Metric.EXCESS_FLIP for g in policy.guardrails):
        yield None
        return
    bare = [
        replace(r, role=f"{r.role} repetition", trace_model=None, trace_tensors=()) for r in recipes
    ]
    with open_legs(*bare) as (baseline, candidate):
        baseline.singly = candidate.singly = singly
        yield baseline, candidate


def _ended(run: _Run) -> Outcome:
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
            run.result.candidate,
            dict(failures.kinds),
            failures.ids,
            failures.messages,
            notes,
        ),
        *leg_findings("baseline", run.result.baseline, {}, (), (), notes),
        *golden_findings(run.manifest),
        *baseline_failures(failures.baseline),
        *latency_findings(run.latency),
        *batch_findings(run.mixing),
        *effect_findings(run.observer_effect),
        *run.described.findings,
        *integrity_findings(run.manifest, *judged_by),
    ]
    record = _with_cause(decide(prepared.policy, status, rows, facts), findings)
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


def _nothing_new(prepared: Prepared, plan: TestPlan) -> Outcome:
    """The outcome where the windows hold no request, or none that was not judged before."""
    carried, judge = prepared.carried, None
    judged: dict[str, int] = {}
    if carried is not None:
        levels = (prepared.policy.alpha_promote, prepared.policy.alpha_rollback)
        alphas = [spent(alpha, prepared.level) for alpha in levels]
        judge = Judge.from_state(plan, alphas[0], alphas[1], carried.judge)
        judged = carried.judged
    facts = Facts(windows=window_facts(prepared, judged), exhausted=True)
    return _not_run(prepared, facts, prepared.manifest, plan, judge)


def _not_run(
    prepared: Prepared,
    facts: Facts,
    manifest: dict[str, Any],
    plan: TestPlan | None = None,
    judge: Judge | None = None,
) -> Outcome:
    """The outcome of a run in which nothing was replayed; `judge` holds what was carried over."""
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


def _check_anchor(baseline: ModelGraph, anchor: ModelGraph) -> None:
    """Refuses an anchor that cannot be asked what the baseline is asked."""
    try:
        check_signatures(baseline.signature, anchor.signature, Mapping())
    except SignatureError as error:
        raise SignatureError(
            "anchor",
            error.what.replace("the candidate", "the anchor"),
            "Name a version with the baseline's inputs and outputs as the policy's anchor.",
        ) from None


def _facts(run: _Run, *, one_value: bool) -> Facts:
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
        candidate_flaky=result.candidate.flaky,
        baseline_failures=failures.baseline,
        unfaithful_replay=run.described.unfaithful,
        observer_effect=run.observer_effect,
        legs_ended_early=tuple((leg, why) for leg, why in ended),
        floor_above_margin=floor_above_margin(run.terms),
        outputs_not_compared=run.described.unproven[0],
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


def _with_cause(record: DecisionRecord, findings: list[Finding]) -> DecisionRecord:
    """Names the first harmful finding in a rollback's explanation: the cause people ask for."""
    cause = next((f for f in findings if f.severity is Severity.HARM), None)
    if record.decision is not Decision.ROLLBACK or cause is None or cause.kind == "candidate_crash":
        return record
    return replace(
        record, explanation=f"{record.explanation} First cause found: {cause.what.rstrip('.')}."
    )

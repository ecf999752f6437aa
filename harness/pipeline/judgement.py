"""From a prepared run to its outcome: floor, replay, and the facts that the decision rests on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.core.findings import Finding, Severity
from harness.core.jsonable import jsonable, sha256
from harness.core.models import ModelGraph
from harness.core.policies import Claim, WindowName
from harness.core.tensors import Floats, Ints
from harness.core.verdicts import Decision, DecisionRecord, Evidence, Status
from harness.decide.decision import decide
from harness.decide.facts import Facts, FailureCount, TrafficFacts, WindowFacts
from harness.diff.features import only_fitted
from harness.diff.signature import SignatureMatch, check_signatures
from harness.judge.attempts import spent
from harness.judge.plan import TestPlan, plan_tests
from harness.pipeline.describe import Described, describe, leg_findings
from harness.pipeline.evidence import Terms
from harness.pipeline.expected import check_expected_changes
from harness.pipeline.floorpass import FLOOR_FILE, floor_of_run
from harness.pipeline.integrity import integrity_findings, label_facts, one_valued, traffic_facts
from harness.pipeline.loop import LoopResult, replay
from harness.pipeline.noise import answers_vary, floor_above_margin
from harness.pipeline.opening import LegRecipe, leg_recipe, open_legs
from harness.pipeline.planning_pass import with_planned_bets
from harness.pipeline.prepare import Prepared
from harness.pipeline.progress import Listener, Progress
from harness.pipeline.publish import Outcome
from harness.pipeline.summary import Summary
from harness.replay.legs import Leg
from harness.sandbox.answers import LoadFailure
from harness.sandbox.graphs import Looked
from harness.sandbox.isolation import is_weaker, weakest
from harness.store.windows import SealedWindow


def conclude(prepared: Prepared, listener: Listener) -> Outcome:
    """Runs a prepared gate to its decision.

    Raises:
      SignatureError: the versions take or return other things.
      UsageError: isolation below the policy's, traffic that lacks an input, a name in the policy
        that neither version has.
      Interrupted: a checkpoint was written; the run can be gone on with.
    """
    old, new = prepared.baseline_seen, prepared.candidate_seen
    if isinstance(old, LoadFailure) or isinstance(new, LoadFailure):
        return _not_run(prepared, _load_facts(old, new), prepared.manifest)
    graphs = (old.graph, new.graph)
    match = check_signatures(graphs[0].signature, graphs[1].signature, prepared.policy.mapping)
    check_expected_changes(prepared.policy, (graphs[0], graphs[1]), str(prepared.request.policy))
    window = prepared.window
    if window is None:  # both load, so preparation sealed the traffic
        msg = "a run with two loadable versions has a window"
        raise AssertionError(msg)
    plan = plan_tests(prepared.policy, prepared.counts)
    if not prepared.batches:
        return _not_run(prepared, Facts(windows=_windows(prepared, {})), prepared.manifest, plan)
    limits, weaker = prepared.policy.sandbox, prepared.request.allow_lower_isolation
    recipes = (
        leg_recipe("baseline", prepared.baseline, old.probe, limits=limits, allow_weaker=weaker),
        leg_recipe(
            "candidate", prepared.candidate, new.probe, limits=limits, allow_weaker=weaker,
            input_names=match.inputs,
        ),
    )  # fmt: skip
    return _replayed(
        prepared,
        window,
        plan,
        match,
        graphs=graphs,
        recipes=recipes,
        listener=listener,
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


def _replayed(
    prepared: Prepared,
    window: SealedWindow,
    plan: TestPlan,
    match: SignatureMatch,
    *,
    graphs: tuple[ModelGraph, ModelGraph],
    recipes: tuple[LegRecipe, LegRecipe],
    listener: Listener,
) -> Outcome:
    policy = prepared.policy
    trace = all(r.trace_model is not None for r in recipes)
    # The baseline a second time, for the floor, unless an interrupted run has measured it.
    again = () if prepared.run.has(FLOOR_FILE) else recipes[:1]
    with open_legs(*recipes, *again) as (baseline, candidate, *second):
        failed = _opening_failures(baseline, candidate)
        if failed is not None:
            return _not_run(prepared, failed, prepared.manifest, plan)
        manifest = {**prepared.manifest, "isolation": _isolation(prepared, baseline, candidate)}
        floor = floor_of_run(
            prepared.run, baseline, second, prepared.batches, window.read, trace=trace,
            policy=policy, fitted=only_fitted(*graphs),
            heard=lambda done, total: listener(Progress(stage="floor", done=done, total=total)),
        )  # fmt: skip
        manifest["floor_sha256"] = sha256(floor)
        terms = Terms(
            policy=policy,
            plan=plan,
            alpha_promote=spent(policy.alpha_promote, prepared.attempt),
            alpha_rollback=spent(policy.alpha_rollback, prepared.attempt),
            match=match,
            floor=floor,
            graphs=graphs,
        )
        terms, manifest = with_planned_bets(
            prepared, terms, manifest, (baseline, candidate), listener, trace=trace
        )
        vary = [g.name for g in policy.guardrails if answers_vary(g, floor)]
        plan = terms.plan.about_process(vary)
        terms = replace(terms, plan=plan)
        result = replay(prepared, terms, (baseline, candidate), listener, trace=trace)
    untraced = [text for r in recipes for text in r.untraced]
    described = describe(result.evidence, policy, prepared.baseline, window.info, untraced)
    return _ended(
        _Run(
            prepared=prepared,
            plan=plan,
            terms=terms,
            result=result,
            described=described,
            manifest=manifest,
        )
    )


def _ended(run: _Run) -> Outcome:
    """The decision and everything that is saved with it."""
    prepared, evidence = run.prepared, run.result.evidence
    status, rows = evidence.status(), evidence.judge.evidence()
    failures = evidence.failures
    saved = _summary(prepared)
    judged_by = _labelled(prepared, saved)
    facts = _facts(run, one_value=one_valued(*judged_by))
    findings = [
        *leg_findings(
            "candidate", run.result.candidate, dict(failures.kinds), failures.ids, failures.messages
        ),
        *leg_findings("baseline", run.result.baseline, {}, (), ()),
        *_baseline_failures(failures.baseline),
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
        windows=_windows_json(prepared, evidence.judged),
        plan=run.plan,
        status=status,
    )


def _summary(prepared: Prepared) -> dict[str, Any]:
    """What the saved pairs say besides the verdict."""
    sliced = [column for g in prepared.policy.guardrails for column in g.slice_by]
    summary = Summary(cover=prepared.policy.windows.cover, slices=sliced)
    for chunk in prepared.run.pairs_chunks():
        summary.add(prepared.run.read_pairs(chunk))
    return summary.finish(_traffic_counts(prepared))


def _labelled(prepared: Prepared, saved: dict[str, Any]) -> tuple[Floats, list[float | None]]:
    """Labels of the requests that are judged by one, and how often the baseline decides yes by window."""
    name = WindowName.MATURED.value
    at = [batch.positions for batch in prepared.batches if batch.window == name]
    rates = [window["baseline"] for window in saved["decision_rate"].values()]
    return prepared.label[np.concatenate(at)] if at else np.empty(0), rates


def _not_run(
    prepared: Prepared, facts: Facts, manifest: dict[str, Any], plan: TestPlan | None = None
) -> Outcome:
    """The outcome of a run in which nothing was replayed."""
    facts = replace(
        facts, attempt=prepared.attempt,
        traffic=traffic_facts(manifest), labels=label_facts(manifest),
        not_compared=("no request was replayed: outputs, features and losses were not compared",),
    )  # fmt: skip
    record = decide(prepared.policy, None, (), facts)
    rows: tuple[Evidence, ...] = ()
    status: Status | None = None
    return Outcome(
        record=record, evidence=rows, intermediates={},
        findings=(*_load_findings(facts), *integrity_findings(manifest, np.empty(0), ())),
        summary={}, manifest=manifest, models=(prepared.baseline, prepared.candidate),
        windows=_windows_json(prepared, {}), plan=plan, status=status,
    )  # fmt: skip


def _load_facts(baseline: Looked | LoadFailure, candidate: Looked | LoadFailure) -> Facts:
    return Facts(
        windows=(),
        baseline_load_failure=baseline.message if isinstance(baseline, LoadFailure) else "",
        candidate_load_failure=candidate.message if isinstance(candidate, LoadFailure) else "",
    )


def _opening_failures(baseline: Leg, candidate: Leg) -> Facts | None:
    """Facts about versions that loaded when looked at and do not load in their leg."""
    old, new = baseline.load_failure, candidate.load_failure
    if old is None and new is None:
        return None
    return Facts(
        windows=(),
        baseline_load_failure=old.message if old else "",
        candidate_load_failure=new.message if new else "",
    )


def _load_findings(facts: Facts) -> list[Finding]:
    found = []
    for role, why, severity in (
        ("baseline", facts.baseline_load_failure, Severity.WARNING),
        ("candidate", facts.candidate_load_failure, Severity.HARM),
    ):
        if why:
            found.append(
                Finding(
                    kind=f"{role}_does_not_load", severity=severity, where=role, what=why,
                    remedy="Load the model with the runtime of its requirements and repair what it says.",
                )
            )  # fmt: skip
    return found


def _baseline_failures(count: int) -> list[Finding]:
    if not count:
        return []
    return [
        Finding(
            kind="baseline_fails", severity=Severity.WARNING, where="baseline",
            what=f"{count} requests fail in the replayed baseline",
            remedy="Look whether they failed in production, too; they carry no evidence about outputs.",
        )
    ]  # fmt: skip


def _facts(run: _Run, *, one_value: bool) -> Facts:
    prepared, result = run.prepared, run.result
    labels = label_facts(run.manifest)
    failures = result.evidence.failures
    # An ended candidate leg is told by the failures that ended it; when none is, or when it was the
    # baseline's, evidence is missing.
    ended = (tuple(result.ended_leg.split(": ", 1)),) if result.ended_leg else ()
    return Facts(
        windows=_windows(prepared, result.evidence.judged),
        traffic=traffic_facts(run.manifest),
        labels=replace(labels, one_value=one_value) if labels else None,
        candidate_only_failures=tuple(
            FailureCount(kind=kind.lower(), count=count, examples=tuple(failures.ids[:3]))
            for kind, count in failures.kinds.items()
        ),
        baseline_failures=failures.baseline,
        unfaithful_replay=run.described.unfaithful,
        legs_ended_early=tuple((leg, why) for leg, why in ended),
        floor_above_margin=floor_above_margin(run.terms),
        outputs_not_compared=run.described.unproven[0],
        features_not_compared=run.described.unproven[1],
        attempt=prepared.attempt,
        exhausted=result.finished,
        not_compared=(*run.described.not_compared, *_left_out(prepared, run.plan)),
    )


def _windows(prepared: Prepared, judged: dict[str, int]) -> tuple[WindowFacts, ...]:
    selection = prepared.manifest.get("selection", {})
    traffic = traffic_facts(prepared.manifest)
    return tuple(
        WindowFacts(
            name=name,
            selected=int(s["n"]),
            judged=judged.get(name, 0),
            min_requests=prepared.policy.windows.min_requests,
            reason=_why_small(s, traffic),
        )
        for name, s in selection.items()
    )


def _why_small(selection: dict[str, Any], traffic: TrafficFacts) -> str:
    if selection["refusal"]:
        return str(selection["refusal"])
    if selection["n"]:
        return ""
    if not traffic.recorded:
        return "the traffic holds no exchange"
    if not traffic.sealed:
        return f"none of the {traffic.recorded:,} recorded exchanges could be sealed"
    return "; ".join(f"{count:,} exchanges: {reason}" for reason, count in selection["left_out"])


def _windows_json(prepared: Prepared, judged: dict[str, int]) -> dict[str, Any]:
    selection = prepared.manifest.get("selection", {})
    traffic = traffic_facts(prepared.manifest)
    return {
        name: {
            "n": s["n"],
            "judged": judged.get(name, 0),
            "first_ts_ns": s["first_ts_ns"],
            "last_ts_ns": s["last_ts_ns"],
            "reason": _why_small(s, traffic),
            "left_out": s["left_out"],
        }
        for name, s in selection.items()
    }


def _left_out(prepared: Prepared, plan: TestPlan) -> list[str]:
    """What the selection and the pooling leave without a claim, as sentences."""
    found = []
    info = prepared.manifest["window"]
    found += [
        f"{count:,} recorded exchanges could not be sealed: {reason}"
        for reason, count in info["not_sealed"]
    ]
    for name, s in prepared.manifest["selection"].items():
        found += [
            f"{name} window: {count:,} exchanges left out, {reason}"
            for reason, count in s["left_out"]
        ]
    planned: Counter[str] = Counter()
    for batch in prepared.planning:
        planned[batch.window] += len(batch.positions)
    found += [
        f"{name} window: {count:,} requests planned the bets and are no evidence"
        for name, count in planned.items()
    ]
    for pooled in plan.pooled:
        values = ", ".join(v or "(not recorded)" for v in pooled.values)
        found.append(
            f"no claim of its own for {pooled.column} {values}: {pooled.share:.1%} of the window, "
            + ("judged together as 'rest'" if pooled.tested else "too few to judge even together")
        )
    if prepared.policy.claim is Claim.WINDOW:
        like = [t.name for t in plan.tests if not t.column and t.population is None]
        if like:
            found.append(
                f"exactly this window: the baseline's answers vary from run to run, so the verdict of "
                f"{', '.join(like)} is about traffic like it"
            )
    for column in prepared.policy.windows.cover:
        if column not in info["context"]:
            found.append(f"coverage of {column}: the traffic does not record it")
    return found


def _traffic_counts(prepared: Prepared) -> dict[str, dict[str, int]]:
    """How much of the sealed traffic holds each value of the columns to cover."""
    window = prepared.window
    if window is None:
        return {}
    found: dict[str, dict[str, int]] = {}
    for column in prepared.policy.windows.cover:
        if column in window.info.context:
            codes, words = window.index().context(column)
            counts: Ints = np.bincount(codes, minlength=len(words))
            found[column] = {str(w): int(n) for w, n in zip(words, counts, strict=True) if n}
    return found


def _isolation(prepared: Prepared, baseline: Leg, candidate: Leg) -> dict[str, Any]:
    """What was really obtained: the weaker of the two legs, with every layer."""
    found = weakest(leg.first.isolation for leg in (baseline, candidate) if leg.first)
    required = prepared.policy.sandbox.require
    return {
        "tier": found.tier,
        "required": required,
        "layers": jsonable(found.layers),
        "self_tests": jsonable(found.self_tests),
        "allowed_below": is_weaker(found, required),
        "versions": {leg.name: leg.first.versions for leg in (baseline, candidate) if leg.first},
    }


def _with_cause(record: DecisionRecord, findings: list[Finding]) -> DecisionRecord:
    """Names the first harmful finding in a rollback's explanation: the cause people ask for."""
    cause = next((f for f in findings if f.severity is Severity.HARM), None)
    if record.decision is not Decision.ROLLBACK or cause is None or cause.kind == "candidate_crash":
        return record
    return replace(
        record, explanation=f"{record.explanation} First cause found: {cause.what.rstrip('.')}."
    )

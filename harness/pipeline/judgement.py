"""From a prepared run to its outcome: floor, replay, and the facts that the decision rests on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from harness.core.errors import SignatureError
from harness.core.jsonable import jsonable, sha256
from harness.core.models import ModelGraph
from harness.core.policies import Mapping, Metric, Policy, Scope
from harness.decide.fitness import one_decides
from harness.diff.feature_match import match_features
from harness.diff.features import only_fitted
from harness.diff.floor import Floor
from harness.diff.signature import SignatureMatch, check_signatures
from harness.judge.attempts import spent
from harness.judge.plan import TestPlan
from harness.pipeline.asked_again import AskedAgain, ask_again, failing_together
from harness.pipeline.batch_mates import composition, mixing_of_run, share_within_margins, together
from harness.pipeline.batching import largest_batch
from harness.pipeline.carried import planned_tests
from harness.pipeline.chance import by_chance
from harness.pipeline.constant_lengths import tables_of_run
from harness.pipeline.describe import Described, describe
from harness.pipeline.ending import Ran, ended, not_run, nothing_new
from harness.pipeline.evidence import Terms, expected_changes
from harness.pipeline.expected import check_decision, check_expected_changes
from harness.pipeline.floorpass import FLOOR_FILE, floor_of_run, is_exact
from harness.pipeline.gate_graph import with_graph
from harness.pipeline.gate_proof import Proven, proven_features
from harness.pipeline.golden_of_run import golden_failures
from harness.pipeline.graph_pass import check_mapped_tensors
from harness.pipeline.latency_pass import take_latency
from harness.pipeline.legs_of_run import keep_unanswered, recall_answered, sound_only
from harness.pipeline.loop import LoopResult, import_mathematics, replay
from harness.pipeline.noise import answers_vary
from harness.pipeline.opening import LegRecipe, leg_recipe, lengths_beside, open_legs
from harness.pipeline.order_pass import order_pass
from harness.pipeline.planning_pass import with_planned_bets
from harness.pipeline.prepare import Prepared
from harness.pipeline.probes import (
    Answering,
    answering_of_run,
    not_guarded,
    with_guards,
)
from harness.pipeline.progress import Listener, Progress
from harness.pipeline.publish import Outcome
from harness.pipeline.room import room_of_run
from harness.pipeline.run_facts import anchor_facts, isolation_json, load_facts, opening_failures
from harness.pipeline.tracing import judges_features, not_traced, with_traces
from harness.replay.latency import LatencyLog
from harness.replay.leg_counters import DECISIVE
from harness.replay.legs import Leg
from harness.replay.order import plan_sha256, schedule, smaller
from harness.replay.unanswered import Beside
from harness.sandbox.hello import LoadFailure
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
        return not_run(prepared, load_facts(old, new), prepared.manifest)
    if isinstance(prepared.anchor_seen, LoadFailure):
        return not_run(prepared, anchor_facts(prepared.anchor_seen), prepared.manifest)
    graphs = (old.graph, new.graph)
    match = check_signatures(graphs[0].signature, graphs[1].signature, prepared.policy.mapping)
    if prepared.anchor_seen is not None:
        _check_anchor(graphs[0], prepared.anchor_seen.graph)
    check_mapped_tensors(prepared.policy.mapping, graphs, str(prepared.request.policy))
    check_expected_changes(prepared.policy, (graphs[0], graphs[1]), str(prepared.request.policy))
    check_decision(prepared.policy, graphs[0].signature, str(prepared.request.policy))
    window = prepared.window
    if window is None:  # both load, so preparation sealed the traffic
        msg = "a run with two loadable versions has a window"
        raise AssertionError(msg)
    plan = planned_tests(prepared.policy, prepared.counts, prepared.carried, None)
    if not prepared.batches:
        return nothing_new(prepared, plan)
    limits, weaker = prepared.policy.sandbox, prepared.request.allow_lower_isolation
    pythons = [runtime.python for runtime in prepared.runtimes]
    beside = lengths_beside(graphs, match.outputs)
    candidate = leg_recipe(
        "candidate", prepared.candidate, new.probe, limits=limits, python=pythons[1],
        allow_weaker=weaker, input_names=match.inputs, lengths=beside[1],
    )  # fmt: skip
    recipes = (
        leg_recipe(
            "baseline", prepared.baseline, old.probe, limits=limits, python=pythons[0],
            allow_weaker=weaker, lengths=beside[0],
        ),
        replace(candidate, caps=DECISIVE) if one_decides(prepared.policy, "crash") else candidate,
    )  # fmt: skip
    tables = tables_of_run(prepared.run, recipes[0], graphs[0].signature, window)
    recipes = tables.read_by(recipes, match.outputs)
    failed = golden_failures(prepared, recipes, pythons[-1])
    if failed is not None:
        return not_run(prepared, failed, prepared.manifest, plan)
    third = [
        leg_recipe(
            "anchor", model, None, limits=limits, python=pythons[-1], allow_weaker=weaker,
            lengths=(*beside[0], *graphs[0].signature.lengths), tables=tables.names,
        )
        for model in (prepared.anchor,)
        if model is not None
    ]  # fmt: skip
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
    pairs = match_features(*graphs, policy.mapping)
    rearranged = graphs[0].rearrangement(graphs[1], renamed=policy.mapping.renames())
    # The baseline a second time, for the floor, unless an interrupted run has measured it.
    again = () if prepared.run.has(FLOOR_FILE) else recipes[:1]
    import_mathematics()
    with open_legs(*recipes, *third, *again, pool=pool) as (baseline, candidate, *more):
        anchor = more[0] if third else None
        failed = opening_failures(baseline, candidate, anchor)
        if failed is not None:
            return not_run(prepared, failed, prepared.manifest, plan)
        keep_unanswered(prepared.run, (baseline, candidate, *more[: len(third)]))
        if not again:
            recall_answered(prepared.run, (baseline, candidate, *more))
        manifest = {
            **prepared.manifest,
            "isolation": isolation_json(prepared, baseline, candidate, *more[: len(third)]),
        }
        others = (candidate, *more[: len(third)])
        _hold(candidate, baseline, match, policy)
        prepared = _fitting(prepared, window, manifest, (baseline, *others), trace=trace)
        random = by_chance(graphs, (*match.outputs, *pairs.raw, *pairs.fitted))
        floor = floor_of_run(
            prepared.run, baseline, more[len(third) :], prepared.batches, window.read, trace=trace,
            policy=policy, fitted=only_fitted(*graphs), random=random, graph=graphs[0],
            orders=order_pass(
                recipes, graphs[0], rearranged, prepared.batches, window.read,
                trace=trace, random=random, listener=listener,
            ),
            heard=lambda done, total: listener(Progress(stage="floor", done=done, total=total)),
        )  # fmt: skip
        manifest["floor_sha256"] = sha256(floor)
        mixing = mixing_of_run(
            prepared.run, floor, (baseline, *others), prepared.batches,
            sound_only(window.read, (baseline, *others)),
            exact=is_exact(policy), seed=prepared.seed, most=share_within_margins(policy),
        )  # fmt: skip
        by_itself = together((baseline, *others), mixing)
        manifest["limits"] = jsonable(policy.sandbox)
        manifest |= composition((baseline, *others), mixing)
        proven = proven_features(
            prepared, window, match, pairs.raw,
            graphs=graphs, recipes=recipes, singly=by_itself, listener=listener,
        )  # fmt: skip
        terms = Terms(
            policy=policy,
            plan=plan,
            alpha_promote=spent(policy.alpha_promote, prepared.level),
            alpha_rollback=spent(policy.alpha_rollback, prepared.level),
            match=match,
            floor=floor,
            graphs=graphs,
            proven=proven.words(),
        )
        terms, manifest = with_planned_bets(
            prepared, terms, manifest, (baseline, candidate), listener, trace=trace, anchor=anchor
        )
        vary = [g.name for g in policy.guardrails if answers_vary(g, floor)]
        plan = terms.plan.about_process(vary)
        terms = replace(terms, plan=plan)
        every = (baseline, candidate) if anchor is None else (baseline, candidate, anchor)
        prepared, answering = _scheduled(prepared, window, manifest, floor, every, trace=trace)
        with _second_legs(prepared, recipes, (baseline, candidate)) as repeating:
            result = replay(
                prepared,
                terms,
                (baseline, candidate),
                listener,
                trace=trace,
                anchor=anchor,
                second=repeating,
            )
    latency, asked = _beside(
        prepared, window, match, result,
        recipes=recipes, legs=(baseline, candidate), manifest=manifest, listener=listener, pool=pool,
    )  # fmt: skip
    manifest["probes"] = jsonable(answering) | {"guard": jsonable(result.evidence.probes.sides)}
    described = with_graph(
        _described(prepared, window, recipes, result, answering=answering, proven=proven),
        prepared,
        window,
        match,
        declared=(*pairs.raw, *pairs.fitted),
        rearranged=rearranged,
        singly=by_itself,
        recipes=recipes,
        evidence=result.evidence.judge.evidence(),
        listener=listener,
    )
    return ended(
        Ran(
            prepared=prepared,
            plan=plan,
            terms=terms,
            result=result,
            described=described,
            manifest=manifest,
            mixing=mixing,
            latency=latency,
            answering=answering,
            asked=asked,
        )
    )


def _described(
    prepared: Prepared,
    window: SealedWindow,
    recipes: tuple[LegRecipe, LegRecipe],
    result: LoopResult,
    *,
    answering: Answering,
    proven: Proven,
) -> Described:
    """What the replay found, with all that it did not compare."""
    untraced = proven.left([text for r in recipes for text in r.untraced])
    untraced += not_traced(prepared.batches, result.evidence.judged)
    untraced += not_guarded(answering, result.evidence.probes)
    found = describe(
        result.evidence, prepared.policy, prepared.baseline, window.info, untraced, answering
    )
    return replace(found, findings=(*found.findings, *proven.findings()))


def _hold(candidate: Leg, baseline: Leg, match: SignatureMatch, policy: Policy) -> None:
    """From now on holds the candidate's trials against the baseline's."""
    candidate.other = baseline.blamed
    candidate.ledger.beside = Beside(
        ledger=baseline.ledger,
        names={theirs: ours for ours, theirs in match.outputs if ours != theirs},
        but=expected_changes(policy, Scope.OUTPUTS),
    )


def _fitting(
    prepared: Prepared,
    window: SealedWindow,
    manifest: dict[str, Any],
    legs: tuple[Leg, ...],
    *,
    trace: bool,
) -> Prepared:
    """The run with batches whose answers the gate can hold, and that fit into every leg's memory."""
    traced = legs[:2] if trace else ()
    room = room_of_run(prepared.run, legs, prepared.batches, window.read, traced=traced)
    if room.requests >= int(manifest["batch_requests"]):
        return prepared
    manifest["room"] = jsonable(room)
    return replace(
        prepared,
        batches=schedule(prepared.orders, room.requests),
        planning=smaller(prepared.planning, room.requests),
    )


def _beside(
    prepared: Prepared,
    window: SealedWindow,
    match: SignatureMatch,
    result: LoopResult,
    *,
    recipes: tuple[LegRecipe, LegRecipe],
    legs: tuple[Leg, Leg],
    manifest: dict[str, Any],
    listener: Listener,
    pool: Pool,
) -> tuple[LatencyLog | None, AskedAgain]:
    """Latency, and what became of the candidate's ledger; written into the manifest.

    Nothing is asked again where what the replay judged decides by itself.
    """
    latency = take_latency(
        prepared, window, result.evidence, recipes, legs=legs, listener=listener, pool=pool
    )
    if latency is not None:
        manifest["latency"] = jsonable(latency)
    failures, ledgers = result.evidence.failures.kinds, (legs[0].ledger, legs[1].ledger)
    decided = any(one_decides(prepared.policy, kind.lower()) for kind in failures)
    if decided or not ledgers[1].entries:
        return latency, AskedAgain(together=failing_together(ledgers))
    # What the replay has told of shapes is not told again.
    told = {name for name, _ in result.evidence.outputs.finish().reshaped}
    expected = {*expected_changes(prepared.policy, Scope.OUTPUTS), *told}
    asked = ask_again(
        ledgers, recipes, match, window,
        but=expected, singly=legs[1].singly, run=prepared.run, pool=pool,
    )  # fmt: skip
    manifest["asked_again"] = jsonable(asked)
    return latency, asked


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
    sound = sound_only(window.read, legs)
    batching = largest_batch(
        prepared.run, legs, prepared.batches, sound, usual, all_traced=judges_features(policy)
    )
    manifest["batching"] = jsonable(batching)
    batches = with_traces(
        schedule(prepared.orders, min(usual, batching.requests), batching.requests),
        policy,
        batching.traced,
    )
    answering = answering_of_run(prepared.run, policy, floor, legs[:2], batches, sound, trace=trace)
    batches = with_guards(batches, prepared.seed, alone=answering.alone)
    manifest["batch_plan_sha256"] = plan_sha256(batches)
    return replace(prepared, batches=batches), answering


@contextmanager
def _second_legs(
    prepared: Prepared, recipes: tuple[LegRecipe, LegRecipe], first: tuple[Leg, Leg]
) -> Iterator[tuple[Leg, Leg] | None]:
    """Both versions in processes of their own for the repetition that a guardrail asks for, or none."""
    if all(g.metric is not Metric.EXCESS_FLIP for g in prepared.policy.guardrails):
        yield None
        return
    bare = [
        replace(r, role=f"{r.role} repetition", trace_model=None, cut_model=None, trace_tensors=())
        for r in recipes
    ]
    with open_legs(*bare) as (baseline, candidate):
        for leg, one in zip((baseline, candidate), first, strict=True):
            leg.singly = first[0].singly
            leg.same_as(one)
        keep_unanswered(prepared.run, (baseline, candidate))
        yield baseline, candidate


def _check_anchor(baseline: ModelGraph, anchor: ModelGraph) -> None:
    """Refuses an anchor that cannot be asked what the baseline is asked: what was recorded, of any length."""
    anything = Mapping(narrower=tuple(spec.name for spec in baseline.signature.inputs))
    try:
        check_signatures(baseline.signature, anchor.signature, anything)
    except SignatureError as error:
        raise SignatureError(
            "anchor",
            error.what.replace("the candidate", "the anchor"),
            "Name a version with the baseline's inputs and outputs as the policy's anchor.",
        ) from None

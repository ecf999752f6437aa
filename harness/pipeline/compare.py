"""Parity of two model files on the same inputs: no registry, no policy, no statistics."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.core.errors import UsageError
from harness.core.jsonable import jsonable
from harness.core.models import PinnedModel
from harness.core.places import Place
from harness.core.policies import GraphPolicy, SandboxPolicy
from harness.decide.integrity import unfit_traffic
from harness.diff.feature_match import match_features
from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features, findings_from_floor, findings_from_outputs
from harness.diff.floor import Floor
from harness.diff.handed_on import handed_on_by_both
from harness.diff.outputs import OutputDiff
from harness.diff.probes import ProbeGuard
from harness.diff.remedies import Asker
from harness.diff.reports import sentences_about_small
from harness.diff.served import ServedDiff, findings_from_served
from harness.diff.signature import check_signatures, declared_by_either
from harness.pipeline.asked_again import AskedAgain, ask_again, failing_together
from harness.pipeline.assets import default_cache_dir
from harness.pipeline.baseline_failures import BaselineTally
from harness.pipeline.batch_mates import Mixing, mixing_of, together
from harness.pipeline.candidate_failures import CandidateFailures
from harness.pipeline.chance import by_chance, findings_from_chance
from harness.pipeline.comparable import (
    alone_only,
    candidate_stopped,
    check_requests,
    lost_requests,
    never_known,
    never_run,
    not_sealed,
    rejected,
    requests_compared,
    rows_compared,
    too_few_answered,
    traffic_of,
    unbatched,
    without_values,
)
from harness.pipeline.compare_graph import with_graph
from harness.pipeline.compare_result import NO_FEATURE, CompareResult
from harness.pipeline.compare_setup import Setup
from harness.pipeline.constant_lengths import tables_of
from harness.pipeline.describe import batch_findings, intermediates_json
from harness.pipeline.floorpass import measure_floor
from harness.pipeline.golden import check_golden
from harness.pipeline.graph_pass import DifferingFirst, GraphLook, check_mapped_tensors
from harness.pipeline.integrity import empty_requests, fixed_batches
from harness.pipeline.leg_findings import answered_by_neither, leg_findings
from harness.pipeline.legs_of_run import sound_only
from harness.pipeline.opening import leg_recipe, lengths_beside, look_at, open_legs
from harness.pipeline.order_pass import order_pass
from harness.pipeline.prepare import BATCH_REQUESTS
from harness.pipeline.probes import effect_findings
from harness.pipeline.progress import Listener, Progress, silent
from harness.pipeline.renames import mapping_from_options
from harness.pipeline.room import room_in
from harness.pipeline.runtimes import environment_findings, runtimes
from harness.pipeline.sandbox_options import sandbox_from_options
from harness.pipeline.untraced import LOOKED_UP
from harness.replay.forms import in_forms
from harness.replay.legs import Leg
from harness.replay.order import draw_order, schedule
from harness.replay.pairs import replay_pairs
from harness.resolve.pin import pin
from harness.sandbox.graphs import Looked
from harness.sandbox.hello import LoadFailure
from harness.sandbox.isolation import weakest
from harness.sandbox.starting import limit_of
from harness.store.tables import open_traffic

ORDER_SEED = 0
"""Compare decides nothing by chance, so the same inputs are drawn every time."""
USUAL_LOOK = GraphPolicy()
_GIVEN = "inputs"


def compare_models(
    old: str,
    new: str,
    *,
    inputs: Sequence[Place],
    limit: int = 20_000,
    mapping: Sequence[str] = (),
    sandbox: Sequence[str] = (),
    looked_into: GraphPolicy = USUAL_LOOK,
    registry_uri: str | None = None,
    cache_dir: Path | None = None,
    allow_lower_isolation: bool = False,
    listener: Listener = silent,
) -> CompareResult:
    """Compares outputs and declared features of two versions on the same inputs.

    Args:
      old: .onnx file, MLflow model folder or registry reference.
      new: the same.
      inputs: traffic folder, sealed window, .npz, .parquet or .jsonl.
      limit: most requests to compare.
      mapping: KIND:OLD=NEW for names that differ.
      sandbox: KEY=VALUE of a policy's `sandbox:`, or a file that has one.
      looked_into: how many requests are traced through the graphs, and in what memory.
      registry_uri: MLflow registry, for references.
      cache_dir: where sealed windows are kept.
      allow_lower_isolation: run below the tier that policies require by default; the result says so.
      listener: hears progress.

    Raises:
      UsageError: the sandbox is weaker than that, a file cannot be read, the inputs do not fit, nothing can be compared.
      SignatureError: the versions take or return other things.
    """
    renames, limits = mapping_from_options(mapping), sandbox_from_options(sandbox)
    with tempfile.TemporaryDirectory(prefix="harness-compare-") as scratch:
        folder = Path(scratch)
        pinned = [pin(r, folder / "models", registry_uri=registry_uri) for r in (old, new)]
        weaker = allow_lower_isolation
        pythons = [runtime.python for runtime in runtimes(pinned, listener)]
        listener(Progress(stage="load", done=0, total=0, note="loading both versions"))
        seen = look_at(
            pinned, limits, folder / "probes", pythons, mapping=renames, allow_weaker=weaker
        )
        old_seen, new_seen = (
            _loaded(m, role, s, limits)
            for m, role, s in zip(pinned, ("old", "new"), seen, strict=True)
        )
        graphs = (old_seen.graph, new_seen.graph)
        match = check_signatures(graphs[0].signature, graphs[1].signature, renames)
        check_mapped_tensors(renames, graphs, "--map")
        window = open_traffic(
            list(inputs), cache_dir or default_cache_dir(),
            declared_by_either(graphs[0].signature, graphs[1].signature, renames), _heard(listener, "seal"),
        )  # fmt: skip
        check_requests(window, inputs)
        beside = lengths_beside(graphs, match.outputs)
        recipes = (
            leg_recipe(
                "baseline", pinned[0], old_seen.probe, limits=limits, python=pythons[0],
                allow_weaker=weaker, lengths=beside[0],
            ),
            leg_recipe(
                "candidate", pinned[1], new_seen.probe, limits=limits, python=pythons[1], allow_weaker=weaker,
                input_names=match.inputs, lengths=beside[1],
            ),
        )  # fmt: skip
        recipes = tables_of(recipes[0], graphs[0].signature, window).read_by(recipes, match.outputs)
        features = match_features(*graphs, renames)
        declared = (*features.raw, *features.fitted)
        random = by_chance(graphs, (*match.outputs, *declared))
        setup = Setup(
            window=window, match=match, recipes=recipes, graphs=graphs,
            models=(pinned[0], pinned[1]), mapping=renames, looked_into=looked_into, random=random, declared=declared,
            golden=tuple(check_golden(r, m) for r, m in zip(recipes, pinned, strict=True)),
        )  # fmt: skip
        return _compared(setup, limit, listener)


def _loaded(
    model: PinnedModel, role: str, seen: Looked | LoadFailure, limits: SandboxPolicy
) -> Looked:
    if isinstance(seen, LoadFailure):
        raise UsageError(
            f"{role} model {model.given}",
            f"does not load: {seen.message.rstrip('.')}",
            _remedy(seen, limits),
        )
    return seen


def _remedy(failure: LoadFailure, limits: SandboxPolicy) -> str:
    """What to do about a model that does not load, by what is said of it."""
    message = failure.message
    limit = limit_of(failure).removeprefix("sandbox.")
    if failure.kind == "timeout":
        given_s = limits.start_deadline_s if failure.unseen else limits.load_deadline_s
        return f"Give it more time: --sandbox {limit}={max(2 * given_s, 300):g}s, say."
    if "opset" in message.lower():
        return "Export it with an older opset, or pin an onnxruntime that knows this one in its requirements."
    if limit:
        more = max(limits.memory_bytes >> 28, 8)
        return f"Give its process more than {limits.memory_bytes >> 20} MiB: --sandbox memory={more}GiB, say."
    return "Give a model that this onnxruntime can load."


def _heard(listener: Listener, stage: str) -> Callable[[int, int], None]:
    def heard(done: int, total: int) -> None:
        listener(Progress(stage=stage, done=done, total=total))

    return heard


def _compared(setup: Setup, limit: int, listener: Listener) -> CompareResult:
    """Measures the floor, then runs both versions and compares."""
    window = setup.window
    order = draw_order(
        np.ones(window.info.count, np.bool_), seed=ORDER_SEED, window=_GIVEN, limit=limit
    )
    batches = schedule([(_GIVEN, order)], BATCH_REQUESTS)
    trace = all(r.trace_model is not None for r in setup.recipes)
    chosen = DifferingFirst(setup.looked_into.requests)
    with open_legs(*setup.recipes, setup.recipes[0]) as legs:
        baseline, candidate, again = (_running(leg, setup.recipes[0].limits) for leg in legs)
        both = (baseline, candidate)
        room = room_in(both, batches, window.read, traced=both if trace else ())
        if room.requests < BATCH_REQUESTS:
            batches = schedule([(_GIVEN, order)], room.requests)
        floor = measure_floor(
            baseline,
            again,
            batches,
            window.read,
            trace=trace,
            random=setup.random,
            graph=setup.graphs[0],
            heard=_heard(listener, "floor"),
        )
        again.close()
        orders = order_pass(
            setup.recipes, setup.graphs[0], setup.rearranged, batches, window.read,
            trace=trace, random=setup.random, listener=listener,
        )  # fmt: skip
        floor = orders(floor, baseline) if orders else floor
        mixing = mixing_of(
            floor, both, batches, sound_only(window.read, both), exact=False, seed=ORDER_SEED
        )
        apart = mixing.answers or alone_only(mixing.alone)
        by_itself = together((baseline, candidate), replace(mixing, answers=apart))
        moved = handed_on_by_both(*setup.graphs, setup.match.outputs)
        outputs = OutputDiff(setup.match, floor, (), setup.graphs[0].coarse, moved)
        features = FeatureDiff(floor, *setup.graphs, (), setup.mapping)
        served = ServedDiff(floor, setup.graphs[0].coarse)
        only_new, only_old = CandidateFailures(), CandidateFailures()
        observer, neither = ProbeGuard(), BaselineTally()
        done = 0
        source = ((batch, window.read(batch.positions)) for batch in batches)
        for batch, pair in replay_pairs(baseline, candidate, source, trace=trace):
            differ = np.zeros(len(pair), np.bool_)
            for at, part, _ in in_forms(pair):
                differ[at] = outputs.update(part).mismatch | features.update(part).mismatch
                served.update(part.requests, part.baseline)
            observer.update(pair)
            chosen.add(batch.positions, differ, pair.both_answered())
            neither.update(_GIVEN, pair)
            only_new.update(pair)
            only_old.update(replace(pair, baseline=pair.candidate, candidate=pair.baseline))
            done += len(pair)
            listener(Progress(stage="compare", done=done, total=len(order)))
        # Every request was asked: what fails by itself is told already.
        ledgers = (baseline.ledger, candidate.ledger)
        beside = (
            AskedAgain(together=failing_together(ledgers))
            if only_new.count()
            else ask_again(ledgers, setup.recipes, setup.match, window)
        )
        result = _result(
            setup,
            floor,
            (outputs, features, served),
            (only_new, only_old),
            (baseline, candidate),
            mixing=mixing,
            observer=observer,
            asked_again=beside,
            asked=len(order),
            unknown=neither.both[_GIVEN],
        )
    return with_graph(setup, result, chosen, listener, singly=by_itself)


def _running(leg: Leg, limits: SandboxPolicy) -> Leg:
    if leg.load_failure is not None:
        failure = leg.load_failure
        what = f"does not load: {failure.message.rstrip('.')}"
        raise UsageError(f"{leg.name} model", what, _remedy(failure, limits))
    return leg


def _result(
    setup: Setup,
    floor: Floor,
    diffs: tuple[OutputDiff, FeatureDiff, ServedDiff],
    failures: tuple[CandidateFailures, CandidateFailures],
    legs: tuple[Leg, Leg],
    *,
    mixing: Mixing,
    observer: ProbeGuard,
    asked_again: AskedAgain,
    asked: int,
    unknown: int,
) -> CompareResult:
    outputs, features, golden = diffs[0].finish(), diffs[1].finish(), setup.golden
    logged = diffs[2].finish()
    differ = bool(outputs.mismatched_requests or features.mismatched_requests)
    versions = {leg.name: leg.first.versions for leg in legs if leg.first}
    window, (old, new) = setup.window, setup.graphs
    rows = declared_by_either(old.signature, new.signature, setup.mapping).batch_rows
    given = traffic_of(window)
    findings = [
        *lost_requests(given),
        *environment_findings(setup.models, versions, differ=differ),
        *(f for check in golden for f in check.findings()),
        *findings_from_features(features, 0.0, Asker.COMPARISON),
        *findings_from_outputs(outputs, 0.0, Asker.COMPARISON),
        *findings_from_chance(setup.random),
        *findings_from_floor(floor),
        *batch_findings(mixing),
        *asked_again.findings(),
        *effect_findings(
            observer.effect(), "Production's own session gave every answer that was compared."
        ),
        *findings_from_served(logged),
        *empty_requests(given, "inputs"),
        *fixed_batches(
            rows, window.info.together, window.index().of_other_rows(rows) if rows else 0, "inputs"
        ),
        *without_values(outputs),
    ]
    counters = {leg.name: leg.counters() for leg in legs}
    counters["candidate"] = asked_again.counted_in(counters["candidate"])
    for role, failed in zip(("candidate", "baseline"), failures, strict=True):
        findings += leg_findings(
            role, counters[role], dict(failed.kinds), failed.ids, failed.messages
        )
    findings += answered_by_neither(failures[0], unknown)
    ended = tuple(f"{leg.name} stopped answering: {leg.ended}" for leg in legs if leg.ended)
    apart = bool(
        differ
        or sum(f.count() for f in failures)
        or candidate_stopped(legs, failures[0])
        or counters["candidate"].flaky + golden[1].flaky
        or asked_again.failed
        or golden[1].failure
    )
    judged = {a for a, _ in (*setup.match.outputs, *diffs[1].match.raw)}
    hidden = tuple(
        f"{column.name}: the baseline's own noise hides differences"
        for column in (*floor.outputs, *floor.features)
        if column.unprovable and column.tensor in judged - setup.random.keys()
    )
    # What no trace returns, or one side alone declares, is looked up in the graphs.
    unproven = [name for name, why in features.unproven if why not in LOOKED_UP]
    # So are outputs of a type that no session hands out.
    unproven += [n for n, _ in outputs.unproven if n not in setup.match.not_compared]
    unseen = bool(features.partly or features.uneven or unproven or unfit_traffic(given))
    hidden += unbatched(mixing) or tuple(
        f"in one batch only: {text}" for text in asked_again.together
    )
    hidden += sentences_about_small((*outputs.outputs, *features.features))
    hidden += never_known(failures[0], unknown) + too_few_answered(given, asked, failures[0])
    # Where that is all outputs, the graphs alone can show that they are equal.
    in_graphs = bool(outputs.requests and setup.match.not_compared and not setup.match.outputs)
    return CompareResult(
        equal=not (apart or ended or golden[0].failure),
        comparable=not golden[0].failure
        and (
            apart
            or bool(
                (rows_compared(outputs) or in_graphs)
                and not (ended or hidden or unseen or setup.random)
            )
        ),
        compared=requests_compared(outputs, features),
        asked=asked,
        available=given.recorded,
        models=setup.models,
        findings=tuple(findings),
        intermediates=intermediates_json(outputs, features, None, floor)
        | {"served": jsonable(logged), "observer": jsonable(observer.sides)},
        graph=GraphLook(),
        alone=mixing.alone,
        isolation=weakest(leg.first.isolation for leg in legs if leg.first),
        limits=setup.recipes[0].limits,
        not_compared=(
            *not_sealed(window),
            *outputs.not_compared,
            *features.not_compared,
            *logged.not_compared,
            *observer.not_compared(),
            *(u for r in setup.recipes for u in r.untraced),
            *ended,
            *never_run(ended, asked, outputs.requests, failures[0]),
            *hidden,
            *(() if features.requests else (NO_FEATURE,)),
            *(one.to_text() for one in mixing.alone if not one.requests and not unbatched(mixing)),
            *(text for check in golden for text in check.not_compared()),
            *rejected(failures[0], unknown),
        ),
    )

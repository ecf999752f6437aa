"""Which session answers where features are asked for: production's and the other one beside it, or that alone.

The copy of a model that returns its features computes the outputs, too; with production's session
beside it everything is computed twice. Alone it may answer only where a policy does not judge
differences of outputs, both versions have shown on the run's first requests that reading features
changes no bit of an answer, and a guard goes on: one batch in 32, drawn by the run's seed, is
answered by both, and the first difference ends the run without a verdict.

Where it may not, production's session gives every answer, and a second copy, cut off behind the
features, gives these: what is computed twice is what leads to a feature. Whether reading features moves
the outputs is then seen in the guarded batches, which the whole copy answers, too.

A guard of one batch in sixteen was left: it took 2 % of a small model's replay more and would have seen
next to nothing sooner, because an operator that is fused otherwise moves most rows of a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.core.findings import Finding, Severity
from harness.core.observations import PairBatch
from harness.core.policies import Guardrail, Metric, Policy, Preset, Probes, Scope
from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.diff.floor import Floor
from harness.diff.probes import ProbeGuard
from harness.pipeline.floorpass import FLOOR_REQUESTS, prefix
from harness.pipeline.tracing import judges_features
from harness.replay.legs import Leg
from harness.replay.order import Batch, generator
from harness.store.runs import RunFolder

PROBES_FILE = "probes.json"
GUARD_EVERY = 32
"""One batch in so many is answered by both sessions."""
_FIRST_GUARDED = 4
"""First batches of each window that are: what they were recorded with is compared with production's session."""
LEAST_REQUESTS = 4096
"""A run that is no longer gains nothing: its first batches are guarded, and the candidate is asked before."""
_BY = "question which session answers"
_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """Which session's answers are judged."""

    alone: bool
    """The one that returns the features, but for the guarded batches."""
    why: str
    """Why not, or what shows that it may."""


def answering_of_run(
    run: RunFolder,
    policy: Policy,
    floor: Floor,
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    trace: bool,
) -> Answering:
    """Found once a run: a resumed one goes on as the interrupted one began.

    Args:
      run: keeps the answer.
      policy: what is judged.
      floor: says what the A/A leg showed of the baseline.
      legs: (baseline, candidate), with nothing in flight.
      batches: the run's schedule.
      read: gives the requests at storage positions.
      trace: features are asked for at all.
    """
    if run.has(PROBES_FILE):
        return Answering(**run.read_json(PROBES_FILE))
    total = sum(map(len, batches))
    why = _why_not(policy, floor, total, trace=trace, singly=any(leg.singly for leg in legs))
    found = Answering(alone=False, why=why) if why else _asked(legs[1], batches, read, floor, total)
    run.write_json(PROBES_FILE, found)
    return found


def with_guards(batches: Sequence[Batch], seed: int, *, alone: bool) -> tuple[Batch, ...]:
    """The schedule, with all batches marked that the whole copy and production's session do not both answer.

    Args:
      batches: the schedule.
      seed: the run's; nobody can know beforehand which batches are guarded.
      alone: the whole copy answers the others; else production's session does, and the cut copy gives
        the features.
    """
    traced = [at for at, batch in enumerate(batches) if batch.trace]
    draw = generator(seed, "probes")
    groups = [traced[i : i + GUARD_EVERY] for i in range(0, len(traced), GUARD_EVERY)]
    guarded = {group[int(draw.integers(len(group)))] for group in groups}
    before: Counter[str] = Counter()
    marked = []
    for at, batch in enumerate(batches):
        first = before[batch.window] < _FIRST_GUARDED
        before[batch.window] += 1
        unguarded = batch.trace and not first and at not in guarded
        marked.append(replace(batch, alone=unguarded and alone, cut=unguarded and not alone))
    return tuple(marked)


def not_guarded(answering: Answering, guard: ProbeGuard) -> tuple[str, ...]:
    """Sentences about what was not compared because one session answered alone, or in several shapes."""
    alone = guard.sides["baseline"].alone
    if not answering.alone or not alone:
        return guard.not_compared()
    said = (
        f"production's own session did not answer {alone:,} requests, which the session that returns "
        "features answered alone: there, recorded answers were not compared with the replay's"
    )
    return (said, *guard.not_compared())


def answering_words(answering: Answering, guard: ProbeGuard) -> str:
    """One sentence for the reader: which session answered, and how much of it was guarded."""
    if not answering.alone:
        return f"Production's own session gave all answers: {answering.why}."
    parts = [
        f"{g.alone:,} of the {side}'s answers came from the session that returns features, and "
        f"{g.both:,} from both, {'all' if not g.differing else f'all but {g.differing:,}'} bit for bit alike"
        for side, g in guard.sides.items()
    ]
    return f"{'; '.join(parts)}. Beforehand {answering.why}."


def effect_findings(effect: str, remedy: str = "") -> list[Finding]:
    """Tells when answers of the session that returns the features were not production's.

    Args:
      effect: how they differ; "" = they do not.
      remedy: what to do, or why nothing needs to be done; "" = as in a gate.
    """
    if not effect:
        return []
    return [
        Finding(
            kind="observer_effect", severity=Severity.WARNING, where="trace", what=effect,
            remedy=remedy
            or "Set `sandbox: {probes: separate}` in the policy: production's own session then gives"
            " every answer.",
        )
    ]  # fmt: skip


def _why_not(policy: Policy, floor: Floor, total: int, *, trace: bool, singly: bool) -> str:
    """Why production's session has to give every answer; "" = the versions are to be asked."""
    bits = policy.preset is Preset.REFACTOR or any(map(_judges_bits, policy.guardrails))
    reasons = (
        (not trace, "no features are read"),
        (policy.sandbox.probes is Probes.SEPARATE, "the policy's sandbox.probes asks for it"),
        (bits, "the policy judges by small differences of outputs"),
        (
            not judges_features(policy),
            "no guardrail is about features, so they are read of the first requests only",
        ),
        (singly, "every request is replayed by itself, as recorded"),
        (
            total <= LEAST_REQUESTS,
            f"the run is too short for another way to pay ({total:,} requests)",
        ),
        (
            not floor.probed_alike,
            "the baseline gave other bits, or none to compare, while its features were read",
        ),
    )
    return next((why for applies, why in reasons if applies), "")


def _judges_bits(guardrail: Guardrail) -> bool:
    outputs = guardrail.metric is Metric.PARITY_MISMATCH and guardrail.scope is Scope.OUTPUTS
    return guardrail.gating and (outputs or guardrail.metric is Metric.EXCESS_FLIP)


def _asked(
    candidate: Leg,
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    floor: Floor,
    total: int,
) -> Answering:
    """Lets the candidate answer the first requests in both sessions; the A/A leg did so for the baseline."""
    guard, failed = ProbeGuard(), 0
    for batch in prefix(batches, min(FLOOR_REQUESTS, total // GUARD_EVERY)):
        requests = read(batch.positions)
        answers = candidate.tried(requests, trace=True, by=_BY)
        if answers is None:
            failed += 1
        else:
            guard.update(PairBatch(requests=requests, baseline=answers, candidate=answers))
        if failed >= _FAILURES:
            return Answering(
                alone=False, why="the candidate did not answer all of the first batches"
            )
    seen = guard.sides["candidate"]
    if not guard.alike:
        why = "the candidate gave other bits, or none to compare, while its features were read"
        return Answering(alone=False, why=why)
    return Answering(
        alone=True,
        why=f"reading features changed no bit of the baseline's answers to {floor.requests:,} requests "
        f"and of the candidate's to {seen.both:,}",
    )

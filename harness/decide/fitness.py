"""Is the evidence fit to decide on? What a run must have before any test is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.counted import counted
from harness.core.policies import Against, Guardrail, Metric, Policy, Scope
from harness.core.verdicts import Decision, Evidence, Status
from harness.decide.baseline import lacking_answers
from harness.decide.coverage import COVER, sentence_about_uncovered
from harness.decide.facts import Facts
from harness.decide.integrity import (
    MOST_LOST,
    Unfit,
    harm_without_labels,
    percent,
    unfit_labels,
    unfit_traffic,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the rules look at."""

    policy: Policy
    status: Status | None
    evidence: Sequence[Evidence]
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the first rule that applies says."""

    decision: Decision
    reason: str
    explanation: str
    next: str
    binding: str = ""


def baseline_is_golden(case: Case) -> Answer | None:
    """A baseline that does not reproduce its golden rows is not what was trained."""
    how = case.facts.baseline_not_golden
    if not how:
        return None
    return hold(
        "baseline_not_reproduced",
        f"The baseline does not reproduce its own golden rows: {how}. What runs here is not the "
        "version that was trained, so nothing can be compared with it.",
        "Find out what changed since (runtime, requirements, preprocessing), or log its golden rows anew.",
    )


def anchor_is_golden(case: Case) -> Answer | None:
    """An anchor that does not reproduce its golden rows is not the release that was approved."""
    how = case.facts.anchor_not_golden
    if not how:
        return None
    return hold(
        "anchor_not_reproduced",
        f"The anchor does not reproduce its own golden rows: {how}. What runs here is not the version "
        "that the lineage began with, so nothing can be held against it.",
        "Find out what changed since (runtime, requirements, preprocessing), or name another anchor.",
    )


def baseline_answers(case: Case) -> Answer | None:
    """What a baseline fails is not missing by chance: what it answers is then not the traffic."""
    users = {g.window.value: g.name for g in reversed(gating(case))}
    read = [found for found in case.facts.baseline_failures if found.window in users]
    lacking = lacking_answers(read, case.policy.most_baseline_failures)
    return unfit(lacking.unfit, users[lacking.window]) if lacking else None


def anchor_answers(case: Case) -> Answer | None:
    """What an anchor fails is not missing by chance: a few are told, more leave the guardrail unproven."""
    deciding = {g.name for g in gating(case)}
    lost = [
        found
        for found in case.facts.anchor_failures
        if found.guardrail in deciding and found.failed > MOST_LOST * found.asked
    ]
    if not lost:
        return None
    worst = max(lost, key=lambda found: found.failed / found.asked)
    return hold(
        "anchor_fails",
        f"The anchor fails {worst.failed:,} of {counted(worst.asked)} that the candidate answers "
        f"({percent(worst.failed, worst.asked)}), and at most {100 * MOST_LOST:g} % may be missing: "
        f"{listed([found.guardrail for found in lost])} would be proven on the rest alone.",
        "Find out why (findings, where anchor), or name another version as `anchor:`.",
        worst.guardrail,
    )


def candidate_is_golden(case: Case) -> Answer | None:
    """A candidate that does not reproduce its golden rows would serve something else."""
    how = case.facts.candidate_not_golden
    if not how:
        return None
    return Answer(
        decision=Decision.ROLLBACK,
        reason="candidate_not_reproduced",
        explanation=f"The candidate does not reproduce its own golden rows: {how}. It would serve "
        "something else than what was trained.",
        next="Repair the export, the runtime or the preprocessing and register a new version.",
    )


def one_decides(policy: Policy, kind: str) -> bool:
    """Whether a single failure of the candidate decides, as no gating guardrail has a margin for it.

    Args:
      policy: its guardrails.
      kind: as in `FailureCount`.
    """
    owner = Metric.NAN_RATE if kind == "nan" else Metric.FAILURE
    owned = [g for g in policy.guardrails if g.gating and g.against is Against.BASELINE]
    return all(g.metric is not owner for g in owned)


def candidate_answers(case: Case) -> Answer | None:
    """A failure where the baseline answers is harm, unless a guardrail has a margin for it."""
    failures = [
        failure
        for failure in case.facts.candidate_only_failures
        if failure.count > 0 and one_decides(case.policy, failure.kind)
    ]
    if not failures:
        return None
    total = sum(failure.count for failure in failures)
    kinds = ", ".join(f"{failure.count:,} {failure.kind}" for failure in failures)
    examples = [example for failure in failures for example in failure.examples][:3]
    shown = f" (for example {', '.join(examples)})" if examples else ""
    return Answer(
        decision=Decision.ROLLBACK,
        reason="candidate_fails",
        explanation=(
            f"The candidate fails on {counted(total)} that the baseline answers: {kinds}{shown}. "
            "The policy has no guardrail with a margin for this, so one is too many."
        ),
        next="Reproduce one of these requests, repair the candidate and register a new version.",
    )


def replay_is_faithful(case: Case) -> Answer | None:
    """Evidence about another model than the one in production is no evidence."""
    how = case.facts.unfaithful_replay
    if not how:
        return None
    return hold(
        "unfaithful_replay",
        f"The replayed baseline is not what production runs: {how}. "
        "What differs between the versions here says nothing about production.",
        "Find out what differs (model bytes, runtime, inputs that were not recorded) and record or "
        "replay with the same; give the baseline as a file when another version is meant.",
    )


def probes_change_nothing(case: Case) -> Answer | None:
    """Answers of a session that is not production's count only while they are production's."""
    how = case.facts.observer_effect
    if not how:
        return None
    return hold(
        "observer_effect",
        f"Reading features changes answers: {how}. The answers that were judged are not surely "
        "production's, so nothing is decided.",
        "Set `sandbox: {probes: separate}` in the policy and run the gate again: production's own "
        "session then gives every answer, at the price of computing twice.",
    )


def floor_is_below(case: Case) -> Answer | None:
    """A difference below what the baseline shows against itself proves nothing."""
    reported = {guardrail.name for guardrail in case.policy.guardrails if not guardrail.gating}
    names = [name for name in case.facts.floor_above_margin if name not in reported]
    if not names:
        return None
    return hold(
        "floor_above_margin",
        f"The baseline differs from itself by more than {listed(names)} can bear: "
        "a difference of the candidate could not be told from this noise.",
        "Make the runtime deterministic (threads, seeds), or set the margin above the floor.",
        names[0],
    )


def traffic_is_whole(case: Case) -> Answer | None:
    """Traffic with lost or doubled exchanges is not what production saw."""
    return unfit(unfit_traffic(case.facts.traffic))


def labels_are_whole(case: Case) -> Answer | None:
    """Labels that are not whole spoil the guardrails that read them, and no others."""
    labels, status = case.facts.labels, case.status
    spoiled = [g.name for g in gating(case) if labels and g.window.value == labels.window]
    if not labels or not spoiled:
        return None
    if status is not None and harm_without_labels(labels, status, case.evidence):
        return None
    return unfit(unfit_labels(labels), spoiled[0])


def unfit(found: Unfit | None, binding: str = "") -> Answer | None:
    """A HOLD for evidence that is not fit to decide on; None when nothing was found."""
    if found is None:
        return None
    return hold(found.reason, found.explanation, found.settle, binding)


def parity_is_whole(case: Case) -> Answer | None:
    """A parity guardrail speaks about everything that the baseline declares, or it proves nothing."""
    facts = case.facts
    for scope, lost in (
        (Scope.OUTPUTS, facts.outputs_not_compared),
        (Scope.FEATURES, facts.features_not_compared),
    ):
        users = [g.name for g in gating(case) if g.scope is scope]
        if not users or not lost:
            continue
        return hold(
            f"{scope.value}_not_compared",
            f"{sentence_about_uncovered(scope, lost)} What changed there would not show, so "
            f"{listed(users)} is not proven; harm is not proven either on what was compared.",
            COVER[scope],
            users[0],
        )
    return None


def shapes_are_kept(case: Case) -> Answer | None:
    """Clients read an output's shape, whatever a retrain may do to its values."""
    changed = case.facts.outputs_reshaped
    if not changed:
        return None
    shown = "; ".join(f"{name}: {how}" for name, how in changed[:3])
    more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""  # noqa: PLR2004 - those shown
    return hold(
        "output_shape_changed",
        f"Clients would get outputs of another shape or form: {shown}{more}.",
        "Give the candidate the baseline's shapes, or, when the clients are ready for it, list the outputs "
        "under `expected_changes` of a guardrail with `scope: outputs`.",
    )


def run_is_whole(case: Case) -> Answer | None:
    """A run that was interrupted has no answer."""
    if not case.facts.interrupted:
        return None
    return hold(
        "interrupted",
        "The run was interrupted before it had an answer.",
        "Resume it: the evidence so far is kept.",
    )


def legs_ran_through(case: Case) -> Answer | None:
    """A pass that ended before its time leaves evidence out.

    Asked after what the candidate showed until then: whether that also used up a leg's time follows from how
    busy the machine was, and the reason must not.
    """
    early = said_of_early_ends(case.facts)
    if not early:
        return None
    windows, legs = case.facts.windows, dict(case.facts.legs_ended_early)
    judged, selected = sum(w.judged for w in windows), sum(w.selected for w in windows)
    return hold(
        "leg_ended_early",
        f"{early} {judged:,} of {counted(selected)} were judged.",
        f"Remove the cause and run the gate again: findings where {' or '.join(legs)} name requests that "
        "it fails, and how to repeat one. Where production answers these, give the gate what it has "
        "there (runtime, sandbox.memory, deadlines); else mend the version, or leave them out of what is given.",
    )


def said_of_early_ends(facts: Facts) -> str:
    """Which passes ended before their time, and why; "" where none did."""
    legs = "; ".join(f"{leg}: {why}" for leg, why in facts.legs_ended_early)
    return (
        legs and f"A pass through a version ended before its time ({legs}), so evidence is missing."
    )


def candidate_is_steady(case: Case) -> Answer | None:
    """Answers of a second try prove nothing about a process that does not always reach them.

    No cap: how often it would fail in production cannot be told from the few processes of a replay.
    """
    count = case.facts.candidate_flaky
    if not count:
        return None
    return hold(
        "flaky_candidate",
        f"{count:,} {'batch' if count == 1 else 'batches'} failed in the candidate's process and passed "
        "unchanged the second time. The answers are good, but in production there is no second try.",
        "Find out why the process failed (finding candidate_flaky): repair the candidate, or the machine "
        "when it is to blame, and run the gate again.",
    )


def candidate_answers_the_sample(case: Case) -> Answer | None:
    """A replay that ends early never gets to all requests: what fails of the others is not judged."""
    failed = [f for f in case.facts.candidate_failed_trials if one_decides(case.policy, f.kind)]
    if not failed:
        return None
    shown = "; ".join(example for f in failed for example in f.examples[:1])
    beside = "" if any(f.left for f in failed) else " The baseline did."
    return hold(
        "candidate_fails_in_sample",
        f"The candidate did not answer all that was asked before and beside the replay: {shown}.{beside}",
        "Find out why (`harness compare` with these requests), repair the candidate, and run the gate again.",
    )


def hold(reason: str, explanation: str, settle: str, binding: str = "") -> Answer:
    """The answer HOLD, with its reason, what was seen and what would settle it."""
    return Answer(
        decision=Decision.HOLD,
        reason=reason,
        explanation=explanation,
        next=settle,
        binding=binding,
    )


def gating(case: Case) -> list[Guardrail]:
    """The guardrails of the policy that decide."""
    return [guardrail for guardrail in case.policy.guardrails if guardrail.gating]


def listed(names: Sequence[str]) -> str:
    """Names in quotes, for a sentence."""
    return ", ".join(f"'{name}'" for name in names)

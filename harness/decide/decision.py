"""Facts and evidence → the decision, its reason, and what would settle a HOLD.

Rules are asked in order; the first that answers decides. Everything that makes evidence unfit comes
before the evidence, and only a complete proof promotes: a missing window, a missing guardrail or a
guardrail without data is a HOLD, whatever else holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.core.policies import Against, Guardrail, Metric, Policy, Scope
from harness.core.verdicts import Decision, DecisionRecord, Evidence, Status, Verdict
from harness.decide.coverage import COVER, sentence_about_uncovered
from harness.decide.crossed import beyond, counted, judged_as
from harness.decide.facts import Facts, WindowFacts
from harness.decide.forecast import farthest, words
from harness.decide.integrity import Unfit, harm_without_labels, unfit_labels, unfit_traffic
from harness.decide.slices import (
    harm_in_small_slices,
    largest_without_claim,
    too_much_without_claim,
)

SOUND_HOLDS = frozenset({"empty_window", "too_few_requests", "not_enough_evidence"})
"""Reasons of a HOLD whose evidence is sound and merely too little: a later run may go on from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What the rules look at."""

    policy: Policy
    status: Status | None
    evidence: Sequence[Evidence]
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What the first rule that applies says."""

    decision: Decision
    reason: str
    explanation: str
    next: str
    binding: str = ""


def decide(
    policy: Policy, status: Status | None, evidence: Sequence[Evidence], facts: Facts
) -> DecisionRecord:
    """Decides a run.

    Args:
      policy: what was asked for.
      status: the judge's last look; None when nothing was judged.
      evidence: one entry a test, in the plan's order.
      facts: what happened besides.

    Returns:
      The record. PROMOTE only when every gating guardrail of the policy has passed on data.
    """
    case = _Case(policy=policy, status=status, evidence=evidence, facts=facts)
    answer = next(found for rule in _RULES if (found := rule(case)) is not None)
    alphas = (
        (policy.alpha_promote, policy.alpha_rollback)
        if status is None
        else (status.alpha_promote, status.alpha_rollback)
    )
    return DecisionRecord(
        decision=answer.decision,
        reason=answer.reason,
        explanation=answer.explanation,
        binding_guardrail=answer.binding,
        next=answer.next,
        n_requests=sum(window.judged for window in facts.windows),
        n_window=sum(window.selected for window in facts.windows),
        alpha={"promote": alphas[0], "rollback": alphas[1]},
        attempt=facts.attempt,
        not_compared=facts.not_compared,
    )


def _baseline_loads(case: _Case) -> _Answer | None:
    why = case.facts.baseline_load_failure
    if not why:
        return None
    return _hold(
        "baseline_does_not_load",
        f"The baseline does not load: {why}. Nothing can be compared, so nothing is decided.",
        "Give the gate the version that serves now, with the requirements it was built with.",
    )


def _candidate_loads(case: _Case) -> _Answer | None:
    why = case.facts.candidate_load_failure
    if not why:
        return None
    return _Answer(
        decision=Decision.ROLLBACK,
        reason="candidate_does_not_load",
        explanation=f"The candidate does not load: {why}. It could not serve a single request.",
        next="Repair the model file or its requirements and register a new version.",
    )


def _anchor_loads(case: _Case) -> _Answer | None:
    why = case.facts.anchor_load_failure
    if not why:
        return None
    users = [g.name for g in case.policy.guardrails if g.against is Against.ANCHOR]
    return _hold(
        "anchor_does_not_load",
        f"The anchor does not load: {why}. {_list(users)} cannot be judged without it.",
        "Name another version as `anchor:`, or its requirements as it was built with.",
        users[0] if users else "",
    )


def _baseline_is_golden(case: _Case) -> _Answer | None:
    how = case.facts.baseline_not_golden
    if not how:
        return None
    return _hold(
        "baseline_not_reproduced",
        f"The baseline does not reproduce its own golden rows: {how}. What runs here is not the "
        "version that was trained, so nothing can be compared with it.",
        "Find out what changed since (runtime, requirements, preprocessing), or log its golden rows anew.",
    )


def _candidate_is_golden(case: _Case) -> _Answer | None:
    how = case.facts.candidate_not_golden
    if not how:
        return None
    return _Answer(
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


def _candidate_answers(case: _Case) -> _Answer | None:
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
    return _Answer(
        decision=Decision.ROLLBACK,
        reason="candidate_fails",
        explanation=(
            f"The candidate fails on {counted(total)} that the baseline answers: {kinds}{shown}. "
            "The policy has no guardrail with a margin for this, so one is too many."
        ),
        next="Reproduce one of these requests, repair the candidate and register a new version.",
    )


def _replay_is_faithful(case: _Case) -> _Answer | None:
    """Evidence about another model than the one in production is no evidence."""
    how = case.facts.unfaithful_replay
    if not how:
        return None
    return _hold(
        "unfaithful_replay",
        f"The replayed baseline is not what production runs: {how}. "
        "What differs between the versions here says nothing about production.",
        "Find out what differs (model bytes, runtime, inputs that were not recorded) and record or "
        "replay with the same; give the baseline as a file when another version is meant.",
    )


def _floor_is_below(case: _Case) -> _Answer | None:
    reported = {guardrail.name for guardrail in case.policy.guardrails if not guardrail.gating}
    names = [name for name in case.facts.floor_above_margin if name not in reported]
    if not names:
        return None
    return _hold(
        "floor_above_margin",
        f"The baseline differs from itself by more than {_list(names)} can bear: "
        "a difference of the candidate could not be told from this noise.",
        "Make the runtime deterministic (threads, seeds), or set the margin above the floor.",
        names[0],
    )


def _traffic_is_whole(case: _Case) -> _Answer | None:
    return _unfit(unfit_traffic(case.facts.traffic))


def _labels_are_whole(case: _Case) -> _Answer | None:
    """Labels that are not whole spoil the guardrails that read them, and no others."""
    labels, status = case.facts.labels, case.status
    spoiled = [g.name for g in _gating(case) if labels and g.window.value == labels.window]
    if not labels or not spoiled:
        return None
    if status is not None and harm_without_labels(labels, status, case.evidence):
        return None
    return _unfit(unfit_labels(labels), spoiled[0])


def _unfit(found: Unfit | None, binding: str = "") -> _Answer | None:
    if found is None:
        return None
    return _hold(found.reason, found.explanation, found.settle, binding)


def _harm_is_not_proven(case: _Case) -> _Answer | None:
    status = case.status
    if status is None or not status.rollback:
        return None
    by_name = {evidence.name: evidence for evidence in case.evidence}
    named = [by_name[name] for name in status.culprits if name in by_name]
    if named:
        what = "; ".join(beyond(case.policy, evidence) for evidence in named[:3])
        explanation = f"The candidate is proven worse than the policy tolerates: {what}."
        binding = named[0].name
    else:
        binding = status.shares[0][0] if status.shares else ""
        explanation = (
            "The guardrails together prove harm, though none does by itself; "
            f"the largest part of the evidence comes from '{binding}'."
        )
    return _Answer(
        decision=Decision.ROLLBACK,
        reason="guardrail_failed",
        explanation=(
            f"{explanation} A candidate within all margins is rejected like this with a "
            f"probability of at most {status.alpha_rollback:.2g}."
        ),
        next="The baseline stays. Read the findings for the cause before the next version.",
        binding=binding,
    )


def _parity_is_whole(case: _Case) -> _Answer | None:
    """A parity guardrail speaks about everything that the baseline declares, or it proves nothing."""
    facts = case.facts
    for scope, lost in (
        (Scope.OUTPUTS, facts.outputs_not_compared),
        (Scope.FEATURES, facts.features_not_compared),
    ):
        users = [g.name for g in _gating(case) if g.scope is scope]
        if not users or not lost:
            continue
        return _hold(
            f"{scope.value}_not_compared",
            f"{sentence_about_uncovered(scope, lost)} What changed there would not show, so "
            f"{_list(users)} is not proven; harm is not proven either on what was compared.",
            COVER[scope],
            users[0],
        )
    return None


def _windows_are_filled(case: _Case) -> _Answer | None:
    present = {window.name: window for window in case.facts.windows}
    needed = dict.fromkeys(guardrail.window.value for guardrail in _gating(case))
    for name in needed:
        window = present.get(
            name, WindowFacts(name=name, selected=0, judged=0, min_requests=1, reason="not built")
        )
        users = [g.name for g in _gating(case) if g.window.value == name]
        why = f" ({window.reason})" if window.reason else ""
        settle = (
            f"Record more traffic{' and import its labels' if name == 'matured' else ''}, "
            f"or drop what needs this window: {_list(users)}."
        )
        if window.judged <= 0:
            return _hold(
                "empty_window",
                f"The {name} window holds nothing to judge{why}, and {_list(users)} needs it.",
                settle,
                users[0],
            )
        if window.judged < window.min_requests:
            missing = window.min_requests - window.judged
            return _hold(
                "too_few_requests",
                f"The {name} window gave {counted(window.judged)} to judge{why}; "
                f"the policy asks for at least {window.min_requests:,}.",
                f"{missing:,} more are needed. {settle}",
                users[0],
            )
    return None


def _run_is_whole(case: _Case) -> _Answer | None:
    if case.facts.interrupted:
        return _hold(
            "interrupted",
            "The run was interrupted before it had an answer.",
            "Resume it: the evidence so far is kept.",
        )
    if case.facts.legs_ended_early:
        legs = "; ".join(f"{leg}: {why}" for leg, why in case.facts.legs_ended_early)
        return _hold(
            "leg_ended_early",
            f"A pass through a version ended before its time ({legs}), so evidence is missing.",
            "Remove the cause and run the gate again.",
        )
    return None


def _candidate_is_steady(case: _Case) -> _Answer | None:
    """Answers of a second try prove nothing about a process that does not always reach them.

    No cap: how often it would fail in production cannot be told from the few processes of a replay.
    """
    count = case.facts.candidate_flaky
    if not count:
        return None
    return _hold(
        "flaky_candidate",
        f"{count:,} {'batch' if count == 1 else 'batches'} failed in the candidate's process and passed "
        "unchanged in a fresh one. The answers are good, but in production there is no second try.",
        "Find out why the process failed (finding candidate_flaky): repair the candidate, or the machine "
        "when it is to blame, and run the gate again.",
    )


def _slices_are_sound(case: _Case) -> _Answer | None:
    """A small slice may not hide harm that it proves all the same."""
    found = harm_in_small_slices(case.policy, case.evidence)
    return _unfit(*found) if found else None


def _everything_is_proven(case: _Case) -> _Answer | None:
    gating = [evidence for evidence in case.evidence if evidence.gating]
    proven = {evidence.guardrail for evidence in gating if not evidence.slice}
    wanted = {guardrail.name for guardrail in _gating(case)}
    whole = (
        case.status is not None
        and case.status.promote_ready
        and bool(wanted)
        and wanted <= proven
        and all(e.verdict is Verdict.PASS and e.n > e.n_failed for e in gating)
    )
    if not whole or case.status is None:
        return None
    lacking = too_much_without_claim(case.policy, case.facts)
    if lacking is not None:
        return _unfit(*lacking)
    tightest = min(gating, key=lambda evidence: evidence.e_promote)
    n_slices = sum(bool(evidence.slice) for evidence in gating)
    slices = f" and {n_slices} slice test{'' if n_slices == 1 else 's'}" if n_slices else ""
    approval = case.policy.approval
    return _Answer(
        decision=Decision.PROMOTE,
        reason="all_guardrails_pass",
        explanation=(
            f"{_all(len(wanted))}{slices} {'is' if len(wanted) == 1 and not n_slices else 'are'} "
            f"proven within {'its margin' if len(wanted) == 1 and not n_slices else 'their margins'} "
            f"on {_judged(case)}.{_unclaimed(case)} "
            "A candidate beyond any of them passes with a probability of at most "
            f"{case.status.alpha_promote:.2g}."
        ),
        next=(
            f"Approval is required: {approval.approvers} within "
            f"{approval.expires_s / 3600.0:g} h, bound to this evidence."
            if approval.required
            else "Move the alias to the candidate."
        ),
        binding=tightest.name,
    )


def _not_enough(case: _Case) -> _Answer:
    without = [e for e in case.evidence if e.gating and not e.n]
    names = {e.guardrail for e in case.evidence if e.gating and not e.slice}
    missing = [g.name for g in _gating(case) if g.name not in names]
    if without or missing or case.status is None:
        bare = [e.name for e in without] + missing
        return _hold(
            "no_data",
            f"Nothing could be measured for {_list(bare) if bare else 'any guardrail'}, "
            "and no data is no proof.",
            "Find out why (findings, what was not compared), or drop the guardrail.",
            bare[0] if bare else "",
        )
    found = farthest(case.evidence, case.status)
    text = words(found) if found else "Read further looks: the tests disagree at this one."
    if case.facts.exhausted and found and found.more > 0.0:
        full = any(w.selected >= case.policy.windows.max_requests for w in case.facts.windows)
        how = "raise windows.max_requests" if full else "record more traffic"
        text += f" All selected traffic has been read: {how}, or reconsider the margin."
    return _hold(
        "not_enough_evidence",
        f"Neither harm nor harmlessness is proven on {_judged(case)}. The baseline stays for now.",
        text,
        found.evidence.name if found else "",
    )


_RULES: tuple[Callable[[_Case], _Answer | None], ...] = (
    _baseline_loads,
    _candidate_loads,
    _anchor_loads,
    _baseline_is_golden,
    _candidate_is_golden,
    _candidate_answers,
    _traffic_is_whole,
    _replay_is_faithful,
    _floor_is_below,
    _labels_are_whole,
    _harm_is_not_proven,
    _parity_is_whole,
    _run_is_whole,
    _candidate_is_steady,
    _windows_are_filled,
    _slices_are_sound,
    _everything_is_proven,
    _not_enough,
)


def _hold(reason: str, explanation: str, settle: str, binding: str = "") -> _Answer:
    return _Answer(
        decision=Decision.HOLD,
        reason=reason,
        explanation=explanation,
        next=settle,
        binding=binding,
    )


def _all(n: int) -> str:
    return "The one deciding guardrail" if n == 1 else f"All {n} deciding guardrails"


def _unclaimed(case: _Case) -> str:
    """The largest share of the traffic that a promotion is silent about; "" when there is none."""
    found = largest_without_claim(case.facts)
    if found is None:
        return ""
    return f" No claim is made of {found.share:.1%} of them, whose {found.column} is too rare."


def _gating(case: _Case) -> list[Guardrail]:
    return [guardrail for guardrail in case.policy.guardrails if guardrail.gating]


def _judged(case: _Case) -> str:
    """What was judged, by its own name; in windows that share requests, each window's."""
    windows = case.facts.windows
    if len(windows) == 1:
        return judged_as(case.policy, windows[0].judged)
    return " and ".join(f"{counted(w.judged)} of the {w.name} window" for w in windows) or "nothing"


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)

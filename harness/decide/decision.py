"""Facts and evidence → the decision, its reason, and what would settle a HOLD.

Rules are asked in order; the first that answers decides. Everything that makes evidence unfit comes
before the evidence, and only a complete proof promotes: a missing window, a missing guardrail or a
guardrail without data is a HOLD, whatever else holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.core.counted import counted
from harness.core.policies import Claim, Policy, WindowName
from harness.core.verdicts import Decision, DecisionRecord, Evidence, Status, Verdict
from harness.decide.coverage import next_without_data
from harness.decide.crossed import beyond, judged_as
from harness.decide.facts import Facts, WindowFacts
from harness.decide.fitness import (
    Answer,
    Case,
    anchor_answers,
    anchor_is_golden,
    baseline_answers,
    baseline_is_golden,
    candidate_answers,
    candidate_answers_the_sample,
    candidate_is_golden,
    candidate_is_steady,
    floor_is_below,
    gating,
    hold,
    labels_are_whole,
    legs_ran_through,
    listed,
    parity_is_whole,
    probes_change_nothing,
    replay_is_faithful,
    run_is_whole,
    said_of_early_ends,
    shapes_are_kept,
    traffic_is_whole,
    unfit,
)
from harness.decide.forecast import farthest, of_a_sample, sample_words, words
from harness.decide.loading import anchor_loads, baseline_loads, candidate_loads
from harness.decide.slices import (
    harm_in_small_slices,
    largest_without_claim,
    too_much_without_claim,
)

SOUND_HOLDS = frozenset({"empty_window", "too_few_requests", "not_enough_evidence"})
"""Reasons of a HOLD whose evidence is sound and merely too little: a later run may go on from it."""

_LEAST_SHOWN = 3
"""Guardrails that measured fewer requests than were judged, named."""


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
    case = Case(policy=policy, status=status, evidence=evidence, facts=facts)
    answer = next(found for rule in _RULES if (found := rule(case)) is not None)
    alphas = (
        (policy.alpha_promote, policy.alpha_rollback)
        if status is None
        else (status.alpha_promote, status.alpha_rollback)
    )
    return DecisionRecord(
        decision=answer.decision,
        reason=answer.reason,
        explanation=_whole(answer, facts),
        binding_guardrail=answer.binding,
        next=answer.next,
        n_requests=sum(window.judged for window in facts.windows),
        n_window=sum(window.selected for window in facts.windows),
        alpha={"promote": alphas[0], "rollback": alphas[1]},
        attempt=facts.attempt,
        not_compared=facts.not_compared,
    )


def _whole(answer: Answer, facts: Facts) -> str:
    """The explanation; of a HOLD also which passes ended before their time, whatever its reason is."""
    early = said_of_early_ends(facts)
    told = answer.decision is not Decision.HOLD or early in answer.explanation
    return answer.explanation if told else f"{answer.explanation} {early}"


def _harm_is_not_proven(case: Case) -> Answer | None:
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
    return Answer(
        decision=Decision.ROLLBACK,
        reason="guardrail_failed",
        explanation=(
            f"{explanation} A candidate within all margins is rejected like this with a "
            f"probability of at most {status.alpha_rollback:.2g}."
        ),
        next="The baseline stays. Read the findings for the cause before the next version.",
        binding=binding,
    )


def _windows_are_filled(case: Case) -> Answer | None:
    present = {window.name: window for window in case.facts.windows}
    needed = dict.fromkeys(guardrail.window.value for guardrail in gating(case))
    for name in needed:
        window = present.get(
            name, WindowFacts(name=name, selected=0, judged=0, min_requests=1, reason="not built")
        )
        users = [g.name for g in gating(case) if g.window.value == name]
        why = f" ({window.reason})" if window.reason else ""
        settle = (
            f"Record more traffic{' and import its labels' if name == 'matured' else ''}, "
            f"or drop what needs this window: {listed(users)}."
        )
        judged = (
            judged_as(case.policy, window.judged) if _of_a_table(window) else counted(window.judged)
        )
        if window.judged < window.min_requests <= window.judged + window.planning:
            return hold(
                "too_few_requests" if window.judged else "empty_window",
                f"The {name} window gave {judged} to judge; the policy asks for at least "
                f"{window.min_requests:,}. {counted(window.planning)} only planned the bets.",
                "Lower windows.planning, or raise windows.max_requests.",
                users[0],
            )
        if window.judged < window.min_requests and _units_are_too_large(case, window):
            return hold(
                "too_few_requests" if window.judged else "empty_window",
                f"The {name} window gave {judged} to judge; the policy asks for at least "
                f"{window.min_requests:,}. The next unit of {case.policy.unit} holds more than the "
                f"{case.policy.windows.max_requests:,} of windows.max_requests leave, and units are not cut.",
                "Raise windows.max_requests, or choose a smaller unit.",
                users[0],
            )
        if window.judged <= 0:
            return hold(
                "empty_window",
                f"The {name} window holds nothing to judge{why}, which {listed(users)} would read.",
                settle,
                users[0],
            )
        if window.judged < window.min_requests:
            missing = window.min_requests - window.judged
            return hold(
                "too_few_requests",
                f"The {name} window gave {judged} to judge{why}; "
                f"the policy asks for at least {window.min_requests:,}.",
                f"{missing:,} more are needed. {settle}",
                users[0],
            )
    return None


def _units_are_too_large(case: Case, window: WindowFacts) -> bool:
    """Whether whole units, not the traffic, are what left too little to judge."""
    limit = case.policy.windows.max_requests
    return bool(case.policy.unit) and not _of_a_table(window) and window.selected > limit


def _of_a_table(window: WindowFacts) -> bool:
    return window.name == WindowName.TABLE.value


def _slices_are_sound(case: Case) -> Answer | None:
    """A small slice may not hide harm that it proves all the same."""
    found = harm_in_small_slices(case.policy, case.evidence)
    return unfit(*found) if found else None


def _everything_is_proven(case: Case) -> Answer | None:
    deciding = [evidence for evidence in case.evidence if evidence.gating]
    proven = {evidence.guardrail for evidence in deciding if not evidence.slice}
    wanted = {guardrail.name for guardrail in gating(case)}
    whole = (
        case.status is not None
        and case.status.promote_ready
        and bool(wanted)
        and wanted <= proven
        and all(e.verdict is Verdict.PASS and e.n > e.n_failed for e in deciding)
    )
    if not whole or case.status is None:
        return None
    lacking = too_much_without_claim(case.policy, case.facts)
    if lacking is not None:
        return unfit(*lacking)
    tightest = min(deciding, key=lambda evidence: evidence.e_promote)
    n_slices = sum(bool(evidence.slice) for evidence in deciding)
    slices = f" and {n_slices} slice test{'' if n_slices == 1 else 's'}" if n_slices else ""
    approval = case.policy.approval
    return Answer(
        decision=Decision.PROMOTE,
        reason="all_guardrails_pass",
        explanation=(
            f"{_all(len(wanted))}{slices} {'is' if len(wanted) == 1 and not n_slices else 'are'} "
            f"proven within {'its margin' if len(wanted) == 1 and not n_slices else 'their margins'} "
            f"on {_measured(case, deciding)}.{_unclaimed(case)} "
            f"A candidate beyond {'it' if len(wanted) == 1 and not n_slices else 'any of them'} passes "
            f"with a probability of at most {case.status.alpha_promote:.2g}."
        ),
        next=(
            f"Approval is required: {approval.approvers} within "
            f"{approval.expires_s / 3600.0:g} h, bound to this evidence."
            if approval.required
            else "Move the alias to the candidate."
        ),
        binding=tightest.name,
    )


def _not_enough(case: Case) -> Answer:
    without = [e for e in case.evidence if e.gating and not e.n]
    names = {e.guardrail for e in case.evidence if e.gating and not e.slice}
    missing = [g.name for g in gating(case) if g.name not in names]
    if without or missing or case.status is None:
        bare = [e.name for e in without] + missing
        emptied = {e.guardrail for e in without} | {*missing}
        return hold(
            "no_data",
            f"Nothing could be measured for {listed(bare) if bare else 'any guardrail'}, "
            "and no data is no proof.",
            next_without_data([g for g in gating(case) if g.name in emptied]),
            bare[0] if bare else "",
        )
    found = farthest(case.evidence, case.status)
    text = words(found) if found else "Read further looks: the tests disagree at this one."
    if found and found.more > 0.0 and of_a_sample(found):
        newest = (w.selected for w in case.facts.windows if w.name == WindowName.NEWEST)
        text += f" {sample_words(found, case.policy, sum(newest))}"
    elif found and found.more > 0.0 and case.facts.exhausted:
        text += f" {_what_is_left(case)}"
    return hold(
        "not_enough_evidence",
        f"Neither harm nor harmlessness is proven on {_measured(case, case.evidence)}. The baseline stays for now.",
        text,
        found.evidence.name if found else "",
    )


def _what_is_left(case: Case) -> str:
    """What to do where a run has read all that it may."""
    policy = case.policy
    unread = [
        w for w in case.facts.windows if not _of_a_table(w) and w.judged + w.planning < w.selected
    ]
    if not unread:
        what = (
            "All rows have"
            if any(map(_of_a_table, case.facts.windows))
            else "All selected traffic has"
        )
        return f"{what} been read: record more, or reconsider the margin."
    limit = f"windows.max_requests ({policy.windows.max_requests:,})"
    read = ", ".join(f"{w.judged:,} of {w.selected:,} selected requests" for w in unread)
    if policy.claim is Claim.PROCESS and not policy.unit:
        how = (
            "gate again, which goes on from this evidence with others; another limit is another policy "
            "and begins without it"
        )
    else:
        how = "raise it: that is another policy, judged anew"
    return f"{read} were judged, as {limit} allows: {how}."


_RULES: tuple[Callable[[Case], Answer | None], ...] = (
    baseline_loads,
    candidate_loads,
    anchor_loads,
    baseline_is_golden,
    candidate_is_golden,
    anchor_is_golden,
    candidate_answers,
    traffic_is_whole,
    replay_is_faithful,
    probes_change_nothing,
    floor_is_below,
    labels_are_whole,
    _harm_is_not_proven,
    parity_is_whole,
    run_is_whole,
    shapes_are_kept,
    candidate_answers_the_sample,
    candidate_is_steady,
    baseline_answers,
    legs_ran_through,
    _windows_are_filled,
    _slices_are_sound,
    anchor_answers,
    _everything_is_proven,
    _not_enough,
)


def _all(n: int) -> str:
    return "The one deciding guardrail" if n == 1 else f"All {n} deciding guardrails"


def _unclaimed(case: Case) -> str:
    """The largest share of the traffic that a promotion is silent about; "" when there is none."""
    found = largest_without_claim(case.facts)
    if found is None:
        return ""
    return f" No claim is made of {found.share:.1%} of them, whose {found.column} is too rare."


def _measured(case: Case, evidence: Sequence[Evidence]) -> str:
    """What was judged, and which deciding guardrails measured less of it: claims are about what they measured."""
    judged = {window.name: window.judged for window in case.facts.windows}
    whole = [e for e in evidence if e.gating and not e.slice]
    fewer = [
        e for e in whole if e.window not in judged or case.policy.unit or e.n < judged[e.window]
    ]
    if len(whole) == 1 and fewer:
        if case.policy.unit:
            return f"{judged_as(case.policy, fewer[0].n)}, from {_judged(case)}"
        return f"{fewer[0].n:,} of {_judged(case)}"
    shown = [
        f"'{e.name}' on {judged_as(case.policy, e.n)}"
        for e in sorted(fewer, key=lambda e: e.n)[:_LEAST_SHOWN]
    ]
    more = f", and {len(fewer) - _LEAST_SHOWN} more on fewer" if len(fewer) > _LEAST_SHOWN else ""
    return _judged(case) + (f" ({', '.join(shown)}{more})" if shown else "")


def _judged(case: Case) -> str:
    """What was judged, by its own name; in windows that share requests, each window's."""
    windows = case.facts.windows
    if len(windows) == 1 and _of_a_table(windows[0]):
        return judged_as(case.policy, windows[0].judged)
    unit = f", each unit of {case.policy.unit} once" if case.policy.unit else ""
    parts = [
        counted(w.judged) + (f" of the {w.name} window" if len(windows) > 1 else "")
        for w in windows
    ]
    return (" and ".join(parts) or "nothing") + unit

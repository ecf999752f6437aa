"""What the graphs say about a difference, in words: where they part, what differs just before, what feeding proved."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.diff.changes import (
    Cause,
    Change,
    ChangeKind,
    Divergence,
    is_bound,
    is_one_number,
)
from harness.diff.floor import ROUNDED
from harness.diff.graph_match import Tier
from harness.diff.graph_report import (
    FirstDivergence,
    GraphReport,
    PatchProof,
    TensorState,
    TensorVerdict,
)


def findings_from_graph(report: GraphReport, *, answers_differ: bool) -> list[Finding]:
    """What the graphs say about a difference of the answers.

    Args:
      report: of the pass with graph optimisation off.
      answers_differ: whether the answers differ as production computes them.
    """
    features = (s for s in report.states if s.tier == Tier.DECLARED)
    parted = answers_differ or any(s.verdict is TensorVerdict.DIFFERS for s in features)
    found = [_unlike_here(report)] if _agree(report, answers_differ) else []
    found += [
        _first(report, d, parted=parted, agree=not answers_differ) for d in report.divergences
    ]
    if report.risen:
        found.append(_risen(report))
    if report.later:
        found.append(_later(report.later, parted=parted))
    # Where chance is in the graphs, it is the nearer cause of answers that differ.
    known = report.compared and report.outputs_compared and not report.random
    if answers_differ and not report.outputs_differ and known:
        found.append(
            Finding(
                kind="optimiser_or_runtime", severity=Severity.WARNING, where="runtime",
                what="the answers differ only with graph optimisation on: in "
                f"{report.requests:,} traced requests all outputs are equal without it",
                remedy="Compare the runtimes and their options, not the models.",
            )
        )  # fmt: skip
    return found


def _risen(report: GraphReport) -> Finding:
    """Places that no first difference is at, in one."""
    names = report.risen
    which = names[0] if len(names) == 1 else f"first {names[0]}, last {names[-1]}"
    return Finding(
        kind="risen_difference", severity=Severity.INFO, where=names[0],
        what=f"at {counted(len(names), 'further place')} ({which}) a difference that sank under the tolerance rises above "
        "it again: since the differing tensors before, both versions compute the same with the same constants",
        remedy="Look at the first differences: these follow from them.",
    )  # fmt: skip


def _agree(report: GraphReport, answers_differ: bool) -> bool:
    """Whether outputs differ in this pass alone."""
    return bool(not answers_differ and report.outputs_compared and report.differing_outputs)


def _unlike_here(report: GraphReport) -> Finding:
    """Outputs whose differences in this pass are none of the answers."""
    names = report.differing_outputs
    far = max(s.relative for s in report.states if s.baseline in names)
    return Finding(
        kind="outputs_agree", severity=Severity.INFO if far <= ROUNDED else Severity.WARNING, where=names[0],
        what="all outputs that were compared are equal as production computes them, so that nothing told of the "
        f"graphs is the cause of another answer: without graph optimisation, and with each batch measured by itself, "
        f"{_some(names)} differ{'s' if len(names) == 1 else ''} by up to {far:.2g} of the scale",
        remedy="Nothing is to be mended for these requests; more of them show whether the outputs stay equal.",
    )  # fmt: skip


def _later(changes: Sequence[Change], *, parted: bool) -> Finding:
    """What feeding the first differences says nothing about."""
    refitted = all(c.kind is ChangeKind.WEIGHTS for c in changes)
    return Finding(
        kind="later_difference", severity=Severity.WARNING, where=changes[0].node.partition(" → ")[2],
        what=f"after the first differences the graphs differ, too: {_told(changes)}",
        remedy=_ONE_NUMBER if refitted else _REMEDIES[Cause.GRAPH] if parted else _MEANT,
    )  # fmt: skip


def told(divergence: Divergence) -> str:
    """What differs in a region, in words."""
    return _told(divergence.changes)


def _told(changes: Sequence[Change]) -> str:
    shown = [_change(c) for c in changes[:_TOLD]]
    more = len(changes) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _first(report: GraphReport, first: FirstDivergence, *, parted: bool, agree: bool) -> Finding:
    d = first.divergence
    state = next(s for s in report.states if s.baseline == d.baseline)
    after = f"equal up to {_some(d.last_equal)}" if d.last_equal else "nothing before it to compare"
    named = d.baseline if d.baseline == d.candidate else f"{d.baseline} (now {d.candidate})"
    rounding = report.rearranged and state.by_order and d.cause is not Cause.NONDETERMINISTIC
    harmless = report.outputs_compared and (agree or not report.outputs_differ)
    # Graphs that come to the same answers and features do not part, whatever they make on the way.
    place = "the graphs part" if parted else "other values on the way,"
    parts = [
        f"{place} at {named}: {_how_many(report, state)}, {after}",
        *([first.relation] if first.relation else []),
        *_differing(report, state, d, harmless=harmless),
    ]
    if not harmless:
        whole = "nothing after it differs" if is_unsure(report, state, d) else _WHOLE
        parts += _proven(report, first, mended=whole)
    emptied = any(map(_became_zero, d.changes))
    refitted = d.cause is Cause.WEIGHTS and not emptied
    if harmless:
        parts.append("the outputs agree all the same")
    elif not report.outputs_differ:
        parts.append("what it does to outputs that were not compared is not known")
    return Finding(
        kind=f"first_divergence_{d.cause.value}",
        severity=Severity.INFO if harmless or refitted else Severity.WARNING,
        where=d.baseline,
        what="; ".join(parts),
        remedy=_ROUNDED
        if rounding
        else _EMPTIED
        if emptied
        else _TAKEN_BACK
        if harmless and report.rearranged and refitted
        else _ONE_NUMBER
        if refitted and _is_plain(first)
        else _MEANT
        if d.cause is Cause.GRAPH and not parted
        else _REMEDIES[d.cause],
        requests=first.requests,
    )


def _how_many(report: GraphReport, state: TensorState) -> str:
    """Of how many rows how many differ; of batches where a tensor's first axis is something else."""
    found = f"{state.differing:,} of {state.rows:,} {state.unit} differ"
    if not state.by_batch:
        return found
    requests = counted(report.requests, "request")
    return f"{found} (of {requests} in all; which of them, its first axis does not say)"


def _differing(
    report: GraphReport, state: TensorState, d: Divergence, *, harmless: bool
) -> list[str]:
    """What differs before a first difference; of numbers in another arrangement, how far their order goes."""
    if not d.changes:
        return [_WORDS[d.cause]]
    weights = any(c.kind is ChangeKind.WEIGHTS for c in d.changes)
    where = "before that, where it stays within the tolerance: " if d.farther else ""
    if not report.rearranged or not (weights or state.by_order):
        return [f"{where}{told(d)}"]
    how = "in another arrangement"
    if d.cause is Cause.WEIGHTS:
        how = "in other places"
        # Where the outputs agree, something after it does, as the names of a ZipMap.
        how += "" if harmless else ", and no operator here picks them in another order"
    changes = _some([_without_numbers(c) for c in d.changes])
    said = [f"both versions hold the same numbers {how} ({where}{changes})"]
    if not state.ordered:
        return [*said, "how far the order of sums moves these was not measured"]
    much = "rounding may be all of it" if state.by_order else "more than rounding explains"
    moved = f"sums in other orders move the baseline's own values by up to {state.ordered:.2g} of their scale"
    return [*said, f"{moved}, and these are apart by up to {state.relative:.2g}: {much}"]


def is_unsure(report: GraphReport, state: TensorState, d: Divergence) -> bool:
    """Whether another order of the same sums may be all that is between the versions, or lies elsewhere."""
    weights = any(c.kind is ChangeKind.WEIGHTS for c in d.changes)
    return report.rearranged and (state.by_order or (weights and (d.farther or not state.ordered)))


def _without_numbers(change: Change) -> str:
    """A change of an arrangement; which numbers stand first says nothing."""
    if change.kind in (ChangeKind.WEIGHTS, ChangeKind.CONSTANT):
        return f"{change.name} of {change.node}"
    return _change(change)


def _proven(report: GraphReport, first: FirstDivergence, *, mended: str) -> list[str]:
    """What feeding showed of one tensor of the frontier: by itself, and with all others.

    Args:
      report: of the pass.
      first: the tensor.
      mended: what it means that no row differs then.
    """
    if first.is_output:
        return ["it is an output itself, so nothing comes after it"]
    if first.unfed:
        return [f"not proven by patching: {first.unfed}"]
    unfed = sum(bool(d.unfed) and not d.is_output for d in report.divergences)
    alone = {proof.output: proof for proof in first.proofs}
    said: list[str] = []
    together = False
    for joint in report.proofs[:_TOLD]:
        own = alone.get(joint.output) or (joint if len(joint.tensors) == 1 else None)
        if own is not None and own.restored:
            said.append(
                f"with the baseline's values fed in there, {own.output} is equal in "
                f"{_every(own)}: {mended}"
            )
        elif len(joint.tensors) > 1:
            said.append(_fed_together(first, joint, own, unfed, again=together))
            together = True
        else:
            said.append(_fed_alone(joint, unfed))
    return said


def _fed_alone(proof: PatchProof, unfed: int) -> str:
    """The only tensor that was fed, and an output that it does not mend wholly."""
    if proof.after < proof.before:
        why = _not_fed(unfed) or "there is another cause"
        return (
            f"with the baseline's values fed in there, {proof.after:,} instead of "
            f"{proof.before:,} {proof.unit} of {proof.output} differ: {why}"
        )
    why = _not_fed(unfed) or "what comes after differs, too"
    if proof.after > proof.before:
        return (
            f"with the baseline's values fed in there, {proof.after:,} {proof.unit} of {proof.output} differ "
            f"instead of {proof.before:,}: {why}"
        )
    return f"feeding the baseline's values in there does not mend {proof.output}: {why}"


def _fed_together(
    first: FirstDivergence, joint: PatchProof, own: PatchProof | None, unfed: int, *, again: bool
) -> str:
    """The proof of several tensors: told once, with the first of them; then by what each does alone.

    Args:
      first: the tensor that is spoken of.
      joint: all fed at once.
      own: this one fed alone; None = it was not tried.
      unfed: first differences that were not fed.
      again: another output of the same proof was told just before.
    """
    alone = "which of them matter was not tried one by one" if own is None else _alone(own)
    if first.divergence.baseline != joint.tensors[0]:
        return _told_before(joint, own, unfed)
    others = [name for name in joint.tensors if name != first.divergence.baseline]
    with_them = f"with the baseline's values fed in there and at {_some(others)} together"
    if again:
        with_them = "fed in the same way"
    if joint.restored:
        return (
            f"{with_them}, {joint.output} is equal in {_every(joint)}: together these are "
            f"the whole cause ({alone})"
        )
    why = _not_fed(unfed) or "there is another cause"
    return (
        f"{with_them}, {joint.after:,} instead of {joint.before:,} {joint.unit} of {joint.output} differ: "
        f"{why} ({alone})"
    )


def _alone(own: PatchProof) -> str:
    """What one tensor does alone: rows that it does not mend, or new ones that it makes differ."""
    if own.after > own.before:
        return f"fed there alone, {own.after:,} {own.unit} differ instead of {own.before:,}"
    return f"fed there alone, {own.after:,} of {own.before:,} differing {own.unit} still differ"


def _told_before(joint: PatchProof, own: PatchProof | None, unfed: int) -> str:
    """The same proof as that of the first tensor that was fed, which tells it."""
    outcome = f"{joint.output} is equal" if joint.restored else f"{joint.output} still differs"
    why = "" if joint.restored else f": {_not_fed(unfed) or 'there is another cause'}"
    alone = "" if own is None else f" ({_alone(own)})"
    # Two are told by each other's names.
    others = " and the others told there" if len(joint.tensors) > _TWO else ""
    return f"fed together with {joint.tensors[0]}{others}, {outcome}{why}{alone}"


def _every(proof: PatchProof) -> str:
    only = "its only batch" if proof.by_batch else "its only row"
    return f"all {proof.rows:,} {proof.unit}" if proof.rows != 1 else only


def _not_fed(count: int) -> str:
    """Why a proof is not complete; "" = it is."""
    if not count:
        return ""
    return f"{count:,} other first difference{'s were' if count > 1 else ' was'} not fed"


def _is_plain(first: FirstDivergence) -> bool:
    """Whether weights that changed may be a unit, an offset or a threshold rather than what training fits."""
    changes = first.divergence.changes
    numbers = all(is_one_number(c.baseline) for c in changes)
    return bool(first.relation or numbers or any(map(is_bound, changes)))


def _became_zero(change: Change) -> bool:
    """Whether several numbers that were none became 0, as far as the text shows them."""
    if change.kind is not ChangeKind.WEIGHTS:
        return False
    before, after = _numbers(change.baseline), _numbers(change.candidate)
    return len(after) >= _SEVERAL and not any(after) and all(before)


def _numbers(text: str) -> list[float]:
    """Of a constant's text, `float[3] [1, 2, 3]`, without one that is cut off."""
    values, cut, _ = text.rpartition("[")[2].rstrip("]").partition("…")
    parts = values.split(", ")[: -1 if cut else None]
    try:
        return [float(part) for part in parts]
    except ValueError:
        return []


def _change(change: Change) -> str:
    match change.kind:
        case ChangeKind.OPERATOR:
            return f"{change.node} is made by {change.candidate}"
        case ChangeKind.ATTRIBUTE | ChangeKind.CONSTANT | ChangeKind.WEIGHTS | ChangeKind.OPSET:
            return _other_value(change)
        case ChangeKind.INPUTS:
            before, after = change.baseline or "nothing", change.candidate or "nothing"
            other = ", and the candidate's is another tensor or in another place"
            return f"{change.node} reads {after}" + (
                other if before == after else f" instead of {before}"
            )
        case ChangeKind.REPLACED:
            be = "are" if ", " in change.baseline else "is"
            return f"{change.node} {be} replaced by {change.candidate}"
        case ChangeKind.ADDED:
            return f"{change.node} is new"
        case ChangeKind.REMOVED:
            return f"{change.node} is gone"


def _other_value(change: Change) -> str:
    """An attribute, a constant or an opset, old → new."""
    alone = change.kind is ChangeKind.WEIGHTS and is_one_number(change.baseline)
    word = "constant" if alone else change.kind.value
    before, after = change.baseline or "absent", change.candidate or "absent"
    if before == after:
        return f"{word} {change.name} of {change.node} has other values ({after})"
    return f"{word} {change.name} of {change.node}: {before} → {after}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_TOLD])
    return shown if len(names) <= _TOLD else f"{shown} and {len(names) - _TOLD} more"


_WHOLE = "this is the whole cause"
_TOLD = 3
_TWO = 2
_SEVERAL = 3
"""Numbers that no fit makes 0 together."""

_WORDS = {
    Cause.RUNTIME: "the same operators on the same constants give other values",
    Cause.NONDETERMINISTIC: "the baseline itself differs there from run to run",
    Cause.WEIGHTS: "constants differ",
    Cause.GRAPH: "the operators differ",
}


_ONE_NUMBER = (
    "A retrain may refit a number like this; where it is a unit, an offset or a threshold, both versions "
    "should hold the same one."
)


_ROUNDED = (
    "Where large terms nearly cancel, float32 keeps few digits in any order: take what is large off before the sum, or "
    "compute it in float64. It stays a difference, as nothing shows that no numbers changed places."
)


_TAKEN_BACK = "Nothing to do: the outputs agree, so that what comes after takes these numbers in their new places."


_EMPTIED = "No fit makes them all 0: check that what was fitted was shipped with the model, and not its default."


_MEANT = "Where this step is meant to be written otherwise, as a fusion writes it, there is nothing to mend."


_REMEDIES = {
    Cause.RUNTIME: "Compare the runtimes: version, build and machine.",
    Cause.NONDETERMINISTIC: "Fix the seed or take the random operator out before comparing versions.",
    Cause.WEIGHTS: "A retrain changes constants like these, and its loss judges them; of the same model, "
    "refactored or exported anew, they are equal.",
    Cause.GRAPH: "Compare the step that makes this tensor in both versions' code.",
}

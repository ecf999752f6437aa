"""Where two graphs part, as values that can be saved, and as findings."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.findings import Finding, Severity
from harness.diff.changes import Cause, Change, ChangeKind, Divergence


class TensorVerdict(enum.StrEnum):
    """What became of one tensor of the baseline's graph."""

    EQUAL = "equal"
    """No row beyond its tolerance."""
    DIFFERS = "differs"
    """Some row is."""
    NOT_COMPARED = "not_compared"
    """Without a partner, or without values on both sides. Never parity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorState:
    """One tensor of the baseline's graph."""

    baseline: str
    """Its name."""
    candidate: str
    """Its partner's; "" = it has none."""
    operator: str
    """What makes it."""
    tier: str
    """Why the two stand for each other; "" = they do not."""
    verdict: TensorVerdict
    """What became of it."""
    reads: tuple[str, ...] = ()
    """Inputs and computed tensors that it is made from."""
    rows: int = 0
    """Rows compared; batches where rows are not known."""
    differing: int = 0
    """Of these: beyond the tolerance."""
    relative: float = 0.0
    """Largest difference relative to the scale."""
    absolute: float = 0.0
    """Largest finite difference."""
    floor: float = 0.0
    """The baseline's own, relative to the scale."""
    why: str = ""
    """Why it was not compared, or is unlike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchProof:
    """The candidate with the baseline's values fed in at the frontier."""

    tensors: tuple[str, ...]
    """Baseline's tensors whose values were fed in."""
    output: str
    """Baseline's output that was looked at."""
    rows: int
    """Rows of it; batches where rows are not known."""
    before: int
    """Rows that differed without."""
    after: int
    """Rows that still differ."""

    @property
    def restored(self) -> bool:
        """Whether nothing differs any more: that region is the whole cause."""
        return self.before > 0 and self.after == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstRow:
    """A row in which a tensor of the frontier differs most."""

    request: str
    """Its request's id."""
    inputs: tuple[tuple[str, str], ...]
    """What was asked: (input, value), shortened."""
    baseline: str
    """The tensor's value, shortened."""
    candidate: str
    """Its partner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstDivergence:
    """One tensor of the frontier, with its proof."""

    divergence: Divergence
    """Where, and what differs just before."""
    relation: str
    """How the candidate's values follow from the baseline's, in words; "" = nothing plain."""
    requests: tuple[str, ...]
    """Ids of the first differing requests."""
    proofs: tuple[PatchProof, ...]
    """Feeding this tensor alone, per output that differs."""
    worst: tuple[WorstRow, ...] = ()
    """Rows that differ most, the furthest first; () for tensors without a value a row."""
    unfed: str = ""
    """Why its values were not fed in, as a sentence's end; "" = they were, or no output differs."""
    is_output: bool = False
    """It is an output itself: nothing comes after it that feeding could mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """Two graphs on the same requests."""

    requests: int
    """Requests that were traced."""
    coverage: str
    """How many tensors stand for each other, as told to people."""
    compared: int
    """Tensors of the baseline that were compared."""
    equal: int
    """Of these: equal."""
    tiers: dict[str, int]
    """Tier → tensors."""
    sketched: bool
    """Floats were compared by sketches, and whole only about the frontier."""
    states: tuple[TensorState, ...]
    """In the baseline's topological order."""
    candidate_only: tuple[str, ...]
    """Computed tensors of the candidate without a partner."""
    divergences: tuple[FirstDivergence, ...]
    """The frontier, in topological order."""
    proofs: tuple[PatchProof, ...]
    """Feeding the whole frontier, per output that differs."""
    outputs_differ: bool
    """Whether any output differs in this pass, in which graph optimisation is off."""
    not_compared: tuple[str, ...]
    """What stayed out of sight, as sentences."""
    random: tuple[tuple[str, str], ...] = ()
    """(baseline's tensor, the operator) of matched tensors that are computed from a random operator: no
    two runs agree on these, so they are neither equal nor different."""


def findings_from_graph(report: GraphReport, *, answers_differ: bool) -> list[Finding]:
    """What the graphs say about a difference of the answers.

    Args:
      report: of the pass with graph optimisation off.
      answers_differ: whether the answers differ as production computes them.
    """
    found = [_first(report, d) for d in report.divergences]
    # Where chance is in the graphs, it is the nearer cause of answers that differ.
    if answers_differ and not report.outputs_differ and report.compared and not report.random:
        found.append(
            Finding(
                kind="optimiser_or_runtime", severity=Severity.WARNING, where="runtime",
                what="the answers differ only with graph optimisation on: in "
                f"{report.requests:,} traced requests all outputs are equal without it",
                remedy="Compare the runtimes and their options, not the models.",
            )
        )  # fmt: skip
    return found


def told(divergence: Divergence) -> str:
    """What differs in a region, in words."""
    shown = [_change(c) for c in divergence.changes[:_TOLD]]
    more = len(divergence.changes) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _first(report: GraphReport, first: FirstDivergence) -> Finding:
    d = first.divergence
    state = next(s for s in report.states if s.baseline == d.baseline)
    after = f"equal up to {_some(d.last_equal)}" if d.last_equal else "nothing before it to compare"
    named = d.baseline if d.baseline == d.candidate else f"{d.baseline} (now {d.candidate})"
    parts = [
        f"the graphs part at {named}: {state.differing:,} of {state.rows:,} rows differ, {after}",
        *([first.relation] if first.relation else []),
        *([told(d)] if d.changes else [_WORDS[d.cause]]),
        *_proven(report, first),
    ]
    harmless, refitted = not report.outputs_differ, d.cause is Cause.WEIGHTS
    if harmless:
        parts.append("the outputs agree all the same")
    return Finding(
        kind=f"first_divergence_{d.cause.value}",
        severity=Severity.INFO if harmless or refitted else Severity.WARNING,
        where=d.baseline,
        what="; ".join(parts),
        remedy=_ONE_NUMBER if refitted and first.relation else _REMEDIES[d.cause],
        requests=first.requests,
    )


def _proven(report: GraphReport, first: FirstDivergence) -> list[str]:
    """What feeding showed of one tensor of the frontier: by itself, and with all others."""
    if first.is_output:
        return ["it is an output itself, so nothing comes after it"]
    if first.unfed:
        return [f"not proven by patching: {first.unfed}"]
    unfed = sum(bool(d.unfed) and not d.is_output for d in report.divergences)
    alone = {proof.output: proof for proof in first.proofs}
    said = []
    for joint in report.proofs[:_TOLD]:
        own = alone.get(joint.output) or (joint if len(joint.tensors) == 1 else None)
        if own is not None and own.restored:
            said.append(
                f"with the baseline's values fed in there, {own.output} is equal in "
                f"{_every(own.rows)}: this is the whole cause"
            )
        elif len(joint.tensors) > 1:
            said.append(_fed_together(first, joint, own, unfed))
        else:
            said.append(_fed_alone(joint, unfed))
    return said


def _fed_alone(proof: PatchProof, unfed: int) -> str:
    """The only tensor that was fed, and an output that it does not mend wholly."""
    if proof.after < proof.before:
        why = _not_fed(unfed) or "there is another cause"
        return (
            f"with the baseline's values fed in there, {proof.after:,} instead of "
            f"{proof.before:,} rows of {proof.output} differ: {why}"
        )
    why = _not_fed(unfed) or "what comes after differs, too"
    return f"feeding the baseline's values in there does not mend {proof.output}: {why}"


def _fed_together(
    first: FirstDivergence, joint: PatchProof, own: PatchProof | None, unfed: int
) -> str:
    if own is None and first.divergence.baseline != joint.tensors[0]:
        return _told_before(joint, unfed)
    others = [name for name in joint.tensors if name != first.divergence.baseline]
    with_them = f"with the baseline's values fed in there and at {_some(others)} together"
    alone = (
        "which of them matter was not tried one by one"
        if own is None
        else f"fed there alone, {own.after:,} of {own.before:,} differing rows still differ"
    )
    if joint.restored:
        return (
            f"{with_them}, {joint.output} is equal in {_every(joint.rows)}: together these are "
            f"the whole cause ({alone})"
        )
    why = _not_fed(unfed) or "there is another cause"
    return (
        f"{with_them}, {joint.after:,} instead of {joint.before:,} rows of {joint.output} differ: "
        f"{why} ({alone})"
    )


def _told_before(joint: PatchProof, unfed: int) -> str:
    """The same proof as that of the first tensor that was fed, which tells it."""
    outcome = f"{joint.output} is equal" if joint.restored else f"{joint.output} still differs"
    why = "" if joint.restored else f": {_not_fed(unfed) or 'there is another cause'}"
    return f"fed together with {joint.tensors[0]} and the others told there, {outcome}{why}"


def _every(rows: int) -> str:
    return f"all {rows:,} rows" if rows != 1 else "its only row"


def _not_fed(count: int) -> str:
    """Why a proof is not complete; "" = it is."""
    if not count:
        return ""
    return f"{count:,} other first difference{'s were' if count > 1 else ' was'} not fed"


def _change(change: Change) -> str:
    match change.kind:
        case ChangeKind.OPERATOR:
            return f"{change.node} is made by {change.candidate}"
        case ChangeKind.ATTRIBUTE | ChangeKind.CONSTANT | ChangeKind.WEIGHTS:
            alone = change.kind is ChangeKind.WEIGHTS and _one_number(change.baseline)
            word = "constant" if alone else change.kind.value
            before, after = change.baseline or "absent", change.candidate or "absent"
            if before == after:
                return f"{word} {change.name} of {change.node} has other values ({after})"
            return f"{word} {change.name} of {change.node}: {before} → {after}"
        case ChangeKind.INPUTS:
            before, after = change.baseline or "nothing", change.candidate or "nothing"
            other = ", and the candidate's is another tensor"
            return f"{change.node} reads {after}" + (
                other if before == after else f" instead of {before}"
            )
        case ChangeKind.ADDED:
            return f"{change.node} is new"
        case ChangeKind.REMOVED:
            return f"{change.node} is gone"


def _one_number(text: str) -> bool:
    """Whether a constant's text is of a single number: `float[1, 1] [2]`."""
    shape, _, values = text.partition(" ")
    sizes = shape.partition("[")[2].rstrip("]")
    return bool(values) and "," not in values and sizes.replace("1", "").strip(", ") == ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_TOLD])
    return shown if len(names) <= _TOLD else f"{shown} and {len(names) - _TOLD} more"


_TOLD = 3
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
_REMEDIES = {
    Cause.RUNTIME: "Compare the runtimes: version, build and machine.",
    Cause.NONDETERMINISTIC: "Fix the seed or take the random operator out before comparing versions.",
    Cause.WEIGHTS: "Expected after a retrain; after a mere export these constants should be equal.",
    Cause.GRAPH: "Compare the step that makes this tensor in both versions' code.",
}

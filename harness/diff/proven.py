"""The place in the graphs that is proven to be the whole cause, in one sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.diff.changes import Cause
from harness.diff.graph_findings import is_unsure, told
from harness.diff.graph_report import FirstDivergence, GraphReport, PatchProof


def proven_cause(
    report: GraphReport, *, expected: Collection[str] = (), behind: Collection[str] = ()
) -> str:
    """Where the graphs part and what differs there, if that is proven to be all that lies behind the outputs.

    An output is explained where the baseline's values, fed in at the first differences, mend all of its rows, or
    where it is a first difference itself and what makes it differs. A place that leads to no such output is no cause.

    Args:
      report: of the pass with graph optimisation off.
      expected: baseline's outputs that are meant to change: they neither need a cause nor are one.
      behind: baseline's features that need one, too.

    Returns:
      The sentence without its full stop; "" = some output, or one of these features, has another cause, too, or the
      order of sums may be all.
    """
    ends = [f for f in report.divergences if f.is_output and f.divergence.baseline not in expected]
    own = {f.divergence.baseline for f in ends}
    mended = [p for p in report.proofs if p.output not in own and p.output not in expected]
    if not all(p.restored for p in mended):
        return ""
    outputs = list(dict.fromkeys(p.output for p in mended))
    fed = _fed(report, mended, outputs)
    chosen = [f for f in report.divergences if f in fed or f in ends]
    if not chosen or bool(outputs) != bool(fed) or not all(_is_sure(report, f) for f in chosen):
        return ""
    # Where nothing could be fed, places that are no output may be the cause of others.
    others = () if report.proofs else [f for f in report.divergences if f not in ends]
    unchosen = [f for f in report.divergences if f not in chosen]
    unshown = {name for f in others for name in f.reaches}.difference(own, expected)
    if unshown or not set(behind) <= _from(report, chosen) - _from(report, unchosen):
        return ""
    said = f"{_listed(_names(chosen))}: {'; '.join(map(_differing, chosen))}"
    if not outputs:
        return said
    place = f"at {_listed(_names(fed))}" if ends else "there"
    together = " together" if len(fed) > 1 else ""
    be = "are" if len(outputs) > 1 else "is"
    return f"{said}; with the baseline's values fed in {place}{together}, {_listed(outputs)} {be} equal"


def _fed(
    report: GraphReport, mended: Sequence[PatchProof], outputs: Sequence[str]
) -> list[FirstDivergence]:
    """The first difference that mends all by itself; else all that were fed and lead to what was mended."""
    names = {name for proof in mended for name in proof.tensors}
    fed = [
        f
        for f in report.divergences
        if f.divergence.baseline in names and not set(f.reaches).isdisjoint(outputs)
    ]
    for first in fed:
        if {proof.output for proof in first.proofs if proof.restored} >= set(outputs):
            return [first]
    return fed


def _from(report: GraphReport, chosen: Sequence[FirstDivergence]) -> set[str]:
    """Baseline's tensors of these places, and what it computes from them."""
    found = set(_names(chosen))
    for state in report.states:
        if not found.isdisjoint(state.reads):
            found.add(state.baseline)
    return found


def _names(firsts: Sequence[FirstDivergence]) -> list[str]:
    return [first.divergence.baseline for first in firsts]


def _is_sure(report: GraphReport, first: FirstDivergence) -> bool:
    d = first.divergence
    state = next(s for s in report.states if s.baseline == d.baseline)
    if d.cause is Cause.NONDETERMINISTIC or is_unsure(report, state, d):
        return False
    return bool(d.changes) or not first.is_output


def _differing(first: FirstDivergence) -> str:
    changes = told(first.divergence) or "the same operators on the same constants give other values"
    return f"{first.relation}; {changes}" if first.relation else changes


def _listed(names: Sequence[str]) -> str:
    if len(names) > _TOLD:
        return f"{', '.join(names[:_TOLD])} and {len(names) - _TOLD} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


_TOLD = 3

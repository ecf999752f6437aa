"""The place in the graphs that is proven to be the whole cause, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from harness.diff.changes import Cause
from harness.diff.graph_findings import is_unsure, told
from harness.diff.graph_report import FirstDivergence, GraphReport


def proven_cause(report: GraphReport) -> str:
    """Where the graphs part and what differs there, if that is proven to be all that lies behind the outputs.

    An output is explained where the baseline's values, fed in at the first differences, mend all of its rows, or
    where it is a first difference itself and what makes it differs.

    Args:
      report: of the pass with graph optimisation off.

    Returns:
      The sentence without its full stop; "" = some output has another cause, too, or the order of sums may be all.
    """
    ends = {f.divergence.baseline for f in report.divergences if f.is_output}
    mended = [p for p in report.proofs if p.output not in ends]
    if not (mended or ends) or not all(p.restored for p in mended):
        return ""
    outputs = list(dict.fromkeys(p.output for p in mended))
    chosen = _chosen(report, outputs, ends)
    if not all(_is_sure(report, first) for first in chosen):
        return ""
    places = [first.divergence.baseline for first in chosen]
    fed = ""
    if outputs:
        together = " together" if len(places) > 1 else ""
        fed = (
            f"; with the baseline's values fed in there{together}, {_listed(outputs)} "
            f"{'are' if len(outputs) > 1 else 'is'} equal"
        )
    return f"{_listed(places)}: {'; '.join(map(_differing, chosen))}{fed}"


def _chosen(report: GraphReport, outputs: list[str], ends: set[str]) -> list[FirstDivergence]:
    """The first difference that mends all by itself; else all that were fed, and outputs that are their own."""
    fed = {name for proof in report.proofs for name in proof.tensors}
    for first in report.divergences:
        alone = {proof.output for proof in first.proofs if proof.restored}
        if outputs and not ends and alone >= set(outputs):
            return [first]
    return [f for f in report.divergences if f.divergence.baseline in fed | ends]


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

"""Declared features that no trace returns a row a request of (sequences): the pass through the graphs has them.

It sees fewer requests than the comparison, and each tensor of a batch as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.diff.absences import UNTRACED
from harness.diff.graph_match import Tier
from harness.diff.graph_report import TensorState, TensorVerdict
from harness.pipeline.graph_pass import GraphLook


@dataclass(frozen=True, slots=True, kw_only=True)
class Untraced:
    """What became of them in the graphs."""

    differing: tuple[TensorState, ...] = ()
    """Differ there."""
    equal: tuple[str, ...] = ()
    """Equal in every request that was compared."""
    proven: tuple[str, ...] = ()
    """Equal in the requests that went through the graphs, and in the others by identical nodes."""
    requests: int = 0
    """Requests that went through the graphs."""
    unseen: tuple[str, ...] = ()
    """Not compared, or in some requests only: a sentence each."""

    def findings(self) -> list[Finding]:
        """A warning for each that differs, and a word about those that do not."""
        return [
            Finding(
                kind="feature_changed", severity=Severity.WARNING, where=state.baseline,
                what=f"{state.baseline} differs, as {counted(self.requests)} in the graphs show",
                remedy="Compare how both versions compute it, starting from the first tensor that differs.",
            )
            for state in self.differing
        ] + [
            Finding(
                kind="feature_equal", severity=Severity.INFO, where=name,
                what=f"{name} is equal in the graphs, in all {counted(self.requests)}",
                remedy="Nothing: its values were compared there, where no trace returned them.",
            )
            for name in self.equal
        ] + [
            Finding(
                kind="feature_equal", severity=Severity.INFO, where=name,
                what=f"{name} is computed by identical nodes in both versions, with the same constants and in the "
                f"same runtime; it is equal in the {counted(self.requests)} that went through the graphs",
                remedy="Nothing: its values were compared there, where no trace returned them.",
            )
            for name in self.proven
        ]  # fmt: skip


def untraced_features(
    features: Sequence[Mapping[str, Any]], look: GraphLook, compared: int, *, identical: bool
) -> Untraced:
    """Looks them up in the graphs.

    Args:
      features: reports of features, as in intermediates.json.
      look: what the graphs showed.
      compared: requests whose answers were compared.
      identical: both versions are the same bytes, or the same graph but for names, with the same inputs,
        run in the same runtime, and no random operator is in them.
    """
    lost = [f["name"] for f in features if f["kind"] == "raw" and f["text"] in UNTRACED]
    states = {s.baseline: s for s in look.report.states} if look.report else {}
    requests = look.report.requests if look.report else 0
    found = {name: states[name].verdict for name in lost if name in states}
    same = [name for name in lost if found.get(name) is TensorVerdict.EQUAL]
    whole = requests >= compared
    tiers = {name: states[name].tier for name in same}
    proven = [n for n in same if identical and not whole and tiers[n] == Tier.IDENTICAL]
    return Untraced(
        differing=tuple(states[n] for n in lost if found.get(n) is TensorVerdict.DIFFERS),
        equal=tuple(same if whole else ()),
        proven=tuple(proven),
        requests=requests,
        unseen=(
            *(f"feature {n}: not compared" for n in lost if found.get(n) in _NOWHERE),
            *(
                f"feature {n}: equal in the {requests:,} requests that were traced through the graphs, "
                "and not compared in the others"
                for n in same
                if not whole and n not in proven
            ),
        ),
    )


_NOWHERE = (None, TensorVerdict.NOT_COMPARED)

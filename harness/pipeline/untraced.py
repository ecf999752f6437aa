"""Declared features and outputs that no request has by itself, looked up in the pass through the graphs.

Features that are sequences or scalars, outputs of a type that no session hands out (bfloat16, float8). The pass
sees fewer requests than the comparison, and each tensor of a batch as a whole. Features that are inputs, outputs
or constants need no trace.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.diff.absences import UNTRACED
from harness.diff.graph_match import Tier
from harness.diff.graph_report import TensorState, TensorVerdict
from harness.diff.reports import ParityVerdict, not_compared, sentences_about_uncompared
from harness.diff.signature import SignatureMatch
from harness.pipeline.compare_result import NO_FEATURE
from harness.pipeline.graph_pass import GraphLook


@dataclass(frozen=True, slots=True, kw_only=True)
class Untraced:
    """What became of them in the graphs."""

    what: str = "feature"
    """What they are: feature or output."""
    differing: tuple[TensorState, ...] = ()
    """Differ there."""
    equal: tuple[str, ...] = ()
    """Equal in every request that was compared."""
    proven: tuple[str, ...] = ()
    """Equal in the requests that went through the graphs, and in the others by identical nodes."""
    partners: tuple[tuple[str, str], ...] = ()
    """(baseline's, candidate's) names of those that are equal."""
    requests: int = 0
    """Requests that went through the graphs."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Those that are equal in every request without a trace → why."""
    empty: bool = False
    """None of those that are equal in the graphs held a value."""
    unseen: tuple[str, ...] = ()
    """Not compared, or in some requests only: a sentence each."""

    def findings(self) -> list[Finding]:
        """A warning for each that differs, and a word about those that do not."""
        return [
            Finding(
                kind=f"{self.what}_changed", severity=Severity.WARNING, where=state.baseline,
                what=f"{state.baseline} differs, as {counted(self.requests)} in the graphs show",
                remedy="Compare how both versions compute it, starting from the first tensor that differs.",
            )
            for state in self.differing
        ] + [
            Finding(
                kind=f"{self.what}_equal", severity=Severity.INFO, where=name,
                what=f"{name} is equal in the graphs, in all {counted(self.requests)}",
                remedy="Nothing: its values were compared there, where no trace returned them.",
            )
            for name in self.equal
        ] + [
            Finding(
                kind=f"{self.what}_equal", severity=Severity.INFO, where=name,
                what=f"{name} is computed by identical nodes in both versions, with the same constants and in the "
                f"same runtime; it is equal in the {counted(self.requests)} that went through the graphs",
                remedy="Nothing: its values were compared there, where no trace returned them.",
            )
            for name in self.proven
        ] + [
            Finding(
                kind=f"{self.what}_equal", severity=Severity.INFO, where=name,
                what=f"{name} {why}",
                remedy="Nothing: it is equal in every request, though no trace returned it.",
            )
            for name, why in self.given.items()
        ]  # fmt: skip

    def intermediates(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content of intermediates.json: what is equal in the graphs counts as that.

        In how many requests the traces returned all features says nothing then, and is left out.
        """
        reports = self._features(content["features"])
        compared = dict(content["compared"])
        if any(before is not now for before, now in zip(content["features"], reports, strict=True)):
            del compared["whole_feature_requests"]
        return {**content, "features": reports, "compared": compared}

    def _features(self, reports: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        words = dict.fromkeys(self.equal, f"equal in the graphs, in all {counted(self.requests)}")
        words |= dict.fromkeys(
            self.proven,
            f"computed by identical nodes; equal in {counted(self.requests)} that went through the graphs",
        )
        words |= self.given
        return [
            {**r, "verdict": ParityVerdict.EQUAL.value, "text": words[r["name"]]}
            if r["name"] in words
            else r
            for r in reports
        ]

    def left(
        self,
        reports: Sequence[Mapping[str, Any]],
        findings: Sequence[Finding],
        texts: Sequence[str],
    ) -> tuple[list[Finding], list[str]]:
        """Findings, and sentences about what was not compared, without what is equal in the graphs.

        Args:
          reports: of features, before the graphs were looked into.
          findings: of the comparison by traces.
          texts: what it did not compare.
        """
        seen = {*self.equal, *self.proven, *self.given}
        lost = [not_compared(r["name"], r["kind"], r["text"]) for r in reports if _is_lost(r)]
        rest = [r for r in lost if r.name not in seen]
        if not seen:
            return list(findings), list(texts)
        told, now = ("; ".join(sentences_about_uncompared(r, kind=False)) for r in (lost, rest))
        gone = set(sentences_about_uncompared(lost))
        if self.equal or self.proven:
            gone.add(NO_FEATURE)
        names = {"baseline": seen, "candidate": {new for old, new in self.partners if old in seen}}
        return (
            [
                replace(f, what=now) if f.what == told else f
                for f in findings
                if now or f.what != told
            ],
            [
                *(t for t in texts if t not in gone and not _only_about(t, names)),
                *sentences_about_uncompared(rest),
            ],
        )


def _only_about(text: str, names: Mapping[str, Collection[str]]) -> bool:
    """Whether a sentence says why no trace returns some of a version's tensors, and all of them are among these."""
    about, _, why = text.partition(": ")
    role, _, listed = about.partition(" tensor ")
    return bool(why) and role in names and {*listed.split(", ")} <= {*names[role]}


def _is_lost(report: Mapping[str, Any]) -> bool:
    """A raw feature that no trace returns."""
    return report["kind"] == "raw" and report["text"] in UNTRACED


def untraced_features(
    content: Mapping[str, Any],
    look: GraphLook,
    compared: int,
    match: SignatureMatch,
    *,
    declared: Sequence[tuple[str, str]],
    identical: bool,
) -> Untraced:
    """Features of these reports that no trace returns; see `untraced`.

    Args:
      content: as in intermediates.json.
      look: what the graphs showed.
      compared: requests whose answers were compared.
      match: inputs and outputs of both versions.
      declared: (baseline's, candidate's) features.
      identical: as for `untraced`.
    """
    lost = [f["name"] for f in content["features"] if _is_lost(f)]
    pairs = [pair for pair in declared if pair[0] in lost]
    given = _given(pairs, look, match, content["outputs"])
    rest = untraced(
        [n for n in lost if n not in given], "feature", look, compared, identical=identical
    )
    known = tuple(pair for pair in pairs if pair[0] in given)
    return replace(rest, given=given, partners=(*rest.partners, *known))


def _given(
    pairs: Sequence[tuple[str, str]],
    look: GraphLook,
    match: SignatureMatch,
    outputs: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    """Features that are equal in every request, whatever the graphs showed of some → why.

    Args:
      pairs: (baseline's, candidate's) names.
      look: what the graphs showed.
      match: inputs and outputs of both versions.
      outputs: reports, a column each.
    """
    constant = look.report.constant if look.report else ()
    found = {}
    for pair in pairs:
        name = pair[0]
        columns = [o for o in outputs if o["name"] == name or o["name"].startswith(f"{name}[")]
        if pair in match.inputs:
            found[name] = AN_INPUT
        elif name in constant:
            found[name] = "is a constant of the same values in both versions"
        elif (
            pair in match.outputs
            and columns
            and all(o["verdict"] == ParityVerdict.EQUAL.value for o in columns)
        ):
            found[name] = "is an output, and equal as such"
    return found


def untraced(
    lost: Sequence[str], what: str, look: GraphLook, compared: int, *, identical: bool
) -> Untraced:
    """Looks tensors up in the graphs.

    Args:
      lost: their names in the baseline.
      what: they are: feature or output.
      look: what the graphs showed.
      compared: requests whose answers were compared.
      identical: both versions are the same bytes, or the same graph but for names, with the same inputs,
        run in the same runtime, and no random operator is in them.
    """
    states = {s.baseline: s for s in look.report.states} if look.report else {}
    requests = look.report.requests if look.report else 0
    found = {name: states[name].verdict for name in lost if name in states}
    same = [name for name in lost if found.get(name) is TensorVerdict.EQUAL]
    whole = requests >= compared
    tiers = {name: states[name].tier for name in same}
    proven = [n for n in same if identical and not whole and tiers[n] == Tier.IDENTICAL]
    return Untraced(
        what=what,
        differing=tuple(states[n] for n in lost if found.get(n) is TensorVerdict.DIFFERS),
        equal=tuple(same if whole else ()),
        proven=tuple(proven),
        partners=tuple((name, states[name].candidate) for name in same),
        requests=requests,
        empty=all(states[name].empty for name in same),
        unseen=(
            *(f"{what} {n}: not compared" for n in lost if found.get(n) in _NOWHERE),
            *(
                f"{what} {n}: equal in the {counted(requests)} that were traced through the graphs, "
                "and not compared in the others"
                for n in same
                if not whole and n not in proven
            ),
        ),
    )


AN_INPUT = "is an input: both versions are given the same values"
_NOWHERE = (None, TensorVerdict.NOT_COMPARED)

"""Declared features and outputs that no request has by itself, looked up in the pass through the graphs.

Features that are sequences or scalars, outputs of a type that no session hands out (bfloat16, float8). The pass
sees fewer requests than the comparison, and each tensor of a batch as a whole. Features that are inputs, outputs
or constants need no trace.

A feature that the baseline alone declares, or that the candidate computes under no such name, has the partner that
the pass found for it only where both versions are one graph but for names: elsewhere that is a guess, and the
feature is not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.diff.absences import UNTRACED
from harness.diff.features import ONLY_BASELINE
from harness.diff.graph_match import Tier
from harness.diff.graph_report import TensorState, TensorVerdict
from harness.diff.reports import (
    ParityVerdict,
    TensorReport,
    named_together,
    not_compared,
    sentences_about_uncompared,
)
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
    undeclared: tuple[str, ...] = ()
    """Of those that are equal: the baseline alone declares them."""

    def findings(self) -> list[Finding]:
        """A warning for each that differs, and a word about those that do not."""
        return [*self._undeclared(), *self._found()]

    def _undeclared(self) -> list[Finding]:
        names = self.undeclared
        if not names:
            return []
        return [
            Finding(
                kind="features_not_declared", severity=Severity.WARNING, where=named_together(names),
                what=f"{named_together(names)}: declared by the baseline alone, and equal: both versions are one "
                f"graph but for names, whose identical nodes were compared in {counted(self.requests)}",
                remedy="Declare the same in the candidate's metadata: a gate holds without it (or `mapping: {tensors: ...}`).",
            )
        ]  # fmt: skip

    def _found(self) -> list[Finding]:
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
            if name not in self.undeclared
        ] + [
            Finding(
                kind=f"{self.what}_equal", severity=Severity.INFO, where=name,
                what=f"{name} is computed by identical nodes in both versions, with the same constants and in the "
                f"same runtime; it is equal in the {counted(self.requests)} that went through the graphs",
                remedy="Nothing: its values were compared there, where no trace returned them.",
            )
            for name in self.proven
            if name not in self.undeclared
        ] + [
            Finding(
                kind=f"{self.what}_equal", severity=Severity.INFO, where=name,
                what=f"{name} {why}",
                remedy="Nothing: it is equal in every request, though no trace returned it.",
            )
            for name, why in self.given.items()
            if name not in self.undeclared
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
        now = {why: _sentence([r for r in rest if r.text == why]) for why in {r.text for r in lost}}
        told = {_sentence([r for r in lost if r.text == why]): left for why, left in now.items()}
        gone = set(sentences_about_uncompared(lost))
        if self.equal or self.proven:
            gone.add(NO_FEATURE)
        names = {"baseline": seen, "candidate": {new for old, new in self.partners if old in seen}}
        return (
            [f for finding in findings if (f := _without(finding, told)) is not None],
            [
                *(t for t in texts if t not in gone and not _only_about(t, names)),
                *sentences_about_uncompared(rest),
            ],
        )


def _sentence(reports: Sequence[TensorReport]) -> str:
    """What is said of tensors that were not compared for one reason; "" of none."""
    return "; ".join(sentences_about_uncompared(reports, kind=False))


def _without(finding: Finding, told: Mapping[str, str]) -> Finding | None:
    """A finding with other sentences in the place of these; None where nothing is left of it.

    Args:
      finding: one of the comparison by traces.
      told: sentence → what to say instead; "" = nothing.
    """
    said = finding.what.split("; ")
    if not told.keys() & set(said):
        return finding
    left = "; ".join(now for text in said if (now := told.get(text, text)))
    return replace(finding, what=left) if left else None


def _only_about(text: str, names: Mapping[str, Collection[str]]) -> bool:
    """Whether a sentence says why no trace returns some of a version's tensors, and all of them are among these."""
    about, _, why = text.partition(": ")
    role, _, listed = about.partition(" tensor ")
    return bool(why) and role in names and {*listed.split(", ")} <= {*names[role]}


def _is_lost(report: Mapping[str, Any]) -> bool:
    """A raw feature that no trace returns, or that the candidate does not declare."""
    return report["kind"] == "raw" and report["text"] in LOOKED_UP


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
    pairs = {ours: theirs for ours, theirs in declared if ours in lost}
    undeclared = [name for name in lost if name not in pairs]
    if identical:
        served = dict(match.inputs) | dict(match.outputs)
        pairs |= {name: served[name] for name in undeclared if name in served}
    given = _given(tuple(pairs.items()), look, match, content["outputs"])
    rest = [name for name in lost if name not in given]
    guessed = [] if identical else _guessed(rest, pairs, look)
    found = untraced(
        [n for n in rest if n not in guessed], "feature", look, compared, identical=identical
    )
    equal = {*given, *found.equal, *found.proven}
    known = tuple(pair for pair in pairs.items() if pair[0] in given)
    return replace(
        found,
        given=given,
        partners=(*found.partners, *known),
        undeclared=tuple(name for name in undeclared if name in equal),
        unseen=(*found.unseen, *_about_guessed(guessed)),
    )


def _guessed(names: Sequence[str], pairs: Mapping[str, str], look: GraphLook) -> list[str]:
    """Those whose partner in the graphs is not the tensor that the candidate declares.

    Args:
      names: features of the baseline.
      pairs: baseline's name → the candidate's, as both declare them.
      look: what the graphs showed.
    """
    states = {s.baseline: s for s in look.report.states} if look.report else {}
    return [n for n in names if n not in pairs or (n in states and states[n].candidate != pairs[n])]


def _about_guessed(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return (
        f"{named_together(names)}: it is not known which of the candidate's tensors to compare",
    )


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


LOOKED_UP = UNTRACED | {ONLY_BASELINE}
"""Why a declared feature was not compared, where the graphs may show that it is equal."""
AN_INPUT = "is an input: both versions are given the same values"
_NOWHERE = (None, TensorVerdict.NOT_COMPARED)

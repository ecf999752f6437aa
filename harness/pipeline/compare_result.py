"""What a comparison of two versions says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.counted import counted
from harness.core.findings import Finding
from harness.core.jsonable import jsonable
from harness.core.models import PinnedModel
from harness.core.plain_text import one_line
from harness.core.policies import SandboxPolicy
from harness.pipeline.alone import Alone
from harness.pipeline.graph_pass import (
    GraphLook,
)
from harness.sandbox.isolation import Isolation, is_weaker

NO_FEATURE = "no feature inside the models was compared"
"""Said of a comparison without features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult:
    """Whether two versions give the same answers."""

    equal: bool
    """No output and no feature beyond the floor, and neither side failed alone. Says nothing where they are
    not comparable."""
    comparable: bool
    """They differ, or something was compared and nothing that matters stayed out of sight, as a feature
    does that one version alone declares."""
    compared: int
    """Requests with rows that both versions answered."""
    asked: int
    """Requests that were drawn for the comparison."""
    available: int
    """Requests that were given, those that could not be sealed among them."""
    models: tuple[PinnedModel, PinnedModel]
    findings: tuple[Finding, ...]
    intermediates: dict[str, Any]
    """As in a run folder's intermediates.json."""
    graph: GraphLook
    """Every tensor of both graphs, on a few requests: where they part. It decides nothing."""
    alone: tuple[Alone, ...]
    """What requests got when they ran alone, beside their batches; empty where all of them did."""
    not_compared: tuple[str, ...]
    isolation: Isolation
    """Of the process with the least."""
    limits: SandboxPolicy
    """What its processes were allowed."""

    @property
    def exit_code(self) -> int:
        """0 equal within the floor, 1 diverged, 2 not comparable."""
        if not self.comparable:
            return 2
        return 0 if self.equal else 1

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(self._plain(), indent=2)

    def to_html(self) -> str:
        """The same as one page that needs no network: the answer, where the graphs part, the rest."""
        from harness import report

        return report.render_comparison(report.view_from_comparison(self._plain()))

    def _plain(self) -> dict[str, Any]:
        return {**jsonable(self), "exit_code": self.exit_code}

    def to_text(self) -> str:
        """The answer first, then how much was compared, then every finding."""
        old, new = self.models
        answer = "EQUAL within the floor" if self.equal else "DIVERGED"
        if not self.comparable:
            answer = "NOT COMPARABLE"
        counts = self.intermediates.get("compared", {})
        lines = [
            f"{answer}: {old.name} ({old.digest[:12]}) and {new.name} ({new.digest[:12]})",
            f"  {self.compared:,} of {counted(self.asked)} compared ({self.available:,} available)",
        ]
        for what in ("outputs", "features"):
            differ = counts.get(f"{what[:-1]}_mismatches", 0)
            columns = self.intermediates.get(what, [])
            if what == "features" and not columns:
                continue  # A finding says that none are declared.
            equal, others = _equal_tensors(columns), _others(columns) + _small(columns)
            lines.append(f"  {what}: {equal}; {differ:,} requests differ{others}")
        lines += [
            f"  {side}: {g['both'] - g['differing']:,} of {counted(g['both'])} answered alike while features are read"
            + (
                f", but for {', '.join(g['unseen'])} (not compared there)"
                if g.get("unseen")
                else ""
            )
            for side, g in self.intermediates.get("observer", {}).items()
            if g["both"]
        ]
        lines.append(f"  {self.graph.to_text()}")
        lines += [f"  {one.to_text()}" for one in self.alone if one.requests]
        for finding in self.findings:
            lines.append(f"- {finding.what}")
            lines += [f"    {finding.remedy}"] if finding.remedy else []
        if is_weaker(self.isolation, self.limits.require):
            lines.append(
                f"  isolation {self.isolation.tier}, below {self.limits.require}: explicitly allowed"
            )
        # The findings say it without the kind of tensor: once is enough.
        told = tuple(part for f in self.findings for part in f.what.split("; "))
        if not self.intermediates.get("features"):
            told += (NO_FEATURE,)
        left_out = [t for t in self.not_compared if not t.endswith(told)]
        if not self.graph.report and self.graph.why:
            # Said above, in a line of its own.
            left_out = [t for t in left_out if not t.endswith(self.graph.why)]
        lines += [f"  not compared: {_shortened(t)}" for t in left_out]
        return "\n".join(map(one_line, lines))


def _equal_tensors(columns: Sequence[dict[str, Any]]) -> str:
    """How many tensors are equal in all their columns, and how many columns are."""
    tensors: dict[str, bool] = {}
    for column in columns:
        name = column["name"].split("[")[0]
        tensors[name] = tensors.get(name, True) and column["verdict"] == "equal"
    counts = [column.get("columns", 1) for column in columns]
    equal = sum(
        n for n, column in zip(counts, columns, strict=True) if column["verdict"] == "equal"
    )
    text = f"{sum(tensors.values())} of {len(tensors)} tensors equal"
    return text if sum(counts) == len(tensors) else f"{text} ({equal:,} of {sum(counts):,} columns)"


def _others(columns: Sequence[dict[str, Any]]) -> str:
    """Tensors that are neither equal nor different: beside EQUAL they would read as a contradiction."""
    found: dict[str, dict[str, None]] = {}
    for column in columns:
        if column["verdict"] in _OTHER_WORDS:
            found.setdefault(column["verdict"], {})[column["name"].split("[")[0]] = None
    return "".join(f"; {_OTHER_WORDS[why]}: {_named(list(names))}" for why, names in found.items())


def _small(columns: Sequence[dict[str, Any]]) -> str:
    """What the tolerance covers although it is a large part of the value: equal is not said without it."""
    rows = sum(column.get("small_rows", 0) for column in columns)
    if not rows:
        return ""
    return (
        f"; {counted(rows, 'value')} within the tolerance differ by more than 0.1 % of themselves"
    )


_OTHER_WORDS = {
    "expected": "expected to change", "refitted": "fitted anew", "not_compared": "not compared",
    "small_values": "small values not comparable",
}  # fmt: skip
_MOST_NAMED = 3
_MOST_LISTED = 20


def _shortened(text: str) -> str:
    """A sentence about very many tensors by its first ones; the JSON has them all."""
    names = text.split(", ")
    more = len(names) - _MOST_LISTED
    if more <= 1:
        return text
    _, colon, why = names[-1].rpartition(": ")
    return f"{', '.join(names[:_MOST_LISTED])} and {more:,} more{colon}{why}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"

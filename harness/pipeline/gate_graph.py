"""A gate's look into both versions: after the replay, on the requests that differed in it.

It reads the saved pairs, so a run that was interrupted looks at the same requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.core.findings import Finding, Severity
from harness.core.jsonable import jsonable
from harness.core.models import Rearrangement
from harness.core.observations import Outcome
from harness.core.policies import LATENCY_METRICS, Metric, Policy, Preset, Scope
from harness.core.tensors import Array, Ints
from harness.core.verdicts import Evidence, Verdict
from harness.diff.proven import proven_cause
from harness.diff.signature import SignatureMatch
from harness.pipeline.describe import Described
from harness.pipeline.evidence import expected_changes
from harness.pipeline.first_cause import OF_FEATURES, SYMPTOMS
from harness.pipeline.graph_pass import (
    DifferingFirst,
    GraphLook,
    batches_of,
    look_into,
    why_not,
)
from harness.pipeline.opening import LegRecipe
from harness.pipeline.prepare import Prepared
from harness.pipeline.progress import Listener
from harness.pipeline.runtimes import same_bytes
from harness.store.windows import SealedWindow

_OF_OTHER_THINGS = {Metric.PARITY_MISMATCH, Metric.FAILURE, Metric.NAN_RATE, *LATENCY_METRICS}
"""Metrics that read neither decisions nor scores."""
_COLUMNS = ("batch", "baseline_outcome", "candidate_outcome", "output_mismatch", "feature_mismatch")


def with_graph(
    described: Described,
    prepared: Prepared,
    window: SealedWindow,
    match: SignatureMatch,
    *,
    declared: Sequence[tuple[str, str]],
    rearranged: Rearrangement,
    singly: bool,
    recipes: tuple[LegRecipe, LegRecipe],
    evidence: Sequence[Evidence],
    listener: Listener,
) -> Described:
    """Adds what the graphs say to what the replay found.

    Args:
      described: the replay's findings.
      prepared: the run; its pairs are saved.
      window: what requests are read from.
      match: how the signatures were paired.
      declared: (baseline's, candidate's) features that both declare.
      rearranged: as for `GraphPass`.
      singly: each request ran by itself.
      recipes: both versions.
      evidence: what each guardrail has shown.
      listener: hears progress.
    """
    differ = bool(described.intermediates["compared"]["output_mismatches"])
    why = why_not(
        prepared.policy.graph,
        raw_differs=_raw_differs(described.intermediates),
        answers_differ=differ,
        same_model=differ
        and (
            prepared.policy.preset is Preset.REFACTOR
            or same_bytes((prepared.baseline, prepared.candidate))
        ),
        compared=_compared(described.intermediates),
    )
    if why:
        look = GraphLook(why=why)
    else:
        look = look_into(
            recipes,
            match,
            prepared.policy.mapping,
            batches_of(window, _chosen(prepared), singly=singly),
            declared=declared,
            rearranged=rearranged,
            policy=prepared.policy.graph,
            listener=listener,
        )
    # What nobody asked for is said in the section itself; what was asked for and failed, everywhere.
    unseen = () if why else look.not_compared()
    not_compared = (*described.not_compared, *unseen)
    cause = ""
    if differ and look.report:
        meant = _meant(prepared, match, described.intermediates["outputs"])
        cause = proven_cause(
            look.report,
            expected=meant - _decisive(prepared.policy, evidence),
            behind=_harmed_alone(described.findings),
        )
    return replace(
        described,
        intermediates=described.intermediates
        | {"graph": jsonable(look), "not_compared": list(not_compared)},
        findings=(
            *described.findings,
            *look.findings(answers_differ=differ, unseen=match.not_compared),
        ),
        not_compared=not_compared,
        cause=cause,
    )


def _meant(
    prepared: Prepared, match: SignatureMatch, columns: Sequence[dict[str, Any]]
) -> frozenset[str]:
    """Baseline's outputs that may change, or of which only such columns did."""
    meant = set(expected_changes(prepared.policy, Scope.OUTPUTS))
    for name, _ in match.outputs:
        own = {
            c["verdict"] for c in columns if c["name"] == name or c["name"].startswith(f"{name}[")
        }
        if "expected" in own and "differs" not in own:
            meant.add(name)
    return frozenset(meant)


def _decisive(policy: Policy, evidence: Sequence[Evidence]) -> frozenset[str]:
    """Outputs with which a guardrail about decisions or scores may have failed, whatever parity expects of them."""
    gating = [row for row in evidence if row.gating]
    # Harm that only all of them together prove may be any one's.
    failed = [row for row in gating if row.verdict is Verdict.FAIL] or gating
    if policy.decision is None or {row.metric for row in failed} <= _OF_OTHER_THINGS:
        return frozenset()
    return frozenset(filter(None, (policy.decision.output, policy.decision.score)))


def _harmed_alone(findings: Sequence[Finding]) -> frozenset[str]:
    """Features beyond what is tolerated, where no output is."""
    harmed = [f for f in findings if f.severity is Severity.HARM]
    if any(f.kind in SYMPTOMS for f in harmed):
        return frozenset()
    return frozenset(f.where.split("[")[0] for f in harmed if f.kind in OF_FEATURES)


def _raw_differs(intermediates: dict[str, Any]) -> bool:
    return any(
        row["kind"] == "raw" and row["verdict"] == "differs" for row in intermediates["features"]
    )


def _compared(intermediates: dict[str, Any]) -> bool:
    """Whether any row was: of an output, or of a feature computed from raw fields."""
    raw = [row for row in intermediates["features"] if row["kind"] == "raw"]
    return any(row["rows"] for row in (*intermediates["outputs"], *raw))


def _chosen(prepared: Prepared) -> Ints:
    """Positions in the window of the requests to look into."""
    chosen = DifferingFirst(prepared.policy.graph.requests)
    for index, rows in _saved(prepared):
        chosen.add(
            prepared.batches[index].positions,
            np.logical_or(rows["output_mismatch"], rows["feature_mismatch"]),
            (rows["baseline_outcome"] == Outcome.OK) & (rows["candidate_outcome"] == Outcome.OK),
        )
        if chosen.full:
            break
    return chosen.positions()


def _saved(prepared: Prepared) -> Iterator[tuple[int, dict[str, Array]]]:
    """(batch, its rows of the pairs table) in test order; a chunk holds whole batches."""
    for chunk in prepared.run.pairs_chunks():
        table = prepared.run.read_pairs(chunk, _COLUMNS)
        for index in dict.fromkeys(table["batch"].tolist()):
            mine = np.flatnonzero(table["batch"] == index)
            yield index, {name: column[mine] for name, column in table.items()}

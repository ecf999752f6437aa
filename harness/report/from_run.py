"""A run folder's JSON values → the view that every format is rendered from."""

from __future__ import annotations

from collections.abc import Mapping

from harness.report import behaviour, guardrails, headline, method, parity, traffic
from harness.report.graph import graph_section
from harness.report.read import Doc
from harness.report.views import ReportView, VersionSide
from harness.report.words import moment

Json = Mapping[str, object]


def view_from_run(
    manifest: Json | None,
    decision: Json | None,
    evidence: Json | None,
    intermediates: Json | None,
    findings: Json | None,
    summary: Json | None,
) -> ReportView:
    """Words a run for a reader.

    Each argument is the parsed JSON file of the same name in a run folder. Any of them, and any
    part of them, may be missing: the view then says what is not there. A decision without one of
    the three answers is shown as a gate that failed; `{"error": {"where", "what", "remedy"}}`
    says why.

    Returns:
      Plain, frozen values; strings are unescaped text without control characters.
    """
    manifest_doc, decision_doc, evidence_doc = Doc(manifest), Doc(decision), Doc(evidence)
    intermediates_doc, findings_doc, summary_doc = Doc(intermediates), Doc(findings), Doc(summary)
    rows = guardrails.evidence_rows(evidence_doc, decision_doc)
    cards = guardrails.guardrail_views(
        rows, guardrails.alphas(decision_doc), decision_doc.at("binding_guardrail").text()
    )
    old = decision_doc.at("baseline") or manifest_doc.at("baseline")
    new = decision_doc.at("candidate") or manifest_doc.at("candidate")
    baseline = headline.version_side("Baseline", old)
    candidate = headline.version_side("Candidate", new)
    found, found_note = headline.finding_views(findings_doc)
    return ReportView(
        run_id=manifest_doc.at("run_id").text("unnamed run"),
        replayed=not manifest_doc.at("table"),
        created=_instant(manifest_doc.at("created_at")) or "unknown",
        as_of=_instant(manifest_doc.at("as_of")),
        title=_table_title(manifest_doc) or _title(baseline, candidate),
        headline=headline.headline(decision_doc, manifest_doc, rows),
        banners=headline.banners(decision_doc, manifest_doc, intermediates_doc, findings_doc),
        advise=headline.is_advise(manifest_doc),
        baseline=baseline,
        candidate=candidate,
        changes=headline.version_changes(old, new),
        evidence=tuple(guardrails.evidence_view(row) for row in rows),
        overview=guardrails.overview(cards),
        guardrails=cards,
        guardrails_empty="No guardrail was judged in this run.",
        guardrail_notes=guardrails.guardrail_notes(evidence_doc, rows),
        findings=found,
        findings_note=found_note,
        traffic=traffic.traffic(decision_doc, manifest_doc, summary_doc),
        parity=parity.parity(intermediates_doc, manifest_doc),
        graph=graph_section(intermediates_doc.at("graph")),
        fidelity=parity.fidelity(intermediates_doc),
        behaviour=behaviour.behaviour(summary_doc),
        latency=behaviour.latency(summary_doc),
        isolation=method.isolation(decision_doc, manifest_doc),
        method=method.method(decision_doc, manifest_doc, summary_doc, rows),
        limits=method.limits(decision_doc, intermediates_doc),
        always=method.ALWAYS_OF_A_TABLE if manifest_doc.at("table") else method.ALWAYS,
    )


def _instant(at: Doc) -> str:
    """Written as ISO 8601 or as nanoseconds since the epoch."""
    whole = at.whole()
    return moment(whole) if whole is not None else at.text()


def _table_title(manifest: Doc) -> str:
    """The table's name where observations were judged instead of models; "" otherwise."""
    return manifest.at("table", "name").text()


def _title(baseline: VersionSide, candidate: VersionSide) -> str:
    if baseline.name == candidate.name and baseline.label != candidate.label:
        return f"{baseline.name}: {baseline.version} → {candidate.version}"
    return f"{baseline.label} → {candidate.label}"

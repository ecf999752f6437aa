"""Writes what a finished run leaves behind, and makes its reports from that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.findings import Finding
from harness.core.jsonable import jsonable, sha256
from harness.core.models import PinnedModel
from harness.core.verdicts import DecisionRecord, Evidence, Status
from harness.judge.plan import TestPlan
from harness.pipeline.live_page import kind_of, write_live_page
from harness.pipeline.opening import ROLES
from harness.store.files import machine_trouble_is_a_gate_error, sha256_of_file
from harness.store.runs import RunFolder

_BOUND = (
    "manifest.json", "evidence.json", "intermediates.json", "findings.json", "summary.json", "floor.json",
    "policy.yaml", "state.npz", "carried.json", "used.parquet",
)  # fmt: skip
"""Files that a decision is told from, or that a later attempt goes on from; it holds their digests."""
_JSON = ("manifest", "decision", "evidence", "intermediates", "findings", "summary")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything a run has to say when it ends."""

    record: DecisionRecord
    evidence: tuple[Evidence, ...]
    findings: tuple[Finding, ...]
    intermediates: dict[str, Any]
    """See `intermediates_json`; empty when nothing was replayed."""
    summary: dict[str, Any]
    """See `Summary.finish`; empty when nothing was replayed."""
    manifest: dict[str, Any]
    """Completed with isolation and floor."""
    models: tuple[PinnedModel, PinnedModel] | None
    """Baseline and candidate; None where a table was judged."""
    windows: dict[str, Any]
    """Per window: n, judged, span, why it is empty."""
    plan: TestPlan | None
    status: Status | None


def publish(run: RunFolder, outcome: Outcome) -> str:
    """Writes the run folder's files, the decision last: a folder with a decision is complete.

    Returns:
      evidence_sha256, to which an approval binds: sha256 of evidence.json's bytes.
    """
    run.write_json("manifest.json", outcome.manifest)
    run.write_json("evidence.json", _evidence_json(outcome))
    digest = sha256_of_file(run.path / "evidence.json")
    run.write_json("intermediates.json", outcome.intermediates)
    run.write_json("findings.json", {"findings": jsonable(outcome.findings)})
    run.write_json("summary.json", outcome.summary)
    bound = {name: sha256_of_file(run.path / name) for name in _BOUND if run.has(name)}
    run.write_json("decision.json", _decision_json(outcome, digest, bound))
    _render(run, "all")
    return digest


def _evidence_json(outcome: Outcome) -> dict[str, Any]:
    pooled = outcome.plan.pooled if outcome.plan else ()
    return {
        "lineage": outcome.manifest["lineage"],
        "seed": outcome.manifest["seed"],
        "window_hash": outcome.manifest.get("window", {}).get("window_hash", ""),
        "evidence": jsonable(outcome.evidence),
        "pooled": jsonable(pooled),
        "combined": jsonable(outcome.status) if outcome.status else {},
        "findings_sha256": sha256(outcome.findings),
        "decision": outcome.record.decision.value,
        "reason": outcome.record.reason,
    }


_COMPACT = (
    "name", "metric", "slice", "window", "margin", "direction", "gating", "verdict", "reason", "n",
    "n_failed", "e_promote", "e_rollback", "lower", "upper",
)  # fmt: skip


def _decision_json(outcome: Outcome, digest: str, bound: dict[str, str]) -> dict[str, Any]:
    rows = jsonable(outcome.evidence)
    return {
        **jsonable(outcome.record),
        "guardrails": [{key: row[key] for key in _COMPACT} for row in rows],
        "baseline": _version_json(outcome, 0),
        "candidate": _version_json(outcome, 1),
        "windows": outcome.windows,
        "isolation": outcome.manifest.get("isolation", {}),
        "anchor": outcome.manifest.get("anchor", {}),
        "again": outcome.manifest.get("again", {}),
        "mode": outcome.manifest["policy"]["mode"],
        "evidence_sha256": digest,
        "files_sha256": bound,
    }


def _version_json(outcome: Outcome, side: int) -> dict[str, Any]:
    """One version with what it ran in: as its process said, else as it was prepared."""
    if outcome.models is None:
        return {}
    role = ROLES[side]
    prepared = outcome.manifest.get("runtimes", {}).get(role, {})
    said = outcome.manifest.get("isolation", {}).get("versions", {}).get(role)
    runtime = {**prepared, "packages": said or prepared.get("packages", {})}
    return {**jsonable(outcome.models[side]), "runtime": runtime}


def write_reports(path: Path, form: str) -> str:
    """Makes a run's report again from its recorded evidence.

    Args:
      path: run folder.
      form: html, markdown, junit, terminal or all.

    Returns:
      The terminal summary for "terminal", else what was written, a line each.

    Raises:
      UsageError: the folder holds no run, or its decision does not fit its evidence.
    """
    if kind_of(path):
        return write_live_page(path, form)
    if form == "terminal":
        return _render(RunFolder.open(path), form)
    with RunFolder.open(path, write=True) as run, machine_trouble_is_a_gate_error(path):
        return _render(run, form)


def _check_decision(run: RunFolder, decision: Any, evidence: Any) -> None:  # noqa: ANN401 - parsed JSON
    """A decision is shown only with the files that it was written with.

    Raises:
      UsageError: one of them was changed after the run; it says which.
    """
    if decision is None:
        return
    # Runs of earlier versions hold the digest of their evidence only.
    saved = decision.get("files_sha256")
    bound = {name: saved[name] for name in _BOUND if name in saved} if saved else {}
    bound["evidence.json"] = decision.get("evidence_sha256")
    changed = [name for name, digest in bound.items() if _digest_now(run, name) != digest]
    same = evidence is not None and all(
        evidence.get(key) == decision.get(key) for key in ("decision", "reason")
    )
    if changed or not same:
        names = ", ".join(["decision.json", *changed[:-1]])
        raise UsageError(
            str(run.path),
            f"{names} and {changed[-1] if changed else 'evidence.json'} do not belong together: "
            "one was changed after the run",
            "Trust none of them; take the run from where it was made, or run the gate again.",
        )


def _digest_now(run: RunFolder, name: str) -> str:
    return sha256_of_file(run.path / name) if run.has(name) else "missing"


def _render(run: RunFolder, form: str) -> str:
    from harness import report

    files = {n: run.read_json(f"{n}.json") if run.has(f"{n}.json") else None for n in _JSON}
    if files["manifest"] is None:
        raise UsageError(str(run.path), "the run ended before it was prepared", "Start a new run.")
    _check_decision(run, files["decision"], files["evidence"])
    view = report.view_from_run(**files)
    if form == "terminal":
        return report.render_terminal(view)
    targets = {
        "html": ("report.html", report.render_html),
        "markdown": ("summary.md", report.render_markdown),
        "junit": ("junit.xml", report.render_junit),
    }
    chosen = targets if form == "all" else {form: targets[form]}
    for name, render in chosen.values():
        run.write_text(name, render(view))
    return "\n".join(str(run.path / name) for name, _ in chosen.values())

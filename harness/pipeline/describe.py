"""Reports of the diff → intermediates.json and findings, with the recording's version in mind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.findings import Finding, Severity
from harness.core.jsonable import jsonable
from harness.core.models import PinnedModel
from harness.core.policies import Metric, Policy, Scope
from harness.core.traffic import WindowInfo
from harness.diff.findings import (
    findings_from_faithful,
    findings_from_features,
    findings_from_floor,
    findings_from_observer,
    findings_from_outputs,
)
from harness.diff.floor import Floor
from harness.diff.reports import FaithfulReport, FeatureReport, OutputReport, sentences_about_small
from harness.diff.served import findings_from_served
from harness.pipeline.batch_mates import Mixing
from harness.pipeline.chance import findings_from_chance
from harness.pipeline.evidence import RunningEvidence
from harness.pipeline.probes import Answering, answering_words

FILE_VERSION = "file"
ROUNDING = 1e-3
"""Largest relative difference that another processor's rounding explains (measured: ≤ 2.7e-4)."""
UNFAITHFUL_SHARE = 0.01
"""Share of recorded answers that may differ by more before the replay is no evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the diff found, as it is saved."""

    intermediates: dict[str, Any]
    findings: tuple[Finding, ...]
    not_compared: tuple[str, ...]
    unproven: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
    """(name, why) of the baseline's outputs and features of which nothing was compared."""
    reshaped: tuple[tuple[str, str], ...]
    """(output of the baseline, how the candidate's shape or form is another)."""
    unfaithful: str
    """How the replayed baseline differs from the same version's recorded answers, when that is more
    than rounding of another processor; "" otherwise."""
    cause: str = ""
    """The place in the graphs that is proven to be the whole cause, as a sentence; "" = none is."""


def recorded_by(baseline: PinnedModel, window: WindowInfo) -> str:
    """Whether the recording was answered by the baseline: "same", "other" or "unknown"."""
    versions = {version for version, _ in window.versions if version}
    if baseline.version == FILE_VERSION or not versions:
        return "unknown"
    return "same" if versions == {baseline.version} else "other"


def describe(
    evidence: RunningEvidence,
    policy: Policy,
    baseline: PinnedModel,
    window: WindowInfo,
    untraced: Sequence[str],
    answering: Answering,
) -> Described:
    """Finishes the diffs and words them.

    Args:
      evidence: after the last batch.
      policy: gives the parity margins.
      baseline: tells whether the recorded answers are its own.
      window: the sealed window.
      untraced: what else was not compared, as sentences.
      answering: which session's answers were judged.
    """
    outputs, features = evidence.outputs.finish(), evidence.features.finish()
    observer, served = evidence.observer.finish(), evidence.served.finish()
    faithful = _worded(evidence.faithful.finish(), recorded_by(baseline, window), window)
    floor = evidence.terms.floor
    findings = [
        *_fidelity_findings(faithful, recorded_by(baseline, window)),
        *findings_from_features(features, _parity_margin(policy, Scope.FEATURES)),
        *findings_from_outputs(outputs, _parity_margin(policy, Scope.OUTPUTS)),
        *findings_from_chance(dict(floor.random)),
        *findings_from_floor(floor),
        *findings_from_observer(observer),
        *findings_from_served(served),
    ]
    not_compared = (
        *outputs.not_compared,
        *features.not_compared,
        *served.not_compared,
        *sentences_about_small((*outputs.outputs, *features.features)),
        *untraced,
        *(() if features.requests else ("no feature inside the models was compared",)),
    )
    return Described(
        intermediates=intermediates_json(outputs, features, faithful, floor)
        | {
            "observer": {
                "checked": observer.checked,
                "max_rel": observer.max_rel,
                "note": observer.note,
                "answering": answering_words(answering, evidence.probes),
            },
            "served": jsonable(served),
            "not_compared": list(not_compared),
        },
        findings=tuple(findings),
        not_compared=not_compared,
        unproven=(outputs.unproven, features.unproven),
        reshaped=outputs.reshaped,
        unfaithful=_unfaithful(faithful, recorded_by(baseline, window)),
    )


def _unfaithful(report: FaithfulReport, recorded: str) -> str:
    """Other processors and runtimes change last digits of every answer; that is no other model."""
    failed, compared = report.baseline_failed, report.compared
    asked = compared + failed
    wrong = (report.mismatched if report.max_rel > ROUNDING else 0) + failed
    if recorded != "same" or not asked or wrong <= UNFAITHFUL_SHARE * asked:
        return ""
    return (
        f"of {asked:,} recorded answers it gives {report.mismatched:,} otherwise (by up to "
        f"{report.max_rel:.2g} of their scale) and fails {failed:,}"
    )


def intermediates_json(
    outputs: OutputReport, features: FeatureReport, faithful: FaithfulReport | None, floor: Floor
) -> dict[str, Any]:
    """The content of intermediates.json but for the observer guard."""
    return {
        "features": jsonable(features.features),
        "refits": jsonable(features.refits),
        "roots": list(features.roots),
        "outputs": jsonable(outputs.outputs),
        "extra_outputs": list(outputs.extra_outputs),
        "compared": {
            "output_requests": outputs.requests - outputs.without_rows,
            "output_mismatches": outputs.mismatched_requests,
            "feature_requests": features.requests,
            "whole_feature_requests": features.whole_requests,
            "feature_mismatches": features.mismatched_requests,
        },
        "faithful": None if faithful is None else jsonable(faithful),
        "floor": [
            {
                "name": c.name, "largest": c.largest, "scale": c.scale, "rows": c.rows,
                "nondeterministic": c.nondeterministic,
            }
            for c in (*floor.outputs, *floor.features)
        ],
        "floor_requests": floor.requests,
    }  # fmt: skip


def _parity_margin(policy: Policy, scope: Scope) -> float | None:
    """The gating margin of one scope; None when it does not gate."""
    margins = [
        g.margin
        for g in policy.guardrails
        if g.metric is Metric.PARITY_MISMATCH and g.scope is scope and g.gating
    ]
    return min(margins) if margins else None


def _worded(report: FaithfulReport, recorded: str, window: WindowInfo) -> FaithfulReport:
    """Says whose answers were recorded, where they are not the baseline's own."""
    who = (
        ", ".join(version or "an unnamed version" for version, _ in window.versions)
        or "an unnamed version"
    )
    match recorded:
        case "same":
            return report
        case "other":
            note = f"The answers were recorded from version {who}, not from this baseline: whether the replay is faithful is unknown."
        case _ if report.mismatched:
            note = (
                f"The answers were recorded from version {who}; the baseline is a file, so its {report.mismatched} "
                "other answers may be another version's or an unfaithful replay."
            )
        case _:
            return report
    return replace(report, note=note)


def _fidelity_findings(report: FaithfulReport, recorded: str) -> list[Finding]:
    if recorded == "same":
        return findings_from_faithful(report)
    if not report.mismatched:
        return []
    return [
        Finding(
            kind="recorded_by_another_version",
            severity=Severity.INFO,
            where="recorded answers",
            what=report.note,
            remedy="To check that a replay is faithful, gate with the version that answered while recording.",
        )
    ]


def batch_findings(mixing: Mixing) -> list[Finding]:
    """Tells when answers depend on which requests share a batch.

    Args:
      mixing: versions whose answers do, or may.
    """
    rounding = [
        Finding(
            kind="batch_rounding", severity=Severity.INFO, where=role,
            what=f"last digits of the {role}'s answers change with the batch that a request is in: rounding,"
            " which is within the tolerance, so requests shared batches",
            remedy="Nothing needs to be done.",
        )
        for role in mixing.rounding
    ]  # fmt: skip
    unshown = [
        Finding(
            kind="batch_not_compared", severity=Severity.INFO, where=role,
            what=f"whether the {role}'s answers change with the batch that a request is in was not"
            " compared, as they change from run to run, or as too few batches were answered; every request was"
            " replayed by itself, as it was recorded",
            remedy="Make the model answer, and the same each time, to have its requests share batches.",
        )
        for role in mixing.unshown
    ]  # fmt: skip
    alone = {one.role for one in mixing.alone if one.fails_alone}
    return rounding + unshown + [
        Finding(
            kind="fails_alone", severity=Severity.WARNING, where=role,
            what=f"the {role} fails on requests by themselves that it answers in a batch; every request was"
            " replayed by itself, as it was recorded",
            remedy="Find out what the model does with a single row.",
        )
        if role in alone
        else Finding(
            kind="batch_dependent", severity=Severity.WARNING, where=role,
            what=f"the {role}'s answers change with the batch that a request is in; every request was"
            " replayed by itself, as it was recorded",
            remedy="Serve requests in the batches that they were tested in: batching on the server would"
            " change the answers.",
        )
        for role in mixing.answers
    ]  # fmt: skip

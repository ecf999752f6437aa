"""What a run says about its versions besides what they answered."""

from __future__ import annotations

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.decide.facts import Facts
from harness.decide.loading import more_room
from harness.replay.latency import LatencyLog


def load_findings(facts: Facts) -> list[Finding]:
    """Versions that do not load."""
    found = []
    tried = "candidate" not in facts.not_tried
    harm = Severity.HARM if tried else Severity.WARNING
    of_candidate = "candidate_does_not_load" if tried else "candidate_not_tried"
    for role, why, severity, kind in (
        ("baseline", facts.baseline_load_failure, Severity.WARNING, "baseline_does_not_load"),
        ("candidate", facts.candidate_load_failure, harm, of_candidate),
    ):
        if why:
            found.append(
                Finding(
                    kind=kind, severity=severity, where=role, what=why,
                    remedy=more_room(facts, role)
                    or "Load the model with the runtime of its requirements and repair what it says.",
                )
            )  # fmt: skip
    return found


def latency_findings(log: LatencyLog | None) -> list[Finding]:
    """How latency was measured, where it was."""
    if log is None:
        return []
    return [
        Finding(
            kind="latency_measured", severity=Severity.INFO, where="latency", what=log.words(),
            remedy="A shared machine is not the serving machine: compare the versions, not the seconds.",
        )
    ]  # fmt: skip


def failures_of_reference(role: str, count: int) -> list[Finding]:
    """Requests that the baseline, or the anchor, itself fails."""
    if not count:
        return []
    return [
        Finding(
            kind=f"{role}_fails", severity=Severity.WARNING, where=role,
            what=f"the replayed {role} fails {counted(count)}",
            remedy="Look whether they failed in production, too; they carry no evidence about outputs.",
        )
    ]  # fmt: skip

"""Which of the findings a rollback names as its cause: the one furthest upstream that is shown best.

What an output does is the symptom that the decision rests on. People ask for what lies behind it: a place in the
graphs that feeding proved, else a feature that changed in a way that has a name, and the output only for want of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.core.findings import Finding, Severity
from harness.core.verdicts import Decision, DecisionRecord

OF_FEATURES = ("feature_changed", "filled_with_zero", "lower_precision", "suspicious_refit")
"""Kinds of findings about features that name a change; each kind's come with the furthest upstream first."""
SYMPTOMS = ("output_changed", "class_on_one_side")
"""Kinds of findings about outputs."""
_UNNAMED = ("", "other")


def with_first_cause(
    record: DecisionRecord, findings: Sequence[Finding], *, proven: str
) -> DecisionRecord:
    """Names the first cause in a rollback's explanation.

    Args:
      record: the decision.
      findings: of the run; without a harmful one, or where the candidate crashed, the explanation stays as it is.
      proven: what the graphs prove, as from `proven_cause`; "" = nothing.
    """
    harmful = [f for f in findings if f.severity is Severity.HARM]
    if record.decision is not Decision.ROLLBACK or not harmful:
        return record
    first = harmful[0]
    if first.kind == "candidate_crash":
        return record
    cause = first.what
    if first.kind in (*OF_FEATURES, "feature_follows", *SYMPTOMS):
        cause = proven or _upstream(findings, first).what
    return replace(
        record, explanation=f"{record.explanation} First cause found: {cause.rstrip('.')}."
    )


def _upstream(findings: Sequence[Finding], first: Finding) -> Finding:
    """A feature's finding rather than an output's, one with a name rather than without, one that decides first."""
    told = [f for f in findings if f.kind in OF_FEATURES and f.severity is not Severity.INFO]
    told.sort(key=lambda f: (f.severity is not Severity.HARM, not _is_named(f)))
    if told and (told[0].severity is Severity.HARM or _is_named(told[0])):
        return told[0]
    return first


def _is_named(finding: Finding) -> bool:
    return finding.kind == "suspicious_refit" or finding.relation not in _UNNAMED

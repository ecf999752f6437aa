"""What a verdict on a table is about, and what became of the table's rows."""

from __future__ import annotations

from dataclasses import replace

from harness.core.findings import Finding, Severity
from harness.core.policies import Guardrail, Policy, Weight
from harness.core.verdicts import Evidence
from harness.judge.tables import ColumnValues
from harness.pipeline.observed import ObservedTable


def about_units(policy: Policy, row: Evidence) -> Evidence:
    """Evidence whose subject names the unit that counts once."""
    if not policy.unit:
        return row
    if policy.weight is Weight.UNIT:
        subject = row.subject.replace("rows", f"units of {policy.unit}, each once,", 1)
    else:
        subject = row.subject.replace("rows like the table's", "this table's rows", 1)
        subject += f" (units of {policy.unit} drawn by their size)"
    return replace(row, subject=subject)


def _findings(guardrail: Guardrail, column: ColumnValues, observed: ObservedTable) -> list[Finding]:
    found = []
    below, above = column.n_clipped
    if guardrail.range is not None and below + above:
        lo, hi = guardrail.range
        found.append(
            Finding(
                kind="clipped",
                severity=Severity.WARNING,
                where=guardrail.column,
                what=f"{below + above:,} of {observed.n:,} rows of column '{guardrail.column}' lie "
                f"outside the declared range [{lo:g}, {hi:g}] ({below:,} below, {above:,} above) "
                "and were cut to it: the verdict is about the clipped mean",
                remedy="Widen the range if such values are real and matter.",
                value=(below + above) / observed.n,
            )
        )
    if column.n_missing:
        found.append(
            Finding(
                kind="missing_values",
                severity=Severity.WARNING,
                where=guardrail.column,
                what=f"{column.n_missing:,} of {observed.n:,} rows of column '{guardrail.column}' "
                "have no value and count as the worst one for whatever is to be proven",
                remedy="Find out why they are empty.",
                value=column.n_missing / observed.n,
            )
        )
    return found


def findings_of(
    policy: Policy, observed: ObservedTable, seen: dict[str, ColumnValues]
) -> tuple[Finding, ...]:
    """What a reader of the verdict should know of the columns: cut and missing rows."""
    return tuple(f for g in policy.guardrails for f in _findings(g, seen[g.name], observed))

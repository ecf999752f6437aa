"""What a verdict on a table is about, and what became of the table's rows."""

from __future__ import annotations

import re
from dataclasses import replace

from harness.core.findings import Finding, Severity
from harness.core.policies import Guardrail, Metric, Policy, Weight
from harness.core.verdicts import Evidence
from harness.judge.tables import ColumnValues
from harness.pipeline.observed import ObservedTable

_COUNTED = re.compile(r"(after [\d,]+|too few) requests")


def about_units(policy: Policy, row: Evidence) -> Evidence:
    """Evidence whose words name the unit that counts once."""
    if not policy.unit:
        return row
    unit = policy.weight is Weight.UNIT
    what = f"units of {policy.unit}" if unit else f"draws from the units of {policy.unit}"
    row = replace(row, reason=_COUNTED.sub(rf"\1 {what}", row.reason))
    if unit:
        noun = "rows" if "rows" in row.subject else "requests"
        subject = row.subject.replace(noun, f"units of {policy.unit}, each once,", 1)
    else:
        subject = row.subject.replace("rows like the table's", "this table's rows", 1)
        subject += f" (units of {policy.unit} drawn by their size)"
    return replace(row, subject=subject)


def _findings(guardrail: Guardrail, column: ColumnValues, observed: ObservedTable) -> list[Finding]:
    found = []
    where = _columns(guardrail)
    below, above = column.n_clipped
    if below + above:
        found.append(
            Finding(
                kind="clipped",
                severity=Severity.WARNING,
                where=where,
                what=f"{_rows(below + above, observed.n)} of {where} "
                f"{'lies' if below + above == 1 else 'lie'} outside {_range(guardrail)} "
                f"({below:,} below, {above:,} above) and {'was' if below + above == 1 else 'were'} "
                "cut to it: the verdict is about the clipped mean",
                remedy=_WIDEN.get(
                    guardrail.metric, "Widen the range if such values are real and matter."
                ),
                value=(below + above) / observed.n,
            )
        )
    if column.n_missing:
        one = column.n_missing == 1
        found.append(
            Finding(
                kind="missing_values",
                severity=Severity.WARNING,
                where=where,
                what=f"{_rows(column.n_missing, observed.n)} of {where} {'has' if one else 'have'} no "
                f"value that can be used (empty, NaN or infinite{_OR.get(guardrail.metric, '')}) and "
                f"{'counts' if one else 'count'} as the worst one for whatever is to be proven",
                remedy="Find out why they are empty.",
                value=column.n_missing / observed.n,
            )
        )
    return found


_WIDEN = {
    Metric.LATENCY_RATIO: "Ask for `metric: latency_p99` beside it: the slowest requests are its subject."
}
_OR = {Metric.RATIO: ", a denominator below 0, or both columns outside their ranges"}


def _rows(count: int, n: int) -> str:
    return f"{count:,} of {n:,} row{'' if n == 1 else 's'}"


def _columns(guardrail: Guardrail) -> str:
    names = [f"'{name}'" for name in guardrail.reads()]
    if len(names) == 1:
        return f"column {names[0]}"
    return f"columns {', '.join(names[:-1])} and {names[-1]}"


def _range(guardrail: Guardrail) -> str:
    if guardrail.metric is Metric.LATENCY_RATIO:
        return "what a ratio of times counts as at most, a factor of e"
    top = guardrail.range or guardrail.bounds()
    text = f"the declared range [{top[0]:g}, {top[1]:g}]"
    bottom = guardrail.denominator_range
    return text if bottom is None else f"{text} or [{bottom[0]:g}, {bottom[1]:g}]"


def findings_of(
    policy: Policy, observed: ObservedTable, seen: dict[str, ColumnValues]
) -> tuple[Finding, ...]:
    """What a reader of the verdict should know of the columns: cut and missing rows."""
    return tuple(f for g in policy.guardrails for f in _findings(g, seen[g.name], observed))

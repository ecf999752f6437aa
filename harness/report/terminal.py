"""The end of the command's output: the answer on one small screen, without control sequences."""

from __future__ import annotations

import textwrap

from harness.report.views import EvidenceView, FindingView, ReportView

MOST_LINES = 25
"""Lines at most."""
WIDTH = 100
"""Columns at most."""
_MOST_GUARDRAILS = 5
_MOST_FINDINGS = 3
_SEVERITY_SIGN = {"harm": "!!", "warning": " !", "info": " i"}
_URGENCY = {"FAIL": 0, "NO_DATA": 1, "INCONCLUSIVE": 2}


def render_terminal(view: ReportView) -> str:
    """At most `MOST_LINES` lines of `WIDTH` columns, without a final line break."""
    head = view.headline
    lines = [_fit(f"{head.word}  {view.title}  ({view.run_id})")]
    lines += [_fit(f"[{banner.title}] {banner.text}") for banner in view.banners[:3]]
    lines += _paragraph(head.explanation or head.reason or head.lead, 4)
    if head.binding:
        lines.append(_fit(f"Bound by {head.binding}"))
    lines += _guardrails(view.evidence)
    lines += [
        line
        for place, item in enumerate(view.findings[:_MOST_FINDINGS])
        for line in _finding(item, most=2 if place == 0 else 1)
    ]
    left_out = len(view.findings) - _MOST_FINDINGS
    if left_out > 0:
        lines.append(f"   and {left_out} more findings in the report")
    if head.next:
        lines += _paragraph(f"Next: {head.next}", 2)
    glance = "; ".join(f"{fact.label.lower()} {fact.value}" for fact in head.facts)
    lines += _paragraph(glance[:1].upper() + glance[1:], 2)
    return "\n".join(line.rstrip() for line in lines[:MOST_LINES])


def _guardrails(rows: tuple[EvidenceView, ...]) -> list[str]:
    if not rows:
        return ["No guardrail was judged."]
    ordered = sorted(rows, key=lambda row: (not row.gating, _URGENCY.get(row.verdict, 9)))
    shown = ordered[:_MOST_GUARDRAILS]
    table = [("guardrail", "verdict", "mean between", "tolerated", "requests")]
    table += [
        (
            _fit(row.name, 30),
            row.verdict if row.gating else f"({row.verdict})",
            _fit(row.interval, 26),
            _fit(row.tolerated, 18),
            row.requests,
        )
        for row in shown
    ]
    widths = [max(len(line[k]) for line in table) for k in range(5)]
    lines = [
        _fit("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
        for line in table
    ]
    left_out = len(ordered) - len(shown)
    if left_out:
        lines.append(f"and {left_out} more; in brackets: reported only")
    elif any(not row.gating for row in shown):
        lines.append("in brackets: reported only")
    return lines


def _finding(item: FindingView, most: int) -> list[str]:
    sign = f"{_SEVERITY_SIGN.get(item.badge.word, '  ')} "
    return textwrap.wrap(
        item.line,
        WIDTH,
        initial_indent=sign,
        subsequent_indent=" " * len(sign),
        max_lines=most,
        placeholder=" …",
    )


def _paragraph(text: str, most: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, max_lines=most, placeholder=" …")


def _fit(text: str, width: int = WIDTH) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"

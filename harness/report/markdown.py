"""summary.md: one page for a pipeline's summary tab.

The reader is a markdown renderer that turns words into links, images, mentions and HTML. Every
value is therefore escaped or put into a code span; the whole is capped, because job summaries are
(GitHub: 1 MiB a step) and because one page is what is read.
"""

from __future__ import annotations

import re

from harness.report.read import visible
from harness.report.views import EvidenceView, FindingView, ReportView

MOST_BYTES = 60_000
"""Size of the summary at most."""
_MOST_GUARDRAILS = 30
_MOST_FINDINGS = 10
_LONGEST_FINDING = 1_000
_SIGNS = {"PROMOTE": "✅", "ROLLBACK": "❌", "HOLD": "⏸️", "ERROR": "⚠️"}
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>|~#$&])")
_LINKS = re.compile(r"(?i)(://|www\.)")
_LIST_MARK = re.compile(r"^([-+=])|^(\d{1,9})([.)])")
_CUT = "\n\n_Shortened; the whole is in report.html._\n"


def render_markdown(view: ReportView) -> str:
    """One page, at most `MOST_BYTES` bytes of UTF-8."""
    head = view.headline
    lines = [f"## {_SIGNS[head.state]} {head.word}: {escaped(view.title)}", ""]
    for banner in view.banners:
        lines += [f"> **{escaped(banner.title)}.** {escaped(banner.text)}", ""]
    lines += [f"**{escaped(head.lead)}**", ""]
    if head.explanation or head.reason:
        lines += [paragraph(head.explanation or head.reason), ""]
    if head.binding:
        lines += [f"- Bound by {escaped(head.binding)}"]
    if head.next:
        lines += [f"- Next: {escaped(head.next)}"]
    lines += [
        f"- {escaped(fact.label)}: {escaped(fact.value)} {escaped(fact.note)}".rstrip()
        for fact in head.facts
    ]
    lines += ["", *_guardrails(view), *_findings(view), *_rest(view)]
    return capped("\n".join(lines) + "\n")


def _guardrails(view: ReportView) -> list[str]:
    if not view.evidence:
        return [paragraph(view.guardrails_empty), ""]
    lines = [
        "| Guardrail | Verdict | Mean between | Tolerated | Requests |",
        "|---|---|---:|---:|---:|",
        *(_guardrail(row) for row in view.evidence[:_MOST_GUARDRAILS]),
        "",
    ]
    left_out = len(view.evidence) - _MOST_GUARDRAILS
    if left_out > 0:
        lines += [f"{left_out} more in report.html.", ""]
    return lines


def _guardrail(row: EvidenceView) -> str:
    verdict = escaped(row.verdict or row.badge.word)
    if row.verdict == "FAIL":
        verdict = f"**{verdict}**"
    role = "" if row.gating else " (reported only)"
    cells = (
        code(row.name) + role,
        verdict,
        *map(escaped, (row.interval, row.tolerated, row.requests)),
    )
    return f"| {' | '.join(cells)} |"


def _findings(view: ReportView) -> list[str]:
    if not view.findings:
        return []
    shown = view.findings[:_MOST_FINDINGS]
    lines = ["### Findings", "", *(_finding(item) for item in shown), ""]
    left_out = len(view.findings) - len(shown)
    if left_out > 0:
        lines += [f"{left_out} more in report.html.", ""]
    return lines


def _finding(item: FindingView) -> str:
    parts = [f"**{escaped(item.badge.word)}**", escaped(visible(item.line, _LONGEST_FINDING))]
    if item.remedy:
        parts.append(f"_{escaped(item.remedy)}_")
    return f"- {' '.join(part for part in parts if part)}"


def _rest(view: ReportView) -> list[str]:
    changed = [f"{fact.label}: {fact.value}" for fact in view.behaviour.facts[:1]]
    parity = [f"{fact.label}: {fact.value}" for fact in view.parity.facts]
    if view.graph:
        parity += [f"{fact.label}: {fact.value}" for fact in view.graph.facts] or [view.graph.lead]
    limits = [*view.limits, "A replay shows nothing upstream of the recorded request."]
    sides = [view.baseline, view.candidate]
    if not view.replayed:
        changed, parity, sides, limits = [], [], [], [*view.limits, view.always[0]]
    digests = [
        f"- {side.role} {code(side.label)}: "
        + ", ".join(code(fact.value) for fact in side.facts if "Digest" in fact.label)
        for side in sides
    ]
    return [
        "<details><summary>More</summary>",
        "",
        *(f"- {escaped(text)}" for text in (*changed, *parity)),
        *digests,
        f"- Run {code(view.run_id)}, {escaped(view.created)}",
        *(f"- Not shown: {escaped(text)}" for text in limits[:12]),
        "",
        "</details>",
    ]


def escaped(text: str) -> str:
    """Text that a markdown renderer shows as it stands."""
    plain = _PUNCTUATION.sub(r"\\\1", text)
    # A zero-width space stops bare addresses and names from becoming links and mentions.
    plain = _LINKS.sub(lambda found: f"{found[0][0]}\u200b{found[0][1:]}", plain)
    return re.sub(r"@(?=\w)", "@\u200b", plain)


def paragraph(text: str) -> str:
    """Escaped text at the start of a line, where a number or a dash would begin a list."""
    return _LIST_MARK.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\{m[3]}", escaped(text))


def code(text: str) -> str:
    """A value in a code span, also inside a table."""
    if not text:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if text[0] in "` " or text[-1] in "` " else ""
    # Tables are split at | before code spans are read, and there it takes a backslash.
    return f"{fence}{room}{text.replace('|', chr(92) + '|')}{room}{fence}"


def capped(text: str, limit: int = MOST_BYTES) -> str:
    """The text, cut at a line when it is longer than `limit` bytes."""
    if len(text.encode()) <= limit:
        return text
    room = limit - len(_CUT.encode())
    kept = text.encode()[:room].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1].rstrip("\n") + _CUT

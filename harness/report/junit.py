"""junit.xml: the decision and each guardrail as test cases, for the pipeline's test tab.

rollback → failure, hold → skipped, a gate that failed → error. In advise mode nothing fails: what
would have failed is skipped, and its message says so. A guardrail beyond its margin is a failure
only in a rollback, so that the file never contradicts the exit code.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET  # written here, never parsed

from harness.report.views import EvidenceView, ReportView

_MOST_CASES = 2_000


def render_junit(view: ReportView) -> str:
    """JUnit XML, UTF-8 declared."""
    suite = ET.Element("testsuite", name="harness gate")
    _properties(suite, view)
    _decision(suite, view)
    for row in view.evidence[:_MOST_CASES]:
        _guardrail(suite, view, row)
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
        "skipped": len(suite.findall("testcase/skipped")),
    }
    root = ET.Element("testsuites", name="harness gate")
    for element in (root, suite):
        for key, n in counts.items():
            element.set(key, str(n))
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _properties(suite: ET.Element, view: ReportView) -> None:
    pairs = [
        ("decision", view.headline.state),
        ("reason", view.headline.reason),
        ("run", view.run_id),
        ("model", view.title),
        *((f"limited by {n}", f"{b.title}. {b.text}") for n, b in enumerate(view.banners, 1)),
    ]
    properties = ET.SubElement(suite, "properties")
    for name, value in pairs:
        ET.SubElement(properties, "property", name=name, value=value)


def _case(suite: ET.Element, classname: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=classname, name=name, time="0")


def _mark(case: ET.Element, kind: str, message: str, text: str) -> None:
    attributes = {"message": message}
    if kind != "skipped":
        attributes["type"] = "gate"
    ET.SubElement(case, kind, attributes).text = text


def _decision(suite: ET.Element, view: ReportView) -> None:
    head = view.headline
    case = _case(suite, "gate", f"decision: {view.title}")
    text = "\n".join(t for t in (head.lead, head.explanation, head.binding, head.next) if t)
    message = f"{head.word}: {head.reason}" if head.reason else head.word
    match head.state:
        case "PROMOTE":
            ET.SubElement(case, "system-out").text = text
        case "ROLLBACK" if view.advise:
            _mark(case, "skipped", f"advise mode, would fail: {message}", text)
        case "ROLLBACK":
            _mark(case, "failure", message, text)
        case "HOLD":
            _mark(case, "skipped", message, text)
        case _:
            _mark(case, "error", message, text)


def _guardrail(suite: ET.Element, view: ReportView, row: EvidenceView) -> None:
    case = _case(suite, "gate.guardrails", row.name)
    told = f"{row.verdict}: {row.statement}"
    text = f"{told}\n{row.reason}\nRequests: {row.requests} ({row.window})"
    if row.verdict == "PASS" or not row.gating:
        out = text if row.gating else f"Reported, does not decide.\n{text}"
        ET.SubElement(case, "system-out").text = out
    elif row.verdict == "FAIL" and view.headline.state == "ROLLBACK" and not view.advise:
        _mark(case, "failure", told, text)
    else:
        _mark(case, "skipped", told, text)

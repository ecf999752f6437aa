"""A comparison's JSON → one page, in the look of a gate's report: the answer, where the graphs part, the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.report.graph import graph_section
from harness.report.headline import finding_views
from harness.report.parity import parity
from harness.report.read import Doc
from harness.report.tones import Tone
from harness.report.views import Fact, FindingView, Section
from harness.report.words import count, short_digest

_ANSWERS = {
    0: (Tone.GOOD, "EQUAL", "No output and no feature differs beyond the floor."),
    1: (Tone.BAD, "DIVERGED", "The two versions do not give the same answers."),
    2: (
        Tone.WAIT,
        "NOT COMPARABLE",
        "Something that counts could not be compared: nothing shows that they are equal.",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonView:
    """One comparison, ready to be shown."""

    tone: Tone
    """The answer's."""
    word: str
    """The answer."""
    lead: str
    """What it means."""
    title: str
    """Both versions."""
    facts: tuple[Fact, ...]
    """How much was compared."""
    findings: tuple[FindingView, ...]
    """Harm first."""
    findings_note: str
    """Said when there are none, or when some were left out."""
    sections: tuple[Section, ...]
    """Where the graphs part, then features and outputs."""
    limits: tuple[str, ...]
    """What was not compared."""


def view_from_comparison(result: Mapping[str, object]) -> ComparisonView:
    """Words a comparison.

    Args:
      result: what `harness compare --json` prints, parsed.
    """
    doc = Doc(result)
    tone, word, lead = _ANSWERS.get(doc.at("exit_code").whole() or 0, _ANSWERS[2])
    models = doc.at("models").items()
    names = [f"{m.at('name').text()} ({short_digest(m.at('digest').text())})" for m in models]
    found, note = finding_views(doc)
    graph = graph_section(doc.at("graph"))
    return ComparisonView(
        tone=tone,
        word=word,
        lead=lead,
        title=" → ".join(names),
        facts=(
            Fact(
                label="Requests compared",
                value=f"{count(doc.at('compared').whole())} of {count(doc.at('asked').whole())}",
                note=f"{count(doc.at('available').whole())} available",
            ),
            Fact(label="Isolation", value=doc.at("isolation", "tier").text("unknown")),
        ),
        findings=found,
        findings_note=note,
        sections=(*((graph,) if graph else ()), parity(doc.at("intermediates"), Doc())),
        limits=tuple(text.text() for text in doc.at("not_compared").items()),
    )

"""A canary's or a shadow's folder → one page, in the look of a gate's report.

The same page while it runs and after its end: where it stands, how traffic was moved, what each guardrail
has shown, what each arm did, and what was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report.charts import time_line
from harness.report.guardrails import (
    alphas,
    evidence_rows,
    guardrail_views,
    overview,
    tally,
)
from harness.report.read import LONG, Doc
from harness.report.tones import Tone
from harness.report.views import Cell, Column, Fact, GuardrailView, Section, Table
from harness.report.words import METRICS, count, e_value, moment, percent, plain_word

Json = Mapping[str, object]
MOST_EVENTS = 200
"""Events shown; the latest ones."""
_MOST_OUTPUTS = 200
_LARGEST_LOG = 690.0
_ANSWERS = {
    "PROMOTE": (Tone.GOOD, "PROMOTE", "All traffic goes to the candidate."),
    "ROLLBACK": (Tone.BAD, "ROLLBACK", "All traffic goes to the baseline."),
    "HOLD": (Tone.WAIT, "HOLD", "All traffic goes to the baseline; nothing more is judged."),
}
_GOING_ON = (Tone.INFO, "UNDECIDED", "Neither harm nor its absence is proven so far.")
_SHADOWS = {
    0: (Tone.GOOD, "EQUAL", "Everything that was compared is equal."),
    1: (Tone.BAD, "DIFFERENT", "The versions answer some requests differently."),
    2: (Tone.WAIT, "TOO LITTLE COMPARED", "Too little was compared to say that they are equal."),
    4: (Tone.BAD, "BROKEN", "The comparison itself failed; production was served all the time."),
}
_TOO_LITTLE, _BROKEN = 2, 4
_TWO_VERSIONS = (
    Tone.WAIT, "TWO VERSIONS COMPARED", "A version was changed meanwhile: the counts are about neither.",
)  # fmt: skip
_MIRRORED = (Tone.INFO, "COMPARING", "The shadow goes on, or was ended before its last word.")
_JUDGED_SHADOW = {
    "PROMOTE": "The candidate answers like the baseline, within every margin.",
    "ROLLBACK": "The candidate's answers are worse than a margin allows.",
    "HOLD": "Neither harm nor its absence is proven.",
}
_REASONS = (
    ("failed", "Failed"),
    ("broken_form", "Broken in form"),
    ("unknown_form", "Before the baseline's form"),
    ("other_form", "Form not measured"),
    ("without_output", "Without the measured output"),
    ("nan", "NaN or a score outside of 0 and 1"),
    ("other_outputs", "Asked for other outputs"),
)

_WIDER = {"nan_rate": "live_nan_rate"}
"""Metrics that mean more on live traffic than in a gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveView:
    """One canary or shadow, ready to be shown."""

    kind: str
    """canary or shadow."""
    tone: Tone
    """The answer's."""
    word: str
    """The answer."""
    lead: str
    """What it means for traffic."""
    explanation: str
    """Why, in the judge's words."""
    title: str
    """Both versions."""
    updated: str
    """Up to when it has been judged."""
    facts: tuple[Fact, ...]
    """At a glance."""
    overview: Table
    """All guardrails in one table."""
    guardrails: tuple[GuardrailView, ...]
    """Each with its curve."""
    sections: tuple[Section, ...]
    """Traffic, arms or differences, and what was told."""
    limits: tuple[str, ...]
    """What was not compared."""


def view_from_live(
    manifest: Json | None,
    decision: Json | None,
    evidence: Json | None,
    events: Sequence[Json],
    shadow: Json | None,
) -> LiveView:
    """Words a folder of live traffic.

    Args:
      manifest: manifest.json.
      decision: decision.json; None before there is one.
      evidence: evidence.json; the same.
      events: lines of events.jsonl, in order.
      shadow: shadow.json, or mirror.json while it runs; None for a canary.
    """
    told = tuple(Doc(event) for event in events)
    # Evidence is written less often than events are told, or, while little is new, more often.
    heads = (*told[-1:], Doc(evidence).at("standing"))
    last = max(heads, key=lambda head: head.at("ts_ns").whole() or 0)
    decided, shown = Doc(decision), Doc(evidence)
    rows = tuple(_measured(row, shown.at("measured")) for row in evidence_rows(shown, decided))
    cards = guardrail_views(rows, alphas(decided), decided.at("binding_guardrail").text())
    kind = Doc(manifest).at("kind").text("canary")
    mirrored = Doc(shadow)
    tone, word, lead = _answer(last) if kind == "canary" else _shadow_answer(last, mirrored)
    about = [Doc(manifest).at(side).text("unknown") for side in ("baseline", "candidate")]
    explanation = last.at("explanation").text(limit=LONG)
    traffic = (_traffic((*told, last)),) if kind == "canary" else ()
    return LiveView(
        kind=kind,
        tone=tone,
        word=word,
        lead=lead,
        explanation=explanation if kind == "canary" or mirrored.at("standing") else "",
        title=" → ".join(about),
        updated=moment(last.at("ts_ns").whole()),
        facts=_facts(last, rows, mirrored),
        overview=overview(cards),
        guardrails=cards,
        sections=(
            *traffic,
            _arms(last) if kind == "canary" else _differences(mirrored),
            _log(told),
        ),
        limits=tuple(note.text(limit=LONG) for note in _limits(decided, mirrored)),
    )


def _measured(row: Doc, measured: Doc) -> Doc:
    """Evidence under the name of what the policy measures, where that has words."""
    metric = measured.at(row.at("guardrail").text()).text()
    metric = _WIDER.get(metric, metric)
    ratio = row.at("metric").text() == "live_errors"
    if metric not in METRICS or ratio or not isinstance(row.value, Mapping):
        return row
    return Doc({**row.value, "metric": metric})


def _answer(last: Doc) -> tuple[Tone, str, str]:
    if not last.at("final").flag(default=False):
        return _GOING_ON
    return _ANSWERS.get(last.at("decision").text(), _GOING_ON)


def _shadow_answer(last: Doc, mirrored: Doc) -> tuple[Tone, str, str]:
    code = mirrored.at("exit_code").whole()
    if code == _BROKEN:
        return _SHADOWS[code]
    if mirrored.at("standing"):
        word = last.at("decision").text()
        if word not in _ANSWERS or not last.at("final").flag(default=False):
            return _GOING_ON
        return _ANSWERS[word][0], word, _JUDGED_SHADOW[word]
    if code == _TOO_LITTLE and mirrored.at("version_changes").items():
        return _TWO_VERSIONS
    return _MIRRORED if code is None else _SHADOWS.get(code, _MIRRORED)


def _facts(last: Doc, rows: tuple[Doc, ...], mirrored: Doc) -> tuple[Fact, ...]:
    if mirrored:
        return (
            Fact(label="Compared", value=count(mirrored.at("compared").whole() or 0)),
            Fact(label="Differ", value=count(mirrored.at("differ").whole() or 0)),
            Fact(
                label="Answered by the baseline only",
                value=count(mirrored.at("candidate_failed").whole() or 0),
            ),
            Fact(label="Gating guardrails", value=tally(rows)),
        )
    return (
        Fact(
            label="Candidate's share now",
            value=percent(last.at("share").finite() or 0.0),
            note=f"step {(last.at('step').whole() or 0) + 1} of the ramp",
        ),
        Fact(
            label="Units judged", value=count(last.at("n_closed").whole() or 0),
            note=f"of {count(last.at('n_units').whole() or 0)} seen",
        ),
        Fact(label="Requests", value=count(last.at("n_requests").whole() or 0)),
        Fact(label="Gating guardrails", value=tally(rows)),
        Fact(
            label="Split as declared (p-value)",
            value=f"{last.at('sample_ratio_p').finite() or 0.0:.3g}",
            note="small = broken",
        ),
    )  # fmt: skip


def _traffic(told: tuple[Doc, ...]) -> Section:
    """How traffic was moved, from one event to the next."""
    spans: list[tuple[str, int, int, Tone, str]] = []
    began, share = 0, -1.0
    last_ns = 0
    for event in told:
        ts_ns, now = event.at("ts_ns").whole() or 0, event.at("share").finite() or 0.0
        last_ns = max(last_ns, ts_ns)
        if ts_ns and now != share:
            if began:
                spans.append(_span(share, began, ts_ns))
            began, share = ts_ns, now
    if began:
        spans.append(_span(share, began, last_ns))
    drawn = time_line(tuple(spans[-MOST_EVENTS:]))
    return Section(
        anchor="traffic",
        title="Traffic over time",
        lead="The candidate's share of units at each step; time goes from left to right."
        if drawn
        else "No step has lasted yet.",
        time_line=drawn,
    )


def _span(share: float, first_ns: int, last_ns: int) -> tuple[str, int, int, Tone, str]:
    seconds = max(last_ns - first_ns, 0) / 1e9
    tone = Tone.MUTED if share == 0.0 else Tone.GOOD if share == 1.0 else Tone.INFO
    label = "baseline only" if share == 0.0 else f"{percent(share)} to the candidate"
    return label, first_ns, last_ns, tone, f"{moment(first_ns)}, {seconds:,.0f} s"


def _arms(last: Doc) -> Section:
    counts = dict(last.at("counts").fields())
    asked = [n.whole() or 0 for n in last.at("arms").items()] or [0, 0]
    rows = []
    for arm, n in zip(("baseline", "candidate"), asked, strict=False):
        found = [counts.get(f"{arm}_{reason}", Doc(0)).whole() or 0 for reason, _ in _REASONS]
        rows.append((Cell(text=arm), Cell(text=count(n)), *(Cell(text=count(k)) for k in found)))
    of_arms = {f"{arm}_{reason}" for arm in ("baseline", "candidate") for reason, _ in _REASONS}
    others = [(name, n) for name, n in counts.items() if name not in of_arms]
    return Section(
        anchor="arms",
        title="Both arms",
        tables=(
            Table(
                title="Requests by arm, and why some have no value",
                columns=(
                    Column(label="Arm"), Column(label="Requests judged", numeric=True),
                    *(Column(label=label, numeric=True) for _, label in _REASONS),
                ),
                rows=tuple(rows),
                empty="",
                note="What failed counts in the guardrails about failures; what has no value counts "
                "against a promotion, and never for a rollback.",
            ),
            _counted("What entered nothing, or was lost", others),
        ),
    )  # fmt: skip


def _differences(mirrored: Doc) -> Section:
    outputs = (*mirrored.at("outputs").items(), *mirrored.at("outputs_before").items())
    rows = tuple(
        (
            Cell(text=column.at("name").text("unnamed"), mono=True),
            Cell(text=count(column.at("mismatched_requests").whole())),
            Cell(text=column.at("text").text(limit=LONG)),
        )
        for column in outputs[:_MOST_OUTPUTS]
    )
    left = len(outputs) - len(rows)
    others = [(name, n) for name, n in mirrored.at("not_mirrored").fields() if n.whole()]
    kept = count(mirrored.at("disagreements_kept").whole() or 0)
    unkept = count(mirrored.at("disagreements_not_kept").whole() or 0)
    lost, cut = mirrored.at("lost").whole() or 0, mirrored.at("cut").whole() or 0
    notes = [f"{count(lost)} requests were lost with the mirror's process."] if lost else []
    if cut:
        notes.append(
            f"{count(cut)} earlier starts ended without their last word, or their account is gone: what they had in "
            "hand, or had found, is not known."
        )
    return Section(
        anchor="differences",
        title="Disagreements",
        lead=f"{kept} requests that the versions answer differently are kept with both answers, {unkept} "
        "are not, for want of room.",
        tables=(
            Table(
                title="Outputs that differ",
                columns=(
                    Column(label="Output"), Column(label="Requests", numeric=True), Column(label="How"),
                ),
                rows=rows,
                empty="No output differs.",
                note=f"{left:,} more are in shadow.json." if left else "",
            ),
            _counted("Requests that were not shown to the candidate", others),
        ),
        notes=tuple(notes),
    )  # fmt: skip


def _counted(title: str, found: Sequence[tuple[str, Doc]]) -> Table:
    return Table(
        title=title,
        columns=(Column(label="What"), Column(label="How many", numeric=True)),
        rows=tuple(
            (Cell(text=plain_word(name)), Cell(text=count(n.whole() or 0))) for name, n in found
        ),
        empty="Nothing.",
    )


def _log(told: tuple[Doc, ...]) -> Section:
    shown = told[-MOST_EVENTS:]
    rows = tuple(
        (
            Cell(text=moment(event.at("ts_ns").whole()) or "before the first request"),
            Cell(text=_event_word(event)),
            Cell(text=percent(event.at("share").finite() or 0.0)),
            Cell(text=count(event.at("n_closed").whole() or 0)),
            Cell(text=_harm(event)),
        )
        for event in reversed(shown)
    )
    return Section(
        anchor="events",
        title="What was told",
        folded=True,
        lead="Starts, steps, answers and the verdict; the latest first.",
        tables=(
            Table(
                title="Events",
                columns=(
                    Column(label="When"), Column(label="What"),
                    Column(label="Candidate's share", numeric=True),
                    Column(label="Units judged", numeric=True),
                    Column(label="Evidence of harm (e-value)", numeric=True),
                ),
                rows=rows,
                empty="Nothing yet.",
                note=f"{len(told) - len(shown):,} earlier ones are in events.jsonl."
                if len(told) > len(shown)
                else "",
            ),
        ),
    )  # fmt: skip


def _event_word(event: Doc) -> str:
    final = event.at("final").flag(default=False)
    return (event.at("decision") if final else event.at("event")).text("unknown")


def _harm(event: Doc) -> str:
    """The largest clock's e-value."""
    logs = [log_e.finite() for _, log_e in event.at("log_e_rollback").fields()]
    known = [log_e for log_e in logs if log_e is not None]
    return e_value(math.exp(min(max(known), _LARGEST_LOG))) if known else "–"


def _limits(decided: Doc, mirrored: Doc) -> tuple[Doc, ...]:
    return decided.at("not_compared").items() or mirrored.at("not_compared").items()

"""summary.json → what production would have seen: outcomes, decisions, requests, slices, latency."""

from __future__ import annotations

import re

from harness.report.read import Doc
from harness.report.tones import Tone
from harness.report.views import Cell, Column, Fact, Section, Table
from harness.report.words import (
    WINDOWS,
    count,
    counted,
    listed,
    milliseconds,
    moment,
    number,
    rate,
    score,
    share,
    signed,
)

MOST_CHANGED = 10
"""Most changed requests shown."""
_MOST_SLICES = 40
_OUTCOMES = {
    "OK": "answered",
    "ERROR": "refused with an error",
    "CRASH": "process died",
    "TIMEOUT": "no answer in time",
    "INVALID": "malformed answer",
    "NOT_RUN": "never asked",
}
_NO_FAILURE = {"OK", "NOT_RUN"}
"""What was never asked failed nothing; the version whose leg ended says why in its findings."""


def behaviour(summary: Doc) -> Section:
    """Outcomes, flips, most changed requests, slices."""
    return Section(
        anchor="behaviour",
        title="What would change in production",
        lead="Answers and decisions of both versions to the same requests.",
        facts=_flips(summary),
        tables=(_outcomes(summary), _changed(summary), _slices(summary)),
    )


def _flips(summary: Doc) -> tuple[Fact, ...]:
    flips = summary.at("flips")
    facts = []
    n, changed = flips.at("n").whole(), flips.at("changed").whole()
    if not n or changed is None:
        facts.append(Fact(label="Decisions changed", value="not measured"))
    else:
        up, down = flips.at("to_positive").whole(), flips.at("to_negative").whole()
        facts.append(
            Fact(
                label="Decisions changed",
                value=f"{count(changed)} of {count(n)} ({share(changed, n)})",
                note=f"{count(up)} to positive, {count(down)} to negative",
            )
        )
        p = flips.at("mcnemar_p").finite()
        if p is not None:
            facts.append(
                Fact(
                    label="Both directions equally often? (McNemar)",
                    value=f"p {_p_value(p)}",
                    note="fixed-sample test; informs, never decides",
                )
            )
    for window, rates in summary.at("decision_rate").fields():
        old, new = rates.at("baseline").finite(), rates.at("candidate").finite()
        if old is None or new is None:
            continue
        facts.append(
            Fact(
                label=f"Positive decisions, {WINDOWS.get(window, window)}",
                value=f"{rate(old)} → {rate(new)}",
                note=f"{signed(100 * (new - old), 2)} pp",
            )
        )
    return tuple(facts)


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {number(p, 2)}"  # noqa: PLR2004 - usual last digit


def _outcomes(summary: Doc) -> Table:
    sides = {
        role: dict(summary.at("outcomes", role).fields()) for role in ("baseline", "candidate")
    }
    known = [name for name in _OUTCOMES if any(name in side for side in sides.values())]
    other = sorted({name for side in sides.values() for name in side} - set(_OUTCOMES))
    rows = []
    for name in (*known, *other):
        counts = [
            sides[role][name].whole() if name in sides[role] else 0
            for role in ("baseline", "candidate")
        ]
        worse = name not in _NO_FAILURE and (counts[1] or 0) > (counts[0] or 0)
        rows.append(
            (
                Cell(text=_OUTCOMES.get(name, name), note=name),
                Cell(text=count(counts[0])),
                Cell(text=count(counts[1])),
                Cell(text="more failures", badge=Tone.BAD) if worse else Cell(text=""),
            )
        )
    return Table(
        title="Outcomes",
        columns=(
            Column(label="Outcome"),
            Column(label="Baseline, requests", numeric=True),
            Column(label="Candidate, requests", numeric=True),
            Column(label=""),
        ),
        rows=tuple(rows),
        empty="No request was replayed.",
    )


def _changed(summary: Doc) -> Table:
    rows = summary.at("changed").items()
    return Table(
        title="Most changed requests",
        columns=(
            Column(label="Request"),
            Column(label="Arrived"),
            Column(label="Score, baseline → candidate", numeric=True),
            Column(label="Change", numeric=True),
            Column(label="Decision"),
        ),
        rows=tuple(_changed_row(row) for row in rows[:MOST_CHANGED]),
        empty="No request changed its score, or scores were not compared.",
        note=f"The {MOST_CHANGED} most changed of those recorded; all pairs are in pairs/."
        if len(rows) > MOST_CHANGED
        else "",
    )


def _changed_row(row: Doc) -> tuple[Cell, ...]:
    old, new = row.at("baseline_score").finite(), row.at("candidate_score").finite()
    before = row.at("baseline_decision").text("–", limit=40)
    after = row.at("candidate_decision").text("–", limit=40)
    context = tuple(f"{key}={value.text('(empty)')}" for key, value in row.at("context").fields())
    return (
        Cell(text=row.at("request_id").text("unnamed"), note=listed(context, 4), mono=True),
        Cell(text=moment(row.at("ts_ns").whole()) or "unknown"),
        Cell(text=f"{score(old)} → {score(new)}"),
        Cell(text=signed(new - old) if old is not None and new is not None else "–"),
        Cell(text=f"{before} → {after}", badge=Tone.WAIT)
        if before != after
        else Cell(text=f"stays {before}"),
    )


def _slices(summary: Doc) -> Table:
    rows = summary.at("slices").items()

    def shift(row: Doc) -> float:
        old, new = row.at("baseline_rate").finite(), row.at("candidate_rate").finite()
        return abs(new - old) if old is not None and new is not None else -1.0

    ordered = sorted(rows, key=lambda row: -shift(row))
    left_out = len(rows) - _MOST_SLICES
    return Table(
        title="Slices, most changed first",
        columns=(
            Column(label="Slice"),
            Column(label="Requests", numeric=True),
            Column(label="Positive decisions, baseline → candidate", numeric=True),
            Column(label="Change (pp)", numeric=True),
            Column(label="Mean score change", numeric=True),
        ),
        rows=tuple(_slice_row(row) for row in ordered[:_MOST_SLICES]),
        empty="No slice columns were recorded.",
        note="Plain means without a test; verdicts on slices stand with their guardrail."
        + f" {left_out} more are in summary.json." * (left_out > 0),
        folded=len(rows) > MOST_CHANGED,
    )


def _slice_row(row: Doc) -> tuple[Cell, ...]:
    old, new = row.at("baseline_rate").finite(), row.at("candidate_rate").finite()
    known = old is not None and new is not None
    return (
        Cell(text=f"{row.at('column').text('column')} = {row.at('value').text('(empty)')}"),
        Cell(text=count(row.at("n").whole())),
        Cell(text=f"{rate(old)} → {rate(new)}" if known else "–"),
        Cell(text=signed(100 * (new - old), 2) if old is not None and new is not None else "–"),
        Cell(text=signed(row.at("score_shift").finite(), 4)),
    )


def latency(summary: Doc) -> Section:
    """Batch service time per request of both versions."""
    sides = [summary.at("latency", role) for role in ("baseline", "candidate")]
    rows = tuple(
        (
            Cell(text=label),
            *(Cell(text=milliseconds(side.at(key).finite())) for side in sides),
        )
        for key, label in (*((key, _percentile(key)) for key in _latency_keys(sides)),)
    )
    batches = sides[0].at("batches").whole()
    return Section(
        anchor="latency",
        title="Latency",
        lead="Batch service time divided by the batch's requests, measured on the gate's own "
        "machine. This is not the latency that a caller of the serving system sees.",
        tables=(
            Table(
                title="Batch service time per request",
                columns=(
                    Column(label="Percentile"),
                    Column(label="Baseline", numeric=True),
                    Column(label="Candidate", numeric=True),
                ),
                rows=rows,
                empty="Latency was not measured in this run.",
                note=f"Over {counted(batches, 'batch', 'batches')} a version." if batches else "",
            ),
        ),
    )


def _latency_keys(sides: list[Doc]) -> list[str]:
    known = [key for side in sides for key, _ in side.fields() if key.endswith("_ms")]
    return list(dict.fromkeys(known))


def _percentile(key: str) -> str:
    found = re.fullmatch(r"p(\d{1,3})_ms", key)
    if not found:
        return key.removesuffix("_ms")
    return "Median" if found[1] == "50" else f"{found[1]}th percentile"

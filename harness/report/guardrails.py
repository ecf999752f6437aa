"""evidence.json → guardrails in words, with their curves and slices."""

from __future__ import annotations

import math
from collections import defaultdict

from harness.report.charts import Judged, PathStep, bar, curve, shared_reach
from harness.report.read import LONG, Doc
from harness.report.tones import Tone
from harness.report.views import (
    Badge,
    Cell,
    Column,
    EvidenceView,
    Fact,
    GuardrailView,
    Table,
)
from harness.report.words import (
    WINDOWS,
    between,
    count,
    e_value,
    interval,
    listed,
    metric_from_word,
    percent,
    plain_word,
    statement,
    tolerated,
)

VERDICTS = {
    "PASS": Badge(tone=Tone.GOOD, word="PASS"),
    "FAIL": Badge(tone=Tone.BAD, word="FAIL"),
    "INCONCLUSIVE": Badge(tone=Tone.WAIT, word="INCONCLUSIVE"),
    "NO_DATA": Badge(tone=Tone.WAIT, word="NO DATA"),
}
MOST_GUARDRAILS = 60
"""Guardrails shown with a card of their own."""
MOST_SLICES = 80
"""Slices shown per guardrail."""
_ORDER = {"FAIL": 0, "NO_DATA": 1, "INCONCLUSIVE": 2}


def evidence_rows(evidence: Doc, decision: Doc) -> tuple[Doc, ...]:
    """The Evidence values: from evidence.json, or the compact ones in decision.json."""
    rows = evidence.at("evidence").items() or decision.at("guardrails").items()
    return tuple(row for row in rows if row.fields())


def alphas(decision: Doc) -> tuple[float, float]:
    """(promote, rollback) error rates; 0 where the decision does not say."""
    return (
        decision.at("alpha", "promote").finite() or 0.0,
        decision.at("alpha", "rollback").finite() or 0.0,
    )


def judged_from(row: Doc) -> Judged:
    """The numbers and words of one Evidence."""
    margin = row.at("margin").finite()
    verdict = row.at("verdict").text()
    return Judged(
        metric=metric_from_word(row.at("metric").text()),
        margin=margin if margin is not None and margin >= 0 else None,
        direction=row.at("direction").text("increase"),
        verdict=verdict,
        lower=row.at("lower").number() if verdict != "NO_DATA" else None,
        upper=row.at("upper").number() if verdict != "NO_DATA" else None,
        tone=VERDICTS[verdict].tone if verdict in VERDICTS else Tone.MUTED,
    )


def evidence_view(row: Doc, reach: float | None = None) -> EvidenceView:
    """One Evidence in words.

    Args:
      row: the Evidence.
      reach: margins the bar shows to each side; None = as many as it needs.
    """
    judged = judged_from(row)
    gating = row.at("gating").flag(default=True)
    badge = VERDICTS.get(judged.verdict) or Badge(tone=Tone.MUTED, word=judged.verdict or "unknown")
    if not gating and judged.verdict == "FAIL":
        badge = Badge(tone=Tone.INFO, word=badge.word)
    window = row.at("window").text()
    ends = interval(judged.metric, judged.lower, judged.upper, judged.margin)
    limit = tolerated(judged.metric, judged.margin, judged.direction)
    return EvidenceView(
        name=row.at("name").text("unnamed"),
        slice=row.at("slice").text(),
        verdict=judged.verdict,
        badge=badge,
        gating=gating,
        window=WINDOWS.get(window, window),
        reason=row.at("reason").text(limit=LONG),
        interval=ends,
        tolerated=limit,
        statement=statement(judged.metric, ends, limit),
        requests=_requests(row),
        bar=bar(judged, reach or shared_reach((judged,))),
    )


def _requests(row: Doc) -> str:
    n, available = row.at("n").whole(), row.at("n_available").whole()
    once = _once(row)
    units = "" if once == "requests" else f" {once}"
    # Draws with replacement are no part of what there is.
    whole = available in {None, n} or once == "draws"
    return (count(n) if whole else f"{count(n)} of {count(available)}") + units


def _once(row: Doc) -> str:
    """What counts once in a row of evidence."""
    subject = row.at("subject").text()
    if "drawn by their size" in subject:
        return "draws"
    if "units of " in subject or "units like" in subject:
        return "units"
    if "time blocks" in subject:
        return "blocks"
    return "rows" if "rows" in subject else "requests"


def guardrail_views(
    rows: tuple[Doc, ...], alpha: tuple[float, float], binding: str
) -> tuple[GuardrailView, ...]:
    """One view a guardrail, the failing ones first.

    Args:
      rows: every Evidence, slices among them.
      alpha: (promote, rollback) error rates.
      binding: name of the evidence that bound the decision; "" when none did.
    """
    grouped: dict[tuple[str, str], list[Doc]] = defaultdict(list)
    for row in rows:
        own = row.at("guardrail").text() or row.at("name").text()
        grouped[own, row.at("window").text()].append(row)
    groups = sorted(grouped.values(), key=_urgency)
    return tuple(
        _guardrail(index, group, alpha, binding)
        for index, group in enumerate(groups[:MOST_GUARDRAILS])
    )


def _urgency(group: list[Doc]) -> tuple[bool, int]:
    reported = not any(row.at("gating").flag(default=True) for row in group)
    return reported, min(_ORDER.get(row.at("verdict").text(), 9) for row in group)


def _guardrail(
    index: int, group: list[Doc], alpha: tuple[float, float], binding: str
) -> GuardrailView:
    whole = next((row for row in group if not row.at("slice").text()), group[0])
    slices = [row for row in group if row is not whole]
    judged = judged_from(whole)
    return GuardrailView(
        anchor=f"guardrail-{index + 1}",
        whole=evidence_view(whole),
        title=judged.metric.title,
        question=_question(whole, judged),
        reading=_reading(whole, judged, alpha),
        binding=bool(binding) and any(row.at("name").text() == binding for row in group),
        curve=curve(judged, _path(whole), alpha, _once(whole)),
        slices=_slices(slices) if slices else None,
        slice_tally=f"slices: {_tally(slices)}" if slices else "",
        numbers=_numbers(whole, alpha),
    )


def _question(row: Doc, judged: Judged) -> str:
    """What the mean is a mean of; with units, of what one of them is worth."""
    question, once = judged.metric.question, _once(row)
    if once in {"requests", "rows"}:
        return question
    return f"{question} Each of the {once} counts once, by its own mean."


def _path(row: Doc) -> tuple[PathStep, ...]:
    steps: list[PathStep] = []
    for point in row.at("path").items():
        n = point.at("n").whole()
        lower, upper = point.at("lower").number(), point.at("upper").number()
        if n is None or n < 1 or lower is None or upper is None:
            continue
        # A path out of order cannot be drawn over n.
        if steps and n <= steps[-1].n:
            continue
        steps.append(
            PathStep(
                n=n,
                lower=lower,
                upper=upper,
                log_e_promote=point.at("log_e_promote").number(),
                log_e_rollback=point.at("log_e_rollback").number(),
            )
        )
    return tuple(steps)


def _reading(row: Doc, judged: Judged, alpha: tuple[float, float]) -> str:
    if judged.lower is None or judged.upper is None:
        nothing = "Nothing was measured, so this guardrail can neither pass nor fail."
        return f"{nothing} {row.at('reason').text(limit=LONG)}".rstrip()
    ends = interval(judged.metric, judged.lower, judged.upper, judged.margin)
    # Each end holds on its own: the upper one at 1 − α, the lower one at 1 − α'.
    miss = sum(alpha)
    sure = f"With {percent(1 - miss)} confidence at every look, " if 0 < miss < 1 else ""
    # "mean" or "clipped mean"; over which requests is said elsewhere on the card.
    subject = row.at("subject").text("mean").removeprefix("the ").partition(" over ")[0]
    sentence = f"{sure}the {subject} lies {between(ends)}."
    limit = tolerated(judged.metric, judged.margin, judged.direction)
    return f"{sentence[0].upper()}{sentence[1:]} The policy tolerates {limit}."


def _threshold(level: float) -> str:
    return f"needs {count(1 / level)}" if 0 < level < 1 else ""


def _numbers(row: Doc, alpha: tuple[float, float]) -> tuple[Fact, ...]:
    facts = [
        Fact(
            label="Evidence for harmless (e-value)",
            value=e_value(row.at("e_promote").number()),
            note=_threshold(alpha[0]),
        ),
        Fact(
            label="Evidence for harm (e-value)",
            value=e_value(row.at("e_rollback").number()),
            note="enters a weighted average",
        ),
        Fact(label="Weight in that average", value=percent(row.at("weight").finite())),
        Fact(label="What the verdict is about", value=row.at("subject").text("mean over requests")),
    ]
    failed = row.at("n_failed").whole()
    if failed:
        facts.append(
            Fact(
                label="Failed or NaN pairs among them",
                value=count(failed),
                note="counted as the worst value for promotion, the best for rollback",
            )
        )
    return tuple(facts)


def _slices(rows: list[Doc]) -> Table:
    ordered = sorted(rows, key=lambda row: _ORDER.get(row.at("verdict").text(), 9))
    shown = ordered[:MOST_SLICES]
    reach = shared_reach(tuple(judged_from(row) for row in shown))
    views = [evidence_view(row, reach) for row in shown]
    left_out = len(rows) - len(shown)
    return Table(
        title="Slices",
        columns=(
            Column(label="Slice"),
            Column(label="Verdict"),
            Column(label="Against the margin"),
            Column(label="Mean between", numeric=True),
            Column(label="Requests", numeric=True),
        ),
        rows=tuple(
            (
                Cell(text=view.slice or view.name),
                Cell(text=view.badge.word, badge=view.badge.tone),
                bar_cell(view),
                Cell(text=view.interval),
                Cell(text=view.requests),
            )
            for view in views
        ),
        empty="",
        note=f"{left_out} more slices are in evidence.json." if left_out else "",
    )


def bar_cell(view: EvidenceView) -> Cell:
    """The interval as a drawing, or words where there is nothing to draw."""
    return Cell(text="not drawn" if view.bar is None else view.interval, bar=view.bar)


def guardrail_notes(evidence: Doc, rows: tuple[Doc, ...]) -> tuple[str, ...]:
    """Pooled slices and the combined evidence, in sentences."""
    notes = []
    for pooled in evidence.at("pooled").items():
        values = tuple(value.text() for value in pooled.at("values").items())
        if not values:
            continue
        enough = pooled.at("tested").flag(default=True)
        together = "together as rest" if enough else "only with all traffic"
        values = tuple(value or "(empty)" for value in values)
        notes.append(
            f"{pooled.at('guardrail').text('A guardrail')}: no claim of their own for "
            f"{pooled.at('column').text('slice')} {listed(values)} "
            f"({percent(pooled.at('share').finite())} of the traffic); "
            f"they are too few and are judged {together}."
        )
    combined = evidence.at("combined")
    log_e = (combined.at("log_e_rollback_combined") or combined.at("log_e_rollback")).number()
    level = combined.at("alpha_rollback").finite()
    if log_e is not None and level is not None and 0 < level < 1:
        combined_e = math.exp(min(log_e, 700.0))
        notes.append(
            f"Evidence for harm over all gating guardrails: e-value {e_value(combined_e)}; "
            f"a rollback needs {count(1 / level)}."
        )
    guardrails = {row.at("guardrail").text() for row in rows}
    if len(guardrails) > MOST_GUARDRAILS:
        left_out = len(guardrails) - MOST_GUARDRAILS
        notes.append(f"{left_out} more guardrails are in evidence.json.")
    return tuple(notes)


def overview(cards: tuple[GuardrailView, ...]) -> Table:
    """All guardrails over all traffic in one table, in units of their margins."""
    return Table(
        title="Guardrails at a glance",
        columns=(
            Column(label="Guardrail"),
            Column(label="Verdict"),
            Column(label="Against the margin"),
            Column(label="Mean between", numeric=True),
            Column(label="Tolerated", numeric=True),
            Column(label="Requests", numeric=True),
        ),
        rows=tuple(_overview_row(card) for card in cards),
        empty="No guardrail was judged.",
    )


def _overview_row(card: GuardrailView) -> tuple[Cell, ...]:
    view = card.whole
    role = "" if view.gating else "reported only"
    return (
        Cell(
            text=view.name,
            note="; ".join(part for part in (view.window, role, card.slice_tally) if part),
        ),
        Cell(text=view.badge.word, badge=view.badge.tone),
        bar_cell(view),
        Cell(text=view.interval),
        Cell(text=view.tolerated),
        Cell(text=view.requests),
    )


def tally(rows: tuple[Doc, ...]) -> str:
    """How the gating guardrails ended: 5 of 6 pass, 1 fail."""
    gating = [row for row in rows if row.at("gating").flag(default=True)]
    return _tally(gating) if gating else "none judged"


def _tally(rows: list[Doc]) -> str:
    verdicts = [row.at("verdict").text() for row in rows]
    words = [
        f"{verdicts.count(verdict)} {plain_word(verdict.lower())}"
        for verdict in ("FAIL", "INCONCLUSIVE", "NO_DATA")
        if verdicts.count(verdict)
    ]
    return ", ".join([f"{verdicts.count('PASS')} of {len(rows)} pass", *words])

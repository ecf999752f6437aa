"""Which requests the decision rests on."""

from __future__ import annotations

from harness.report.charts import time_line
from harness.report.plots import TimeLine
from harness.report.read import Doc
from harness.report.tones import Tone
from harness.report.views import Cell, Column, Fact, Section, Table
from harness.report.words import (
    WINDOWS,
    count,
    counted,
    listed,
    moment,
    period,
    plain_word,
    rate,
    share,
    short_digest,
)

_MOST_VALUES = 60


def traffic(decision: Doc, manifest: Doc, summary: Doc) -> Section:
    """Windows, what was left out on the way, labels, coverage."""
    window = manifest.at("window")
    return Section(
        anchor="traffic",
        title="Traffic",
        lead="Recorded requests that were replayed through both versions.",
        facts=_facts(window, manifest.at("labels")),
        time_line=_time_line(decision, manifest),
        tables=(
            _windows(decision),
            _left_out(decision, window),
            *_coverage(summary),
        ),
    )


def _windows(decision: Doc) -> Table:
    rows = tuple(
        (
            Cell(text=WINDOWS.get(name, name)),
            Cell(text=count(window.at("judged").whole())),
            Cell(text=count(window.at("n").whole())),
            Cell(
                text=period(window.at("first_ts_ns").whole(), window.at("last_ts_ns").whole())
                or "no requests"
            ),
            Cell(text=window.at("reason").text("–")),
        )
        for name, window in decision.at("windows").fields()
    )
    return Table(
        title="Windows",
        columns=(
            Column(label="Window"),
            Column(label="Requests judged", numeric=True),
            Column(label="Available", numeric=True),
            Column(label="From … to (UTC)"),
            Column(label="Remark"),
        ),
        rows=rows,
        empty="No window was selected.",
    )


def _facts(window: Doc, labels: Doc) -> tuple[Fact, ...]:
    facts = []
    if window:
        sources = window.at("sources").fields()
        span = period(window.at("first_ts_ns").whole(), window.at("last_ts_ns").whole())
        versions = tuple(
            f"{name or 'unnamed'} ({count(n.whole())})"
            for name, n in window.at("versions").fields()
        )
        facts += [
            Fact(
                label="Sealed",
                value=counted(window.at("count").whole(), "request"),
                note=f"{span}; {counted(len(sources), 'file')}" if span else "",
            ),
            Fact(label="Answered in production by version", value=listed(versions) or "unknown"),
            Fact(
                label="Window hash",
                value=short_digest(window.at("window_hash").text("unknown")),
                mono=True,
            ),
            *_without_answers(window),
        ]
    if labels:
        parts = [
            f"{count(labels.at(key).whole())} {words}"
            for key, words in (
                ("unknown", "for unknown requests"),
                ("late", "later than the maturity, not used"),
                ("corrected", "of these correct a label that counts"),
                ("after_as_of", "after the instant of this run"),
                ("duplicates", "given twice"),
                ("invalid", "not readable as a label"),
            )
            if labels.at(key).whole()
        ]
        facts.append(
            Fact(
                label="Labels joined",
                value=f"{count(labels.at('joined').whole())} of {count(labels.at('read').whole())} read",
                note="; ".join(parts),
            )
        )
    else:
        facts.append(
            Fact(label="Labels joined", value="none", note="a change of meaning cannot be seen")
        )
    return tuple(facts)


def _without_answers(window: Doc) -> tuple[Fact, ...]:
    """How many requests have no recorded answer that the baseline's could be compared with, if any."""
    reasons = window.at("not_answered").fields()
    without = sum(n.whole() or 0 for _, n in reasons)
    if not without:
        return ()
    told = listed(tuple(f"{plain_word(why)} ({count(n.whole())})" for why, n in reasons))
    value = f"{count(without)} of {counted(window.at('count').whole(), 'request')}"
    note = (
        f"{told}: there the baseline's answers cannot be compared with production's; "
        "such requests are replayed like the others"
    )
    return (Fact(label="Without a recorded answer", value=value, note=note),)


def _left_out(decision: Doc, window: Doc) -> Table:
    reasons = [("not recorded", *pair) for pair in window.at("not_recorded").fields()]
    reasons += [("recorded, not usable", *pair) for pair in window.at("not_sealed").fields()]
    for name, selected in decision.at("windows").fields():
        words = f"not in the {name} window"
        reasons += [(words, *pair) for pair in selected.at("left_out").fields()]
    return Table(
        title="Recorded but left out",
        columns=(
            Column(label="Of what"),
            Column(label="Reason"),
            Column(label="Requests", numeric=True),
        ),
        rows=tuple(
            (Cell(text=what), Cell(text=plain_word(reason)), Cell(text=count(n.whole())))
            for what, reason, n in reasons[:_MOST_VALUES]
        ),
        empty="Every recorded request that was read could be used."
        if window
        else "This run does not record what was left out.",
    )


def _coverage(summary: Doc) -> tuple[Table, ...]:
    values = summary.at("coverage").items()
    seen = [v for v in values if v.at("judged_share").finite()]
    unseen = [v for v in values if not v.at("judged_share").finite()]
    title = "Values in the traffic that were never judged"
    empty = "Every value was judged." if values else "The policy lists no columns to cover."
    tables = [_shares(title, unseen, empty=empty)]
    if seen:
        tables.append(_shares(f"Coverage: {counted(len(seen), 'value')} judged", seen, folded=True))
    return tuple(tables)


def _shares(title: str, values: list[Doc], *, empty: str = "", folded: bool = False) -> Table:
    left_out = len(values) - _MOST_VALUES
    return Table(
        title=title,
        columns=(
            Column(label="Value"),
            Column(label="Share of traffic", numeric=True),
            Column(label="Share of judged", numeric=True),
        ),
        rows=tuple(
            (
                Cell(text=f"{v.at('column').text('column')} = {v.at('value').text('(empty)')}"),
                Cell(text=rate(v.at("traffic_share").finite())),
                Cell(text=rate(v.at("judged_share").finite() or 0.0)),
            )
            for v in values[:_MOST_VALUES]
        ),
        empty=empty,
        note=f"{left_out} more are in summary.json." if left_out > 0 else "",
        folded=folded,
    )


def _time_line(decision: Doc, manifest: Doc) -> TimeLine | None:
    spans = []
    for role in ("baseline", "candidate"):
        model = decision.at(role) or manifest.at(role)
        cutoff = model.at("training_cutoff_ns").whole() or 0
        if moment(cutoff):
            spans.append((f"{role} trained", 0, cutoff, Tone.MUTED, f"until {moment(cutoff)}"))
    for name, window in decision.at("windows").fields():
        first, last = window.at("first_ts_ns").whole() or 0, window.at("last_ts_ns").whole() or 0
        if moment(first) and moment(last) and last >= first:
            judged = window.at("judged").whole()
            part = share(judged, window.at("n").whole())
            words = f"{period(first, last)}, {count(judged)} judged" + f" ({part})" * bool(part)
            spans.append((f"{name} window", first, last, Tone.INFO, words))
    return time_line(tuple(spans))

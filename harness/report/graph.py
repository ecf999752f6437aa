"""intermediates.json's graph → where the graphs part: the drawing, what differs there, the worst rows."""

from __future__ import annotations

from harness.report.graph_drawing import drawing
from harness.report.read import Doc
from harness.report.views import Cell, Column, Fact, Section, Table
from harness.report.words import count, counted, listed, number

MOST_ROWS = 200
"""Rows shown per table."""
_MOST_SMALL = 5
_MOST_FIRSTS = 16
_CAUSES = {
    "weights": "the same operators with other weights",
    "graph": "other operators, attributes, wiring or constants",
    "runtime": "the same computation: another runtime, machine or batch",
    "nondeterministic": "a version differs from itself here",
}
_REARRANGED = (
    "Both versions hold the same numbers, so that weights shown here stand elsewhere in the other."
)
_FARTHER = "Some of it stands before tensors that are still equal within their tolerance."
_TITLE = "Where the graphs part"


def graph_section(graph: Doc) -> Section | None:
    """The section; None for runs that know nothing of it.

    Args:
      graph: what a look into both versions gave.
    """
    if not graph:
        return None
    report = graph.at("report")
    if not report:
        why = graph.at("why").text("the run does not say why")
        return Section(anchor="graph", title=_TITLE, lead=f"Not looked into: {why}.")
    states = report.at("states").items()
    firsts = report.at("divergences").items()
    names = tuple(d.at("divergence", "baseline").text() for d in firsts)
    return Section(
        anchor="graph",
        title=_TITLE,
        lead="Every tensor of both graphs on the same requests, those that differ first, without graph "
        "optimisation. A first tensor to differ is computed from nothing that differs; the proof feeds "
        "the baseline's values in there and looks at the outputs again.",
        facts=_facts(report, len(names)),
        drawing=drawing(states, names),
        tables=(
            _firsts(firsts, states, report),
            _changes(firsts, rearranged=report.at("rearranged").flag(default=False)),
            _worst(firsts),
            *_unseen(states, report),
        ),
        notes=tuple(text.text() for text in report.at("not_compared").items()),
    )


def _facts(report: Doc, firsts: int) -> tuple[Fact, ...]:
    tiers = tuple(
        f"{count(n.whole())} {tier}" for tier, n in report.at("tiers").fields() if n.whole()
    )
    differ = report.at("outputs_differ").flag(default=False)
    known = report.at("outputs_compared").flag(default=True)
    return (
        Fact(
            label="Requests looked into",
            value=count(report.at("requests").whole()),
            note="floats by sketches, whole about the divergence"
            if report.at("sketched").flag(default=False)
            else "",
        ),
        Fact(
            label="Tensors equal",
            value=f"{count(report.at('equal').whole())} of {count(report.at('compared').whole())} compared",
            note=report.at("coverage").text(),
        ),
        *_small(report.at("states").items()),
        Fact(label="Matched by", value=listed(tiers) or "nothing"),
        Fact(
            label="Outputs without optimisation",
            value="differ" if differ else "equal" if known else "not all compared",
            note="" if firsts or differ else "no tensor parts",
        ),
    )


def _small(states: tuple[Doc, ...]) -> tuple[Fact, ...]:
    """Tensors that are equal within their tolerance, which is large beside some of their values."""
    found = [
        state.at("baseline").text()
        for state in states
        if state.at("verdict").text() == "equal" and (state.at("small").number() or 0.0) > 0
    ]
    if not found:
        return ()
    note = "equal within the tolerance, and yet some small values differ by more than 0.1 % of themselves: "
    value = counted(len(found), "tensor")
    return (Fact(label="Small values", value=value, note=note + listed(tuple(found), _MOST_SMALL)),)


def _firsts(firsts: tuple[Doc, ...], states: tuple[Doc, ...], report: Doc) -> Table:
    together = report.at("proofs")
    by_name = {state.at("baseline").text(): state for state in states}
    return Table(
        title="First to differ",
        columns=(
            Column(label="Tensor"),
            Column(label="Rows that differ", numeric=True),
            Column(label="Equal up to"),
            Column(label="What lies behind it"),
            Column(label="Proof"),
        ),
        rows=tuple(
            _first(d, by_name, together if len(firsts) == 1 else Doc())
            for d in firsts[:_MOST_FIRSTS]
        ),
        empty="No compared tensor differs.",
        note=" ".join(
            text
            for text in (
                _left_out(len(firsts), _MOST_FIRSTS),
                _risen(report.at("risen").items()),
                f"All fed at once: {'; '.join(_proof(p) for p in together.items())}."
                if together and len(firsts) > 1
                else "",
            )
            if text
        ),
    )


def _risen(names: tuple[Doc, ...]) -> str:
    if not names:
        return ""
    where = listed(tuple(name.text() for name in names), _MOST_SMALL)
    places = counted(len(names), "further tensor")
    return f"At {places} a difference that sank under the tolerance rises above it again: {where}."


def _first(first: Doc, by_name: dict[str, Doc], together: Doc) -> tuple[Cell, ...]:
    d = first.at("divergence")
    name, theirs = d.at("baseline").text(), d.at("candidate").text()
    state = by_name.get(name, Doc())
    cause = d.at("cause").text()
    proofs = [_proof(proof) for proof in (first.at("proofs") or together).items()]
    equal = tuple(t.text() for t in d.at("last_equal").items())
    return (
        Cell(text=name, note=f"now {theirs}" if theirs != name else "", mono=True),
        Cell(
            text=f"{count(state.at('differing').whole())} of {count(state.at('rows').whole())}"
            + (" batches" if _by_batch(state) else ""),
            note=f"largest {number(state.at('absolute').number())}",
        ),
        Cell(text=listed(equal) or "nothing before it", mono=bool(equal)),
        Cell(text=_CAUSES.get(cause, cause), note=first.at("relation").text()),
        Cell(text=_unproven(first) or "; ".join(proofs) or "–"),
    )


def _by_batch(counted_of: Doc) -> bool:
    """Whether batches were counted, as a tensor or output has no rows; files of before do not say."""
    return bool(counted_of.at("by_batch").flag(default=False))


def _unproven(first: Doc) -> str:
    """Why nothing was fed in at a tensor; "" = it was."""
    if first.at("is_output").flag(default=False):
        return "an output itself: nothing comes after it"
    why = first.at("unfed").text()
    return f"not fed: {why}" if why else ""


def _proof(proof: Doc) -> str:
    before, after = proof.at("before").whole() or 0, proof.at("after").whole() or 0
    return (
        f"{proof.at('output').text()}: {counted(before, 'batch' if _by_batch(proof) else 'row')} differed, {count(after)} with the "
        "baseline's values fed in"
    )


def _changes(firsts: tuple[Doc, ...], *, rearranged: bool) -> Table:
    rows = [
        (
            Cell(text=d.at("divergence", "baseline").text(), mono=True),
            Cell(text=change.at("kind").text()),
            Cell(text=change.at("node").text(), note=change.at("name").text(), mono=True),
            Cell(text=change.at("baseline").text("–"), mono=True),
            Cell(text=change.at("candidate").text("–"), mono=True),
        )
        for d in firsts
        for change in d.at("divergence", "changes").items()
    ]
    return Table(
        title="What differs between the last equal tensors and the first that differ",
        columns=(
            Column(label="Before"),
            Column(label="Kind"),
            Column(label="Operator"),
            Column(label="Baseline"),
            Column(label="Candidate"),
        ),
        rows=tuple(rows[:MOST_ROWS]),
        empty="Nothing: both compute the same from the same constants." if firsts else "",
        note=" ".join(
            text
            for text in (
                _left_out(len(rows), MOST_ROWS),
                _REARRANGED if rearranged and rows else "",
                _FARTHER
                if any(d.at("divergence", "farther").flag(default=False) for d in firsts)
                else "",
            )
            if text
        ),
    )


def _worst(firsts: tuple[Doc, ...]) -> Table:
    rows = [
        (
            Cell(text=row.at("request").text(), mono=True),
            Cell(text=d.at("divergence", "baseline").text(), mono=True),
            Cell(text=row.at("baseline").text("–"), mono=True),
            Cell(text=row.at("candidate").text("–"), mono=True),
            Cell(text=", ".join(f"{n} {value.text()}" for n, value in row.at("inputs").fields())),
        )
        for d in firsts[:_MOST_FIRSTS]
        for row in d.at("worst").items()
    ]
    return Table(
        title="The worst rows",
        columns=(
            Column(label="Request"),
            Column(label="Tensor"),
            Column(label="Baseline"),
            Column(label="Candidate"),
            Column(label="Inputs"),
        ),
        rows=tuple(rows[:MOST_ROWS]),
        empty="",
        note=_left_out(len(rows), MOST_ROWS),
    )


def _unseen(states: tuple[Doc, ...], report: Doc) -> tuple[Table, ...]:
    """Tensors that were not compared, folded."""
    rows = [
        ("baseline", s.at("baseline").text(), s.at("operator").text(), s.at("why").text("–"))
        for s in states
        if s.at("verdict").text() == "not_compared"
    ]
    only = report.at("candidate_only").items()
    rows += [("candidate", name.text(), "", "has no partner") for name in only]
    if not rows:
        return ()
    return (
        Table(
            title=f"{counted(len(rows), 'tensor')} not compared",
            columns=(
                Column(label="Version"),
                Column(label="Tensor"),
                Column(label="Operator"),
                Column(label="Why"),
            ),
            rows=tuple(
                (Cell(text=side), Cell(text=name, mono=True), Cell(text=op), Cell(text=why))
                for side, name, op, why in rows[:MOST_ROWS]
            ),
            empty="",
            note=_left_out(len(rows), MOST_ROWS),
            folded=True,
        ),
    )


def _left_out(found: int, most: int) -> str:
    return f"{found - most:,} more are in the JSON." if found > most else ""

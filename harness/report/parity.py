"""intermediates.json → features and outputs side by side, and whether the replay can be trusted."""

from __future__ import annotations

from collections import Counter

from harness.report.read import Doc
from harness.report.tones import Tone
from harness.report.views import Cell, Column, Fact, Section, Table
from harness.report.words import count, counted, listed, number, share

MOST_ROWS = 200
"""Tensors shown per table."""

_VERDICTS = {
    "differs": (Tone.BAD, "differs"),
    "expected": (Tone.INFO, "expected change"),
    "refitted": (Tone.INFO, "refitted"),
    "small_values": (Tone.WAIT, "small values not comparable"),
    "not_compared": (Tone.WAIT, "not compared"),
    "equal": (Tone.GOOD, "equal"),
}
_KINDS = {"raw": "computed from raw fields", "fitted": "fitted constant", "output": "output"}
_QUIET = ("refitted", "not_compared")
_MOST_QUIET = 6
_COLUMNS = (
    Column(label="Name"),
    Column(label="Verdict"),
    Column(label="Requests that differ", numeric=True),
    Column(label="Largest difference", numeric=True),
    Column(label="Tolerance (relative)", numeric=True),
    Column(label="Relation and example"),
)


def parity(intermediates: Doc, manifest: Doc) -> Section:
    """Features and outputs, differing ones first; equal ones folded."""
    # A retrained model's answers are meant to differ; how much is the guardrails' question.
    retrained = manifest.at("policy", "preset").text() == "retrain"
    output_tone = Tone.INFO if retrained else Tone.BAD
    features = intermediates.at("features").items()
    outputs = intermediates.at("outputs").items()
    return Section(
        anchor="parity",
        title="Features and outputs, side by side",
        lead="The same requests through both versions: what each computed on the way, and its "
        "answer. Features computed from raw fields should agree; fitted constants may move when "
        "a model is retrained.",
        facts=(
            Fact(
                label="Features", value=_tally(features), note=_whole(intermediates.at("compared"))
            ),
            Fact(label="Outputs", value=_tally(outputs)),
            *_extra(intermediates.at("extra_outputs").items()),
        ),
        tables=(
            *_tables("Features", features, Tone.BAD),
            *_refits(intermediates.at("refits").items()),
            *_tables("Outputs", outputs, output_tone),
        ),
        notes=("Outputs of a retrained model are expected to differ; guardrails judge how much.",)
        if retrained and outputs
        else (),
    )


def _whole(compared: Doc) -> str:
    """In how many requests nothing that counts was left out; "" = in all that were traced."""
    requests = compared.at("feature_requests").whole() or 0
    whole = compared.at("whole_feature_requests").whole()
    if whole is None or whole == requests:
        return ""
    return f"every feature that counts was compared in {count(whole)} of {counted(requests, 'request')}"


def _extra(names: tuple[Doc, ...]) -> tuple[Fact, ...]:
    """Outputs that the baseline has nothing to compare with."""
    if not names:
        return ()
    shown = listed(tuple(name.text() for name in names), _MOST_QUIET)
    return (Fact(label="Outputs that only the candidate has", value=shown, note="not compared"),)


def _refits(rows: tuple[Doc, ...]) -> tuple[Table, ...]:
    """Fitted constants, old → new; suspicious ones first."""
    if not rows:
        return ()
    rows = tuple(sorted(rows, key=lambda row: not row.at("suspicious").text()))
    left_out = len(rows) - MOST_ROWS
    return (
        Table(
            title=f"Refitted: {counted(len(rows), 'constant')}",
            empty="",
            columns=(
                Column(label="Feature"),
                Column(label="Constant"),
                Column(label="Baseline", numeric=True),
                Column(label="Candidate", numeric=True),
                Column(label=""),
            ),
            rows=tuple(
                (
                    Cell(text=row.at("feature").text("unnamed"), mono=True),
                    Cell(text=row.at("role").text("–"), note=f"in {row.at('tensor').text('–')}"),
                    Cell(text=_constant(row.at("baseline"))),
                    Cell(text=_constant(row.at("candidate"))),
                    Cell(text=row.at("suspicious").text(), badge=Tone.WAIT)
                    if row.at("suspicious").text()
                    else Cell(text="refitted", badge=Tone.INFO),
                )
                for row in rows[:MOST_ROWS]
            ),
            note=f"{left_out} more are in intermediates.json." if left_out > 0 else "",
            folded=not rows[0].at("suspicious").text(),
        ),
    )


def _constant(value: Doc) -> str:
    """A number, or a vocabulary in words."""
    figure = value.number()
    return value.text("–") if figure is None else number(figure)


def _tally(rows: tuple[Doc, ...]) -> str:
    """How many columns have which verdict."""
    verdicts: Counter[str] = Counter()
    for row in rows:
        verdicts[row.at("verdict").text()] += row.at("columns").whole() or 1
    parts = [
        f"{count(verdicts[key])} {words.replace('expected change', 'expected')}"
        for key, (_, words) in _VERDICTS.items()
        if verdicts[key]
    ]
    return ", ".join(parts) or "none recorded"


def _tables(title: str, rows: tuple[Doc, ...], differs: Tone) -> tuple[Table, ...]:
    order = list(_VERDICTS)

    def rank(row: Doc) -> tuple[int, float]:
        verdict = row.at("verdict").text()
        place = order.index(verdict) if verdict in order else len(order)
        return place, -(row.at("mismatched_requests").finite() or 0.0)

    equal = [row for row in rows if row.at("verdict").text() == "equal"]
    moved = sorted((row for row in rows if row.at("verdict").text() != "equal"), key=rank)
    # A matrix of scaled columns is refitted as a whole: a long list that nobody needs open.
    quiet = {v: [row for row in moved if row.at("verdict").text() == v] for v in _QUIET}
    quiet = {v: found for v, found in quiet.items() if len(found) > _MOST_QUIET}
    shown = [row for row in moved if row.at("verdict").text() not in quiet]
    calm = "Nothing else differs." if quiet else "No differences."
    empty = calm if rows else "None were compared in this run."
    folds = [(_VERDICTS[v][1], found) for v, found in quiet.items()]
    folds += [("equal", equal)] if equal else []
    return (
        _table(title, shown, differs, empty=empty),
        *(
            _table(f"{title}: {count(len(found))} {word}", found, differs, folded=True)
            for word, found in folds
        ),
    )


def _table(
    title: str, rows: list[Doc], differs: Tone, *, empty: str = "", folded: bool = False
) -> Table:
    left_out = len(rows) - MOST_ROWS
    return Table(
        title=title,
        columns=_COLUMNS,
        rows=tuple(_row(row, differs) for row in rows[:MOST_ROWS]),
        empty=empty,
        note=f"{left_out} more are in intermediates.json." if left_out > 0 else "",
        folded=folded,
    )


def _row(row: Doc, differs: Tone) -> tuple[Cell, ...]:
    verdict = row.at("verdict").text()
    tone, word = _VERDICTS.get(verdict, (Tone.MUTED, verdict or "unknown"))
    tone = differs if verdict == "differs" else tone
    kind = row.at("kind").text()
    about = row.at("about").text()
    requests, differing = row.at("requests").whole(), row.at("mismatched_requests").whole()
    part = share(differing, requests)
    largest = row.at("max_abs").number()
    relative = row.at("max_rel").number()
    compared = verdict != "not_compared"
    return (
        Cell(
            text=row.at("name").text("unnamed"),
            note=_KINDS.get(kind, kind) + f" of {about}" * bool(about),
            mono=True,
        ),
        Cell(text=word, badge=tone),
        Cell(
            text=f"{count(differing)} of {count(requests)}" if compared else "–",
            note=part if differing else "",
        ),
        Cell(
            text=number(largest) if compared else "–",
            note=f"relative {number(relative)}" if compared and relative else "",
        ),
        Cell(text=number(row.at("tolerance").number(), 2) if compared else "–"),
        Cell(
            text=row.at("text").text() or row.at("relation").text().replace("_", " ") or "–",
            note=_example(row.at("example")),
        ),
    )


def _example(example: Doc) -> str:
    if not example.fields():
        return ""
    return (
        f"e.g. {example.at('request_id').text('a request')}: "
        f"{_shown(example.at('baseline'))} → {_shown(example.at('candidate'))}"
    )


def _shown(value: Doc) -> str:
    if value.items():
        return f"[{listed(tuple(_shown(item) for item in value.items()), 4)}]"
    return value.text("–", limit=60)


def fidelity(intermediates: Doc) -> Section:
    """Baseline against production's recorded answers, against itself, and the observer guard."""
    return Section(
        anchor="fidelity",
        title="Can the replay be trusted?",
        lead="The replayed baseline is compared with what production answered, and with itself: "
        "the noise floor is how far one version differs from itself.",
        facts=(
            _against_production(intermediates.at("faithful")),
            *_observed(intermediates.at("observer")),
        ),
        tables=(_floor(intermediates.at("floor").items()),),
    )


def _against_production(faithful: Doc) -> Fact:
    label = "Replayed baseline against production"
    compared, differing = faithful.at("compared").whole(), faithful.at("mismatched").whole() or 0
    note = faithful.at("note").text()
    if not compared:
        why = "no recorded answer could be compared, so nothing shows that the replay is faithful"
        return Fact(label=label, value="not checked", note=note or why)
    furthest = faithful.at("max_rel").number()
    largest = f"largest relative difference {number(furthest)}" if furthest else ""
    return Fact(
        label=label,
        value=f"{count(compared - differing)} of {counted(compared, 'answer')} equal",
        note="; ".join(t for t in (note or share(compared - differing, compared), largest) if t),
    )


def _observed(observer: Doc) -> tuple[Fact, ...]:
    label = "Answers with and without reading features"
    checked, note = observer.at("checked").whole(), observer.at("note").text()
    furthest = observer.at("max_rel").number()
    said = f"largest relative difference {number(furthest)}" if furthest else "identical"
    found = Fact(
        label=label,
        value=said if checked else "not checked",
        note=note or (f"{counted(checked, 'request')} checked" if checked else ""),
    )
    who = observer.at("answering").text()
    return (found, Fact(label="Which session was judged", value=who)) if who else (found,)


def _floor(rows: tuple[Doc, ...]) -> Table:
    noisy = [
        row
        for row in rows
        if (row.at("largest").number() or 0.0) > 0 or row.at("nondeterministic").flag(default=False)
    ]
    noisy.sort(key=lambda row: -(row.at("largest").number() or 0.0))
    still = sum(row not in noisy for row in rows if row.at("rows").whole())
    same = f"no difference in {counted(still, 'column')}, a wide tensor counted as one"
    return Table(
        title="Noise floor: baseline against itself",
        columns=(
            Column(label="Tensor"),
            Column(label="Largest difference", numeric=True),
            Column(label="Typical size", numeric=True),
            Column(label="Rows", numeric=True),
            Column(label=""),
        ),
        rows=tuple(
            (
                Cell(text=row.at("name").text("unnamed"), mono=True),
                Cell(text=number(row.at("largest").number())),
                Cell(text=number(row.at("scale").number())),
                Cell(text=count(row.at("rows").whole())),
                Cell(text="changes from run to run", badge=Tone.WAIT)
                if row.at("nondeterministic").flag(default=False)
                else Cell(text="repeatable noise"),
            )
            for row in noisy[:MOST_ROWS]
        ),
        empty=f"The baseline repeats itself exactly: {same}."
        if still
        else "The noise floor was not measured in this run.",
        note=f"Besides, {same}." if noisy and still else "",
    )

"""How the answer was reached, what it was contained in, and what it does not prove."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.headline import below_required, isolation_of, obtained
from harness.report.proofs import proofs
from harness.report.read import LONG, Doc
from harness.report.tones import Tone
from harness.report.views import Cell, Column, Fact, Section, Table
from harness.report.words import REASONS, TIERS, count, number, percent, plain_word, short_digest

ALWAYS = (
    "A replay starts at the recorded request. Nothing upstream of it was tested: how callers build requests, how features are fetched before the call, network, queues.",
    "No feedback: users, other systems and later requests could not react to the candidate's answers.",
    "No concurrency: requests were not replayed under production's load or in its timing.",
    "Absent days and absent slices: seasons, callers and values that the window does not hold were not seen.",
    "Without labels, a change in what the right answer is (concept drift) is invisible. With labels, only those that had matured count.",
)
"""True of every run; printed in every report."""
ALWAYS_OF_A_TABLE = (
    "The table is believed: nothing was run, so how its values came about was not tested.",
    "Absent days and absent slices: what the rows do not hold was not seen.",
    "A mean within its margin can hide harm to a slice that the policy does not name.",
)
"""True of every verdict on a table."""
MOST_LIMITS = 60
"""Sentences about what one run left out."""
_CLAIMS = {
    "process": "traffic like this window (future requests of the same kind)",
    "window": "only the requests of this window",
}
_DRAWN = "the rows of this table, drawn from it by units"
_COMPOSITIONS = {
    "coalesced": "requests shared batches",
    "recorded": "each request by itself, as it was recorded",
}
_RAN = "Each version ran in its own process."
_LOOKED = (
    "No request was replayed. To look at it, each version was given to a process of its own: "
    "what is told here is of the least isolated one."
)
_UNKNOWN = (
    "No request was replayed. A process that was to look at a version ended before it was given the "
    "model, and before it said what it was closed in."
)
_NOT_RECORDED = (
    "What the versions' processes were closed in was not recorded: nothing is known of it."
)
_IN_FORCE = (
    " These layers were in force, and the process tried these things on itself before it was given "
    "the model; nothing here is assumed."
)
_PRESETS = {
    "refactor": "the same model: any difference above the noise floor counts",
    "retrain": "the model may differ, but must not be worse",
    "none": "only the guardrails that the policy lists",
}


def isolation(decision: Doc, manifest: Doc) -> Section:
    """The tier really obtained, layer by layer."""
    report = isolation_of(decision, manifest)
    required = report.at("required").text()
    note = "below what is required" if below_required(report) else ""
    facts = (
        Fact(label="Obtained", value=obtained(decision, manifest), note=note),
        Fact(
            label="Required by the policy",
            value=f"{required} – {TIERS[required]}" if required in TIERS else required or "unknown",
        ),
    )
    layers = tuple(
        (
            Cell(text=plain_word(layer.at("name").text("layer"))),
            Cell(text="on", badge=Tone.GOOD)
            if layer.at("on").flag(default=False)
            else Cell(text="off", badge=Tone.WAIT),
            Cell(text=layer.at("detail").text("–")),
        )
        for layer in report.at("layers").items()
    )
    return Section(
        anchor="isolation",
        title="Isolation",
        lead=_lead(report),
        facts=facts,
        tables=(
            Table(
                title="Layers",
                columns=(Column(label="Layer"), Column(label="State"), Column(label="Detail")),
                rows=layers,
                empty="No layers were recorded.",
            ),
            _self_tests(report),
        ),
    )


def _lead(isolation: Doc) -> str:
    """Which processes are told of."""
    if isolation.at("why"):
        return _UNKNOWN
    if not isolation.at("tier"):
        return _NOT_RECORDED
    return (_LOOKED if isolation.at("looked").flag(default=False) else _RAN) + _IN_FORCE


def _self_tests(isolation: Doc) -> Table:
    """What the locked process tried, and the answers."""
    rows = tuple(
        (
            Cell(text=test.at("name").text("attempt")),
            Cell(text="refused", badge=Tone.GOOD)
            if test.at("refused").flag(default=False)
            else Cell(text="not refused", badge=Tone.BAD),
            Cell(text=test.at("answer").text("–")),
        )
        for test in isolation.at("self_tests").items()
    )
    return Table(
        title="Tried from inside",
        columns=(Column(label="Attempt"), Column(label="Result"), Column(label="Answer")),
        rows=rows,
        empty="No attempts were recorded.",
    )


def method(decision: Doc, manifest: Doc, summary: Doc, rows: Sequence[Doc]) -> Section:
    """Error rates, what the tests prove, claim, seed, hashes, environment, policy text."""
    policy = manifest.at("policy")
    environment = tuple(
        (Cell(text=plain_word(name)), Cell(text=_flat(value), mono=True))
        for name, value in manifest.at("environment").fields()
    )
    return Section(
        anchor="method",
        title="How it was decided",
        lead="Sequential tests: their error rates hold however often the evidence is looked at.",
        facts=(*_rates(decision), *_setting(decision, manifest), *_hashes(decision, manifest)),
        tables=(
            *proofs(rows, decision, manifest),
            Table(
                title="Environment",
                columns=(Column(label="Part"), Column(label="Value")),
                rows=environment,
                empty="No environment was recorded.",
                folded=True,
            ),
            *_fixed_sample(summary),
        ),
        block=policy.at("text").block(),
        block_title="Policy as applied",
        folded=True,
    )


def _fixed_sample(summary: Doc) -> tuple[Table, ...]:
    """Intervals for a single planned look, where the run has computed them."""
    rows = tuple(
        (
            Cell(text=row.at("guardrail").text()),
            Cell(text=count(row.at("n").whole())),
            Cell(text=number(row.at("mean").finite(), 4)),
            Cell(text=f"{number(low.finite(), 4)} … {number(high.finite(), 4)}"),
            Cell(text=f"{percent(row.at('level').finite())}, {row.at('method').text()}"),
        )
        for row in summary.at("fixed_sample").items()
        for low, high in [(row.at("lower"), row.at("upper"))]
    )
    if not rows:
        return ()
    table = Table(
        title="Fixed-sample intervals, for comparison only",
        columns=(
            Column(label="Guardrail"),
            Column(label="Rows", numeric=True),
            Column(label="Mean", numeric=True),
            Column(label="Interval", numeric=True),
            Column(label="Level and method"),
        ),
        rows=rows,
        empty="",
        note="They hold for one look planned beforehand; nothing was decided by them.",
        folded=True,
    )
    return (table,)


def _flat(value: Doc) -> str:
    inner = value.fields() or tuple(("", item) for item in value.items())
    if not inner:
        return value.text("–")
    return ", ".join(f"{key} {item.text('…')}".strip() for key, item in inner[:40])


def _rates(decision: Doc) -> tuple[Fact, ...]:
    words = {
        "promote": ("Risk of a wrong promotion", "while any gating guardrail is beyond its margin"),
        "rollback": ("Risk of a wrong rollback", "while all are within"),
    }
    return tuple(
        Fact(label=words[key][0], value=f"at most {percent(rate.finite())}", note=words[key][1])
        for key, rate in decision.at("alpha").fields()
        if key in words
    )


def _setting(decision: Doc, manifest: Doc) -> tuple[Fact, ...]:
    policy = manifest.at("policy")
    preset, claim = policy.at("preset").text(), policy.at("claim").text()
    reason = decision.at("reason").text()
    return (
        Fact(label="Reason", value=REASONS.get(reason, plain_word(reason)), note=reason),
        Fact(label="Kind of change", value=preset or "unknown", note=_PRESETS.get(preset, "")),
        Fact(
            label="What the verdict is about",
            value=_DRAWN
            if manifest.at("table", "drawn").flag(default=False)
            else _CLAIMS.get(claim, claim) or "unknown",
            note=f"claim: {claim}" if claim else "",
        ),
        Fact(label="Mode", value=policy.at("mode").text("unknown")),
        *(_of_a_table(manifest) if manifest.at("table") else _of_a_gate(decision, manifest)),
        *_anchor(decision),
    )


def _of_a_table(manifest: Doc) -> tuple[Fact, ...]:
    """No model ran, and nobody counts attempts."""
    return (
        Fact(
            label="Judged again",
            value="the same table and policy give the same answer",
            note="under `claim: process`, without units and slices, a table that has grown at its end "
            "goes on with the same test, at no cost; another policy is a new question with error rates "
            "of its own",
        ),
        Fact(
            label="Seed of the draws",
            value=manifest.at("seed").text("none"),
            note="made from the table and the policy",
            mono=True,
        ),
    )


def _of_a_gate(decision: Doc, manifest: Doc) -> tuple[Fact, ...]:
    attempt = decision.at("attempt").whole() or manifest.at("attempt").whole()
    return (
        Fact(
            label="Composition",
            value=_COMPOSITIONS.get(
                manifest.at("composition").text(),
                "unknown" if decision.at("n_requests").whole() else "no request was replayed",
            ),
            note="; ".join(
                said
                for at in (manifest.at("composition_why"), *_alone(manifest))
                if (said := at.text(limit=LONG))
            ),
        ),
        Fact(
            label="Attempt",
            value=count(attempt),
            note=decision.at("again", "why").text(limit=LONG)
            or "gates so far over this candidate, baseline and policy; asked again, the evidence goes on, "
            "or the error rates are halved",
        ),
        *_questions(manifest),
        Fact(
            label="Seed of the test order",
            value=manifest.at("seed").text("not recorded"),
            note="drawn after the candidate's digest was fixed",
            mono=True,
        ),
    )


def _alone(manifest: Doc) -> tuple[Doc, ...]:
    """By version, how its requests were answered alone and in batches, as a sentence."""
    return tuple(one.at("said") for one in manifest.at("alone").items())


def _questions(manifest: Doc) -> tuple[Fact, ...]:
    """Policies that this pair of versions was judged under; nothing for runs that did not count them."""
    asked = manifest.at("questions").whole()
    if not asked:
        return ()
    note = (
        "policies so far that this candidate was judged under against this baseline; each is a question "
        "of its own with its own error rates: a margin that is changed until the answer pleases has none"
    )
    return (Fact(label="Questions to this pair", value=count(asked), note=note),)


def _anchor(decision: Doc) -> tuple[Fact, ...]:
    """The version that guardrails against the anchor compare with, where there is one."""
    anchor = decision.at("anchor")
    if not anchor:
        return ()
    digest = short_digest(anchor.at("digest").text("unknown"))
    name = f"{anchor.at('name').text('unknown')} {anchor.at('version').text()}".strip()
    note = (
        f"digest {digest}; guardrails against the anchor bound what all releases since it changed"
    )
    return (Fact(label="Anchor", value=name, note=note),)


def _hashes(decision: Doc, manifest: Doc) -> tuple[Fact, ...]:
    facts = (
        ("Evidence (sha256)", decision.at("evidence_sha256")),
        ("Policy (sha256)", manifest.at("policy", "digest")),
        ("Window (sha256)", manifest.at("window", "window_hash")),
        ("Harness version", manifest.at("harness_version")),
        ("Command", manifest.at("command")),
    )
    return tuple(Fact(label=label, value=_command(at), mono=True) for label, at in facts)


def _command(at: Doc) -> str:
    """A text, or an argument list joined for reading only."""
    words = at.items()
    return " ".join(word.text() for word in words) if words else at.text("not recorded", limit=LONG)


def limits(decision: Doc, intermediates: Doc) -> tuple[str, ...]:
    """What this run did not compare, each as a sentence."""
    both = (*decision.at("not_compared").items(), *intermediates.at("not_compared").items())
    said = tuple(item.text(limit=LONG) or _flat(item) for item in both)
    found = tuple(dict.fromkeys(text for text in said if text and text != "–"))
    left_out = len(found) - MOST_LIMITS
    more = (f"{left_out} more, in decision.json and intermediates.json.",) if left_out > 0 else ()
    return (*found[:MOST_LIMITS], *more)

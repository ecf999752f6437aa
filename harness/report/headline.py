"""decision.json → the answer first: word, reason, what bound it, what limits it."""

from __future__ import annotations

from harness.report.guardrails import judged_from, tally
from harness.report.read import LONG, Doc
from harness.report.tones import Tone
from harness.report.views import Badge, Banner, Fact, FindingView, Headline, VersionSide
from harness.report.words import (
    REASONS,
    TIERS,
    count,
    counted,
    day,
    interval,
    listed,
    moment,
    period,
    plain_word,
    share,
    statement,
    tolerated,
)

ERROR = "ERROR"
"""State of a run without a decision: the gate itself failed."""
MOST_FINDINGS = 100
"""Findings shown."""
_MOST_IDS = 8
_LONGEST_FINDING = 1_000
_MOST_REQUIREMENTS = 30

_ANSWERS = {
    "PROMOTE": (Tone.GOOD, "The candidate may go live."),
    "ROLLBACK": (Tone.BAD, "The candidate must not go live. Keep the baseline."),
    "HOLD": (Tone.WAIT, "No decision yet. Keep the baseline until there is one."),
    ERROR: (Tone.BAD, "The gate did not finish. Keep the baseline; this says nothing about it."),
}
_SEVERITIES = {
    "harm": Badge(tone=Tone.BAD, word="harm"),
    "warning": Badge(tone=Tone.WAIT, word="warning"),
    "info": Badge(tone=Tone.INFO, word="info"),
}
_RELATIONS = {
    "scaled": "scaled by a factor",
    "shifted": "shifted by a constant",
    "affine": "another unit with another zero",
    "cyclic_shift": "shifted around a cycle",
    "permuted": "codes exchanged",
    "filled_with_zero": "missing values became zero",
    "filled_with_constant": "missing values became a constant",
    "precision": "lost precision",
    "rounding": "rounded otherwise",
}


def state_of(decision: Doc) -> str:
    """PROMOTE, ROLLBACK, HOLD; ERROR for everything else."""
    word = decision.at("decision").text()
    return word if word in _ANSWERS else ERROR


def headline(decision: Doc, manifest: Doc, rows: tuple[Doc, ...]) -> Headline:
    """The answer in words."""
    state = state_of(decision)
    tone, lead = _ANSWERS[state]
    reason = decision.at("reason").text()
    error = decision.at("error")
    explanation = decision.at("explanation").text(limit=LONG)
    if state == ERROR and not explanation:
        told = tuple(error.at(k).text(limit=LONG) for k in ("where", "what", "remedy"))
        explanation = ". ".join(t.rstrip(".") for t in told if t) + "." if any(told) else ""
    return Headline(
        state=state,
        tone=tone,
        word=state if state != ERROR else "NO DECISION",
        lead=lead,
        reason=REASONS.get(reason, plain_word(reason)),
        explanation=explanation or ("" if state != ERROR else "The run folder holds no decision."),
        binding=_binding(decision.at("binding_guardrail").text(), rows),
        next=decision.at("next").text(limit=LONG),
        facts=_facts(decision, manifest, rows),
    )


def _binding(name: str, rows: tuple[Doc, ...]) -> str:
    row = next((row for row in rows if row.at("name").text() == name), None)
    if not name or row is None:
        return name
    judged = judged_from(row)
    ends = interval(judged.metric, judged.lower, judged.upper, judged.margin)
    limit = tolerated(judged.metric, judged.margin, judged.direction)
    return f"{name} – {statement(judged.metric, ends, limit)}"


def _facts(decision: Doc, manifest: Doc, rows: tuple[Doc, ...]) -> tuple[Fact, ...]:
    judged, available = decision.at("n_requests").whole(), decision.at("n_window").whole()
    spans = [
        (window.at("first_ts_ns").whole() or 0, window.at("last_ts_ns").whole() or 0)
        for _, window in decision.at("windows").fields()
    ]
    firsts = [first for first, _ in spans if first > 0]
    lasts = [last for _, last in spans if last > 0]
    of_a_table = bool(manifest.at("table"))
    traffic = Fact(
        label="Recorded traffic",
        value=(period(min(firsts), max(lasts)) if firsts and lasts else "") or "none",
    )
    facts = [
        Fact(
            label=_counted_as(manifest),
            value=count(judged),
            note=f"of {count(available)} available" if available is not None else "",
        ),
        *(() if of_a_table else (traffic,)),
        Fact(label="Gating guardrails", value=tally(rows)),
        Fact(label="Isolation", value=obtained(decision, manifest)),
        *(() if of_a_table else (Fact(label="Attempt", value=_attempt(decision, manifest)),)),
    ]
    approval = manifest.at("policy", "approval")
    if approval.at("required").flag(default=False):
        people = approval.at("approvers").whole() or 1
        facts.append(Fact(label="Approval", value=f"required from {people} before going live"))
    return tuple(facts)


def _attempt(decision: Doc, manifest: Doc) -> str:
    attempt, asked = decision.at("attempt").whole() or 1, manifest.at("questions").whole() or 1
    return count(attempt) + (f"; {count(asked)} policies asked of this pair" if asked > 1 else "")


def _counted_as(manifest: Doc) -> str:
    """What counts once: requests, or what a table's policy names."""
    if not manifest.at("table"):
        return "Requests judged"
    unit = manifest.at("table", "unit").text()
    return f"Units of {unit} judged" if unit else "Rows judged"


def isolation_of(decision: Doc, manifest: Doc) -> Doc:
    """The isolation report, from the manifest or the decision."""
    return manifest.at("isolation") or decision.at("isolation")


def obtained(decision: Doc, manifest: Doc) -> str:
    """The tier in words, or why it is not known."""
    report = isolation_of(decision, manifest)
    tier = report.at("tier").text()
    unknown = report.at("why").text("not recorded")
    return f"{tier} – {TIERS[tier]}" if tier in TIERS else tier or unknown


def below_required(isolation: Doc) -> bool:
    """Whether less isolation was obtained than the policy requires."""
    tier, required = isolation.at("tier").text(), isolation.at("required").text()
    if isolation.at("allowed_below").flag(default=False):
        return not (tier in TIERS and required in TIERS and tier >= required)
    return tier in TIERS and required in TIERS and tier < required


def is_advise(manifest: Doc) -> bool:
    """Whether the exit code does not carry the decision."""
    return manifest.at("policy", "mode").text() == "advise"


def banners(decision: Doc, manifest: Doc, intermediates: Doc, findings: Doc) -> tuple[Banner, ...]:
    """Conditions that every page must say."""
    found = []
    if is_advise(manifest):
        found.append(
            Banner(
                tone=Tone.INFO,
                title="Advise mode",
                text="The exit code does not carry this decision; nothing is stopped by it.",
            )
        )
    isolation = isolation_of(decision, manifest)
    if below_required(isolation):
        tier, required = isolation.at("tier").text("none"), isolation.at("required").text("more")
        found.append(
            Banner(
                tone=Tone.BAD,
                title=f"Isolation {tier}, below the required {required}",
                text="Less was explicitly allowed for this run. "
                "Model code was not contained as the policy asks.",
            )
        )
    faithful = intermediates.at("faithful")
    compared, differing = faithful.at("compared").whole() or 0, faithful.at("mismatched").whole()
    kinds = {finding.at("kind").text() for finding in findings.at("findings").items()}
    # Answers recorded from another version differ by right; the findings then say so.
    explained = {"recorded_by_another_version", "replay_not_checked"} & kinds
    if "unfaithful_replay" in kinds or (differing and not explained):
        part = f": {count(differing)} of {count(compared)} requests" if differing else ""
        found.append(
            Banner(
                tone=Tone.BAD,
                title="The replay is not faithful",
                text=f"The replayed baseline differs from what production answered{part}"
                f"{_in_brackets(share(differing, compared))}. "
                "Results may not carry over to production.",
            )
        )
    return tuple(found)


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def version_side(role: str, model: Doc) -> VersionSide:
    """One version's record."""
    cutoff = moment(model.at("training_cutoff_ns").whole())
    requirements = tuple(item.text() for item in model.at("requirements").items())
    facts = [
        Fact(label="Given as", value=model.at("given").text("unknown"), mono=True),
        Fact(label="Pinned to", value=model.at("uri").text("unknown"), mono=True),
        Fact(label="Digest (sha256)", value=model.at("digest").text("unknown"), mono=True),
        Fact(label="Trained on data until", value=cutoff or "not recorded"),
        Fact(
            label="Requirements",
            value=listed(requirements, _MOST_REQUIREMENTS) or "none recorded",
            mono=bool(requirements),
        ),
        *_ran_in(model.at("runtime")),
    ]
    name, version = model.at("name").text("unknown"), model.at("version").text("unknown")
    return VersionSide(
        role=role,
        name=name,
        version=version,
        label=name if version in ("file", "unknown") else f"{name} {version}",
        facts=tuple(facts),
    )


def _ran_in(runtime: Doc) -> tuple[Fact, ...]:
    """What the version's process had, and why; nothing for a run that did not record it."""
    packages = {name: version.text() for name, version in runtime.at("packages").fields()}
    if not packages:
        return ()
    why = tuple(item.text() for item in runtime.at("because_of").items())
    own = f"; an environment of its own, because it pins {listed(why)}" if why else ""
    shown = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    open_ = listed(tuple(item.text() for item in runtime.at("not_pinned").items()))
    loose = (f"not pinned: {open_}",) if open_ else ()
    notes = tuple(item.text() for item in runtime.at("notes").items())
    left_out = tuple(item.text() for item in runtime.at("left_out").items())
    facts = [Fact(label="Ran in", value="; ".join((f"{shown}{own}", *loose, *notes)))]
    if left_out:
        names = listed(left_out, _MOST_REQUIREMENTS)
        facts.append(Fact(label="Not needed to run it", value=names, mono=True))
    return tuple(facts)


def version_changes(baseline: Doc, candidate: Doc) -> tuple[str, ...]:
    """What differs between the two records, in sentences."""
    if not (baseline and candidate):
        return ("At least one version is not recorded in this run.",)
    changes = []
    old, new = baseline.at("digest").text(), candidate.at("digest").text()
    if old and old == new:
        changes.append("Both versions have the same digest: the bytes are the same.")
    before = {item.text() for item in baseline.at("requirements").items()}
    after = {item.text() for item in candidate.at("requirements").items()}
    if before != after:
        gone, come = tuple(sorted(before - after)), tuple(sorted(after - before))
        parts = [f"no longer {listed(gone)}"] * bool(gone) + [f"now {listed(come)}"] * bool(come)
        changes.append(f"Requirements changed: {'; '.join(parts)}.")
    was = baseline.at("training_cutoff_ns").whole()
    now = candidate.at("training_cutoff_ns").whole()
    if day(was) and day(now) and was != now:
        changes.append(f"Training data ends {day(now)} instead of {day(was)}.")
    elif not (day(was) and day(now)):
        changes.append("A training cut-off is not recorded, so leaked labels cannot be ruled out.")
    return tuple(changes)


def finding_views(findings: Doc) -> tuple[tuple[FindingView, ...], str]:
    """Findings, harm first, and what to say about those left out."""
    order = {"harm": 0, "warning": 1, "info": 2}
    found = [item for item in findings.at("findings").items() if item.fields()]
    found.sort(key=lambda item: order.get(item.at("severity").text(), 3))
    shown = tuple(_finding(item) for item in found[:MOST_FINDINGS])
    if not found:
        return (), "No findings were recorded." if findings else "This run has no findings file."
    left_out = len(found) - len(shown)
    return shown, f"{counted(left_out, 'more finding')} in findings.json." if left_out else ""


def _finding(item: Doc) -> FindingView:
    severity = item.at("severity").text()
    relation = item.at("relation").text()
    requests = tuple(request.text() for request in item.at("requests").items())
    where, what = (
        item.at("where").text(),
        item.at("what").text("not described", limit=_LONGEST_FINDING),
    )
    return FindingView(
        badge=_SEVERITIES.get(severity) or Badge(tone=Tone.MUTED, word=severity or "note"),
        where=where,
        what=what,
        line=what if not where or what.startswith(where) else f"{where}: {what}",
        relation="" if relation in ("", "equal", "other") else _RELATIONS.get(relation, relation),
        remedy=item.at("remedy").text(limit=LONG),
        requests=requests[:_MOST_IDS],
    )

"""What the report shows, already worded and formatted: the same values for every output format.

A view holds no raw JSON and no number to be computed with, except positions in percent of a
drawing. Its strings are plain text; each renderer escapes them for its own format.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.report.graph_drawing import Drawing
from harness.report.plots import Bar, Curve, TimeLine
from harness.report.tones import Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A word with a tone: FAIL, proven beyond the margin."""

    tone: Tone
    """Colour and sign."""
    word: str
    """The word itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A labelled value."""

    label: str
    """What it is."""
    value: str
    """The value with its unit."""
    note: str = ""
    """Small print after it."""
    mono: bool = False
    """A digest, name or command: shown in fixed-width letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One table cell."""

    text: str
    """What it says."""
    note: str = ""
    """Small print under it."""
    badge: Tone | None = None
    """Shown as a badge of this tone."""
    mono: bool = False
    """Fixed-width letters."""
    bar: Bar | None = None
    """Drawn instead of the text, which then describes the drawing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One table column."""

    label: str
    """Heading with the unit."""
    numeric: bool = False
    """Right-aligned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings, or the reason why there are none."""

    title: str
    """Caption; the section's own heading is above it."""
    columns: tuple[Column, ...]
    """Headings."""
    rows: tuple[tuple[Cell, ...], ...]
    """As many cells as columns each."""
    empty: str
    """Said when there are no rows."""
    note: str = ""
    """Said under the rows: what was left out, how to read a column."""
    folded: bool = False
    """Closed until the reader opens it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    """A condition that changes how far the decision can be trusted; on every page."""

    tone: Tone
    """How bad it is."""
    title: str
    """A few words."""
    text: str
    """What it means for the reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The answer."""

    state: str
    """PROMOTE, ROLLBACK, HOLD or, when the gate itself failed, ERROR."""
    tone: Tone
    """Its colour and sign."""
    word: str
    """What is printed large."""
    lead: str
    """What it means for the candidate, in one sentence."""
    reason: str
    """The stable reason in words."""
    explanation: str
    """The gate's own two or three sentences."""
    binding: str
    """Which guardrail bound it, with its numbers; "" when none did."""
    next: str
    """What to do, or what would settle a HOLD."""
    facts: tuple[Fact, ...]
    """Requests, traffic, guardrails, isolation at a glance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSide:
    """One of the two versions."""

    role: str
    """Baseline (old) or candidate (new)."""
    name: str
    """Model name."""
    version: str
    """Version, or "file"."""
    label: str
    """Name and version; a file is called by its name alone."""
    facts: tuple[Fact, ...]
    """Digest, reference, training cut-off, requirements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceView:
    """One guardrail, or one slice of one."""

    name: str
    """As in evidence.json."""
    slice: str
    """ "" for all traffic."""
    verdict: str
    """PASS, FAIL, INCONCLUSIVE, NO_DATA."""
    badge: Badge
    """The verdict in words."""
    gating: bool
    """Whether it decides."""
    window: str
    """Which requests."""
    reason: str
    """Why this verdict."""
    interval: str
    """Both ends with unit; says so when nothing was measured."""
    tolerated: str
    """What the policy tolerates, with unit."""
    statement: str
    """Metric, interval and limit in one phrase."""
    requests: str
    """How many entered, of how many."""
    bar: Bar | None
    """The interval against the margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailView:
    """One guardrail with everything that belongs to it."""

    anchor: str
    """Fragment id."""
    whole: EvidenceView
    """Over all traffic, or the first slice when there is no such evidence."""
    title: str
    """What is measured, in words."""
    question: str
    """How it is measured, in one sentence."""
    reading: str
    """What the interval says, in one sentence."""
    binding: bool
    """This one bound the decision."""
    curve: Curve | None
    """How the evidence grew; None when there was too little."""
    slices: Table | None
    """Its slices; None when it has none."""
    slice_tally: str
    """How its slices ended; "" when it has none."""
    numbers: tuple[Fact, ...]
    """e-values, thresholds, weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingView:
    """One finding."""

    badge: Badge
    """How much it matters."""
    where: str
    """What it concerns."""
    what: str
    """The fact."""
    line: str
    """Both in one line, without saying the place twice."""
    relation: str
    """The relation in words; "" when there is none."""
    remedy: str
    """What to do."""
    requests: tuple[str, ...]
    """Request ids that show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report made of facts, tables and notes."""

    anchor: str
    """Fragment id."""
    title: str
    """Heading."""
    lead: str = ""
    """One or two sentences under it."""
    facts: tuple[Fact, ...] = ()
    """Before the tables."""
    tables: tuple[Table, ...] = ()
    """In this order."""
    notes: tuple[str, ...] = ()
    """After the tables."""
    time_line: TimeLine | None = None
    """Drawn before the tables."""
    drawing: Drawing | None = None
    """A graph, drawn before the tables."""
    block: str = ""
    """Verbatim text at the end."""
    block_title: str = ""
    """What the verbatim text is."""
    folded: bool = False
    """Closed until the reader opens it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """One run, ready to be shown in any format."""

    run_id: str
    """Name of the run."""
    replayed: bool
    """Two versions were run; false where observations in a table were judged."""
    created: str
    """When the gate ran."""
    as_of: str
    """The instant it was run for; "" when not recorded."""
    title: str
    """Model and versions in a few words."""
    headline: Headline
    """The answer."""
    banners: tuple[Banner, ...]
    """What limits it."""
    advise: bool
    """The exit code does not carry the decision."""
    baseline: VersionSide
    """Old version."""
    candidate: VersionSide
    """New version."""
    changes: tuple[str, ...]
    """What differs between the two versions' records, in sentences."""
    evidence: tuple[EvidenceView, ...]
    """Every guardrail and slice, in the file's order."""
    overview: Table
    """Every guardrail in one row."""
    guardrails: tuple[GuardrailView, ...]
    """Guardrails over all traffic, failing ones first."""
    guardrails_empty: str
    """Said when there are none."""
    guardrail_notes: tuple[str, ...]
    """Pooled slices, combined evidence."""
    findings: tuple[FindingView, ...]
    """Harm first."""
    findings_note: str
    """Said when there are none, or when some were left out."""
    traffic: Section
    """Windows, counts, coverage."""
    parity: Section
    """Features and outputs."""
    graph: Section | None
    """Where the graphs part; None for runs that know nothing of it."""
    fidelity: Section
    """Replay against production, noise floor, observer."""
    behaviour: Section
    """Outcomes, decisions, changed requests, slices."""
    latency: Section
    """Both versions."""
    isolation: Section
    """Obtained and required."""
    method: Section
    """α, claim, attempt, seed, hashes, environment, policy."""
    limits: tuple[str, ...] = field(default=())
    """What was not compared in this run."""
    always: tuple[str, ...] = field(default=())
    """What no replay shows."""

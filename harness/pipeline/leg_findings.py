"""What happened to a version's process, as findings."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.pipeline.candidate_failures import CandidateFailures
from harness.replay.leg_counters import LegCounters
from harness.store.quarantine import Note

LISTED = 5
"""Requests that have a finding of their own, a version."""


def leg_findings(
    role: str,
    counters: LegCounters,
    failures: dict[str, int],
    ids: Sequence[str],
    messages: Sequence[str],
    notes: Sequence[Note] = (),
) -> list[Finding]:
    """What happened to a version's process.

    Args:
      role: baseline, candidate or anchor.
      counters: of its leg.
      failures: kind → requests that only this version fails.
      ids: the first of them.
      messages: what it said.
      notes: the run's quarantine.
    """
    severity = Severity.HARM if role == "candidate" else Severity.WARNING
    other = "baseline" if role == "candidate" else "candidate"
    words = {
        "CRASH": ("crash", f"the {role}'s process dies"),
        "TIMEOUT": ("timeout", f"no answer of the {role} came before the deadline"),
        "ERROR": ("error", f"the {role}'s runtime refuses what the {other} answers"),
        "INVALID": (
            "invalid",
            f"the {role}'s answer has another shape than it declares or breaks the protocol",
        ),
        "NAN": ("nan", f"an output of the {role} is not a number where the {other}'s is"),
    }
    found = [
        Finding(
            kind=f"{role}_{words[kind][0]}",
            severity=severity,
            where=role,
            what=f"{counted(count)}: {words[kind][1]}{'' if kind == 'NAN' else _said(messages)}",
            remedy=_remedy(kind, messages),
            requests=tuple(ids[:5]),
        )
        for kind, count in failures.items()
        if kind in words
    ]
    if counters.flaky:
        found.append(
            Finding(
                kind=f"{role}_flaky",
                severity=severity,
                where=role,
                what=f"{counted(counters.flaky, 'batch', 'batches')} failed once in the {role}'s process "
                "and passed unchanged the second time",
                remedy="A model whose process dies now and then will do so in production, too.",
            )
        )
    if counters.undeclared:
        shown = "; ".join(f"output {name[:100]} is {words}" for name, words in counters.undeclared)
        found.append(
            Finding(
                kind=f"{role}_undeclared_shape",
                severity=Severity.WARNING,
                where=role,
                what=f"answers contradict the version's own signature: {shown}",
                remedy="Export it with the shapes that it returns: a client that reads the declared ones fails.",
            )
        )
    if counters.trace_faults:
        found.append(_untraced(role, counters))
    harm = severity if failures else Severity.WARNING
    return [*found, *_limits(role, counters, harm), *_poison(role, notes, harm)]


def _remedy(kind: str, messages: Sequence[str]) -> str:
    """An answer without numbers comes with no message, and a deadline that passed often with none."""
    alone = "Run one of these requests by itself and look"
    if kind == "NAN":
        return f"{alone} for the first operator that gives no number."
    if not _said(messages):
        return f"{alone} at which operator it stops."
    return f"{alone} at the operator that the message names."


def _untraced(role: str, counters: LegCounters) -> Finding:
    """Answers that came, but not with the features that were asked for."""
    why = f": {counters.trace_fault[:300]}" if counters.trace_fault else ""
    return Finding(
        kind="features_not_traced", severity=Severity.WARNING, where=role,
        what=f"the {role} answers {counted(counters.trace_faults, 'batch', 'batches')} of requests, but not "
        f"with its features: these were not compared there{why}",
        remedy="What is said of features holds for the other requests only: mend what the message names.",
    )  # fmt: skip


def _limits(role: str, counters: LegCounters, severity: Severity) -> list[Finding]:
    """What memory and processor the version was refused."""
    found = []
    if counters.memory_limit:
        found.append(
            Finding(
                kind="memory_limit",
                severity=severity,
                where=role,
                what=f"the {role} needs more memory than the policy's sandbox.memory for "
                f"{counted(counters.memory_limit)}, each by itself",
                remedy="Give production's memory as sandbox.memory; when that is what it has, this "
                "version would end there.",
            )
        )
    if counters.smaller:
        found.append(
            Finding(
                kind="smaller_batches",
                severity=Severity.INFO,
                where=role,
                what=f"{counted(counters.smaller, 'batch', 'batches')} did not fit into the {role}'s "
                f"sandbox.memory as a whole: run in parts of at most {counted(counters.most_rows, 'row')}",
                remedy="Nothing needs to be done: how many requests share a batch is the gate's choice. More "
                "sandbox.memory makes the replay quicker.",
            )
        )
    if counters.host_starved:
        found.append(
            Finding(
                kind="host_starved",
                severity=Severity.WARNING,
                where=role,
                what=f"{counted(counters.host_starved, 'try', 'tries')} passed the deadline because this "
                f"machine gave the {role}'s process no processor: that counts neither for nor against it",
                remedy="Run the gate when the machine is less busy, or give it processors of its own.",
            )
        )
    return found


def _poison(role: str, notes: Sequence[Note], severity: Severity) -> list[Finding]:
    """Each request that fails by itself, the first few; what both versions fail is no harm.

    What the anchor fails excuses neither: it serves nobody.
    """
    mine = [n for n in notes if n.leg == role]
    others = {n.request_id for n in notes if n.leg not in (role, "anchor")}
    return [
        Finding(
            kind="poison_request",
            severity=Severity.INFO if note.request_id in others else severity,
            where=role,
            what=f"request {note.request_id} fails by itself in the {role} ({note.kind}): "
            f"{note.message[:300]}"
            f"{_last_words(note)}",
            remedy=_repeat(note),
            requests=(note.request_id,),
        )
        for note in mine[:LISTED]
    ]


def _last_words(note: Note) -> str:
    return f' (its last words: "{note.last_words}")' if note.last_words else ""


def _repeat(note: Note) -> str:
    if not note.file:
        return "Its inputs cannot be saved as a table; take the request from the traffic by its id."
    return f"Its inputs are in the run folder: harness compare BASELINE CANDIDATE --inputs RUN/{note.file}"


def _said(messages: Sequence[str]) -> str:
    return f' ("{messages[0][:200]}")' if messages else ""


def answered_by_neither(failures: CandidateFailures, unknown: int) -> list[Finding]:
    """Requests that neither version answers: nothing is known of them.

    Args:
      failures: what both versions failed.
      unknown: of these: not both runtimes refuse.
    """
    shapeless = failures.shapeless
    found = (
        (failures.both - unknown, "both_reject", "inputs", "both versions reject {count}", _REFUSED),
        (
            unknown - shapeless, "neither_answers", "inputs",
            "neither version answers {count}, and not because both runtimes refuse", _ENDED,
        ),
        (
            shapeless, "both_unaligned", "outputs",
            "both versions answer {count} with outputs that have no row for each row of the inputs", _UNALIGNED,
        ),
    )  # fmt: skip
    return [
        Finding(
            kind=kind,
            severity=Severity.WARNING,
            where=where,
            what=what.format(count=counted(count))
            + _said([failures.both_said] if failures.both_said and count == failures.both else [])
            + ": nothing is compared there",
            remedy=remedy,
        )
        for count, kind, where, what, remedy in found
        if count
    ]


_REFUSED = (
    "Give inputs that the models take (types, shapes, values; the runtime's message, where one is shown), or leave"
    " these requests out; where production answers them, look at what is done to them before the model."
)
_ENDED = (
    "Where they end for want of memory or time, give more with --sandbox, as in memory=4GiB or "
    "batch_deadline=30s; leave out requests that no version can answer."
)
_UNALIGNED = (
    "Outputs are compared row by row (a scalar or a sequence as a whole): compare copies of both "
    "versions that return the named output with a row for each row, or without it."
)

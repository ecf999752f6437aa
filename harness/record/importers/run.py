"""One import from its source to traffic, resumable at any point, with a report beside the traffic."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.core.clock import now_ns
from harness.core.errors import TrafficError
from harness.core.jsonable import jsonable
from harness.core.places import Place
from harness.core.recording import RecordingTotals
from harness.core.tensors import Signature
from harness.record.importers.columns import BodyMapping
from harness.record.importers.guarding import Guard, checked
from harness.record.importers.imported import check_not_imported, write_sources
from harness.record.importers.ledger import Ledger, writing
from harness.record.importers.losses import (
    CUT_SHORT,
    DAMAGED,
    GONE,
    HIDDEN,
    NOT_WHOLE,
    WHOLE,
    WITHOUT_COLUMNS,
    hidden_records,
    note_gone,
)
from harness.record.importers.parts import Part, Refused, Trouble
from harness.record.importers.payloads import Messages
from harness.record.importers.sources import CUT, LEFT_OUT, ColumnsError, SourceFile, the_rest
from harness.record.importers.staging import BOTH, REQUEST, RESPONSE, Bodies, Staging
from harness.record.importers.writing import write_staged
from harness.store.places import move, write_whole
from harness.store.totals import write_totals

REPORTS_FOLDER = "imports"
"""Folder of reports and quarantined records inside a traffic folder."""
STAGING_FILE = "staging.sqlite"
_COMMIT_RECORDS = 2000
_COMMIT_BYTES = 64 << 20
_AHEAD_NS = 300_000_000_000
"""Clocks differ; five minutes ahead of ours is a clock that jumped."""
_LAST_NS = 2**63 - 1
_EXAMPLES = 5
_WHOLE_FILES = (CUT, LEFT_OUT)
"""How reasons begin that are a file's and not a record's."""

Reader = Callable[[SourceFile], Iterator[Part | Refused]]
Heard = Callable[[int, int], None]
"""Told (files read, files in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import found, over all its runs into this traffic. records = the parts taken + every count of records."""

    format: str
    """Which system's logs."""
    to: str
    """The traffic."""
    files: int
    """Source files read to their end, whole ones."""
    files_cut: tuple[str, ...]
    """Source files that are damaged, cut off, or left out for their columns, as far as they are named
    here: file, reason."""
    records: int
    """Records in all files, as far as these say: of a damaged Parquet file, all that its footer counts."""
    estimated: int
    """Records beside these in damaged or left-out files that do not say how many they hold."""
    files_gone: int
    """Files that were not whole and were deleted since: what they hid no longer counts as lost."""
    joined: int
    """Exchanges with request and answer, errors among them."""
    errors: int
    """Of these: the answer was an error."""
    one_sided_requests: int
    """Requests whose answer was never logged; written with code 2 (unknown), never as answered."""
    one_sided_responses: int
    """Answers without a request; not written, kept for the next import."""
    duplicates: int
    """Records whose id had one of the same side before; the first counts."""
    conflicting: int
    """Of these: with another content."""
    late: int
    """Answers that came after their request had been written without one; where they came with the request
    again, beside that record."""
    oversized: int
    """Records over the size limit, or left out by the logging system for their size."""
    undecodable: int
    """Records that cannot be read; they, conflicting and late ones are all in the quarantine file."""
    other: int
    """Records that are no inference: other components, topics, event types."""
    in_the_future: int
    """Records with a time more than five minutes ahead of this machine's clock; written all the same."""
    answer_before_request: int
    """Exchanges whose answer is older than the request; their latency is written as 0."""
    waiting: int
    """Requests that wait for their answer: written when it comes, or by an import with `--wait 0s`."""
    written: int
    """Exchanges in the traffic."""
    traffic_files: int
    """Parquet files written."""
    quarantine: str
    """File of the records that could not be used; "" = none."""
    examples: tuple[str, ...]
    """Some of them: place and reason."""

    def to_json(self) -> str:
        """All counts as JSON."""
        return json.dumps(jsonable(self), indent=2)

    def to_text(self) -> str:
        """A short page."""
        lines = [
            f"{self.to}: {self.written:,} exchanges in {self.traffic_files} files, imported from {self.format}",
            f"  read       {self.records:,} records in {self.files} whole files",
            f"  joined     {self.joined:,} with request and answer, {self.errors:,} of them errors",
            f"  one-sided  {self.one_sided_requests:,} requests, {self.one_sided_responses:,} answers; {self.waiting:,} still wait",
            f"  duplicate  {self.duplicates:,}, {self.conflicting:,} of them with another content; late {self.late:,}",
            f"  not used   {self.undecodable:,} undecodable, {self.oversized:,} oversized, {self.other:,} other",
            f"  clock      {self.in_the_future:,} in the future, {self.answer_before_request:,} answered before asked",
        ]
        if self.files_cut or self.estimated:
            lines[1] += (
                f" and in others; about {self.estimated:,} more are lost with files that say no number"
            )
        if self.files_gone:
            lines.append(
                f"  gone       {self.files_gone:,} files that were not whole: what they hid no longer counts as lost"
            )
        lines += [f"  not whole: {name}" for name in self.files_cut]
        lines += [f"  e.g. {example}" for example in self.examples]
        if self.quarantine:
            lines.append(f"  quarantine {self.quarantine}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTarget:
    """Where an import goes."""

    to: Place
    """The traffic's folder or prefix."""
    state: Path
    """Local folder of what it remembers between runs."""
    name: str
    """Prefix of the traffic files, name of the report: the format."""


def run_import(
    files: Sequence[SourceFile],
    read: Reader,
    target: ImportTarget,
    *,
    known: Signature | BodyMapping | None,
    how: str = "",
    wait_ns: int = 0,
    heard: Heard = lambda _done, _total: None,
) -> ImportReport:
    """Reads what was not read before, writes what is whole, and reports.

    Args:
      files: the source.
      read: the format's reader.
      target: where to.
      known: names and types of bodies without them, from the model's signature or a mapping; None = as the bodies say.
      how: the terms of reading, mapping and model among them; a file that was read under others is read again.
      wait_ns: how much older than the newest request one without an answer must be to be written.
      heard: told of progress.

    Raises:
      TrafficError: nothing could be read, every file lacks the format's columns, the traffic holds a
        file already that this state does not know, or the store refuses.
    """
    messages = Messages(known)
    with writing(target.to), Staging(target.state / STAGING_FILE) as staging:
        check_not_imported(staging, files, target.to / REPORTS_FOLDER)
        left_out = []
        for i, file in enumerate(files):
            left_out += _read_file(staging, file, read, messages, how)
            heard(i + 1, len(files))
        if left_out and len(left_out) == len(files):
            raise left_out[0]
        note_gone(staging, files)
        until = _LAST_NS if not wait_ns else staging.newest_ns() - wait_ns
        report = write_and_report(staging, target, until)
    if not report.records:
        where = ", ".join(str(file.place) for file in files[:_EXAMPLES])
        raise TrafficError(where, "no record in it", "Name the file or folder that holds the logs.")
    if not (report.written or report.waiting or report.one_sided_responses):
        raise TrafficError(
            str(target.to), f"none of the {report.records:,} records could be used"
            + "".join(f", e.g. {e.rstrip('.')}" for e in (*report.files_cut, *report.examples)[:1]),
            f"Check the format and the mapping; all of them are listed in {report.quarantine}.",
        )  # fmt: skip
    return report


def write_and_report(
    staging: Staging, target: ImportTarget, one_sided_until_ns: int
) -> ImportReport:
    """Writes what is whole, and the report beside the traffic.

    Args:
      staging: the staged parts.
      target: where to.
      one_sided_until_ns: requests without an answer are written when they are older than this; see
        `Staging.waiting`.

    Raises:
      TrafficError: the store refuses.
    """
    write_sources(staging, target.to / REPORTS_FOLDER, f"{target.name}-{staging.token}")
    write_staged(
        staging, target.to, writer=f"{target.name}-{staging.run}", spool=target.state / "spool",
        one_sided_until_ns=one_sided_until_ns,
    )  # fmt: skip
    report, counts = _report(staging, target), staging.counts()
    place = target.to / REPORTS_FOLDER / f"{target.name}-{staging.token}.json"
    write_whole(place, report.to_json().encode() + b"\n")
    if report.quarantine:
        write_quarantine(staging, target)
    write_totals(
        target.to,
        _totals(
            report, f"{target.name}-{staging.token}", counts["lost_requests"] - counts[GONE[HIDDEN]]
        ),
    )
    return report


def _read_file(
    staging: Staging, file: SourceFile, read: Reader, messages: Messages, how: str
) -> list[ColumnsError]:
    """Stages what a file gives; returns why it was left out, where it has not the columns.

    Raises:
      TrafficError: under other terms it no longer gives what it gave.
    """
    done = staging.begin_source(file.key, file.stamp, how)
    if done is None:
        return []
    number, size, kind, left_out = 0, 0, WHOLE, list[ColumnsError]()
    for found in _records_of(file, read, left_out, refusing=staging.other_terms):
        number += 1
        kind = _unread(found) or kind
        if number <= done:
            continue
        take(staging, found, messages)
        size += len(found.raw)
        if number % _COMMIT_RECORDS == 0 or size >= _COMMIT_BYTES:
            staging.reach(number)
            size = 0
    if not left_out:
        staging.count(kind)
        staging.end_source(file.name, number)
        return []
    staging.count(kind, int(number > done))  # else it was counted by the run before
    staging.leave_source(number)
    return left_out


def _records_of(
    file: SourceFile, read: Reader, left_out: list[ColumnsError], *, refusing: bool
) -> Iterator[Part | Refused]:
    """What a reader gives of a file; that it lacks columns costs the file only, unless `refusing`."""
    try:
        yield from read(file)
    except ColumnsError as error:
        if refusing:
            raise
        left_out.append(error)
        yield the_rest(file.name, f"{LEFT_OUT}: {error.what}", error.records)


def _unread(found: Part | Refused) -> str:
    """What is counted of a file whose rest this stands for; "" = it stands for itself."""
    if isinstance(found, Part) or (found.records == 1 and not found.why.startswith(_WHOLE_FILES)):
        return ""
    if found.records is not None:
        return DAMAGED
    return WITHOUT_COLUMNS if found.why.startswith(LEFT_OUT) else CUT_SHORT


def take(staging: Staging, found: Part | Refused, messages: Messages) -> bool:
    """Stages one record, or keeps it with the reason why not; whether it could be read.

    Raises:
      sqlite3.Error: the state cannot be written; nothing of the transaction counts.
    """
    n = found.counted if isinstance(found, Refused) else 1
    staging.count("records", n)
    if isinstance(found, Refused):
        if staging.refuse(found) and found.trouble is not Trouble.OTHER:
            staging.count("lost_requests", n)
            if found.why.startswith(_WHOLE_FILES):
                staging.count(HIDDEN, n)
        return found.trouble is not Trouble.UNDECODABLE
    bodies = Guard(found.place, found.raw)(partial(_bodies, found, messages))
    if isinstance(bodies, Refused):
        if staging.refuse(bodies) and found.request is not None:
            staging.count("lost_requests")
        return False
    if found.ts_ns > now_ns() + _AHEAD_NS:
        staging.count("in_the_future")
    staging.add(found, bodies)
    return True


def _bodies(part: Part, messages: Messages) -> Bodies:
    checked(part)
    request, response = part.request, part.response
    return Bodies(
        request=None if request is None else messages.request(request, part.model, part.id),
        response=None
        if response is None
        else messages.response(response, part.model, part.version, part.id),
    )


def _totals(report: ImportReport, writer: str, lost: int) -> RecordingTotals:
    """The report as a gate reads what recorders say: which requests were served and are not in the traffic.

    Args:
      report: of the import.
      writer: name of the totals; one for each state, so that none takes another's place.
      lost: records that could not be used and may have been requests.
    """
    # The answer of a request that could not be used stands alone, and is the same request.
    alone = max(0, report.one_sided_responses - lost)
    gone = {
        "a record of the logs could not be used": lost,
        "an answer whose request is not in the logs": alone,
        "in files that cannot be read, estimated by the whole ones": report.estimated,
    }
    faults = {
        "records of an id that was there before": report.duplicates,
        "of these, with another content": report.conflicting,
        "answers that came after their request was written": report.late,
        "files that were not whole and are gone: what they hid no longer counts as lost": report.files_gone,
        "times in the future": report.in_the_future,
        "answers older than their request": report.answer_before_request,
    }
    return RecordingTotals(
        writer=writer, seen=report.written + report.waiting + lost + alone + report.estimated,
        failed=report.errors + report.one_sided_requests, sampled_out=0, kept_as_failed=0,
        written=report.written, waiting=report.waiting, sample=1.0, closed=True,
        not_recorded=tuple((why, n) for why, n in gone.items() if n),
        faults=tuple((what, n) for what, n in faults.items() if n),
    )  # fmt: skip


def quarantine_name(target: ImportTarget, ledger: Ledger) -> str:
    """What the quarantine file of an import is called."""
    return f"{target.name}-{ledger.token}.quarantine.jsonl"


def write_quarantine(ledger: Ledger, target: ImportTarget) -> None:
    """Writes the refused records as JSON lines: place, trouble, why, bytes, the record in base64."""
    file = target.state / "quarantine.jsonl"
    with file.open("wb") as lines:
        lines.writelines(_quarantined(*row) for row in ledger.refusals())
    move(file, target.to / REPORTS_FOLDER / quarantine_name(target, ledger))


def _quarantined(place: str, trouble: str, why: str, size: int, raw: bytes) -> bytes:
    kept = {"place": place, "trouble": trouble, "why": why, "bytes": size}
    kept["raw_base64"] = base64.b64encode(raw).decode()
    return json.dumps(kept, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _report(staging: Staging, target: ImportTarget) -> ImportReport:
    counts = staging.counts()
    traffic_files, written = staging.written()
    examples: list[str] = []
    cut: list[str] = []
    for place, _, why, _, _ in staging.refusals():
        if why.startswith(_WHOLE_FILES):
            cut.append(f"{place}: {why}")
        elif len(examples) < _EXAMPLES:
            examples.append(f"{place}: {why}")
    refused = sum(counts[trouble.value] for trouble in Trouble)
    return ImportReport(
        format=target.name, to=str(target.to), files=counts["files"], files_cut=tuple(cut[:_EXAMPLES]),
        records=counts["records"], estimated=hidden_records(staging.readings()),
        files_gone=sum(counts[GONE[kind]] for kind in NOT_WHOLE), joined=staging.sided(BOTH), errors=staging.failed(),
        one_sided_requests=staging.sided(REQUEST), one_sided_responses=staging.sided(RESPONSE),
        duplicates=counts["duplicates"], conflicting=counts["conflicting"], late=counts["late"],
        oversized=counts["oversized"], undecodable=counts["undecodable"], other=counts["other"],
        in_the_future=counts["in_the_future"], answer_before_request=staging.turned(),
        waiting=staging.sided(BOTH) + staging.sided(REQUEST) - written,
        written=written, traffic_files=traffic_files, examples=tuple(examples),
        quarantine=str(target.to / REPORTS_FOLDER / quarantine_name(target, staging)) if refused else "",
    )  # fmt: skip

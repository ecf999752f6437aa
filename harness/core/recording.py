"""What a recorder is told to keep, and what became of every request that it saw."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from harness.core.errors import TrafficError


class Redact(enum.StrEnum):
    """What happens to a value before it is written."""

    DROP = "drop"
    """It is removed: the metadata entry, the parameter, the whole tensor."""
    HASH = "hash"
    """A keyed hash takes its place: equal values stay equal, and nobody without the key can try."""
    ROUND = "round"
    """Numbers are rounded to whole multiples of a step."""


class Redacted(enum.StrEnum):
    """Where a value stands."""

    INPUT = "input"
    OUTPUT = "output"
    PARAMETER = "parameter"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionRule:
    """One value that must not be written as it is."""

    where: Redacted
    """What kind of value."""
    name: str
    """Its name; of metadata in small letters."""
    action: Redact
    """What is done to it."""
    step: float = 0.0
    """Of ROUND: > 0."""


ALWAYS_DROPPED = ("authorization", "cookie", "proxy-authorization", "x-api-key")
"""Metadata that is never written, unless a rule says what is done to it instead."""


BESIDE_SAMPLE = ":sampled"
"""Metadata entry of an exchange that the sample would have left out, had it not failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingTotals:
    """What became of the inference requests that passed one recorder, over all its starts.

    seen = sampled_out + not_recorded + written + waiting.
    """

    writer: str
    """Name of the recorder, which its files begin with."""
    seen: int
    """Finished inference requests, streamed ones among them."""
    failed: int
    """Of these: without an answer, or with an error."""
    sampled_out: int
    """Left out by the sample."""
    kept_as_failed: int
    """Recorded though the sample would have left them out, because they failed."""
    written: int
    """In published files."""
    waiting: int
    """Received by the writer and not yet in a published file."""
    not_recorded: tuple[tuple[str, int], ...]
    """(reason, count) of requests that should have been recorded and were not."""
    faults: tuple[tuple[str, int], ...]
    """(fault, count) of what was recorded as it came, or noticed on the way."""
    sample: float
    """Share of requests that the sample keeps, in (0, 1]."""
    closed: bool
    """Whether the recorder has ended in order; else these are its last known counts."""


class Recorded(enum.IntEnum):
    """Counters of one recorder; their values are places in its counter file."""

    SEEN = 0
    FAILED = 1
    SAMPLED_OUT = 2
    KEPT_AS_FAILED = 3
    HANDED = 4
    """Given to the writer's process."""
    QUEUE_FULL = 5
    TOO_LARGE = 6
    WRITER_GONE = 7
    UNPARSABLE = 8
    UNREDACTABLE = 9
    SHARED_MEMORY = 10
    UNWRITABLE = 11
    LOST = 12
    """Handed over and in no file, as the start after a kill found it."""
    WRITTEN = 13
    """In published files."""
    PUBLISHED = 14
    """Number of the last spool whose exchanges are counted as written."""
    DUPLICATE_IDS = 15
    WITHOUT_ID = 16
    WRONG_TENSORS = 17
    CLOCK_STEPS = 18
    UNPAIRED = 19
    CLOSED = 20
    """1 once the recorder has ended in order."""
    SET_ASIDE = 21
    """In files that could not be published and were renamed, so that others can be."""
    ENDED_BEFORE = 22
    """Waited for the writer when the recorder ended."""
    RULES_UNUSED = 23
    """Redaction rules that no request of this start had a value for."""
    SPOOL_REFUSED = 24
    """1 while the disk refuses what is recorded."""
    PUBLISHING_REFUSED = 25
    """1 while the traffic's place refuses a file."""
    SHARE = 26
    """Share that the sample keeps, in SHARE_UNIT."""
    NO_ROOM = 27
    """Calls under way held too much together."""
    INCOMPLETE = 28
    """Their client broke off before they were whole; not among SEEN."""
    NOT_DECODED = 29
    UNFOLLOWED = 30
    """On connections of HTTP/2 that could not be followed: those under way then, one at the least."""
    BLIND = 31
    """Connections of HTTP/2 that could not be followed to their end."""
    REFUSED = 32
    """Connections beyond the process's limit of open files."""
    NOT_HTTP2 = 33
    """Connections that can carry no call of gRPC."""
    CUT_SHORT = 34
    """Failed before they were whole: servers refuse a large message, or a caller, by its beginning; or the
    server, or the recorder, went."""
    NOT_PROCESSED = 35
    """Refused by an upstream that had not begun with them; not among SEEN: clients repeat them, unless they were
    told not to, and a repeated call is seen then."""
    INFLATED_TOO_LARGE = 36
    NOT_INFLATED = 37
    FORGOTTEN = 38
    """Streamed, and too many waited for their answers."""
    UNCERTAIN = 39
    """Streamed without ids, on a stream that gave more answers than requests."""


SHARE_UNIT = 10**12
"""A share of 1, as a counter says it."""


AFTER_HANDING = (
    Recorded.UNPARSABLE,
    Recorded.UNREDACTABLE,
    Recorded.SHARED_MEMORY,
    Recorded.UNWRITABLE,
    Recorded.LOST,
    Recorded.SET_ASIDE,
    Recorded.INFLATED_TOO_LARGE,
    Recorded.NOT_INFLATED,
)
"""Where requests that were handed to the writer's process end, besides in a file."""

NOT_RECORDED = {
    Recorded.QUEUE_FULL: "the queue to the writer was full",
    Recorded.TOO_LARGE: "a message was larger than --max-message",
    Recorded.WRITER_GONE: "there was no writer's process",
    Recorded.UNPARSABLE: "the request is no ModelInferRequest",
    Recorded.UNREDACTABLE: "a redaction rule could not be applied, or the message contradicts itself",
    Recorded.SHARED_MEMORY: "tensors in shared memory, which no proxy sees",
    Recorded.UNWRITABLE: "the disk refused them",
    Recorded.LOST: "lost with a recorder that was killed",
    Recorded.SET_ASIDE: "set aside in the recorder's folder: their files could not be published",
    Recorded.ENDED_BEFORE: "the recorder ended before the writer could take them",
    Recorded.NO_ROOM: "calls under way held more than --queue-bytes and --max-message allow",
    Recorded.NOT_DECODED: "a message was compressed in a way that could not be undone",
    Recorded.UNFOLLOWED: "under way on a connection that could not be followed to its end",
    Recorded.CUT_SHORT: "their call ended before the request was whole",
    Recorded.INFLATED_TOO_LARGE: "a compressed message held more than --max-message",
    Recorded.NOT_INFLATED: "a message was not compressed as it said",
    Recorded.FORGOTTEN: "streamed requests that waited for an answer with too many others",
    Recorded.UNCERTAIN: "streamed answers without an id, after one too many: whose they are is not known",
}
"""Counter → reason, as totals and reports say it."""

FAULTS = {
    Recorded.DUPLICATE_IDS: "request id that another request has",
    Recorded.WITHOUT_ID: "no request id; one was made up",
    Recorded.WRONG_TENSORS: "tensors that contradict themselves",
    Recorded.CLOCK_STEPS: "steps of the wall clock",
    Recorded.UNPAIRED: "streamed answers that belong to no waiting request",
    Recorded.RULES_UNUSED: "redaction rules that no request had a value for",
    Recorded.BLIND: "connections whose later requests are not known",
    Recorded.NOT_HTTP2: "connections that were no HTTP/2",
    Recorded.INCOMPLETE: "requests whose client broke off before they were whole",
    Recorded.NOT_PROCESSED: "calls that the upstream did not begin with: a client that did not repeat its call saw a failure that is in no row",
    Recorded.REFUSED: "connections refused, too many were open",
}
"""Counter → fault that is told."""


def totals_from_counts(
    counts: dict[Recorded, int], *, writer: str, sample: float
) -> RecordingTotals:
    """Sums up a recorder's counters.

    What was handed over and is neither durable nor counted is on its way while the recorder runs.

    Args:
      counts: every counter.
      writer: the recorder's name.
      sample: share that it keeps.
    """
    refused = sum(counts[c] for c in AFTER_HANDING)
    return RecordingTotals(
        writer=writer,
        seen=counts[Recorded.SEEN],
        failed=counts[Recorded.FAILED],
        sampled_out=counts[Recorded.SAMPLED_OUT],
        kept_as_failed=counts[Recorded.KEPT_AS_FAILED],
        written=counts[Recorded.WRITTEN],
        waiting=counts[Recorded.HANDED] - refused - counts[Recorded.WRITTEN],
        not_recorded=tuple((why, counts[c]) for c, why in NOT_RECORDED.items() if counts[c]),
        faults=tuple((what, counts[c]) for c, what in FAULTS.items() if counts[c]),
        sample=sample,
        closed=bool(counts[Recorded.CLOSED]),
    )


def totals_from_json(found: object, where: str) -> RecordingTotals:
    """Reads what `core.jsonable.jsonable` wrote of totals.

    Raises:
      TrafficError: it is something else.
    """
    given: dict[str, Any] = found if isinstance(found, dict) else {}
    try:
        return RecordingTotals(
            writer=str(given["writer"]),
            seen=int(given["seen"]),
            failed=int(given["failed"]),
            sampled_out=int(given["sampled_out"]),
            kept_as_failed=int(given["kept_as_failed"]),
            written=int(given["written"]),
            waiting=int(given["waiting"]),
            not_recorded=tuple((str(why), int(n)) for why, n in given["not_recorded"]),
            faults=tuple((str(what), int(n)) for what, n in given["faults"]),
            sample=float(given["sample"]),
            closed=bool(given["closed"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise TrafficError(
            where, "is no recorder's totals", "Restore the file as the recorder wrote it."
        ) from None

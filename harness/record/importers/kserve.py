"""KServe's inference logger: its files in blob storage, and its CloudEvents.

Files (Parquet, CSV) hold one row a request or response with the columns url, bytes
(base64), contentType, reqType, id, … (kserve pkg/logger, `logRecord`). They have no time: the time of
change of the file that holds a request is the nearest thing to it, and how long it took is not known. Only answers with status 200 are
logged, so a request without one failed or was lost. Events carry ce-time, and ce-id pairs them.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from functools import partial

from harness.core.clock import ts_ns_from_iso
from harness.core.errors import UsageError
from harness.record.importers.guarding import Guard
from harness.record.importers.parts import Part, Payload, Refused, Trouble
from harness.record.importers.sources import Record, SourceFile
from harness.record.importers.table_source import table_rows

SUFFIXES = (".parquet", ".csv")
REQUEST_TYPE = "org.kubeflow.serving.inference.request"
RESPONSE_TYPE = "org.kubeflow.serving.inference.response"
_NEEDED = ("bytes", "reqType", "id", "inferenceService")
_COMPONENTS = ("predictor", "")
"""Whose traffic is a model's own; a transformer's has the same ids and other bodies."""


def read(file: SourceFile, limit: int) -> Iterator[Part | Refused]:
    """The parts in a file of the logger's.

    Raises:
      TrafficError: it has not the logger's columns.
    """
    for record in table_rows(file, limit, _NEEDED):
        if isinstance(record, Refused):
            yield record
            continue
        yield Guard(record.place, record.raw)(partial(_of_row, record, file.changed_ns))


def _of_row(record: Record, changed_ns: int) -> Part | Refused:
    row = {k: v if isinstance(v, str) else "" for k, v in record.row.items()}
    try:
        body = base64.b64decode(row["bytes"], validate=True)
    except (KeyError, binascii.Error, ValueError):
        return _refused(record.place, "the column bytes is no base64", record.raw)
    return part_of_event(
        record.place, row.get("reqType", ""), row.get("id", ""),
        model=row.get("inferenceService", ""), component=row.get("component", ""), ts_ns=changed_ns,
        body=Payload(content=body, content_type=row.get("contentType", "")),
        context={n: row[n] for n in ("namespace", "endpoint") if row.get(n)},
        metadata=_texts(row.get("metadata", "")), raw=record.raw, latency_ns=0,
    )  # fmt: skip


def _texts(document: str) -> dict[str, str]:
    """A JSON object's values as text; headers are logged as lists."""
    try:
        found = json.loads(document) if document else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in found.items()}


def event(place: str, headers: Mapping[str, str], body: bytes) -> Part | Refused:
    """A CloudEvent in binary mode.

    Args:
      place: how reports call it.
      headers: HTTP headers, names in lower case.
      body: the data.
    """
    time = headers.get("ce-time") or headers.get("ce-recordedtime", "")
    raw = json.dumps(dict(headers)).encode() + b"\n" + body
    try:
        ts_ns = ts_ns_from_iso(_microseconds(time), "ce-time")
    except UsageError as error:
        return _refused(place, error.what, raw)
    return part_of_event(
        place, headers.get("ce-type", ""), headers.get("ce-id", ""),
        model=headers.get("ce-inferenceservicename", ""), component=headers.get("ce-component", ""),
        ts_ns=ts_ns, body=Payload(content=body, content_type=headers.get("content-type", "")),
        context={
            n: headers[f"ce-{n}"] for n in ("namespace", "endpoint") if headers.get(f"ce-{n}")
        },
        metadata=_texts(headers.get("ce-metadata", "")), raw=raw,
        trace_id=headers.get("traceparent", headers.get("ce-traceparent", "")),
    )  # fmt: skip


def _microseconds(time: str) -> str:
    """Go writes as many digits of a second as it has; Python reads six."""
    whole, dot, rest = time.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{whole}.{rest[:digits][:6]}{rest[digits:]}" if dot and digits else time


def part_of_event(
    place: str, kind: str, id_: str, *, model: str, component: str, ts_ns: int, body: Payload,
    context: dict[str, str], metadata: dict[str, str], raw: bytes, trace_id: str = "",
    latency_ns: int | None = None,
) -> Part | Refused:  # fmt: skip
    """A part, where the event is a predictor's request or response."""
    if kind not in {REQUEST_TYPE, RESPONSE_TYPE}:
        return Refused(
            place=place, trouble=Trouble.OTHER, why=f"an event of type '{kind[:80]}'", raw=raw
        )
    if component not in _COMPONENTS:
        return Refused(
            place=place, trouble=Trouble.OTHER, why=f"traffic of the {component[:80]}", raw=raw
        )
    if not id_ or not model:
        return _refused(place, f"no {'id' if model else 'inference service'}", raw)
    asked = kind == REQUEST_TYPE
    return Part(
        place=place, id=id_, model=model, ts_ns=ts_ns, raw=raw, context=context, metadata=metadata,
        trace_id=trace_id, request=body if asked else None, response=None if asked else body,
        answered=not asked, latency_ns=None if asked else latency_ns,
    )  # fmt: skip


def _refused(place: str, why: str, raw: bytes) -> Refused:
    return Refused(place=place, trouble=Trouble.UNDECODABLE, why=why, raw=raw)

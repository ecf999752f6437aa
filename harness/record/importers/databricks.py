"""Databricks and MLflow inference tables, both generations of columns, as Parquet, CSV or JSON lines.

    older   databricks_request_id, client_request_id, timestamp_ms, status_code, execution_time_ms,
            request, response, request_metadata {model_name, model_version, endpoint_name}
    newer   databricks_request_id, client_request_id, request_time, status_code, execution_duration_ms,
            request, response, served_entity_id, logging_error_codes, requester

A body over the size limit is null, with MAX_REQUEST_SIZE_EXCEEDED or MAX_RESPONSE_SIZE_EXCEEDED in
logging_error_codes. A folder that is a Delta table is read by its log, so that files of rows that were
updated or deleted are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from harness.core.clock import ts_ns_from_iso
from harness.record.importers.guarding import Guard, OversizedError
from harness.record.importers.parquet_source import TimestampNs
from harness.record.importers.parts import (
    Part,
    Payload,
    PayloadError,
    Refused,
    code_from_http,
    text_of,
)
from harness.record.importers.sources import Record, SourceFile
from harness.record.importers.table_source import table_rows

SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")
_NEEDED = ("databricks_request_id", "status_code", "request", "response")
_MS = 1_000_000


def read(file: SourceFile, limit: int, model: str = "") -> Iterator[Part | Refused]:
    """The rows of an inference table.

    Args:
      file: one of the table's.
      limit: largest row, bytes.
      model: model name; "" = request_metadata's, or the served entity's.

    Raises:
      TrafficError: columns of neither generation.
    """
    for record in table_rows(file, limit, _NEEDED):
        if isinstance(record, Refused):
            yield record
            continue
        yield Guard(record.place, record.raw)(partial(_part, record, model))


def _part(record: Record, model: str) -> Part:
    row = record.row
    id_ = text_of(
        row.get("client_request_id") or row.get("databricks_request_id"), "databricks_request_id"
    )
    about = _metadata(row.get("request_metadata"))
    status = _whole(row.get("status_code"), "status_code")
    code = code_from_http(status)
    request, response = row.get("request"), row.get("response")
    errors = str(row.get("logging_error_codes") or "")
    if not request:
        raise OversizedError(f"the request was not logged ({errors or 'null'})")
    if code == 0 and not response:
        raise OversizedError(f"the response was not logged ({errors or 'null'})")
    duration = row.get("execution_time_ms", row.get("execution_duration_ms"))
    found = about.get("model_name") or row.get("served_entity_id") or about.get("endpoint_name")
    return Part(
        place=record.place, id=id_, raw=record.raw, ts_ns=_time(row), code=code, answered=True,
        model=text_of(model or found or "model", "model_name"),
        version=str(about.get("model_version") or ""),
        request=Payload(content=_bytes(request), content_type="application/json"),
        response=Payload(content=_bytes(response), content_type="application/json") if code == 0 else None,
        latency_ns=0 if duration is None or duration == "" else _whole(duration, "execution time") * _MS,
        context={n: str(row[n]) for n in ("requester", "served_entity_id") if row.get(n)},
        metadata={"http-status": str(status)},
    )  # fmt: skip


def _metadata(value: Any) -> dict[str, Any]:  # noqa: ANN401 - a map column, or JSON
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _whole(value: Any, name: str) -> int:  # noqa: ANN401 - a cell
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        raise PayloadError(f"{name} is '{str(value)[:40]}'") from None
    if found < 0:
        raise PayloadError(f"{name} is {str(found)[:40]}")
    return found


def _bytes(text: Any) -> bytes:  # noqa: ANN401 - a cell
    if isinstance(text, dict | list):
        text = json.dumps(text)
    return text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")


def _time(row: dict[str, Any]) -> int:
    at = row.get("timestamp_ms")
    if at is not None and at != "":
        return _whole(at, "timestamp_ms") * _MS
    at = row.get("request_time")
    if isinstance(at, TimestampNs):
        return at
    if not at:
        raise PayloadError("neither timestamp_ms nor request_time")
    return ts_ns_from_iso(str(at), "request_time")

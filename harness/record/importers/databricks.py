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
from typing import Any

from harness.core.clock import ts_ns_from_iso
from harness.core.errors import UsageError
from harness.record.importers.parts import (
    Part,
    Payload,
    PayloadError,
    Refused,
    Trouble,
    code_from_http,
)
from harness.record.importers.sources import Record, SourceFile, table_rows

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
        try:
            yield _part(record, model)
        except _OversizedError as error:
            yield Refused(
                place=record.place, trouble=Trouble.OVERSIZED, why=str(error), raw=record.raw
            )
        except (PayloadError, UsageError) as error:
            why = error.what if isinstance(error, UsageError) else str(error)
            yield Refused(place=record.place, trouble=Trouble.UNDECODABLE, why=why, raw=record.raw)


class _OversizedError(ValueError):
    """A body was not logged because of its size."""


def _part(record: Record, model: str) -> Part:
    row = record.row
    id_ = row.get("client_request_id") or row.get("databricks_request_id")
    if not id_:
        raise PayloadError("no databricks_request_id")
    about = _metadata(row.get("request_metadata"))
    status = _whole(row.get("status_code"), "status_code")
    code = code_from_http(status)
    request, response = row.get("request"), row.get("response")
    errors = str(row.get("logging_error_codes") or "")
    if not request:
        raise _OversizedError(f"the request was not logged ({errors or 'null'})")
    if code == 0 and not response:
        raise _OversizedError(f"the response was not logged ({errors or 'null'})")
    duration = row.get("execution_time_ms", row.get("execution_duration_ms"))
    found = about.get("model_name") or row.get("served_entity_id") or about.get("endpoint_name")
    return Part(
        place=record.place, id=str(id_), raw=record.raw, ts_ns=_time(row), code=code, answered=True,
        model=str(model or found or "model"), version=str(about.get("model_version") or ""),
        request=Payload(content=_bytes(request), content_type="application/json"),
        response=Payload(content=_bytes(response), content_type="application/json") if code == 0 else None,
        latency_ns=0 if duration in {None, ""} else _whole(duration, "execution time") * _MS,
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
        return int(value)
    except (TypeError, ValueError):
        raise PayloadError(f"{name} is '{str(value)[:40]}'") from None


def _bytes(text: Any) -> bytes:  # noqa: ANN401 - a cell
    return text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")


def _time(row: dict[str, Any]) -> int:
    if row.get("timestamp_ms") not in {None, ""}:
        return _whole(row["timestamp_ms"], "timestamp_ms") * _MS
    at = row.get("request_time")
    if isinstance(at, int):  # a Parquet timestamp, in nanoseconds already
        return at
    if not at:
        raise PayloadError("neither timestamp_ms nor request_time")
    return ts_ns_from_iso(str(at), "request_time")

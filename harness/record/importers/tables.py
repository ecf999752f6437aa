"""Any table of requests (JSON lines, CSV, Parquet), with a mapping that says what its columns are.

Either a column is one input or output, or one column holds the whole body. Columns are turned into
messages a batch at a time; where a batch has a value that does not fit, its rows are tried one by one,
so that one bad row costs itself only.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.core.clock import ts_ns_from_iso
from harness.core.errors import TrafficError, UsageError
from harness.core.tensors import Array, Tensors
from harness.record.importers.columns import TensorColumn, flat, parsed_text, shaped
from harness.record.importers.guarding import Guard
from harness.record.importers.parquet_source import TimestampNs
from harness.record.importers.parts import (
    UNKNOWN_CODE,
    Part,
    Payload,
    PayloadError,
    Refused,
    code_from_http,
    kind_of,
    text_of,
)
from harness.record.importers.sources import Record, SourceFile, check_columns
from harness.record.importers.table_source import table_rows
from harness.store.casting import RaggedError, array_from_json
from harness.wire.messages import MessageError, response_bytes
from harness.wire.rows import requests_from_rows

SUFFIXES = (".jsonl", ".csv", ".parquet")
UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
ISO = "iso"
STATUS_KINDS = ("http", "grpc", "ok")
_BATCH_ROWS = 512
_LAST_NS = 2**63 - 1
_DIGITS = 9
_LAST_CODE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A column of times or durations."""

    column: str
    """The table's."""
    unit: str
    """s, ms, us, ns since the epoch, or iso."""

    def ns(self, value: Any) -> int:  # noqa: ANN401 - a cell
        """A cell as nanoseconds.

        Raises:
          PayloadError: it is no such time.
        """
        shown = f"'{self.column}' is '{str(value)[:60]}'"
        if self.unit != ISO and isinstance(value, TimestampNs):
            raise PayloadError(f"{shown}, a timestamp: its unit is iso")
        if self.unit == ISO and not isinstance(value, str | TimestampNs):
            raise PayloadError(f"{shown}, no time in iso; a number's unit is s, ms, us or ns")
        try:
            found = self._read(value)
        except (ValueError, OverflowError, UsageError):
            raise PayloadError(f"{shown}, no time in {self.unit}") from None
        if not 0 <= found <= _LAST_NS:
            raise PayloadError(f"{shown}, outside the years 1970 to 2262")
        return found

    def _read(self, value: Any) -> int:  # noqa: ANN401 - a cell
        if self.unit == ISO:
            return value if isinstance(value, TimestampNs) else ts_ns_from_iso(value, self.column)
        text = str(value).strip()
        number = int(text) if text.lstrip("+-").isdecimal() else float(text)
        return round(number * UNITS[self.unit])


@dataclass(frozen=True, slots=True, kw_only=True)
class TableMapping:
    """What the columns of a table are. Names with dots lead into JSON objects."""

    request_id: str
    """Column of the ids."""
    time: Timed
    """When the request was made."""
    model: str
    """Model name."""
    model_column: str = ""
    """Column of the model name, in place of `model`."""
    version: str = ""
    """Version that answered."""
    version_column: str = ""
    """Column of the version, in place of `version`."""
    latency: Timed | None = None
    """How long it took."""
    status: str = ""
    """Column that says how it ended; "" = every row with a response was answered."""
    status_kind: str = STATUS_KINDS[0]
    """http, grpc, or ok (true and false)."""
    inputs: tuple[TensorColumn, ...] = ()
    """One column an input; or `request`."""
    outputs: tuple[TensorColumn, ...] = ()
    """One column an output; or `response`, or neither."""
    request: str = ""
    """Column of the request's body."""
    response: str = ""
    """Column of the response's body."""
    context: tuple[tuple[str, str], ...] = ()
    """(context column, table's column)."""

    def columns(self) -> tuple[str, ...]:
        """Every column of the table that is read."""
        named = [self.request_id, self.time.column, self.model_column, self.version_column, self.status,
                 self.request, self.response, *(t.column for t in (*self.inputs, *self.outputs)),
                 *(column for _, column in self.context)]  # fmt: skip
        if self.latency:
            named.append(self.latency.column)
        return tuple(dict.fromkeys(c for c in named if c))


def read(file: SourceFile, limit: int, mapping: TableMapping) -> Iterator[Part | Refused]:
    """The rows of a table.

    Raises:
      TrafficError: a column of the mapping is not there.
    """
    lines = file.name.removesuffix(".gz").endswith(".jsonl")
    needed = () if lines else mapping.columns()
    records = table_rows(file, limit, needed)
    first = True
    while batch := list(itertools.islice(records, _BATCH_ROWS)):
        if lines:
            batch = [_flattened(r, mapping.columns()) for r in batch]
            found = next((r for r in batch if isinstance(r, Record)), None)
            if first and found:
                check_columns(str(file.place), list(found.row), mapping.columns())
                first = False
        yield from _parts(batch, mapping)


def _flattened(record: Record | Refused, columns: Sequence[str]) -> Record | Refused:
    if isinstance(record, Refused):
        return record
    row = dict(record.row)
    for name in columns:
        value: Any = row
        if name not in row and "." in name:
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            row[name] = value
    return Record(place=record.place, raw=record.raw, row=row)


def _parts(batch: Sequence[Record | Refused], mapping: TableMapping) -> Iterator[Part | Refused]:
    records = [r for r in batch if isinstance(r, Record)]
    yield from (r for r in batch if isinstance(r, Refused))
    together = Guard("", b"")(partial(_whole, records, mapping))
    if not isinstance(together, Refused):
        yield from together
        return
    for record in records:
        found = Guard(record.place, record.raw)(partial(_whole, [record], mapping))
        yield from [found] if isinstance(found, Refused) else found


def _whole(records: Sequence[Record], mapping: TableMapping) -> list[Part]:
    """The parts of rows that are all good.

    Raises:
      PayloadError: one of them is not.
    """
    if not records:
        return []
    ids = [_id(r, mapping) for r in records]
    models = [text_of(r.row.get(mapping.model_column) or mapping.model, "model") for r in records]
    versions = [str(r.row.get(mapping.version_column) or mapping.version) for r in records]
    codes = [_code(r, mapping) for r in records]
    return [
        Part(
            place=r.place, id=ids[i], model=models[i], version=versions[i], raw=r.raw, code=codes[i],
            ts_ns=mapping.time.ns(r.row.get(mapping.time.column)),
            latency_ns=mapping.latency.ns(r.row.get(mapping.latency.column)) if mapping.latency else 0,
            request=request, response=response if codes[i] == 0 else None,
            answered=codes[i] != 0 or response is not None,
            context={n: _context(r.row[c], c) for n, c in mapping.context if r.row.get(c) not in (None, "")},
        )
        for i, (r, request, response) in enumerate(
            zip(
                records,
                _requests(records, mapping, models, ids),
                _responses(records, mapping, models, versions, ids, codes),
                strict=True,
            )
        )
    ]  # fmt: skip


def _id(record: Record, mapping: TableMapping) -> str:
    return text_of(record.row.get(mapping.request_id), mapping.request_id)


def _code(record: Record, mapping: TableMapping) -> int:
    if not mapping.status:
        return 0
    value = str(record.row.get(mapping.status, "")).strip()
    if mapping.status_kind == "ok":
        if value.lower() not in {"true", "false", "1", "0"}:
            raise PayloadError(f"'{mapping.status}' is '{value[:40]}', neither true nor false")
        return 0 if value.lower() in {"true", "1"} else UNKNOWN_CODE
    if not value.isdecimal() or len(value) > _DIGITS:
        raise PayloadError(f"'{mapping.status}' is '{value[:40]}', no status code")
    if mapping.status_kind == "http":
        return code_from_http(int(value))
    if int(value) > _LAST_CODE:
        raise PayloadError(f"'{mapping.status}' is {value}, no status code of gRPC")
    return int(value)


def _context(value: Any, column: str) -> str:  # noqa: ANN401 - a cell
    if isinstance(value, dict | list):
        raise PayloadError(f"'{column}' is {kind_of(value)}, no value to slice by")
    return str(value)


def _requests(
    records: Sequence[Record], mapping: TableMapping, models: Sequence[str], ids: Sequence[str]
) -> list[Payload]:
    if mapping.request:
        return [_body(r, mapping.request) for r in records]
    tensors = _columns(records, mapping.inputs)
    found: list[Payload] = [Payload(content=b"")] * len(records)
    for model in dict.fromkeys(models):
        at = [i for i, m in enumerate(models) if m == model]
        chosen = tensors if len(at) == len(models) else {n: a[at] for n, a in tensors.items()}
        try:
            messages = requests_from_rows(model, chosen, [ids[i] for i in at])
        except MessageError as error:
            raise PayloadError(error.reason) from None
        for i, message in zip(at, messages, strict=True):
            found[i] = Payload(content=message, is_message=True)
    return found


def _responses(
    records: Sequence[Record],
    mapping: TableMapping,
    models: Sequence[str],
    versions: Sequence[str],
    ids: Sequence[str],
    codes: Sequence[int],
) -> list[Payload | None]:
    if mapping.response:
        return [
            _body(r, mapping.response) if r.row.get(mapping.response) not in (None, "") else None
            for r in records
        ]
    found: list[Payload | None] = [None] * len(records)
    if not mapping.outputs:
        return found
    answered = [
        i for i, code in enumerate(codes) if code == 0 and _is_answered(records[i], mapping.outputs)
    ]
    tensors = _columns([records[i] for i in answered], mapping.outputs)
    for k, i in enumerate(answered):
        row = {n: a[k : k + 1] for n, a in tensors.items()}
        try:
            message = response_bytes(models[i], versions[i], row, ids[i])
        except MessageError as error:
            raise PayloadError(error.reason) from None
        found[i] = Payload(content=message, is_message=True)
    return found


def _is_answered(record: Record, outputs: Sequence[TensorColumn]) -> bool:
    """Whether the row holds an answer: all outputs, or none where every cell is empty.

    Raises:
      PayloadError: it holds some of the outputs only; what is not there is no NaN.
    """
    values = [record.row.get(c.column) for c in outputs]
    if all(v is None or v == "" for v in values):
        # An empty text may be an answer, where there is nothing but text.
        return any(v is not None for v in values) and all(c.datatype == "BYTES" for c in outputs)
    for column, value in zip(outputs, values, strict=True):
        if value == "" and column.datatype == "BYTES":
            continue
        if value is None or value == "" or (isinstance(value, list) and None in flat(value)):
            raise PayloadError(f"no value in '{column.column}', and one in other outputs")
    return True


def _columns(records: Sequence[Record], columns: Sequence[TensorColumn]) -> Tensors:
    return {c.name: _column(c, [r.row.get(c.column) for r in records]) for c in columns}


def _column(column: TensorColumn, values: list[Any]) -> Array:
    if column.datatype != "BYTES" and values and all(isinstance(v, str) for v in values):
        return shaped(column.column, parsed_text(column.column, values, column.datatype), column)
    if column.datatype == "BYTES":
        values = ["" if v is None else v for v in values]
    try:
        array = array_from_json("the table", column.column, values, column.datatype)
    except TrafficError as error:
        raise PayloadError(error.what) from None
    except (RaggedError, ValueError):
        raise PayloadError(f"'{column.column}' has rows of different shapes") from None
    return shaped(column.column, array, column)


def _body(record: Record, column: str) -> Payload:
    value = record.row.get(column)
    if value is None or value == "":
        raise PayloadError(f"'{column}' is empty")
    if isinstance(value, dict | list):
        value = json.dumps(value)
    content = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return Payload(content=content)

r"""Seldon Core 2: the values of its Kafka topics `seldon.<ns>.model.<name>.inputs|outputs`.

Values are Open Inference messages, the key is the request's id. Kafka is not read here; its records
are, from one of two plain containers:

    .parquet   columns key, value, topic, timestamp (milliseconds, or a Parquet timestamp)
    .kcat      what `kcat -C -e -t TOPIC -f '%t\t%T\t%k\t%S\n%s\n'` prints: a line with topic,
               milliseconds, key and size, then as many bytes of value, and a line end
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

from harness.record.importers.guarding import Guard
from harness.record.importers.parquet_source import TimestampNs, parquet_rows
from harness.record.importers.parts import Part, Payload, PayloadError, Refused, Trouble
from harness.record.importers.sources import Record, SourceFile
from harness.store.places import stream

SUFFIXES = (".parquet", ".kcat")
_NEEDED = ("key", "value", "topic", "timestamp")
_TOPIC = re.compile(
    r"(?:^|\.)(?P<ns>[^.]+)\.(?P<kind>model|pipeline)\.(?P<name>[^.]+)\.(?P<side>inputs|outputs)$"
)
_PROTOBUF = "application/x-protobuf"
_MS = 1_000_000
_HEADER_BYTES = 64 << 10
_HEADER_FIELDS, _DIGITS = 4, 19


def read(file: SourceFile, limit: int) -> Iterator[Part | Refused]:
    """The records in a container.

    Raises:
      TrafficError: a Parquet file without the columns.
    """
    if file.name.endswith(".kcat"):
        yield from _kcat(file, limit)
        return
    for record in parquet_rows(file, limit, _NEEDED):
        if isinstance(record, Refused):
            yield record
            continue
        yield Guard(record.place, record.raw)(partial(_of_row, record))


def _of_row(record: Record) -> Part | Refused:
    row = record.row
    key, value, at = row["key"], row["value"], row["timestamp"]
    named = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key or "")
    if not isinstance(value, bytes) or not isinstance(at, int):
        raise PayloadError("value is no binary or timestamp is no number")
    ts_ns = at if isinstance(at, TimestampNs) else at * _MS
    return _part(record.place, str(row["topic"]), ts_ns, named, value)


def _part(place: str, topic: str, ts_ns: int, key: str, value: bytes) -> Part | Refused:
    found = _TOPIC.search(topic)
    if not found or found["kind"] != "model":
        why = f"the topic '{topic[:120]}' is no model's inputs or outputs"
        return Refused(place=place, trouble=Trouble.OTHER, why=why, raw=value)
    if not key:
        return Refused(
            place=place, trouble=Trouble.UNDECODABLE, why="a record without a key", raw=value
        )
    body = Payload(content=value, content_type=_PROTOBUF)
    asked = found["side"] == "inputs"
    return Part(
        place=place, id=key, model=found["name"], ts_ns=ts_ns, raw=value, answered=not asked,
        request=body if asked else None, response=None if asked else body,
        context={"namespace": found["ns"]},
    )  # fmt: skip


def _kcat(file: SourceFile, limit: int) -> Iterator[Part | Refused]:
    number = 0
    with stream(file.place) as content:
        lines = _Buffered(content)
        while header := lines.line():
            number += 1
            place = f"{file.name}:{number}"
            fields = header.decode("utf-8", "replace").split("\t")
            # Keys may hold tabs; topic, time and size cannot.
            if len(fields) < _HEADER_FIELDS or not (
                _is_number(fields[1]) and _is_number(fields[-1])
            ):
                why = "no record begins here; the rest of the file is not read"
                yield Refused(
                    place=place, trouble=Trouble.UNDECODABLE, why=why, raw=header, records=None
                )
                return
            size = int(fields[-1])
            if size > limit:
                lines.skip(size + 1)
                why = f"a value of {size:,} bytes, over the limit of {limit:,}"
                yield Refused(place=place, trouble=Trouble.OVERSIZED, why=why, raw=header)
                continue
            value = lines.take(size + 1)
            if len(value) < size:
                why = f"cut off after {len(value):,} of {size:,} bytes"
                yield Refused(
                    place=place, trouble=Trouble.UNDECODABLE, why=why, raw=value, records=None
                )
                return
            key, at = "\t".join(fields[2:-1]), int(fields[1]) * _MS
            yield Guard(place, value)(partial(_part, place, fields[0], at, key, value[:size]))


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _DIGITS


class _Buffered:
    """Lines and counted bytes of one stream."""

    def __init__(self, source: BinaryIO | Any) -> None:  # noqa: ANN401 - pyarrow's streams have no types
        self._source = source
        self._held = b""

    def line(self) -> bytes:
        """Up to the next line end; b"" at the end."""
        while b"\n" not in self._held and len(self._held) < _HEADER_BYTES:
            piece = self._source.read(_HEADER_BYTES)
            if not piece:
                break
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        return line

    def take(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""
        parts = [self._held[:size]]
        self._held = self._held[size:]
        missing = size - len(parts[0])
        while missing > 0 and (piece := self._source.read(missing)):
            parts.append(piece)
            missing -= len(piece)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Passes over so many bytes without holding them."""
        while size > 0 and (piece := self.take(min(size, 1 << 20))):
            size -= len(piece)

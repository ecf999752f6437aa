"""SageMaker data capture: JSON lines below <endpoint>/<variant>/yyyy/mm/dd/hh.

The caller's inferenceId, where there is one, is what ground truth joins on; otherwise eventId.
(AWS: "Ingest Ground Truth labels and merge them with predictions".) What was not captured, because of
capture options or size, has no endpointOutput.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from functools import partial
from typing import Any

from harness.core.clock import ts_ns_from_iso
from harness.record.importers.guarding import Guard
from harness.record.importers.parts import Part, Payload, PayloadError, Refused
from harness.record.importers.sources import Record, SourceFile, json_lines

SUFFIXES = (".jsonl", ".json")
_KINDS = ("endpoint", "batchTransform")
_TYPES = {"CSV": "text/csv", "JSON": "application/json"}


def read(file: SourceFile, limit: int, model: str = "") -> Iterator[Part | Refused]:
    """The captures in a file.

    Args:
      file: JSON lines.
      limit: longest line, bytes.
      model: model name; "" = the endpoint's, from the file's path.
    """
    named, variant = _from_path(file.name)
    for record in json_lines(file, limit):
        if isinstance(record, Refused):
            yield record
            continue
        yield Guard(record.place, record.raw)(partial(_part, record, model or named, variant))


def _from_path(name: str) -> tuple[str, str]:
    """(endpoint, variant) of a capture's path; defaults when the folder given lies deeper."""
    folders = name.split("/")[:-1]
    dates = next((i for i, f in enumerate(folders) if len(f) == 4 and f.isdecimal()), len(folders))  # noqa: PLR2004 - a year
    above = folders[:dates]
    return (above[-2] if len(above) > 1 else "endpoint"), (above[-1] if above else "")


def _part(record: Record, model: str, variant: str) -> Part:
    capture, event = record.row.get("captureData"), record.row.get("eventMetadata")
    if not isinstance(capture, dict) or not isinstance(event, dict):
        raise PayloadError("no captureData or no eventMetadata")
    id_ = event.get("inferenceId") or event.get("eventId")
    if not isinstance(id_, str) or not id_:
        raise PayloadError("no eventId")
    request, response = (_payload(_only(capture, side)) for side in ("Input", "Output"))
    if request is None and response is None:
        raise PayloadError("neither endpointInput nor endpointOutput")
    return Part(
        place=record.place, id=id_, model=model, version=variant, raw=record.raw,
        ts_ns=ts_ns_from_iso(str(event.get("inferenceTime", "")), "inferenceTime"),
        request=request, response=response, answered=response is not None, latency_ns=0,
        context={"variant": variant} if variant else {},
    )  # fmt: skip


def _only(capture: dict[str, Any], side: str) -> Any:  # noqa: ANN401 - JSON
    """The input or the output of a capture, by either of its names.

    Raises:
      PayloadError: there are two.
    """
    found = [v for of in _KINDS if (v := capture.get(f"{of}{side}")) is not None]
    if len(found) > 1:
        raise PayloadError(f"two captures: {' and '.join(f'{of}{side}' for of in _KINDS)}")
    return found[0] if found else None


def _payload(side: Any) -> Payload | None:  # noqa: ANN401 - JSON
    if side is None:
        return None
    if not isinstance(side, dict):
        raise PayloadError("a capture that is no object")
    data, encoding = side.get("data"), str(side.get("encoding", "")).upper()
    if not isinstance(data, str):
        raise PayloadError("a capture without data")
    kind = str(side.get("observedContentType") or _TYPES.get(encoding, ""))
    if encoding == "BASE64":
        try:
            return Payload(content=base64.b64decode(data, validate=True), content_type=kind)
        except (binascii.Error, ValueError):
            raise PayloadError("data that is no base64") from None
    if encoding not in _TYPES:
        raise PayloadError(f"the encoding '{encoding[:40]}'")
    return Payload(content=data.encode("utf-8", "surrogatepass"), content_type=kind)

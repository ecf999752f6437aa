"""Batches as lines of the journal, each with a checksum."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np

from harness.core.errors import GateError
from harness.core.jsonable import canonical
from harness.core.tensors import Floats
from harness.judge.exposures import Requests
from harness.judge.live_plan import Labels, LiveBatch
from harness.live.entries import Entry

_CHECK_DIGITS = 8


def line_from_entry(entry: Entry, counts: dict[str, int]) -> bytes:
    """A batch as one line.

    Args:
      entry: the batch.
      counts: the canary's, after it.
    """
    batch = entry.batch
    body = canonical(
        {
            "number": batch.number,
            "until_ns": batch.until_ns,
            "requests": batch.requests,
            "labels": batch.labels,
            "seq": entry.seq,
            "answers": entry.answers,
            "label_offset": entry.label_offset,
            "label_head": entry.label_head,
            "versions": entry.versions,
            "down_ns": entry.down_ns,
            "digest": entry.digest,
            "counts": counts,
        }
    )
    return f"{zlib.crc32(body):08x} ".encode() + body + b"\n"


def entry_from_line(name: str, line: bytes) -> tuple[Entry, dict[str, int]]:
    """What `line_from_entry` wrote.

    Args:
      name: of the file, for the error.
      line: without its end.

    Raises:
      GateError: not what was written.
    """
    body = line[_CHECK_DIGITS + 1 :]
    if line[:_CHECK_DIGITS] != f"{zlib.crc32(body):08x}".encode():
        raise GateError(name, "a batch was damaged", "Start anew.")
    found: dict[str, Any] = json.loads(body)
    requests = found["requests"]
    batch = LiveBatch(
        number=found["number"],
        until_ns=found["until_ns"],
        requests=Requests(
            ts_ns=np.array(requests["ts_ns"], np.int64),
            unit=np.array(requests["unit"], object),
            candidate=np.array(requests["candidate"], np.bool_),
            propensity=_floats(requests["propensity"]),
            values={name: _floats(column) for name, column in requests["values"].items()},
            left_out={
                name: np.array(column, np.bool_) for name, column in requests["left_out"].items()
            },
        ),
        labels={
            name: Labels(
                unit=np.array(labels["unit"], object),
                value=_floats(labels["value"]),
                ts_ns=np.array(labels["ts_ns"], np.int64),
            )
            for name, labels in found["labels"].items()
        },
    )
    answers = {name: _floats(column) for name, column in found["answers"].items()}
    entry = Entry(
        batch=batch, seq=found["seq"], answers=answers, label_offset=found["label_offset"],
        label_head=found["label_head"],
        versions=found["versions"], down_ns=found["down_ns"],
        digest=found["digest"],
    )  # fmt: skip
    return entry, dict(found["counts"])


def _floats(column: list[Any]) -> Floats:
    # "NaN" is how JSON keeps one; float() reads it.
    return np.array([float(value) for value in column], np.float64)

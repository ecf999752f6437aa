"""Quarantined requests in a run folder: each one's inputs as a table, with a note of what it did.

    quarantine/<leg>-<id>-<digest>.npz    one array per input, `request_id` as one text: what `--inputs` reads
    quarantine/<leg>-<id>-<digest>.json   which leg, request, kind of failure and message

All rows are of the one request that its id names, and are asked together again: what fails may be their number, or
one row beside another.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.quarantine import Quarantined
from harness.core.tensors import Array, Tensors
from harness.store.files import write_atomically
from harness.store.npz_text import fixed_width

FOLDER = "quarantine"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a run folder says of a quarantined request."""

    leg: str
    """baseline, candidate or anchor."""
    request_id: str
    """As recorded."""
    kind: str
    """error, crash, timeout or invalid."""
    cause: str
    """What more is known; see `core.observations.Cause`."""
    message: str
    """What happened when it was tried alone."""
    rows: int
    """Model rows it carries."""
    file: str
    """Its inputs, relative to the run folder; "" when they cannot be saved as a table."""
    last_words: str = ""
    """What its process said last; "" when it did not die or said nothing. Untrusted."""


def write_quarantined(run: Path, item: Quarantined) -> None:
    """Saves a request in a run folder, in place of what was saved of the same before."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(f"{item.leg}/{item.request_id}".encode()).hexdigest()[:8]
    safe = _UNSAFE.sub("_", item.request_id)[:_LONGEST].strip(".")
    stem = f"{item.leg}-{safe}-{digest}"
    table = _table(item)
    if table is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **table)
        write_atomically(folder / f"{stem}.npz", buffer.getvalue())
    note = {
        "leg": item.leg, "request_id": item.request_id, "kind": item.kind.name.lower(),
        "cause": item.cause.value, "message": item.message, "rows": item.rows, "last_words": item.last_words,
        "file": f"{FOLDER}/{stem}.npz" if table is not None else "",
    }  # fmt: skip
    write_atomically(folder / f"{stem}.json", json.dumps(note, indent=1).encode())


def read_notes(run: Path) -> tuple[Note, ...]:
    """What is in quarantine in a run folder, by file name."""
    files = sorted((run / FOLDER).glob("*.json"))
    return tuple(Note(**json.loads(file.read_bytes())) for file in files)


def _table(item: Quarantined) -> Tensors | None:
    """The inputs as arrays that a table may hold; None when one would not come back as it is."""
    arrays: dict[str, Array] = {}
    for name, values in item.inputs.items():
        saved = fixed_width(values)
        if saved is None:
            return None
        arrays[name] = saved
    if not item.rows or not arrays or "request_id" in arrays:
        return None
    named = fixed_width(np.array(item.request_id, object))
    return None if named is None else {**arrays, "request_id": named}

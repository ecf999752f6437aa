"""Which source files a traffic folder holds already: `imports/FORMAT-STATE.sources.jsonl` beside the traffic.

What an import remembers lies in its state folder, of an object store's traffic on the importing machine.
Without it, on another machine or after its loss, the same logs would be written a second time. So the
beginnings of the files that were read stand beside the traffic, and a state that does not know such a file
refuses it. Beginnings, because logs grow; their place is not asked for: the same logs lie elsewhere on
another machine.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import TrafficError
from harness.core.places import Place
from harness.record.importers.sources import SourceFile
from harness.record.importers.staging import Staging
from harness.store.places import files_below, is_file, stream, write_whole

_ENDING = ".sources.jsonl"
_MOST = 64 << 10
"""Bytes of a beginning; files with so many in common have requests in common."""


def check_not_imported(staging: Staging, files: Sequence[SourceFile], reports: Place) -> None:
    """Refuses files that another state imported, and notes the beginnings of the others.

    Args:
      staging: what this state imported.
      files: those that will be read.
      reports: the folder of reports in the traffic.

    Raises:
      TrafficError: a file is in the traffic, and not by this state; nothing was read.
    """
    held = _held(reports, staging)
    for file in files:
        stamp = staging.stamp_of(file.key)
        if file.missing or stamp == file.stamp:
            continue
        with stream(file.place) as content:
            beginning = content.read(_MOST)
        if not beginning:
            continue
        if stamp is None:
            _check(file, beginning, held, reports)
        digest = hashlib.sha256(beginning).hexdigest()
        staging.note_beginning(file.key, len(beginning), digest)


def write_sources(staging: Staging, reports: Place, name: str) -> None:
    """Notes beside the traffic what was imported; before any of it is written.

    Args:
      staging: what this state imported.
      reports: the folder of reports in the traffic.
      name: format and state.

    Raises:
      TrafficError: the store refuses, or the former list is damaged.
    """
    place = reports / f"{name}{_ENDING}"
    # A copy of this state may have imported more.
    found = dict.fromkeys(_read(place)) if is_file(place) else {}
    before = len(found)
    found.update(dict.fromkeys(staging.beginnings()))
    if len(found) > before:
        lines = (json.dumps({"source": s, "bytes": n, "sha256": d}) for s, n, d in found)
        write_whole(place, "".join(f"{line}\n" for line in lines).encode())


def _check(
    file: SourceFile, beginning: bytes, held: dict[int, dict[str, str]], reports: Place
) -> None:
    digest, at = hashlib.sha256(), 0
    for length in sorted(n for n in held if n <= len(beginning)):
        digest.update(beginning[at:length])
        at = length
        source = held[length].get(digest.hexdigest())
        if source is not None:
            raise TrafficError(
                str(file.place),
                f"is in the traffic already, imported as {source}, and this state folder does not know of it",
                "Import with the state folder of then (of an object store's traffic it is below "
                "HARNESS_STATE_DIR), or into another traffic folder; what was imported stands in the "
                f"traffic's {reports.name}/*{_ENDING}.",
            )  # fmt: skip


def _held(reports: Place, staging: Staging) -> dict[int, dict[str, str]]:
    """What other states read: length → sha256 of a beginning so long → the file's place then.

    A file that this state read stays its own under another name: its records are known.
    """
    own = {digest for _, _, digest in staging.beginnings()}
    held: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for name in _lists(reports):
        for source, length, digest in _read(reports / name):
            if digest not in own:
                held[length][digest] = source
    return held


def _lists(reports: Place) -> list[str]:
    if isinstance(reports, Path) and not reports.is_dir():
        return []
    return [str(name) for name in files_below(reports, _ENDING)]


def _read(place: Place) -> Iterator[tuple[str, int, str]]:
    with stream(place) as content:
        lines = content.read().splitlines()
    for line in lines:
        try:
            row: dict[str, Any] = json.loads(line)
            yield str(row["source"]), int(row["bytes"]), str(row["sha256"])
        except (ValueError, KeyError, TypeError):
            raise TrafficError(
                str(place), "is no list of an import's source files",
                "Restore it as the import wrote it.",
            ) from None  # fmt: skip

"""Which source files a traffic folder holds already: `imports/FORMAT-STATE.sources.jsonl` beside the traffic.

What an import remembers lies in its state folder, of an object store's traffic on the importing machine.
Without it, on another machine or after its loss, the same logs would be written a second time. So the
marks of the files that were read stand beside the traffic, and a state refuses a file that is in the
list of another and not in its own, also where it has begun with it. Their place is not asked for: the same
logs lie elsewhere on another machine.

A mark is the sha256 of a file's beginning, as logs grow; of CSV, of what follows its header, which may be
long and is the same in all. Parquet files do not grow, and those of one table may begin alike for long:
theirs is of the size and of three pieces, the footer among them.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness.core.errors import TrafficError
from harness.core.places import Place
from harness.record.importers.sources import SourceFile
from harness.record.importers.staging import Staging
from harness.store.places import files_below, is_file, opened, stream, write_whole

_ENDING = ".sources.jsonl"
_PIECE = 64 << 10
"""Bytes of a beginning; files with so many in common have requests in common."""
_LONGEST_HEADER = 16 << 20
_PARQUET = b"PAR1"


def check_not_imported(staging: Staging, files: Sequence[SourceFile], reports: Place) -> None:
    """Refuses files that another state imported, and notes the marks of the others.

    Args:
      staging: what this state imported.
      files: those that will be read.
      reports: the folder of reports in the traffic.

    Raises:
      TrafficError: a file is in the traffic, and not by this state; nothing was read.
    """
    noted = staging.noted()
    own, held = _held(reports, staging, noted)
    for file in files:
        is_read = staging.stamp_of(file.key) == file.stamp
        # It may have been begun with only, and be another's since: what is in the own list is its own.
        if file.missing or (is_read and any(d in own for _, d in noted.get(file.key, ()))):
            continue
        beginning, digest = _mark(file)
        if not beginning:
            continue
        for found in (_grown(beginning, held), held.get(file.size_bytes, {}).get(digest)):
            _check(str(file.place), found, reports)
        length = file.size_bytes if digest else len(beginning)
        staging.note_mark(file.key, length, digest or hashlib.sha256(beginning).hexdigest())


def write_sources(staging: Staging, reports: Place, name: str) -> None:
    """Notes beside the traffic what was imported; before any of it is written.

    Args:
      staging: what this state imported.
      reports: the folder of reports in the traffic.
      name: format and state.

    Raises:
      TrafficError: the store refuses, a former list is damaged, or another state imported such a file
        while this one was read.
    """
    place = reports / f"{name}{_ENDING}"
    # A copy of this state may have imported more.
    found = dict.fromkeys(_read(place)) if is_file(place) else {}
    before = len(found)
    mine = set(staging.marks())
    found.update(dict.fromkeys(sorted(mine)))
    if len(found) > before:
        _, held = _held(reports, staging, staging.noted())
        for source, length, digest in sorted(mine):
            _check(source, held.get(length, {}).get(digest), reports)
        lines = (json.dumps({"source": s, "bytes": n, "sha256": d}) for s, n, d in found)
        write_whole(place, "".join(f"{line}\n" for line in lines).encode())


def _mark(file: SourceFile) -> tuple[bytes, str]:
    """(the beginning, sha256 of a Parquet file's size and pieces or "" of others)."""
    with stream(file.place) as content:
        beginning = content.read(_PIECE)
        if file.name.endswith(".csv") and b"\n" not in beginning[: _PIECE // 2]:
            beginning = _past_header(beginning, content)
    size = file.size_bytes
    if not beginning.startswith(_PARQUET) or size <= _PIECE:
        return beginning, ""
    digest = hashlib.sha256(b"%d\n" % size + beginning)
    with (
        opened(file.place) as source,
        source.open("rb") if isinstance(source, Path) else nullcontext(source) as content,
    ):
        for at in (max(0, (size - _PIECE) // 2), size - _PIECE):
            content.seek(at)
            digest.update(content.read(_PIECE))
    return beginning, digest.hexdigest()


def _past_header(beginning: bytes, content: Any) -> bytes:  # noqa: ANN401 - as `stream` gives it
    """A beginning that goes on behind a long first line."""
    while (end := beginning.find(b"\n")) < 0 and len(beginning) < _LONGEST_HEADER:
        if not (more := content.read(_PIECE)):
            return beginning
        beginning += more
    return beginning + bytes(content.read(max(0, end + _PIECE - len(beginning))))


def _grown(beginning: bytes, held: dict[int, dict[str, str]]) -> str | None:
    """Which file of another state begins a file; None = none."""
    digest, at = hashlib.sha256(), 0
    for length in sorted(n for n in held if n <= len(beginning)):
        digest.update(beginning[at:length])
        at = length
        if source := held[length].get(digest.hexdigest()):
            return source
    return None


def _check(where: str, source: str | None, reports: Place) -> None:
    if source is None:
        return
    raise TrafficError(
        where,
        f"is in the traffic already, imported as {source}, and this state folder did not write it",
        "Import with the state folder of then (of an object store's traffic it is below "
        "HARNESS_STATE_DIR), or into another traffic folder; what was imported stands in the "
        f"traffic's {reports.name}/*{_ENDING}.",
    )


def _held(
    reports: Place, staging: Staging, noted: dict[str, list[tuple[int, str]]]
) -> tuple[set[str], dict[int, dict[str, str]]]:
    """(marks of this state, what other states wrote: length → sha256 of a mark → the file's place then).

    What this state read and wrote stays its own, under another name and in another's list too.
    """
    mine = {digest for marks in noted.values() for _, digest in marks}
    held: defaultdict[int, dict[str, str]] = defaultdict(dict)
    own: set[str] = set()
    for name in _lists(reports):
        is_own = name.endswith(f"-{staging.token}{_ENDING}")
        for source, length, digest in _read(reports / name):
            held[length][digest] = source
            if is_own and digest in mine:
                own.add(digest)
    others = {n: {d: s for d, s in found.items() if d not in own} for n, found in held.items()}
    return own, others


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

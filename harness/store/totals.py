"""Recorders' totals beside the traffic that they wrote: `<recorder>.totals.json`.

Room for the next totals is taken with the first ones, in a hidden file beside them, so that a disk that
fills up later takes them, too. Where the recorder's own folder lies below the traffic, its mapped counters
are read beside them, which are newer.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import TrafficError
from harness.core.jsonable import jsonable
from harness.core.places import Place
from harness.core.recording import RecordingTotals, totals_from_json
from harness.store.counts import ENDING as COUNTS
from harness.store.counts import FOLDER, counted_totals
from harness.store.places import files_below, is_file, stream, write_whole

ENDING = ".totals.json"
NOT_PUBLISHED = "in no published file: the recorder still runs, or was ended before it could write"
_PARTITION = "="
_ROOM_BYTES = 8192
"""Totals take some hundred; JSON may end in spaces."""


def write_totals(out: Place, totals: RecordingTotals) -> None:
    """Writes a recorder's totals in place of its former ones.

    Args:
      out: the traffic's folder.
      totals: of one recorder.

    Raises:
      OSError, TrafficError: they cannot be written.
    """
    content = (json.dumps(jsonable(totals), indent=2) + "\n").encode()
    place = out / f"{totals.writer}{ENDING}"
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        _write_in_room(place, content)
    else:
        write_whole(place, content)


def _write_in_room(place: Path, content: bytes) -> None:
    """Replaces a file without needing new blocks: it and the file that waits beside it change places."""
    spare, kept = place.with_name(f".{place.name}.spare"), place.with_name(f".{place.name}.kept")
    size = _ROOM_BYTES * (1 + len(content) // _ROOM_BYTES)
    if kept.exists():  # of a kill between the steps below
        if spare.exists():
            kept.unlink()
        else:
            kept.rename(spare)
    _write_over(spare, content.ljust(size))
    if place.exists():
        kept.hardlink_to(place)
        spare.rename(place)
        kept.rename(spare)
    else:
        spare.rename(place)
        _write_over(spare, b" " * size)


def _write_over(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(handle, 0, len(content))
        os.pwrite(handle, content, 0)
        os.ftruncate(handle, len(content))
        os.fsync(handle)
    finally:
        os.close(handle)


def read_totals(paths: Sequence[Place]) -> tuple[RecordingTotals, ...]:
    """Totals of every recorder that wrote into these traffic folders, by name.

    Args:
      paths: folders and files; of model=… below a traffic folder, those of that folder.

    Raises:
      TrafficError: a totals file that is damaged.
    """
    found: dict[str, RecordingTotals] = {}
    folders = [_traffic_folder(path) for path in paths]
    for folder in {str(f): f for f in folders if f is not None}.values():
        for name in files_below(folder, ENDING):
            if len(name.parts) == 1:
                place = folder / str(name)
                found[str(place)] = _read(place)
        for counted in _counted(folder):
            key = str(folder / f"{counted.writer}{ENDING}")
            # Fewer than the file says: the counters were removed and began anew.
            if key not in found or counted.seen >= found[key].seen:
                found[key] = counted
    return tuple(found[key] for key in sorted(found))


def _counted(folder: Place) -> list[RecordingTotals]:
    """What counters below a folder of this machine say."""
    if not isinstance(folder, Path):
        return []
    read = [counted_totals(path) for path in sorted((folder / FOLDER).glob(f"*{COUNTS}"))]
    return [totals for totals in read if totals is not None]


def not_recorded(totals: Sequence[RecordingTotals]) -> tuple[tuple[str, int], ...]:
    """(reason, count) over all recorders, most frequent first."""
    counts: Counter[str] = Counter()
    for one in totals:
        counts.update(dict(one.not_recorded))
        if one.waiting:
            counts[NOT_PUBLISHED] += one.waiting
    return tuple(counts.most_common())


def _traffic_folder(path: Place) -> Place | None:
    """The folder that a recorder calls --out; None for a single file outside of any."""
    if is_file(path):
        if _PARTITION not in path.parent.name:
            return None
        path = path.parent
    while _PARTITION in path.name:
        path = path.parent
    return path


def _read(place: Place) -> RecordingTotals:
    with stream(place) as opened:
        content = opened.read()
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise TrafficError(
            str(place), "is no recorder's totals", "Restore the file as the recorder wrote it."
        ) from None
    return totals_from_json(found, str(place))

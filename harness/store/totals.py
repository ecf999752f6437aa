"""Recorders' totals beside the traffic that they wrote: `<recorder>.totals.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from harness.core.errors import TrafficError
from harness.core.jsonable import jsonable
from harness.core.places import Place
from harness.core.recording import RecordingTotals, totals_from_json
from harness.store.places import files_below, is_file, stream, write_whole

ENDING = ".totals.json"
NOT_PUBLISHED = "in no published file: the recorder still runs, or was ended before it could write"
_PARTITION = "="


def write_totals(out: Place, totals: RecordingTotals) -> None:
    """Writes a recorder's totals in place of its former ones.

    Args:
      out: the traffic's folder.
      totals: of one recorder.

    Raises:
      OSError, TrafficError: they cannot be written.
    """
    text = json.dumps(jsonable(totals), indent=2) + "\n"
    write_whole(out / f"{totals.writer}{ENDING}", text.encode())


def read_totals(paths: Sequence[Place]) -> tuple[RecordingTotals, ...]:
    """Totals of every recorder that wrote into these traffic folders, by name.

    Args:
      paths: folders and files; of model=… below a traffic folder, those of that folder.

    Raises:
      TrafficError: a totals file that is damaged.
    """
    found: dict[str, Place] = {}
    for path in paths:
        folder = _traffic_folder(path)
        if folder is None:
            continue
        for name in files_below(folder, ENDING):
            if len(name.parts) == 1:
                found.setdefault(str(folder / str(name)), folder / str(name))
    return tuple(_read(place) for _, place in sorted(found.items()))


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
    except ValueError:
        raise TrafficError(
            str(place), "is no recorder's totals", "Restore the file as the recorder wrote it."
        ) from None
    return totals_from_json(found, str(place))

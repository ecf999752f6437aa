"""How many records files hide that could not be read, where the files themselves do not say.

A Parquet file's footer says how many rows it holds. Half a file has no footer, and no packed or plain file
says how many records it had. What is hidden is estimated rather too high, so that no gate takes a
recording for whole because nobody could count what is missing:

- a file that is cut off held as many records as the largest whole file, or more by its size;
- a file that was left out whole, for its columns, holds as many as whole files of its size;
- without a whole file to compare with, each hides as many as were read in all.

A file that is gone from a folder that is read again hides nothing more, nor does what it said to hold
count as lost: its rows came, or will come, under
another name (a part that was cut off in writing is deleted and written anew). That is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.core.places import place_from_text
from harness.record.importers.ledger import Ledger, Reading
from harness.record.importers.sources import SourceFile
from harness.store.places import is_file

WHOLE = "files"
"""What is counted of a file that was read to its end,"""
DAMAGED = "files_damaged"
"""of one that was not and says how many records it holds,"""
CUT_SHORT = "files_cut_short"
"""of one that does not say so,"""
WITHOUT_COLUMNS = "files_without_columns"
"""and of one that was left out for its columns and does not say so."""
NOT_WHOLE = (DAMAGED, CUT_SHORT, WITHOUT_COLUMNS)
HIDDEN = "hidden_requests"
"""What is counted of the records in such files, as far as these say their number; else 1 for all."""
GONE = {kind: f"{kind}_gone" for kind in (*NOT_WHOLE, HIDDEN)}
"""What these are counted as once the file is gone."""


def note_gone(ledger: Ledger, files: Sequence[SourceFile]) -> None:
    """Notes which files that hide records are gone, and which have come back.

    Args:
      ledger: what was read.
      files: those that are there now, of some folders: of other folders nothing is known.

    Raises:
      TrafficError: the store cannot be asked.
    """
    folders = {place_from_text(file.key).parent for file in files}
    present = {file.key for file in files}
    for kind, gone in GONE.items():
        for name in ledger.counted(kind):
            place = place_from_text(name)
            if name not in present and place.parent in folders and not is_file(place):
                ledger.count_as(name, kind, gone)
        for name in ledger.counted(gone):
            if name in present:
                ledger.count_as(name, gone, kind)


def hidden_records(readings: Sequence[Reading]) -> int:
    """Estimates how many records are hidden, beside the one that each such file is counted as.

    Args:
      readings: of all files, as they were read last.
    """
    whole = [r for r in readings if r.counts[WHOLE]]
    size = sum(r.size_bytes for r in whole)
    a_byte = sum(r.records for r in whole) / size if size else 0.0
    most = max((r.records for r in whole), default=0)
    read = sum(r.records for r in readings)
    found = 0
    for one in readings:
        if not (one.counts[CUT_SHORT] or one.counts[WITHOUT_COLUMNS]):
            continue
        held = math.ceil(one.size_bytes * a_byte)
        if one.counts[CUT_SHORT]:
            held = max(held, most)
        # Its own records and the one that stands for the rest are counted.
        found += max(0, held - one.records if whole else read - 1)
    return found

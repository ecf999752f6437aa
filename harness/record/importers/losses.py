"""How many records files hide that could not be read, where the files themselves do not say.

A Parquet file's footer says how many rows it holds. Half a file has no footer, and no packed or plain file
says how many records it had. What is hidden is estimated rather too high, so that no gate takes a
recording for whole because nobody could count what is missing:

- a file that is cut off held as many records as the largest whole file, or more by its size;
- a file that was left out whole, for its columns, holds as many as whole files of its size;
- without a whole file to compare with, each hides as many as were read in all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.record.importers.ledger import Reading

WHOLE = "files"
"""What is counted of a file that was read to its end,"""
DAMAGED = "files_damaged"
"""of one that was not and says how many records it holds,"""
CUT_SHORT = "files_cut_short"
"""of one that does not say so,"""
WITHOUT_COLUMNS = "files_without_columns"
"""and of one that was left out for its columns and does not say so."""


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
